"""Writes a task to start from, for any robot profile."""

from __future__ import annotations

import json
from collections.abc import Mapping

from mbarl_ros.schema.robot import Bounds, RobotConfig

_WIDER = 0.05  # share of a range by which an observation may leave the limits of a command
_STEPS = 200


def task_text(name: str, robot: RobotConfig, file: str, state: Mapping[str, float]) -> str:
    """YAML of a task.

    :param file: robot profile, as key ``robot`` names it
    :param state: state entry -> present value, in its unit; those that are missing count as 0
    """
    ranges = _ranges(robot, state)
    target = _target(robot, ranges, state)
    lines = [
        '# Task of mbarl_ros (not a ROS parameter file), begun by mbarl robot new; relative paths',
        '# start at this file.',
        f'name: {name}',
        f'robot: {json.dumps(file)}',
        '# TODO: take out entries that the task does not need, add the object; check the ranges',
        'observation:',
    ]
    for entry, (low, high, limited) in ranges.items():
        free = '' if limited else ', limited: false'
        bounds = f'low: {round(low, 4)}, high: {round(high, 4)}'
        lines.append(f'  - {{name: {json.dumps(entry)}, {bounds}{free}}}')
    lines.append('action:')
    for entry in robot.command_names:
        limit = robot.limits[entry]
        lines.append(f'  - {{name: {json.dumps(entry)}, low: {limit.low!r}, high: {limit.high!r}}}')
    lines += [
        '# TODO: where is the task done? This is a place near where the robot stood',
        f'success: {{entries: {json.dumps(list(target))}, '
        f'target: {json.dumps([round(value, 3) for value in target.values()])}, tolerance: 0.1}}',
        f'# TODO: twice the steps that a person needs; there are {robot.control_rate:g} a second',
        f'phases: {{forward_limit: {_STEPS}, backward_limit: {_STEPS}}}',
        f'evaluation: {{episodes: 10, horizon: {_STEPS}, every: 1000, budget: 20000}}',
        f'demonstrations: {name}_demos  # record some first: mbarl up record',
    ]
    return '\n'.join(lines) + '\n'


def _ranges(robot: RobotConfig, state: Mapping[str, float]) -> dict[str, tuple[float, float, bool]]:
    """State entry -> low, high, and whether they are a limit."""
    known = _limited(robot)
    paths = {name: path for topic in robot.state for name, path in topic.fields.items()}
    ranges = {}
    for name in robot.state_names:
        value = state.get(name, 0.0)
        if name in known:
            low, high = known[name]
            margin = _WIDER * (high - low)
            low, high = min(low - margin, value), max(high + margin, value)
            ranges[name] = low, high, True
        elif 'orientation.' in paths[name]:
            ranges[name] = -1.0, 1.0, True
        else:
            reach = max(1.0, abs(value) / 2)
            ranges[name] = value - reach, value + reach, False
    return ranges


def _limited(robot: RobotConfig) -> dict[str, Bounds]:
    """State entry -> bounds in which commands keep it."""
    known: dict[str, Bounds] = dict(robot.workspace)
    for limit in robot.limits.values():
        if limit.measured:
            known.setdefault(limit.measured, (limit.low, limit.high))
    return known


def _target(
    robot: RobotConfig,
    ranges: Mapping[str, tuple[float, float, bool]],
    state: Mapping[str, float],
) -> dict[str, float]:
    """A place that can be reached: of what commands move, else of the first two entries."""
    known = _limited(robot)
    moved = [entry for entry in robot.state_names if entry in known]
    target = {}
    for name in (moved or list(robot.state_names))[:2]:
        low, high = known.get(name, ranges[name][:2])
        target[name] = (min(max(state.get(name, 0.0), low), high) + high) / 2
    return target
