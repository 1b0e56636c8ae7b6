"""Schema of robot profiles: topics, command limits, teleoperation, time-outs."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from mbarl_ros.schema.base import ConfigError, Strict, check_known, check_unique
from mbarl_ros.schema.field_maps import (
    ActionCommand,
    CommandEntry,
    RobotTopic,
    ServiceCommand,
    StateTopic,
    TopicMap,
)
from mbarl_ros.schema.frames import TF_TYPE
from mbarl_ros.schema.switches import JOY, Press, Switch

Bounds = tuple[float, float]

# Two states form a step if they are this many control periods apart.
SHORTEST_STEP, LONGEST_STEP = 0.5, 1.5
# s by which stamps may run back because messages overtook each other; beyond, the clock was reset.
MAX_REORDERING = 1.0


class TeleopMap(TopicMap):
    """A teleoperation source: a topic whose fields command the robot, such as a gamepad's.

    `fields` maps names of command entries to paths in the message.
    """

    scale: dict[str, float] = Field(
        default={},
        description='Command entry -> factor on the field, in units of the command. Default: 1.',
    )
    deadzone: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description='Fields below this magnitude count as 0, before `scale`. Default: none do.',
    )
    levels: dict[str, Bounds] = Field(
        default={},
        description='For buttons and triggers, in place of `scale`: command entry -> [command '
        'while the field is 0, command while it is 1]. Default: none.',
    )
    levels_at: dict[str, Bounds] = Field(
        default={},
        description='Command entry of `levels` -> [field at the first level, field at the second], '
        'needed for an axis: `[1.0, -1.0]` for a trigger that rests at 1 and goes to -1. Between '
        'them the command is interpolated; a trigger that was never touched commands nothing. '
        'Default: [0, 1].',
    )
    latch: list[str] = Field(
        default=[],
        description='Command entries that keep their last command while the field is 0; 0 itself '
        'is commanded by a value close to it. Default: none.',
    )
    deadman: Switch | None = Field(
        default=None,
        description='Dead-man switch; nothing is commanded while it is released. A path or '
        'mapping; a switch on a topic of its own is released after `teleop_timeout` without a '
        'message. null: none.',
    )
    buttons: dict[Literal['start', 'success', 'stop', 'discard'], Press] = Field(
        default={},
        description='Buttons of the demonstration recorder: action -> path or mapping in a Joy '
        'message. Default: none.',
    )

    @property
    def deadman_topic(self) -> TopicMap | None:
        """The topic of its own that the dead-man switch is on, if it has one."""
        switch = self.deadman
        if switch is None or switch.topic is None or switch.type is None:
            return None
        return TopicMap(topic=switch.topic, type=switch.type, fields={'deadman': switch.field})

    @property
    def presses(self) -> dict[str, Press]:
        """What can be pressed in a message of this source: recorder buttons and `deadman`."""
        presses: dict[str, Press] = dict(self.buttons.items())
        if self.deadman and self.deadman.topic is None:
            presses['deadman'] = self.deadman
        return presses

    @model_validator(mode='after')
    def _consistent(self) -> TeleopMap:
        for key, names in (('scale', self.scale), ('levels', self.levels), ('latch', self.latch)):
            check_known(key, names, 'fields', self.fields)
        both = sorted(set(self.scale) & set(self.levels))
        if both:
            raise ValueError(f'scale and levels: both given for {", ".join(both)}; use one')
        if self.presses and self.type != JOY:
            raise ValueError(
                f'deadman and buttons: need type {JOY}, {self.type} has no buttons; a deadman may '
                'be on a topic of its own: {topic: ..., type: std_msgs/msg/Bool, field: data}'
            )
        for name, press in self.presses.items():
            press.check_joy(name if name == 'deadman' else f'buttons.{name}')
        self._check_signs()
        self._check_levels()
        return self

    def _check_signs(self) -> None:
        for name, path in self.fields.items():
            if path.startswith(('-', '+')):
                bare, factor = path.lstrip('+-'), f'{path[0]}1.0'.lstrip('+')
                raise ValueError(
                    f"fields.{name}: '{path}': a path has no sign; write {bare} and "
                    f'scale: {{{name}: {factor}}}'
                )

    def _check_levels(self) -> None:
        check_known('levels_at', self.levels_at, 'levels', self.levels)
        for name in self.levels:
            at = self.levels_at.get(name, (0.0, 1.0))
            if at[0] == at[1]:
                raise ValueError(f'levels_at.{name}: the two values must differ')
            path = self.fields[name]
            if self.type == JOY and path.startswith('axes') and name not in self.levels_at:
                raise ValueError(
                    f'levels.{name}: {path} is an axis; add levels_at: {{{name}: [1.0, -1.0]}} if '
                    'it is a trigger that rests at 1 and goes to -1'
                )


class Limit(Strict):
    """Limits of one command entry, which the safety gate enforces.

    Units are those of the command entry.
    """

    OLD_KEYS: ClassVar = {'lead': "is now called 'tracking_error'"}

    low: float = Field(description='Least command.')
    high: float = Field(description='Greatest command.')
    rate: float | None = Field(
        default=None,
        gt=0,
        description='Largest change per second: the acceleration of a velocity command, the '
        'velocity of a position command. null: unlimited.',
    )
    rate_change: float | None = Field(
        default=None,
        gt=0,
        description='Largest change of `rate` per second: the jerk of a velocity command, the '
        'acceleration of a position command. null: unlimited.',
    )
    stop: float | Literal['hold'] | None = Field(
        default=None,
        description='Command of a stop: a number (0.0 for a velocity) or `hold` (stay where it is, '
        'for a position or gripper). Required, except that it is 0.0 with `moves`.',
    )
    moves: str | None = Field(
        default=None,
        description='For a velocity: the state entry (a position) that it moves, so that '
        '`workspace` can slow it down in time. null: unknown.',
    )
    measured: str | None = Field(
        default=None,
        description='For a position: the state entry that measures it; needs `stop: hold`, `rate` '
        'and `tracking_error`. null: not measured.',
    )
    tracking_error: float | None = Field(
        default=None,
        gt=0,
        description='Largest distance of a position command from `measured`; needed with it.',
    )
    wraps: bool = Field(
        default=False,
        description='`measured` is an angle in rad that begins anew after each turn (a continuous '
        'joint): it counts in the turn of `low` and `high`, which may be a turn apart at most.',
    )

    @model_validator(mode='before')
    @classmethod
    def _velocity(cls, raw: Any) -> Any:
        return {'stop': 0.0, **raw} if isinstance(raw, dict) and raw.get('moves') else raw

    @model_validator(mode='after')
    def _consistent(self) -> Limit:
        if not self.low < self.high:
            raise ValueError(f'low ({self.low}) must be less than high ({self.high})')
        if self.stop is None:  # 0.0 as a default would send a joint to its origin
            raise ValueError('stop: give hold for a position, 0.0 for a velocity')
        if self.stop != 'hold' and not self.low <= self.stop <= self.high:
            raise ValueError(f'stop ({self.stop:g}) must lie within {self.low:g} to {self.high:g}')
        if self.moves and self.stop != 0:
            raise ValueError('moves: is for a velocity, which stops at 0; set stop: 0')
        if self.measured and self.stop != 'hold':
            raise ValueError('measured: is for a position, which is held; set stop: hold')
        if bool(self.measured) != (self.tracking_error is not None):
            raise ValueError('measured and tracking_error: are needed together')
        if self.wraps and not self.measured:
            raise ValueError('wraps: is for a position that is measured; set measured')
        if self.wraps and self.high - self.low > 2.0 * math.pi + 1e-3:
            raise ValueError(
                f'wraps: {self.low:g} to {self.high:g} is more than a turn, and a reading does not '
                'tell which one; give limits that are a turn apart at most'
            )
        if self.measured and self.rate is None:
            raise ValueError(
                'measured: needs rate, the velocity limit: drives go to a position at once'
            )
        return self


class RobotConfig(Strict):
    """A robot profile: topics -> state vector, command vector -> topics, limits and time-outs."""

    name: str = Field(description='Name of the robot.')
    description: str = Field(default='', description='One line for people.')
    control_rate: float = Field(gt=0, le=1000, description='Control steps per second, in Hz.')
    state: list[StateTopic] = Field(
        min_length=1,
        description='Topics and transforms that make up the state vector, in this order.',
    )
    command: list[CommandEntry] = Field(
        min_length=1,
        description='Topics, actions and services that carry the command vector, in this order.',
    )
    teleop: list[TeleopMap] = Field(
        default=[],
        description='Teleoperation sources; each of them overrides the policy. Default: none.',
    )
    limits: dict[str, Limit] = Field(description='Limits of each command entry.')
    workspace: dict[str, Bounds] = Field(
        default={},
        description='State entry -> [low, high] in which commands must keep it, those of people '
        'too. An entry that no `moves` or `measured` names can only be watched: outside, the '
        'policy is stopped. Default: unlimited.',
    )
    command_timeout: float = Field(
        default=0.5,
        gt=0,
        description='Seconds without a command after which the safety gate stops the robot '
        '(steady clock).',
    )
    state_timeout: float = Field(
        default=0.5,
        gt=0,
        description='Seconds without a message on any one state topic after which the safety gate '
        'stops the robot (steady clock).',
    )
    teleop_timeout: float = Field(
        default=0.5,
        gt=0,
        description='Seconds without a teleoperation message after which the policy has the robot '
        'again (steady clock).',
    )
    estop_timeout: float | None = Field(
        default=None,
        gt=0,
        description='Seconds without a message on `safety_gate/estop` that count as an emergency '
        'stop (steady clock); null: nobody needs to publish there.',
    )

    @property
    def state_topics(self) -> dict[str, str]:
        """Topics to subscribe to and to record for the state -> their types."""
        topics = {topic.topic: topic.type for topic in self.state}
        return {**topics, **dict.fromkeys(self.tf_topics, TF_TYPE)}

    @property
    def tf_topics(self) -> dict[str, bool]:
        """Topics of transforms that the state needs -> whether these are static."""
        frames = [topic.tf for topic in self.state if topic.tf]
        return {name: static for each in frames for name, static in each.topics.items()}

    @property
    def transforms(self) -> list[StateTopic]:
        """Entries of the state that are transforms between frames."""
        return [topic for topic in self.state if topic.tf]

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the state vector's entries, in order."""
        return tuple(name for topic in self.state for name in topic.fields)

    @property
    def command_names(self) -> tuple[str, ...]:
        """Names of the command vector's entries, in order."""
        return tuple(name for entry in self.command for name in entry.fields)

    @property
    def command_topics(self) -> list[RobotTopic]:
        """The command entries that are topics: what others can record and watch."""
        return [entry for entry in self.command if isinstance(entry, RobotTopic)]

    @property
    def requests(self) -> list[ActionCommand | ServiceCommand]:
        """The command entries that are actions or services."""
        return [entry for entry in self.command if not isinstance(entry, RobotTopic)]

    @model_validator(mode='after')
    def _consistent(self) -> RobotConfig:
        check_unique('state', self.state_names)
        check_unique('command', self.command_names)
        _check_same_names('limits', self.limits, 'command', self.command_names)
        check_known('workspace', self.workspace, 'state', self.state_names)
        self._check_positions()
        for entry in self.command:
            check_unique(f'command: {entry.label}', [*entry.fields.values(), *entry.constants])
            self._check_stop(entry)
        self._check_topics()
        if self.command_timeout <= 1.0 / self.control_rate:
            raise ValueError(
                f'command_timeout: {self.command_timeout:g} s must be longer than a control period '
                f'({1.0 / self.control_rate:g} s), or the safety gate stops the robot in each one'
            )
        for source in self.teleop:
            check_known('teleop', source.fields, 'command', self.command_names)
            for name in source.latch:
                if self.limits[name].stop != 'hold':
                    raise ValueError(f'teleop.latch: {name} needs limits.{name}.stop: hold')
        check_unique('teleop', [source.topic for source in self.teleop])
        return self

    def _check_topics(self) -> None:
        """Refuse a topic in two roles: the gate would obey itself, or one reading hide another."""
        read = [topic.topic.strip('/') for topic in self.state if topic.tf is None]
        check_unique('state', read)
        commanded = [topic.topic.strip('/') for topic in self.command_topics]
        check_unique('command', commanded)
        followed = [source.topic.strip('/') for source in self.teleop]
        followed += [
            source.deadman.topic.strip('/')
            for source in self.teleop
            if isinstance(source.deadman, Switch) and source.deadman.topic
        ]
        for key, others in (('state', read), ('teleop', followed)):
            for topic in sorted(set(commanded) & set(others)):
                raise ValueError(
                    f"command: topic '{topic}' is also one of {key}: the safety gate would listen "
                    'to itself; give teleoperation a topic of its own, and remap its node to it'
                )

    def _check_stop(self, entry: CommandEntry) -> None:
        """Check that a stop is clear for an action or a service: hold it, or send numbers."""
        if isinstance(entry, RobotTopic):
            return
        held = [name for name in entry.fields if self.limits[name].stop == 'hold']
        if held and len(held) < len(entry.fields):
            raise ValueError(
                f'command: {entry.label}: a stop holds {", ".join(held)} and sends a number to the '
                'others, which is one request; set stop: hold for all of them or for none'
            )
        if isinstance(entry, ActionCommand) and bool(held) != bool(entry.at_stop):
            raise ValueError(
                f'command: {entry.label}: at_stop: '
                + (
                    'is needed with stop: hold; give keep or cancel'
                    if held
                    else 'a stop sends a goal of its own; leave it away, or set stop: hold'
                )
            )

    def _check_positions(self) -> None:
        """Check the state entries that limits and workspace name."""
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
                    f'workspace.{limit.measured}: does not overlap limits.{name} ({limit.low:g} to '
                    f'{limit.high:g})'
                )


def _check_same_names(key: str, names: Any, where: str, known: Any) -> None:
    """Refuse names that are unknown or missing."""
    check_known(key, names, where, known)
    missing = [name for name in known if name not in names]
    if missing:
        raise ValueError(f'{key}: missing for {", ".join(missing)}')


def keyboard_topic(robot: RobotConfig) -> TeleopMap:
    """The first teleoperation topic that a keyboard can drive: one on which 0 means no motion.

    :raises ConfigError: there is none.
    """
    for source in robot.teleop:
        positions = [name for name in source.fields if robot.limits[name].stop == 'hold']
        if source.type != JOY and set(positions) <= set(source.latch):
            return source
    raise ConfigError(
        f"robot '{robot.name}': key 'teleop': a keyboard needs a topic of velocities other than "
        'Joy, for example a geometry_msgs/msg/Twist with the command entries as fields; command '
        'positions with a leader arm, or through MoveIt Servo (robot profile arm_servo)'
    )
