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
MARGIN = 5.0  # ranges are this many times as wide as what random practice visits

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
            states = _random_states(world)
        except SimulatorError as error:
            raise ConfigError(str(error)) from error
        finally:
            world.close()
    return _task(text, options, world, states, limit), _robot(text, world)


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


def _random_states(world: GymnasiumWorld) -> np.ndarray:
    """States [n, S] of random practice from a few starts."""
    rng = np.random.default_rng(0)
    low, high = world.command_bounds
    ended = world.state_names.index(ENDED)
    states = []
    for episode in range(EPISODES):
        states.append(world.reset_to_start(-1 - episode))
        for _ in range(EPISODE_STEPS):
            states.append(world.step(rng.uniform(low, high)))
            if states[-1][ended]:
                break
    return np.array(states)


def _ranges(world: GymnasiumWorld, states: np.ndarray) -> list[tuple[float, float]]:
    """Range of each entry of the state.

    The bounds that the environment declares, where they are narrow; else around what random
    practice visits, and +-1 around what it does not change.
    """
    low, high = (np.append(bound, [0.0, 0.0, np.inf]) for bound in world.observation_bounds)
    declared = (np.abs(low) <= LARGEST_BOUND) & (np.abs(high) <= LARGEST_BOUND) & (low < high)
    least, most = states.min(0), states.max(0)
    middle, half = (least + most) / 2, MARGIN * (most - least) / 2
    half[half < 1e-6 * (1.0 + np.abs(middle))] = 1.0
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


def _task(text: str, options: Raw, world: GymnasiumWorld, states: np.ndarray, limit: int) -> Raw:
    low, high = world.command_bounds
    return {
        'name': re.sub(r'[^\w.=,+-]+', '_', text),
        'description': f'Gymnasium environment {text}',
        'robot': f'{SCHEME}:{text}',
        'world': f'{GymnasiumWorld.__module__}:{GymnasiumWorld.__name__}',
        'world_options': options,
        'observation': [
            {'name': name, 'low': least, 'high': most, 'binary': name in (SUCCESS, ENDED)}
            for name, (least, most) in zip(world.state_names, _ranges(world, states), strict=True)
        ],
        'action': [
            {'name': name, 'low': float(least), 'high': float(most)}
            for name, least, most in zip(world.command_names, low, high, strict=True)
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
