"""What values an entry can plausibly have: how fast it can move by the limits, and in which unit.

Demonstrations and running robots are judged by these same rules.
"""

from __future__ import annotations

import math

import numpy as np

from mbarl_ros.schema.robot import RobotConfig

# A drive overshoots, a load pushes, stamps jitter by a period: honest robots stay below this
# multiple of what the limits allow in a control period. A value of another publisher does not.
JUMP_MARGIN = 3.0
# An angle may step from one end of the circle to the other.
_TURNS = (2 * math.pi, 360.0)
# How much greater the numbers are; in which the greatest bound of the right range lies then; what
# they may be. Ranges of angles reach a turn or two, ranges of a robot's positions a metre.
_UNITS = (
    (180 / math.pi, (1.0, 4 * math.pi), 'degrees, where the range is in radians'),
    (100.0, (0.0, 2.0), 'centimetres or percent, where the range is in metres or up to 1'),
    (1000.0, (0.0, 20.0), 'millimetres, where the range is in metres'),
)
# Numbers of another unit fill at least this share of the range once they are converted.
_LEAST_USE = 1 / 20
# A range this wide is one of degrees, millimetres or the like; numbers that fill less than this
# share of it may be radians or metres.
_LARGE, _LITTLE = 30.0, 1 / 50
_REMEDY = 'Convert them (`scale` in the robot profile), or give the range in their unit'


def speeds(robot: RobotConfig) -> dict[str, float]:
    """State entry -> greatest speed that ``limits`` allow, in its unit per second.

    Entries that no ``moves`` or ``measured`` names are left out: nobody knows.
    """
    known = {}
    for limit in robot.limits.values():
        if limit.measured and limit.rate:
            known[limit.measured] = limit.rate
        if limit.moves:
            known[limit.moves] = max(abs(limit.low), abs(limit.high))
    return known


def jumps(
    changes: np.ndarray, elapsed: np.ndarray | float, speed: np.ndarray | float, period: float
) -> np.ndarray:
    """Which changes [n] are faster than ``speed`` (scalar or [n], units per s) allows, bool [n].

    :param elapsed: s in which each came about, scalar or [n]
    :param period: control period, s; no change has to be spread more finely
    """
    turns = [np.abs(np.abs(changes) - turn) for turn in _TURNS]
    sizes = np.minimum.reduce([np.abs(changes), *turns])
    return sizes > JUMP_MARGIN * speed * np.maximum(elapsed, period)


def jump_fact(before: np.ndarray, after: np.ndarray, speed: float, period: float) -> str:
    """What jumps of an entry from ``before`` [n] to ``after`` [n] look like, in words."""
    zeros = ((before == 0) | (after == 0)).sum()
    return (
        f'jumps {len(after)} x by up to {np.abs(after - before).max():.3g}, where `limits` allow '
        f'{speed * period:.3g} in a control period'
        f'{", mostly to and from 0" if 2 * zeros > len(after) else ""}'
    )


def jump_question(topic: str) -> str:
    """What may be the cause of jumps of a state topic, as a question with its remedy."""
    return (
        f'does a second node publish on {topic}? Stop all but one (`ros2 topic info -v {topic}`), '
        'or correct `limits` if the robot is that fast'
    )


def unit_question(seen: tuple[float, float], low: float, high: float) -> str:
    """Which other unit values between ``seen`` may have, as a question with its remedy.

    Empty: none that is known.

    :param low: lower end of the range in which they should lie
    :param high: upper end
    """
    reach, farthest = max(abs(low), abs(high)), max(map(abs, seen))
    slack = 0.05 * (high - low)
    for factor, (least, greatest), what in _UNITS:
        fits = low - slack <= seen[0] / factor and seen[1] / factor <= high + slack
        if least <= reach <= greatest and fits and factor * _LEAST_USE < farthest / reach:
            return f'are they {what} (a factor of {factor:.3g})? {_REMEDY}'
    if seen[0] != seen[1] and reach >= _LARGE and farthest < _LITTLE * reach:
        what = 'radians, where the range is in degrees, or metres, where it is in mm'
        return f'are they {what}? {_REMEDY}'
    return ''


def measured_unit_question(robot: RobotConfig, name: str, values: np.ndarray) -> str:
    """As :func:`unit_question`, for values [n] of a state entry that measures a command entry."""
    for limit in robot.limits.values():
        if limit.measured == name:
            return unit_question((values.min(), values.max()), limit.low, limit.high)
    return ''
