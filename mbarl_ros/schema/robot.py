"""Schema of robot profiles: topics, command limits, teleoperation, time-outs."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from mbarl_ros.schema.base import ConfigError, Strict, check_known, check_unique

Bounds = tuple[float, float]
Constant = bool | int | float | str | list[str] | list[float]
JOY = 'sensor_msgs/msg/Joy'

# A step is one control period: two states this many periods apart. Anything else is no step.
SHORTEST_STEP, LONGEST_STEP = 0.5, 1.5
MAX_REORDERING = 1.0  # s by which stamps of reordered messages run back; more is another clock


class TopicMap(Strict):
    """One ROS topic and which of its message fields carry which named values.

    ``fields`` maps a value's name to a path in the message: ``pose.pose.position.x``,
    ``position[elbow]`` (by joint name), ``data[0]`` (by index), ``points[0].positions[1]``.
    ``constants`` maps paths to what always stands there: a frame, joint names, a duration or
    stamp in seconds. It is written into commands; a state that differs is not believed.
    """

    topic: str
    type: str = Field(pattern=r'^\w+/msg/\w+$')
    fields: dict[str, str] = Field(min_length=1)
    constants: dict[str, Constant] = Field(default={})


class Switch(Strict):
    """A field of a topic that is true, or more than a half, while a switch is pressed."""

    topic: str
    type: str = Field(pattern=r'^\w+/msg/\w+$')
    field: str


class TeleopMap(TopicMap):
    """A teleop source: a topic whose fields a person moves, for example by a gamepad.

    A field's value is multiplied by ``scale`` (default 1) after values below ``deadzone`` count
    as 0; ``levels`` instead gives the command at 0 and at 1, for buttons. An entry in ``latch``
    stays as it is where the field is 0. While ``deadman`` is not pressed nothing is commanded: a
    field of a gamepad's message, or a switch on a topic of its own, whose silence opens it, too.
    ``buttons`` are those of the demonstration recorder.
    """

    scale: dict[str, float] = Field(default={})
    deadzone: float = Field(default=0.0, ge=0, lt=1)
    levels: dict[str, Bounds] = Field(default={})
    latch: list[str] = Field(default=[])
    deadman: str | Switch | None = None
    buttons: dict[Literal['start', 'success', 'stop', 'discard'], str] = Field(default={})

    @model_validator(mode='after')
    def _consistent(self) -> TeleopMap:
        for key, names in (('scale', self.scale), ('levels', self.levels), ('latch', self.latch)):
            check_known(key, names, 'fields', self.fields)
        both = sorted(set(self.scale) & set(self.levels))
        if both:
            raise ValueError(f'scale and levels: both given for {", ".join(both)}; use one')
        if (isinstance(self.deadman, str) or self.buttons) and self.type != JOY:
            raise ValueError(
                f'deadman and buttons: need type {JOY}, {self.type} has no buttons; a deadman may '
                'be on a topic of its own: {topic: ..., type: std_msgs/msg/Bool, field: data}'
            )
        return self


class Limit(Strict):
    """Bounds of one command entry, in its own unit.

    ``rate`` is the largest change per second, ``rate_change`` the largest change of that per
    second: acceleration and jerk of a velocity command, velocity and acceleration of a position
    command. ``moves`` names the state entry whose velocity is commanded, ``measured`` the one that
    measures a commanded position; the command stays within ``lead`` of it.
    """

    OLD_KEYS: ClassVar = {'lead': "is now called 'tracking_error'"}

    low: float
    high: float
    rate: float | None = Field(default=None, gt=0)
    rate_change: float | None = Field(default=None, gt=0)
    stop: float | Literal['hold'] | None = None
    moves: str | None = None
    measured: str | None = None
    tracking_error: float | None = Field(default=None, gt=0)

    @model_validator(mode='before')
    @classmethod
    def _velocity(cls, raw: Any) -> Any:
        return {'stop': 0.0, **raw} if isinstance(raw, dict) and raw.get('moves') else raw

    @model_validator(mode='after')
    def _consistent(self) -> Limit:
        if not self.low < self.high:
            raise ValueError(f'low ({self.low}) must be less than high ({self.high})')
        if self.stop is None:  # 0.0 would send a joint to its origin
            raise ValueError('stop: give hold for a position, 0.0 for a velocity')
        if self.stop != 'hold' and not self.low <= self.stop <= self.high:
            raise ValueError(f'stop ({self.stop:g}) must lie within {self.low:g} to {self.high:g}')
        if self.moves and self.stop != 0:
            raise ValueError('moves: is for a velocity, which stops at 0; set stop: 0')
        if self.measured and self.stop != 'hold':
            raise ValueError('measured: is for a position, which is held; set stop: hold')
        if bool(self.measured) != (self.tracking_error is not None):
            raise ValueError('measured and tracking_error: are needed together')
        if self.measured and self.rate is None:
            raise ValueError(
                'measured: a position needs rate, its velocity: drives go there at once'
            )
        return self


class RobotConfig(Strict):
    """A robot profile: topics to the state vector, the command vector to topics, and limits."""

    name: str
    description: str = ''
    control_rate: float = Field(gt=0, le=1000, description='Hz')
    state: list[TopicMap] = Field(min_length=1)
    command: list[TopicMap] = Field(min_length=1)
    teleop: list[TeleopMap] = Field(default=[])
    limits: dict[str, Limit]
    workspace: dict[str, Bounds] = Field(default={})
    command_timeout: float = Field(default=0.5, gt=0, description='seconds, steady clock')
    state_timeout: float = Field(default=0.5, gt=0, description='seconds, steady clock')
    teleop_timeout: float = Field(default=0.5, gt=0, description='seconds, steady clock')
    estop_timeout: float | None = Field(default=None, gt=0, description='seconds, steady clock')

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the state vector's entries, in order."""
        return tuple(name for topic in self.state for name in topic.fields)

    @property
    def command_names(self) -> tuple[str, ...]:
        """Names of the command vector's entries, in order."""
        return tuple(name for topic in self.command for name in topic.fields)

    @model_validator(mode='after')
    def _consistent(self) -> RobotConfig:
        check_unique('state', self.state_names)
        check_unique('command', self.command_names)
        _same('limits', self.limits, 'command', self.command_names)
        check_known('workspace', self.workspace, 'state', self.state_names)
        self._check_positions()
        for topic in self.command:
            _check_complete(topic)
        if self.command_timeout <= 1.0 / self.control_rate:
            raise ValueError(
                f'command_timeout: {self.command_timeout:g} s is no longer than a control period '
                f'({1.0 / self.control_rate:g} s): the safety gate would stop the robot in each'
            )
        for source in self.teleop:
            check_known('teleop', source.fields, 'command', self.command_names)
            for name in source.latch:
                if self.limits[name].stop != 'hold':
                    raise ValueError(f'teleop.latch: {name} needs limits.{name}.stop: hold')
        check_unique('teleop', [source.topic for source in self.teleop])
        return self

    def _check_positions(self) -> None:
        """Check what limits and workspace say of the state."""
        for name, (low, high) in self.workspace.items():
            if not low < high:
                raise ValueError(f'workspace.{name}: low ({low}) must be less than high ({high})')
        for key in ('moves', 'measured'):
            named = [entry for limit in self.limits.values() if (entry := getattr(limit, key))]
            check_known(f'limits.*.{key}', named, 'state', self.state_names)
            check_unique(f'limits.*.{key}', named)
        for name, limit in self.limits.items():
            low, high = self.workspace.get(limit.measured or '', (limit.low, limit.high))
            if max(low, limit.low) >= min(high, limit.high):
                raise ValueError(
                    f'workspace.{limit.measured}: has nothing in common with limits.{name}'
                )


