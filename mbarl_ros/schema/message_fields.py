"""Reads and writes named values in the fields of ROS messages, by the paths of a robot profile.

Works on any object with the message's attributes: rclpy messages and those read from bags.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.robot import TopicMap

_FIELD = re.compile(r'^(\w+)(?:\[([^\]]+)\])?$')
_ELEMENT = re.compile(r'^(\w+)\[(\d+)\]$')


class TopicCodec:
    """Decodes messages of one topic into values, and encodes values into messages.

    A path of the profile is one of three kinds, each a subclass of :class:`Field`.
    Fields under ``constants`` are written into each message that is encoded; a message that is
    decoded must hold the same values.
    """

    def __init__(self, topic: TopicMap) -> None:
        """Parse the paths of a topic map.

        :raises ConfigError: a path that cannot be parsed.
        """
        self.topic = topic.topic
        self.type = topic.type
        self.names = tuple(topic.fields)
        self._fields = [_field(topic.topic, path) for path in topic.fields.values()]
        self._constants = [
            (path, _field(topic.topic, path), value) for path, value in topic.constants.items()
        ]
        joints = [field.joint for field in self._fields if isinstance(field, JointField)]
        self._joints = list(dict.fromkeys(joints))

    def decode(self, message: Any) -> list[float]:
        """Values of the message in the order of ``names``.

        :raises ValueError: the message lacks a joint, an index or a field that the profile names,
            or one of its constants differs.
        """
        try:
            for path, field, expected in self._constants:
                _check_constant(path, field.read(message), expected)
            return [float(field.read(message)) for field in self._fields]
        except (IndexError, AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"topic '{self.topic}': message is not what the robot profile says "
                f'({", ".join(self.names)}): {error}'
            ) from error

    def encode(self, message: Any, values: Sequence[float]) -> Any:
        """Write ``values``, in the order of ``names``, into a fresh message and return it."""
        if self._joints and hasattr(message, 'name'):
            message.name = list(self._joints)
        for field, value in zip(self._fields, values, strict=True):
            field.write(message, float(value))
        for _, field, constant in self._constants:
            field.write(message, constant)
        return message


class FieldPath(NamedTuple):
    """A parsed path: ``a.b[0].position[elbow]`` has the parents ``a`` and ``b[0]``."""

    parents: list[str]
    name: str
    element: str | int | None


class Field:
    """A field that is not a list: ``pose.pose.position.x``."""

    def __init__(self, path: FieldPath) -> None:
        """Store where the field is in a message."""
        self._parents, self._name = [_step(part) for part in path.parents], path.name

    def read(self, message: Any) -> Any:
        """Value of the field.

        :raises AttributeError, IndexError, ValueError: the message does not have it.
        """
        return getattr(_parent(message, self._parents), self._name)

    def write(self, message: Any, value: Any) -> None:
        """Set the field; a number is converted to its type, seconds to a stamp or duration."""
        parent = _parent(message, self._parents, create=True)
        old = getattr(parent, self._name)
        if hasattr(old, 'nanosec'):
            old.sec, old.nanosec = divmod(round(value * 1e9), 1_000_000_000)
        elif isinstance(old, bool | int | float):
            setattr(parent, self._name, type(old)(value))
        else:
            setattr(parent, self._name, value)


class ElementField(Field):
    """An element of a list of numbers: ``data[3]``."""

    def __init__(self, path: FieldPath) -> None:
        """Store where the list is in a message, and the index in it."""
        super().__init__(path)
        self._element: Any = path.element

    def _index(self, parent: Any) -> int:
        return self._element

    def read(self, message: Any) -> Any:
        """Value of the element."""
        parent = _parent(message, self._parents)
        values = getattr(parent, self._name)
        return values[self._index(parent)]

    def write(self, message: Any, value: Any) -> None:
        """Set the element; a list that is too short is filled up with 0."""
        parent = _parent(message, self._parents, create=True)
        index = self._index(parent)
        values = list(getattr(parent, self._name))
        values.extend([0.0] * (index + 1 - len(values)))
        values[index] = value
        setattr(parent, self._name, values)


class JointField(ElementField):
    """An element by joint name: ``position[elbow]``, at the index that ``name`` of the message has.

    The order of the joints in the message does not matter.
    """

    def __init__(self, path: FieldPath) -> None:
        """Store where the list is in a message, and the name of the joint."""
        super().__init__(path)
        self.joint = path.element

    def _index(self, parent: Any) -> int:
        return list(parent.name).index(self.joint)


def parse_path(topic: str, path: str) -> FieldPath:
    """Parse a path of the profile.

    :raises ConfigError: it cannot be parsed; names the ``topic``.
    """
    *parents, last = path.split('.')
    match = _FIELD.match(last)
    if match is None or not all(part.isidentifier() or _ELEMENT.match(part) for part in parents):
        raise ConfigError(f"topic '{topic}': cannot read field path '{path}'")
    name, index = match.groups()
    if index is not None and index.isdigit():
        return FieldPath(parents, name, int(index))
    return FieldPath(parents, name, index)


def _field(topic: str, text: str) -> Field:
    path = parse_path(topic, text)
    if path.element is None:
        return Field(path)
    return JointField(path) if isinstance(path.element, str) else ElementField(path)


def _step(part: str) -> tuple[str, int | None]:
    """Name and index of ``name[index]``; the index is None for a ``name`` alone."""
    element = _ELEMENT.match(part)
    return (part, None) if element is None else (element[1], int(element[2]))


def _parent(message: Any, parents: list[tuple[str, int | None]], create: bool = False) -> Any:
    """The message that holds a field; ``create`` lengthens lists of messages on the way to it."""
    for name, index in parents:
        if index is None:
            message = getattr(message, name)
            continue
        if create and len(getattr(message, name)) <= index:
            _lengthen(message, name, index + 1)
        message = getattr(message, name)[index]
    return message


def _lengthen(message: Any, name: str, length: int) -> None:
    """Lengthen a list of messages; only the type declaration says what its elements are."""
    declared = message.get_fields_and_field_types()[name]
    element_type = declared.removeprefix('sequence<').removesuffix('>').replace('/', '/msg/')
    kind = message_class(element_type, importlib.import_module)
    elements = list(getattr(message, name))
    setattr(message, name, elements + [kind() for _ in range(length - len(elements))])


def _check_constant(path: str, value: Any, expected: Any) -> None:
    if hasattr(value, 'nanosec'):
        value = value.sec + value.nanosec * 1e-9
        same = abs(value - expected) < 1e-6
    else:
        value = list(value) if isinstance(expected, list) else value
        same = value == expected
    if not same:
        raise ValueError(f'{path} is {value!r}, not {expected!r}')


def stamp_ns(message: Any) -> int | None:
    """Header stamp in nanoseconds, or None for a message without a header."""
    header = getattr(message, 'header', None)
    if header is None:
        return None
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def set_stamp(message: Any, nanoseconds: int) -> None:
    """Set the header stamp of a message that has a header."""
    header = getattr(message, 'header', None)
    if header is not None:
        header.stamp.sec, header.stamp.nanosec = divmod(int(nanoseconds), 1_000_000_000)


def message_class(type_name: str, importer: Callable[[str], Any]) -> Any:
    """Class of ``package/msg/Name``; ``importer`` is importlib.import_module.

    :raises ConfigError: the package or the message is not installed.
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
