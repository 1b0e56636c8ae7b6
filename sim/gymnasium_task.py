"""Generates task and robot profile of a Gymnasium environment: ``gymnasium:NAME``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from mbarl_ros.schema.base import ConfigError
from mbarl_sim.gymnasium_env import registered, seeded_globals
from mbarl_sim.gymnasium_goals import reaching_entries, success_by_goal
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
WIDEST = 10.0  # and so are bounds that many times as wide as what random practice visits
MARGIN = 1.5  # ranges are this many times as wide as what random practice visits

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
            visited = _random_practice(world)
            reaching = reaching_entries(world, visited.states, visited.achieved)
            success = None  # as the environment or success_reward tells it
            if SUCCESS_OPTION not in options:
                success = success_by_goal(world, reaching, visited.states[visited.stepped])
        except SimulatorError as error:
            raise ConfigError(str(error)) from error
        finally:
            world.close()
    # Networks see the difference between a goal entry and what is to reach it.
    axes = {name: goal for goal, entry in reaching.items() for name in (goal, entry)}
    ranges = _ranges(world, visited.states, axes)
    return _task(text, options, world, ranges, axes, success, limit), _robot(text, world)


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


@dataclass(frozen=True)
class _Visited:
    """What random practice from a few starts shows.

    ``states`` [n, S]; ``achieved`` goals [n, G], G may be 0; ``stepped`` [n], whether a step led
    there, not a reset.
    """

    states: np.ndarray
    achieved: np.ndarray
    stepped: np.ndarray


def _random_practice(world: GymnasiumWorld) -> _Visited:
    rng = np.random.default_rng(0)
    low, high = world.command_bounds
    ended = world.state_names.index(ENDED)
    states, achieved, stepped = [], [], []
    for episode in range(EPISODES):
        state = world.reset_to_start(-1 - episode)
        for step in range(EPISODE_STEPS + 1):
            states.append(state)
            achieved.append(() if world.achieved_goal is None else world.achieved_goal)
            stepped.append(step > 0)
            if state[ended] or step == EPISODE_STEPS:
                break
            state = world.step(rng.uniform(low, high))
    return _Visited(np.array(states), np.array(achieved), np.array(stepped))


@dataclass(frozen=True)
class _Range:
    """Range of an entry; ``limited``: the environment declares it."""

    low: float
    high: float
    limited: bool


def _ranges(world: GymnasiumWorld, states: np.ndarray, axes: dict[str, str]) -> list[_Range]:
    """Range of each entry of the state, the same for entries on one axis.

    The bounds that the environment declares, where they are narrow and not far wider than what
    random practice visits; else around that, and +-1 around what it does not move.
    """
    least, most = states.min(0), states.max(0)
    low, high = (np.append(bounds, [np.nan] * 3) for bounds in world.observation_bounds)
    names = world.state_names
    for axis in set(axes.values()):
        group = [i for i, name in enumerate(names) if axes.get(name) == axis]
        least[group], most[group] = least[group].min(), most[group].max()
        low[group], high[group] = low[group].min(), high[group].max()
    narrow = (np.abs(low) <= LARGEST_BOUND) & (np.abs(high) <= LARGEST_BOUND) & (low < high)
    # Bounds far beyond are those of no physical quantity, such as +-10 m around a table.
    narrow &= (high - low <= WIDEST * (most - least)) | (most == least)
    middle, half = (least + most) / 2, MARGIN * (most - least) / 2
    unit = 1.0 + np.abs(middle)
    # What hardly moves now may move far later, and small ranges make large inputs of networks.
    half = np.where(half < STILL * unit, 1.0, np.maximum(half, LEAST_HALF * unit))
    ranges = []
    for i, name in enumerate(names):
        if name in (SUCCESS, ENDED):
            ranges.append(_Range(0.0, 1.0, True))
        elif narrow[i]:
            ranges.append(_Range(float(low[i]), float(high[i]), True))
        else:
            ends = _rounded(middle[i] - half[i]), _rounded(middle[i] + half[i])
            ranges.append(_Range(*ends, False))
    return ranges


def _rounded(value: float) -> float:
    return float(f'{value:.3g}')


def _task(
    text: str,
    options: Raw,
    world: GymnasiumWorld,
    ranges: list[_Range],
    axes: dict[str, str],
    success: Raw | None,
    limit: int,
) -> Raw:
    """The task; ``success``: by the goal, where it is one, else as the environment tells it."""
    left_out = (SUCCESS, REWARD) if success else ()
    return {
        'name': re.sub(r'[^\w.=,+-]+', '_', text),
        'description': f'Gymnasium environment {text}',
        'robot': f'{SCHEME}:{text}',
        'world': f'{GymnasiumWorld.__module__}:{GymnasiumWorld.__name__}',
        'world_options': options,
        'observation': [
            {
                'name': name,
                'low': values.low,
                'high': values.high,
                'binary': name in (SUCCESS, ENDED),
                'limited': values.limited,
                'axis': axes.get(name),
            }
            for name, values in zip(world.state_names, ranges, strict=True)
            if name not in left_out
        ],
        'action': [
            {'name': name, 'low': float(low), 'high': float(high)}
            for name, low, high in zip(world.command_names, *world.command_bounds, strict=True)
        ],
        'success': success or {'entries': [SUCCESS], 'target': [1.0], 'tolerance': 0.5},
        'ended': ENDED,
        'reward': 'success' if success else f'topic:{REWARD}',
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