_ELEMENT = re.compile(r'([^\[]+)\[([^\]]+)\]')


def _check_complete(topic: TopicMap) -> None:
    """Refuse a command with a gap: what nobody names would be sent as 0, whatever its limits."""
    paths = [*topic.fields.values(), *topic.constants]
    check_unique(f"command: topic '{topic.topic}'", paths)
    found = [
        (path[: match.end(1)], match[2]) for path in paths for match in _ELEMENT.finditer(path)
    ]
    joints = list(dict.fromkeys(index for _, index in found if not index.isdigit()))
    elements: dict[str, set[int]] = {}
    for name, index in found:
        number = int(index) if index.isdigit() else joints.index(index)
        elements.setdefault(name, set()).add(number)
    for name, numbers in elements.items():
        for number in sorted(set(range(max(numbers))) - numbers):
            element = f'{name}[{joints[number] if joints else number}]'
            raise ValueError(
                f"command: topic '{topic.topic}': nothing is said of {element}, which would be "
                'sent as 0 whatever its limits; give it an entry, or a constant'
            )


def _same(key: str, names: Any, where: str, known: Any) -> None:
    check_known(key, names, where, known)
    missing = [name for name in known if name not in names]
    if missing:
        raise ValueError(f'{key}: missing for {", ".join(missing)}')


def keyboard_topic(robot: RobotConfig) -> TeleopMap:
    """The first topic on which 0 is no motion: keys do not say where to, only which way.

    :raises ConfigError: there is none.
    """
    for source in robot.teleop:
        positions = [name for name in source.fields if robot.limits[name].stop == 'hold']
        if source.type != JOY and set(positions) <= set(source.latch):
            return source
    raise ConfigError(
        f"robot '{robot.name}': key 'teleop': a keyboard needs a topic of velocities that is no "
        'Joy, for example a geometry_msgs/msg/Twist with the command entries as fields; drive '
        'positions with a leader arm, or let MoveIt Servo make them of velocities (arm_servo)'
    )
