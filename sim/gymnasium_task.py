"""Generates task and robot profile of a Gymnasium environment: ``gymnasium:NAME``."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import yaml

from mbarl_ros.schema.base import ConfigError
from mbarl_sim.gymnasium_env import registered, seeded_globals
from mbarl_sim.gymnasium_world import (
    ENDED,
    REWARD,
    SUCCESS,
    GymnasiumWorld,
    SimulatorError,
)

SCHEME = 'gymnasium'
DEFAULT_LIMIT = 200  # steps of an attempt where the environment has no time limit of its own
LIMIT_OPTION, SUCCESS_OPTION = 'max_episode_steps', 'success_reward'
EPISODES, EPISODE_STEPS = 10, 50  # random practice that shows the ranges of the observation
LARGEST_BOUND = 100.0  # declared bounds beyond are no help to a network
MARGIN = 3.0  # ranges are this many times as wide as what random practice visits

STILL, LEAST_HALF = 1e-3, 0.05  # half ranges of 1 + |middle|: of what does not move; least

Raw = dict[str, Any]


def describe(text: str) -> tuple[Raw, Raw]:
    """Task and robot profile, as their YAML would say it, of ``NAME`` or ``NAME?key=value,...``.

    NAME is an id of ``gymnasium.registry`` or ``module:Class``. The keys are keyword arguments of
    the environment, their values YAML; two are not passed on: ``max_episode_steps``, the step
    limit of an attempt, and ``success_reward``, the step reward from which on a step is a success.
    The same text gives the same result in every process.

    :raises ConfigError: the environment does not exist or cannot be a world, or an option that is
        not of the form key=value.
    """
    name, kwargs = _parse(text)
    spec = registered(name)
    limit = kwargs.pop(LIMIT_OPTION, None) or (spec and spec.max_episode_steps) or DEFAULT_LIMIT
    options: Raw = {'env': name, 'kwargs': kwargs}
    if SUCCESS_OPTION in kwargs:
        options[SUCCESS_OPTION] = kwargs.pop(SUCCESS_OPTION)
    with seeded_globals():
        world = GymnasiumWorld(**options)
        try:
            states, achieved = _random_states(world)
        except SimulatorError as error:
            raise ConfigError(str(error)) from error
        finally:
            world.close()
    ranges, axes = _ranges(world, states), _axes(world, states, achieved)
    return _task(text, options, world, ranges, axes, limit), _robot(text, world)


def _parse(text: str) -> tuple[str, Raw]:
    name, question, options = text.partition('?')
    kwargs: Raw = {}
    for option in re.split(r',(?=\w+=)', options) if question else ():
        key, equals, value = option.partition('=')
        if not key.isidentifier() or not equals:
            raise ConfigError(f"task '{SCHEME}:{text}': '{option}' is not of the form key=value")
        try:
            kwargs[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(
                f"task '{SCHEME}:{text}': option '{key}': '{value}' is not valid YAML"
            ) from None
    return name, kwargs


def _random_states(world: GymnasiumWorld) -> tuple[np.ndarray, np.ndarray]:
    """States [n, S] of random practice from a few starts, and achieved goals [n, G], G may be 0."""
    rng = np.random.default_rng(0)
    low, high = world.command_bounds
    ended = world.state_names.index(ENDED)
    states, achieved = [], []
    for episode in range(EPISODES):
        state = world.reset_to_start(-1 - episode)
        for step in range(EPISODE_STEPS + 1):
            states.append(state)
            achieved.append(() if world.achieved_goal is None else world.achieved_goal)
            if state[ended] or step == EPISODE_STEPS:
                break
            state = world.step(rng.uniform(low, high))
    return np.array(states), np.array(achieved)


def _axes(world: GymnasiumWorld, states: np.ndarray, achieved: np.ndarray) -> dict[str, str]:
    """State entry -> axis, for a goal entry and what is to reach it.

    Networks then see their difference. Which observation entry is to reach it is what equals the
    achieved goal in all states.
    """
    axes = {}
    goals = [name for name in world.state_names if name.startswith('desired_goal_')]
    if achieved.shape[1] != len(goals):
        return {}
    for goal, values in zip(goals, achieved.T, strict=True):
        same = np.flatnonzero((states == values[:, None]).all(0))
        if len(same) == 1 and np.ptp(values) > 0:
            axes[goal] = axes[world.state_names[same[0]]] = goal
    return axes


def _ranges(world: GymnasiumWorld, states: np.ndarray) -> list[tuple[float, float]]:
    """Range of each entry of the state.

    The bounds that the environment declares, where they are narrow; else around what random
    practice visits, and +-1 around what it does not move.
    """
    low, high = (np.append(bound, [0.0, 0.0, np.inf]) for bound in world.observation_bounds)
    declared = (np.abs(low) <= LARGEST_BOUND) & (np.abs(high) <= LARGEST_BOUND) & (low < high)
    least, most = states.min(0), states.max(0)
    middle, half = (least + most) / 2, MARGIN * (most - least) / 2
    unit = 1.0 + np.abs(middle)
    # What hardly moves now may move far later, and small ranges make large inputs of networks.
    half = np.where(half < STILL * unit, 1.0, np.maximum(half, LEAST_HALF * unit))
    ranges = []
    for i, name in enumerate(world.state_names):
        if name in (SUCCESS, ENDED):
            ranges.append((0.0, 1.0))
        elif declared[i]:
            ranges.append((float(low[i]), float(high[i])))
        else:
            ranges.append((_rounded(middle[i] - half[i]), _rounded(middle[i] + half[i])))
    return ranges


def _rounded(value: float) -> float:
    return float(f'{value:.3g}')


def _task(
    text: str,
    options: Raw,
    world: GymnasiumWorld,
    ranges: list[tuple[float, float]],
    axes: dict[str, str],
    limit: int,
) -> Raw:
    return {
        'name': re.sub(r'[^\w.=,+-]+', '_', text),
        'description': f'Gymnasium environment {text}',
        'robot': f'{SCHEME}:{text}',
        'world': f'{GymnasiumWorld.__module__}:{GymnasiumWorld.__name__}',
        'world_options': options,
        'observation': [
            {
                'name': name,
                'low': low,
                'high': high,
                'binary': name in (SUCCESS, ENDED),
                'axis': axes.get(name),
            }
            for name, (low, high) in zip(world.state_names, ranges, strict=True)
        ],
        'action': [
            {'name': name, 'low': float(low), 'high': float(high)}
            for name, low, high in zip(world.command_names, *world.command_bounds, strict=True)
        ],
        'success': {'entries': [SUCCESS], 'target': [1.0], 'tolerance': 0.5},
        'ended': ENDED,
        'reward': f'topic:{REWARD}',
        'phases': {'forward_limit': limit, 'backward_limit': limit},
        'evaluation': {'episodes': 10, 'horizon': limit, 'every': 1000, 'budget': 20_000},
    }


def _robot(text: str, world: GymnasiumWorld) -> Raw:
    """Profile with a stamp on each state topic, which lockstep needs; so they are JointStates."""
    low, high = world.command_bounds
    observed = [name for name in world.state_names if name != REWARD]
    timeout = max(0.5, 5.0 / world.control_rate)
    return {
        'name': re.sub(r'[^\w.=,+-]+', '_', text),
        'description': f'Gymnasium environment {text}',
        'control_rate': world.control_rate,
        'state': [_joint_state('observation', observed), _joint_state(REWARD, [REWARD])],
        'command': [
            {
                'topic': 'action',
                'type': 'std_msgs/msg/Float64MultiArray',
                'fields': {name: f'data[{i}]' for i, name in enumerate(world.command_names)},
            }
        ],
        'limits': {
            name: {'low': least, 'high': most, 'stop': min(max(0.0, least), most)}
            for name, least, most in zip(
                world.command_names, low.tolist(), high.tolist(), strict=True
            )
        },
        'command_timeout': timeout,
        'state_timeout': timeout,
        'teleop_timeout': timeout,
    }


def _joint_state(topic: str, names: list[str]) -> Raw:
    return {
        'topic': topic,
        'type': 'sensor_msgs/msg/JointState',
        'fields': {name: f'position[{name}]' for name in names},
    }
