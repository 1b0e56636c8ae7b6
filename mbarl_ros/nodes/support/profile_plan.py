"""What a new robot profile is made of, before it is written, and what the user said of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.urdf import Joint

POSITION, VELOCITY = KINDS = ('position', 'velocity')


@dataclass(frozen=True)
class Wishes:
    """What the user said: options of ``mbarl robot new``, and how to ask for the rest.

    ``ask(question, answers, option)`` gives one of the answers (any text if there are none) or
    raises a ConfigError that names the option. ``joints``: topic -> (kind, joints).
    """

    ask: Callable[[str, Sequence[str], str], str]
    topics: Sequence[str] = ()
    joints: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    frame: str = ''
    degrees: bool = False


@dataclass(frozen=True)
class Moved:
    """An entry of the command: ``state`` is the state entry that it moves or that measures it.

    ``present`` is the value of that entry; ``limits``: of its ``joint``; None: nobody knows.
    """

    name: str
    path: str
    kind: str
    joint: str = ''
    state: str = ''
    present: float | None = None
    limits: Joint | None = None
    gripper: bool = False


@dataclass
class Topic:
    """A topic of the new profile; ``comment`` says where what is known of it comes from."""

    topic: str
    type: str
    fields: dict[str, str]
    constants: dict[str, str | float] = field(default_factory=dict)
    comment: str = ''
    todos: list[str] = field(default_factory=list)
    factors: dict[str, float] = field(default_factory=dict)


@dataclass
class Plan:
    """A new profile before it is written.

    ``values``: state entry -> present value; ``slowest``: the topic that has the least ``rate``.
    """

    control_rate: float
    slowest: str
    rate: float
    state: list[Topic]
    command: list[Topic]
    moved: list[Moved]
    values: dict[str, float]
    unused: list[str]


def parse_joints(text: str) -> tuple[str, str, tuple[str, ...]]:
    """Topic, kind and joints of ``TOPIC:=KIND:JOINT,JOINT``.

    :raises ConfigError: it is written in another way.
    """
    topic, _, rest = text.partition(':=')
    kind, _, joints = rest.partition(':')
    names = tuple(joint.strip() for joint in joints.split(',') if joint.strip())
    if not topic or kind not in KINDS or not names:
        raise ConfigError(
            f"'{text}': write TOPIC:=velocity:JOINT,JOINT or TOPIC:=position:JOINT,JOINT, the "
            'joints in the order of the controller'
        )
    return topic, kind, names
