"""Writes a new robot profile as commented YAML; what nobody knows is a comment ``# TODO: ...``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mbarl_ros.nodes.support.profile_plan import POSITION, VELOCITY, Moved, Plan, Topic
from mbarl_ros.nodes.support.robot_discovery import JOINT_STATE, NUMBERS, TWIST

_LONG = 0.5  # s without a message that a robot may go on for, without a question
_SHARE = 0.25  # of the speed in the robot description: enough to try, slow enough to look
_STARTING_TIME = 0.5  # s from rest to the largest velocity
_TWIST_FIELDS = [f'{owner}.{axis}' for owner in ('linear', 'angular') for axis in 'xyz']
_BASE_SPEEDS = {'speed': (0.1, 0.5), 'turning': (0.3, 1.0)}  # m/s, m/s^2; rad/s, rad/s^2
_PLAIN = re.compile(r'[A-Za-z][\w.\[\]]*')
_WORDS = ('yes', 'no', 'on', 'off', 'true', 'false', 'null', 'y', 'n')  # no texts in YAML
_TIP_SPEED, _TIP_REACH = 0.05, 0.2  # m/s, m


class _Small(NamedTuple):
    """What is used where nobody says more: rad or m, and s."""

    speed: float
    reach: float
    margin: float  # within the limits of the description
    tracking_error: float


_ANGLE, _LENGTH = _Small(0.1, 0.3, 0.05, 0.2), _Small(0.02, 0.05, 0.002, 0.02)


def profile_text(name: str, plan: Plan) -> str:
    """YAML of the profile."""
    lines = [
        '# Robot profile of mbarl_ros (not a ROS parameter file), begun by mbarl robot new.',
        '# Work through each TODO, then remove it; mbarl robot check lists those that are left.',
        f'name: {name}',
        f'control_rate: {plan.control_rate:g}  # Hz; {plan.slowest} has {plan.rate:.1f} Hz',
        'state:',
        *_topics(plan.state),
        'command:',
        *_topics(plan.command),
        'teleop:',
        *_teleop(plan),
        *_limits(plan),
        *_timeouts(plan),
    ]
    if plan.unused:
        lines += ['# Seen, but not used:', *(f'#   {topic}' for topic in plan.unused)]
    return '\n'.join(lines) + '\n'


def _timeouts(plan: Plan) -> list[str]:
    """Three periods, but no more than a second longer than one."""
    lines = []
    for key, rate in (
        ('command_timeout', plan.control_rate),
        ('state_timeout', min(plan.rate, plan.control_rate)),
    ):
        seconds = max(0.2, min(3 / rate, 1 / rate + 1.0))
        if seconds > _LONG:
            lines.append(
                f'# TODO: {seconds:.2g} s without a message is long for a robot that moves; raise '
                'the rate of its slowest topic, or leave that out'
            )
        lines.append(f'{key}: {seconds:.2g}  # s')
    return lines


def _topics(topics: Iterable[Topic]) -> list[str]:
    lines = []
    for topic in topics:
        lines += [f'  # TODO: {text}' for text in topic.todos]
        comment = f'  # {topic.comment}' if topic.comment else ''
        lines += [f'  - topic: {topic.topic}{comment}', f'    type: {topic.type}']
        lines += _block('constants', topic.constants)
        lines += _block('fields', topic.fields)
        lines += _block('scale', topic.factors)
    return lines


def _block(key: str, values: Mapping[str, object]) -> list[str]:
    """A mapping below a key."""
    lines = [f'      {_scalar(name)}: {_scalar(value)}' for name, value in values.items()]
    return [f'    {key}:', *lines] if lines else []


# --- teleoperation ----------------------------------------------------------------------------


def _teleop(plan: Plan) -> list[str]:
    """A twist for velocities, numbers where those do not suffice, a leader arm for positions."""
    followed = [moved for moved in plan.moved if moved.kind == POSITION and not moved.gripper]
    driven = [moved for moved in plan.moved if moved not in followed]
    if followed and all(moved.gripper for moved in driven):
        followed, driven = list(plan.moved), []
    lines = _driven(driven) if driven else []
    return lines + (_followed(followed, plan.command) if followed else [])


def _driven(moved: list[Moved]) -> list[str]:
    if len(moved) <= len(_TWIST_FIELDS):
        paths = _twist_paths(moved)
        topic = Topic('teleop/cmd_vel', TWIST, paths, comment='mbarl teleop, teleop_twist_keyboard')
    else:
        paths = {each.name: f'data[{number}]' for number, each in enumerate(moved)}
        topic = Topic('teleop/velocities', NUMBERS, paths, comment='of a device of your own')
    latch = [each.name for each in moved if each.gripper]
    return [*_topics([topic]), *([f'    latch: {json.dumps(latch)}'] if latch else [])]


def _twist_paths(moved: list[Moved]) -> dict[str, str]:
    """Fields of a twist: the one of the command where that is a twist, else the next free one."""
    paths: dict[str, str] = {}
    for each in moved:
        path = each.path.removeprefix('twist.')
        if path in _TWIST_FIELDS and path not in paths.values():
            paths[each.name] = path
    free = iter([path for path in _TWIST_FIELDS if path not in paths.values()])
    return {each.name: paths.get(each.name) or next(free) for each in moved}


def _followed(moved: list[Moved], topics: list[Topic]) -> list[str]:
    paths = {each.name: f'position[{each.joint}]' for each in moved}
    todo = 'a leader arm of another kind has other names of joints, and maybe other units (scale)'
    factors = {name: factor for topic in topics for name, factor in topic.factors.items()}
    topic = Topic('leader/joint_states', JOINT_STATE, paths, todos=[todo], factors=factors)
    pedal = '{topic: leader/deadman, type: std_msgs/msg/Bool, field: data}'
    return [*_topics([topic]), f'    deadman: {pedal}  # a pedal: it follows while this is true']


# --- limits -----------------------------------------------------------------------------------


def _limits(plan: Plan) -> list[str]:
    unknown = [moved.name for moved in plan.moved if not _is_described(moved)]
    lines = []
    if unknown:
        lines.append(
            f'# TODO: no robot_description has limits of {", ".join(unknown)}: these are small, '
            'and positions are near where the robot stood; take them from the data sheet'
        )
    if len(unknown) < len(plan.moved):
        lines.append(
            f'# From robot_description: {_SHARE:.0%} of its speeds, positions within its limits.'
        )
    lines += [
        '# TODO: accelerations (rate of a velocity) and tracking_error are published nowhere: '
        'these are slow and small guesses; take them from the data sheet',
        'limits:',
    ]
    boxes = {}
    for moved in plan.moved:
        lines.append(f'  {_scalar(moved.name)}: {_flow(_limit(moved))}')
        if moved.kind == VELOCITY and _moves(moved):
            boxes[moved.state] = list(_range(moved))
    if boxes:
        lines.append('workspace:  # the gate slows down before these bounds')
        lines += [f'  {_scalar(name)}: {_flow(box)}' for name, box in boxes.items()]
    return lines


def _moves(moved: Moved) -> bool:
    """Whether a position is known that a velocity moves; one that begins anew has no bounds."""
    return bool(moved.state) and not (moved.limits and moved.limits.endless)


def _is_described(moved: Moved) -> bool:
    joint = moved.limits
    return joint is not None and None not in (joint.low, joint.high, joint.speed)


def _limit(moved: Moved) -> dict[str, float | str | bool]:
    small = _LENGTH if moved.limits and moved.limits.linear else _ANGLE
    if moved.kind == VELOCITY:
        speed, rate = _velocity(moved, small)
        known: dict[str, float | str] = {'moves': moved.state} if _moves(moved) else {'stop': 0.0}
        return {'low': -speed, 'high': speed, 'rate': rate, **known}
    low, high = _gripper_range(moved) if moved.gripper else _range(moved)
    speed = _speed(moved, small.speed)
    if moved.gripper:
        return {'low': low, 'high': high, 'rate': max(speed, high - low), 'stop': 'hold'}
    return {
        **{'low': low, 'high': high, 'rate': speed, 'stop': 'hold', 'measured': moved.state},
        'tracking_error': small.tracking_error,
        **({'wraps': True} if moved.limits and moved.limits.endless else {}),
    }


def _velocity(moved: Moved, small: _Small) -> tuple[float, float]:
    """Largest velocity and acceleration."""
    if moved.name in _BASE_SPEEDS and not moved.state:
        return _BASE_SPEEDS[moved.name]
    is_tip = 'linear.' in moved.path
    speed = _TIP_SPEED if is_tip else _speed(moved, small.speed)
    return speed, speed / _STARTING_TIME


def _speed(moved: Moved, otherwise: float) -> float:
    return _SHARE * moved.limits.speed if moved.limits and moved.limits.speed else otherwise


def _range(moved: Moved) -> tuple[float, float]:
    """Positions: those of the description, else near the present one."""
    small, joint = _LENGTH if moved.limits and moved.limits.linear else _ANGLE, moved.limits
    if joint and joint.low is not None and joint.high is not None:
        margin = min(small.margin, (joint.high - joint.low) / 10)
        return joint.low + margin, joint.high - margin
    reach = _TIP_REACH if 'linear.' in moved.path else small.reach
    present = moved.present or 0.0
    return present - reach, present + reach


def _gripper_range(moved: Moved) -> tuple[float, float]:
    joint, present = moved.limits, moved.present or 0.0
    if joint and joint.low is not None and joint.high is not None:
        return joint.low, joint.high
    return min(present, 0.0), max(present, 0.0 if present < -1e-3 else 0.01)


def _scalar(value: object) -> str:
    """A text without quotes where YAML needs none; JSON is YAML, too."""
    plain = isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS
    return str(value) if plain else json.dumps(value)


def _flow(value: object) -> str:
    """JSON with numbers rounded to what a person can read."""
    if isinstance(value, dict):
        return '{' + ', '.join(f'{name}: {_flow(each)}' for name, each in value.items()) + '}'
    if isinstance(value, list):
        return '[' + ', '.join(map(_flow, value)) + ']'
    return json.dumps(round(value, 4) if isinstance(value, float) else value)
