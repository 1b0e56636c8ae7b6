"""Named values <-> fields of ROS messages, by the paths of a robot profile.

Works on any object with the message's attributes: rclpy messages and those read from bags.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.robot import TopicMap

_PART = re.compile(r'^(\w+)(?:\[([^\]]+)\])?$')
_ELEMENT = re.compile(r'^(\w+)\[(\d+)\]$')
Path = tuple[list[str], str, str | int | None]


class TopicCodec:
    """Reads and writes the named values of one topic.

    ``position[elbow]`` looks the joint up in the message's ``name`` list (order in the message
    does not matter); ``data[3]`` is an index; ``points[0].positions[1]`` goes through an element
    of a sequence. Fields under ``constants`` are written into each message, and a message that is
    read must hold them.
    """

    def __init__(self, topic: TopicMap) -> None:
        """Compile the paths of a topic map.

        :raises ConfigError: a path that cannot be parsed.
        """
        self.topic = topic.topic
        self.type = topic.type
        self.names = tuple(topic.fields)
        self._paths = [parse_path(topic.topic, path) for path in topic.fields.values()]
        self._constants = [
            (path, parse_path(topic.topic, path), value) for path, value in topic.constants.items()
        ]
        self._joints = [index for *_, index in self._paths if isinstance(index, str)]

    def decode(self, message: Any) -> list[float]:
        """Values of the message in the order of ``names``.

        :raises ValueError: the message lacks a joint, an index or a field that the profile names,
            or a constant in it is another.
        """
        try:
            for text, path, wanted in self._constants:
                _check_constant(message, text, path, wanted)
            return [float(_get(message, path)) for path in self._paths]
        except (IndexError, AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"topic '{self.topic}': message is not what the robot profile says "
                f'({", ".join(self.names)}): {error}'
            ) from error

    def encode(self, message: Any, values: Sequence[float]) -> Any:
        """Write values, in the order of ``names``, into a fresh message and return it."""
        if self._joints and hasattr(message, 'name'):
            message.name = list(dict.fromkeys(self._joints))
        for path, value in zip(self._paths, values, strict=True):
            _set(message, path, float(value))
        for _, path, constant in self._constants:
            _set(message, path, constant)
        return message


def stamp_ns(message: Any) -> int | None:
    """Header stamp in nanoseconds, or None for a message without a header."""
    header = getattr(message, 'header', None)
    if header is None:
        return None
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def set_stamp(message: Any, nanoseconds: int) -> None:
    """Set the header stamp of a message that has one."""
    header = getattr(message, 'header', None)
    if header is not None:
        header.stamp.sec, header.stamp.nanosec = divmod(int(nanoseconds), 1_000_000_000)


def message_class(type_name: str, importer: Callable[[str], Any]) -> Any:
    """Class of ``package/msg/Name``; ``importer`` is importlib.import_module.

    :raises ConfigError: no such package or message is installed.
    """
    package, _, name = type_name.split('/')
    try:
        return getattr(importer(f'{package}.msg'), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"message type '{type_name}' is not installed: {error}; install its package "
            f'(pip: ros-{package.replace("_", "-")}; apt: ros-$ROS_DISTRO-'
            f'{package.replace("_", "-")})'
        ) from error


def parse_path(topic: str, path: str) -> Path:
    """Parents, field and index (joint name, number or none) of a path like ``a.b.position[elbow]``.

    :raises ConfigError: a path that cannot be read.
    """
    *parents, last = path.split('.')
    match = _PART.match(last)
    if match is None or not all(part.isidentifier() or _ELEMENT.match(part) for part in parents):
        raise ConfigError(f"topic '{topic}': cannot read field path '{path}'")
    name, index = match.groups()
    if index is not None and index.isdigit():
        return parents, name, int(index)
    return parents, name, index


def _owner(message: Any, parents: list[str], create: bool = False) -> Any:
    for part in parents:
        element = _ELEMENT.match(part)
        if element is None:
            message = getattr(message, part)
            continue
        name, index = element[1], int(element[2])
        if create and len(getattr(message, name)) <= index:
            _grow(message, name, index)
        message = getattr(message, name)[index]
    return message


def _grow(message: Any, name: str, index: int) -> None:
    """Lengthen a sequence of messages; only its type declaration says what they are."""
    declared = message.get_fields_and_field_types()[name]
    kind = message_class(declared[9:-1].replace('/', '/msg/'), importlib.import_module)
    elements = list(getattr(message, name))
    setattr(message, name, elements + [kind() for _ in range(index + 1 - len(elements))])


def _get(message: Any, path: Path) -> Any:
    parents, name, index = path
    owner = _owner(message, parents)
    value = getattr(owner, name)
    if index is None:
        return value
    if isinstance(index, str):
        index = list(owner.name).index(index)
    return value[index]


def _set(message: Any, path: Path, value: Any) -> None:
    parents, name, index = path
    owner = _owner(message, parents, create=True)
    if index is None:
        old = getattr(owner, name)
        if hasattr(old, 'nanosec'):
            old.sec, old.nanosec = divmod(round(value * 1e9), 1_000_000_000)
        else:
            setattr(owner, name, type(old)(value) if isinstance(old, bool | int | float) else value)
        return
    if isinstance(index, str):
        index = list(owner.name).index(index)
    values = list(getattr(owner, name))
    values.extend([0.0] * (index + 1 - len(values)))
    values[index] = value
    setattr(owner, name, values)


def _check_constant(message: Any, text: str, path: Path, wanted: Any) -> None:
    value = _get(message, path)
    if hasattr(value, 'nanosec'):
        value = value.sec + value.nanosec * 1e-9
        same = abs(value - wanted) < 1e-6
    else:
        value = list(value) if isinstance(wanted, list) else value
        same = value == wanted
    if not same:
        raise ValueError(f'{text} is {value!r}, not {wanted!r}')
