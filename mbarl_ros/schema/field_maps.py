"""Schema of what carries values: topics, actions and services, and the fields in them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from mbarl_ros.schema.base import Strict, check_known
from mbarl_ros.schema.frames import COMPONENTS, Frames, with_topic

Constant = bool | int | float | str | list[str] | list[float]


class Topic(Strict):
    """A ROS topic."""

    topic: str = Field(description='Topic name, relative to the namespace unless it begins with /.')
    type: str = Field(
        pattern=r'^\w+/msg/\w+$', description='Message type, such as `nav_msgs/msg/Odometry`.'
    )

    @property
    def label(self) -> str:
        """What it is, and its name."""
        return f"topic '{self.topic}'"


class Action(Strict):
    """A ROS action."""

    action: str = Field(
        description='Action name, relative to the namespace unless it begins with /.'
    )
    type: str = Field(
        pattern=r'^\w+/action/\w+$',
        description='Action type, such as `control_msgs/action/GripperCommand`.',
    )

    @property
    def label(self) -> str:
        """What it is, and its name."""
        return f"action '{self.action}'"


class Service(Strict):
    """A ROS service."""

    service: str = Field(
        description='Service name, relative to the namespace unless it begins with /.'
    )
    type: str = Field(
        pattern=r'^\w+/srv/\w+$', description='Service type, such as `std_srvs/srv/SetBool`.'
    )

    @property
    def label(self) -> str:
        """What it is, and its name."""
        return f"service '{self.service}'"


class FieldMap(Strict):
    """The fields of a message, a goal or a request that carry named values.

    A path names a field of the message: `pose.pose.position.x`, `data[0]` (by index),
    `position[elbow]` or `points[0].positions[elbow]` (by joint name). Where a message has a list
    of names, `position[2]` is the joint that is called 2; `position[#2]` is the third.
    """

    fields: dict[str, str] = Field(
        min_length=1, description='Name of a value -> path of its field in the message.'
    )
    constants: dict[str, Constant] = Field(
        default={},
        description='Path -> value that always stands there: a frame, joint names, a duration or '
        'stamp in seconds. It is written into commands; a state message with another value is '
        'rejected. Default: none.',
    )

    @property
    def frames(self) -> Frames | None:
        """The frames of a transform; None for fields."""
        return None

    def factor(self, name: str) -> float:
        """Units of a value for each unit of its field."""
        return 1.0

    def zero(self, name: str) -> float:
        """The value where its field is 0."""
        return 0.0


class TopicMap(FieldMap, Topic):
    """A ROS topic and the message fields that carry named values."""

    @property
    def source(self) -> str:
        """Where its values come from, for a person."""
        return self.topic


class RobotFields(FieldMap):
    """Fields of the robot's state or command: value = `scale` * field + `offset`."""

    scale: dict[str, float] = Field(
        default={},
        description='Name of a value -> its units for each unit of the field: 0.0174533 makes '
        'radians of degrees. Default: 1.',
    )
    offset: dict[str, float] = Field(
        default={}, description='Name of a value -> what it is where the field is 0. Default: 0.'
    )

    def factor(self, name: str) -> float:
        """As in ``scale``."""
        return self.scale.get(name, 1.0)

    def zero(self, name: str) -> float:
        """As in ``offset``."""
        return self.offset.get(name, 0.0)

    @model_validator(mode='after')
    def _known_values(self) -> RobotFields:
        for key, values in (('scale', self.scale), ('offset', self.offset)):
            check_known(key, values, 'fields', self.fields)
        for name, factor in self.scale.items():
            if factor == 0:
                raise ValueError(f'scale.{name}: 0 leaves nothing of the field; give a factor')
        return self


class RobotTopic(RobotFields, TopicMap):
    """A topic of the robot's state or command: value = `scale` * field + `offset`."""


class StateTopic(RobotTopic):
    """A topic of the robot's state, or the transform between two frames."""

    tf: Frames | None = Field(
        default=None,
        description='The transform between two frames, from `/tf` and `/tf_static`; `topic`, '
        '`type` and `constants` are left away. Then `fields` are name of a value -> '
        f'{", ".join(f"`{name}`" for name in COMPONENTS[:-1])} or `{COMPONENTS[-1]}` (m, rad). '
        'null: none.',
    )

    @property
    def frames(self) -> Frames | None:
        """As in ``tf``."""
        return self.tf

    @property
    def source(self) -> str:
        """The topic, with the frames of a transform."""
        return f'{self.topic} ({self.tf.parent} to {self.tf.child})' if self.tf else self.topic

    @model_validator(mode='before')
    @classmethod
    def _topic_of_tf(cls, raw: Any) -> Any:
        return with_topic(raw) if isinstance(raw, dict) and raw.get('tf') is not None else raw

    @model_validator(mode='after')
    def _known_components(self) -> StateTopic:
        if self.tf:
            check_known('fields', self.fields.values(), 'the values of a transform', COMPONENTS)
        return self


class RequestFields(RobotFields):
    """Command entries that are requested: sent when they change, and again after a failure."""

    tolerance: dict[str, float] = Field(
        default={},
        description='Command entry -> largest change that is not sent, in its units. Default: 0.',
    )
    period: float = Field(
        default=0.1, gt=0, description='Least time in s from one request to the next.'
    )

    @model_validator(mode='after')
    def _known_tolerances(self) -> RequestFields:
        check_known('tolerance', self.tolerance, 'fields', self.fields)
        for name, tolerance in self.tolerance.items():
            if tolerance < 0:
                raise ValueError(f'tolerance.{name}: must be 0 or more, got {tolerance:g}')
        return self


class ActionCommand(RequestFields, Action):
    """Command entries that are sent as goals of an action: a gripper, a trajectory controller.

    Paths of `fields` and `constants` begin at the goal: `command.position`. A goal is sent when an
    entry changes by more than its `tolerance`, and a second after one that was rejected or ended
    without success. A new goal takes the place of the one before.
    """

    at_stop: Literal['keep', 'cancel'] | None = Field(
        default=None,
        description='With `stop: hold`, required: what a stop does with a goal that is not '
        'finished. `keep` lets it go on (a gripper that must not drop what it holds), `cancel` '
        'ends it (an arm on its way).',
    )


class ServiceCommand(RequestFields, Service):
    """Command entries that are sent by a service call: suction on and off.

    Paths of `fields` and `constants` begin at the request: `data` of a SetBool. It is called when
    what the fields hold changes, and again a second after a call that failed: without an answer, or
    with `success: false` in it.
    """


def _command_kind(raw: Any) -> str:
    """Which kind of command an entry of the YAML is."""
    for key in ('action', 'service'):
        if (isinstance(raw, dict) and key in raw) or hasattr(raw, key):
            return f'({key})'
    return '(topic)'


CommandEntry = Annotated[
    Annotated[RobotTopic, Tag('(topic)')]
    | Annotated[ActionCommand, Tag('(action)')]
    | Annotated[ServiceCommand, Tag('(service)')],
    Discriminator(_command_kind),
]
