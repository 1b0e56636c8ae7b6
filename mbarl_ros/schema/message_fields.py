"""Reads and writes named values in the fields of ROS messages, by the paths of a robot profile.

Works on any object with the message's attributes: rclpy messages and those read from bags.
"""

from __future__ import annotations

import functools
import importlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from operator import attrgetter
from typing import Any

import numpy as np

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.field_maps import CommandEntry, TopicMap
from mbarl_ros.schema.field_paths import FieldPath, NotNamedError, Place, name_lists, parse_path
from mbarl_ros.schema.packages import install_remedy

_LIST = re.compile(r'sequence<([^,>]+).*>$|(.+)\[\d+\]$')  # of a type declaration
_INTEGER = re.compile(r'(u?)int(8|16|32|64)$')
_STAMP = 'header.stamp'
_KINDS = {'msg': 'message', 'action': 'action', 'srv': 'service'}
_LAYOUTS = 8  # kept for each topic: arm and gripper may share one
_BYTES = ('octet', 'byte', 'char')  # from 0 to 255


class TopicCodec:
    """Decodes messages of one topic into values, and encodes values into messages.

    Goals of an action and requests of a service are messages, too.

    Fields under ``constants`` are written into each message that is encoded; a message that is
    decoded must hold the same values. ``paths`` [n] are those of the values.
    """

    def __init__(
        self, topic: TopicMap | CommandEntry, middle: Mapping[str, float] | None = None
    ) -> None:
        """Parse the paths of a topic map, or of a command entry.

        :param middle: name of a value -> middle of its range: above it, a Bool is true. Of others
            the middle is 0.5 in the field's own unit.
        :raises ConfigError: a path that cannot be parsed.
        """
        self.label, self.type = topic.label, topic.type
        self.names = tuple(topic.fields)
        self.paths = [
            parse_path(topic.label, path).with_names_pinned(topic.constants)
            for path in topic.fields.values()
        ]
        self._constants = [
            (parse_path(topic.label, path), value) for path, value in topic.constants.items()
        ]
        self._scale = np.array([topic.factor(name) for name in self.names])
        self._offset = np.array([topic.zero(name) for name in self.names])
        self._in_units = bool((self._scale == 1).all() and (self._offset == 0).all())
        middles = np.array([(middle or {}).get(name, math.nan) for name in self.names])
        middles = (middles - self._offset) / self._scale
        self._middle = np.where(np.isnan(middles), 0.5, middles).tolist()
        self._layout: _Layout | None = None  # of the last message
        self._layouts: list[_Layout] = []
        self._written: _Written | None = None

    @property
    def in_parts(self) -> bool:
        """Whether the last message may have held some of the values only: all have names."""
        return self._layout is not None and self._layout.in_parts

    def decode(self, message: Any) -> list[float]:
        """Values of the message in the order of ``names``; NaN where it does not name one.

        :raises ValueError: the message lacks a field or an index that the profile names, or one of
            its constants differs.
        """
        try:
            if self._constants:
                names = _Names(message)
                self.check_constants(lambda path: _read(message, path.resolve(names)))
            if self._layout is None or not self._layout.fits(message):
                self._layout = self._find_layout(message)
            values = self._layout.read(message)
        except (IndexError, AttributeError, TypeError, ValueError) as error:
            raise ValueError(self.refusal(error)) from error
        return values if self._in_units else self.in_units(np.array(values)).tolist()

    def decode_all(self, message: Any) -> list[float]:
        """As :meth:`decode`, of a message that must hold all values.

        :raises ValueError: also where it does not name one, with the names that it has.
        """
        values = self.decode(message)
        if self.in_parts and any(map(math.isnan, values)):
            absent = [n for n, value in zip(self.names, values, strict=True) if math.isnan(value)]
            raise ValueError(f'{self.label}: {self.nothing_named(absent, self.listed)}')
        return values

    def _find_layout(self, message: Any) -> _Layout:
        for layout in self._layouts:
            if layout.fits(message):
                return layout
        self._layouts = [_Layout(message, self.paths), *self._layouts[: _LAYOUTS - 1]]
        return self._layouts[0]

    def refusal(self, reason: object) -> str:
        """What to say of a message that is not as the profile says."""
        return (
            f'{self.label}: message is not what the robot profile says ({", ".join(self.names)}): '
            f'{reason}'
        )

    def in_units(self, fields: np.ndarray) -> np.ndarray:
        """Values [..., n] in the units of the profile from the numbers in the fields."""
        return fields * self._scale + self._offset

    def check_constants(self, read: Callable[[FieldPath], Any]) -> None:
        """Compare a message with the profile's constants.

        :param read: what stands at a path of the message
        :raises ValueError: it is something else; names the path and both.
        """
        for path, expected in self._constants:
            if path.text != _STAMP:  # it says how commands are stamped: 0 is "now"
                _check_constant(path.text, read(path), expected)

    def encode(self, message: Any, values: Sequence[float]) -> Any:
        """Write ``values``, in the order of ``names``, into a fresh message and return it.

        Whole numbers are rounded and saturate; a Bool is true above the middle of its range.
        """
        if self._written is None:
            self._written = _Written(message, self.paths, [path for path, _ in self._constants])
        for where, listed in self._written.names:
            _write(message, where, listed)
        fields = np.asarray(values, float)
        if not self._in_units:
            fields = (fields - self._offset) / self._scale
        for steps, value, middle in zip(
            self._written.fields, fields.tolist(), self._middle, strict=True
        ):
            _write(message, steps, value, middle)
        for places, (_, constant) in zip(self._written.constants, self._constants, strict=True):
            _write(message, places, constant)
        return message

    def nothing_named(self, values: Sequence[str], listed: Sequence[str]) -> str:
        """What to say where no message holds some of the values; ``listed``: names in messages."""
        paths = dict(zip(self.names, self.paths, strict=True))
        text = f'no message has {", ".join(f"{paths[name].text} ({name})" for name in values)}'
        elements = [paths[name].steps[-1].element for name in values]
        if all(element in listed for element in elements):
            return f'{text}: NaN throughout, or the list is empty; leave it out of the profile'
        text += f'; the names in its messages are {", ".join(listed) or "none"}'
        if all(str(element).isdigit() for element in elements):
            text += f'; as an index write [#{elements[0]}]'
        return f'{text}; correct the robot profile, or the driver'

    def elements(self, message: Any) -> dict[str, set[int]]:
        """Lists in a message, and the indices of the elements that the profile writes."""
        names = _Names(message)
        written: dict[str, set[int]] = {}
        for path in (*self.paths, *(path for path, _ in self._constants)):
            steps = path.resolve(names)
            for depth, (field, element) in enumerate(steps):
                if element is not None:
                    owner = '.'.join(map(str, [*steps[:depth], field]))
                    written.setdefault(owner, set()).add(element)
        return written

    @property
    def listed(self) -> list[str]:
        """The names that the last message had for the elements of its lists."""
        return [] if self._layout is None else self._layout.listed


class _Names:
    """The lists of texts in a message, by their paths."""

    def __init__(self, message: Any) -> None:
        self._message = message
        self.known: dict[str, list[str] | None] = {}

    def __call__(self, path: str) -> list[str] | None:
        if path not in self.known:
            self.known[path] = self._find(path)
        return self.known[path]

    def _find(self, path: str) -> list[str] | None:
        try:
            value = _read(self._message, _places(path))
        except (AttributeError, IndexError, ValueError):
            return None
        return list(value) if isinstance(value, list) else None


class _Layout:
    """Where the values are in a message, and in all others with the same lists of names."""

    def __init__(self, message: Any, paths: Sequence[FieldPath]) -> None:
        """Resolve the paths in a message.

        :raises ValueError: an element is looked up by name, and there is no list of names.
        """
        names = _Names(message)
        self._fields: list[tuple[Callable[[Any], Any], int | None] | None] = []
        for path in paths:
            try:
                *owner, (field, index) = path.resolve(names)
            except NotNamedError:
                self._fields.append(None)
                continue
            self._fields.append((_getter([*owner, Place(field)]), index))
        self._named = [path.is_named(names) for path in paths]
        self.in_parts = all(self._named)
        every = [name for listed in names.known.values() for name in listed or ()]
        self.listed = list(dict.fromkeys(every))
        self._lists = [
            (_getter(_places(where)), listed)
            for where, listed in names.known.items()
            if listed is not None
        ]

    def fits(self, message: Any) -> bool:
        """Whether a message has the same lists of names."""
        try:
            return all(get(message) == listed for get, listed in self._lists)
        except (AttributeError, IndexError):
            return False

    def read(self, message: Any) -> list[float]:
        """The numbers in the fields; NaN where the message does not name one.

        JointState may be without velocity and effort, so that a list of those has no element.
        """
        values = []
        for field, named in zip(self._fields, self._named, strict=True):
            if field is None:
                values.append(math.nan)
                continue
            get, index = field
            value = get(message)
            if named and index is not None and index >= len(value):
                values.append(math.nan)
            else:
                number = value if index is None else value[index]
                values.append(float(number[0] if isinstance(number, bytes) else number))
        return values


class _Written:
    """What is written into each message: ``names`` for its lists, and where values stand."""

    def __init__(
        self, message: Any, paths: Sequence[FieldPath], constants: Sequence[FieldPath]
    ) -> None:
        """Find out with a message, which gets the names."""
        listed: dict[str, list[str]] = {}
        for path in paths:
            *owner, (_, element) = path.steps
            if not isinstance(element, str):
                continue
            for where in name_lists(owner):
                if (known := _Names(message)(where)) is not None:
                    listed[where] = [*known, *({element} - set(known))]
                    _write(message, _places(where), listed[where])
                    break
        self.names = [(_places(where), each) for where, each in listed.items()]
        names = _Names(message)
        self.fields = [path.resolve(names) for path in paths]
        self.constants = [path.resolve(names) for path in constants]


def _places(path: str) -> tuple[Place, ...]:
    """Of the path of a list of names."""
    return parse_path('', path).resolve(lambda _: None)


def _getter(places: Sequence[Place]) -> Callable[[Any], Any]:
    """Reads what stands at a place of a message; fast where it is in no list."""
    if all(place.element is None for place in places):
        return attrgetter('.'.join(place.field for place in places))
    return lambda message: _read(message, places)


def _read(message: Any, steps: Sequence[Place]) -> Any:
    """What stands at resolved steps.

    :raises AttributeError, IndexError: the message does not have it.
    """
    value = message
    for field, element in steps:
        value = getattr(value, field)
        if element is not None:
            value = value[element]
    return value


def _write(message: Any, steps: Sequence[Place], value: Any, middle: float = 0.5) -> None:
    """Set a field or an element of a list; lists on the way to it are lengthened.

    A number becomes of the field's type, seconds a stamp or duration.
    """
    *owner, (field, element) = steps
    parent = message
    for name, index in owner:
        if index is not None:
            _lengthen(parent, name, index + 1)
        parent = getattr(parent, name) if index is None else getattr(parent, name)[index]
    old = getattr(parent, field)
    if element is not None:
        values = list(old)
        values.extend([_number(0.0, parent, field, middle)] * (element + 1 - len(values)))
        values[element] = _number(value, parent, field, middle)
        setattr(parent, field, values)
    elif hasattr(old, 'nanosec'):
        old.sec, old.nanosec = divmod(round(value * 1e9), 1_000_000_000)
    elif isinstance(old, bool | int | float | bytes):
        setattr(parent, field, _number(value, parent, field, middle))
    else:
        setattr(parent, field, value)


def _number(value: Any, parent: Any, field: str, middle: float) -> Any:
    """``value`` as the type of a field, or of the elements of a list."""
    if not isinstance(value, bool | int | float):
        return value
    message: Any = type(parent)
    kind, low, high = _kind(message, field)
    if kind == 'boolean':
        return bool(value > middle) if isinstance(value, float) else bool(value)
    if low == high:
        return float(value)
    whole = min(max(round(value), low), high)
    return bytes([whole]) if kind in ('octet', 'byte') else whole


@functools.cache
def _kind(message: Any, field: str) -> tuple[str, int, int]:
    """Type of the numbers in a field of a message class, and its range if they are whole."""
    kind = element_type(message.get_fields_and_field_types()[field])
    integer = _INTEGER.match(kind)
    if integer is None and kind not in _BYTES:
        return kind, 0, 0
    bits = int(integer[2]) if integer else 8
    if integer is None or integer[1]:
        return kind, 0, 2**bits - 1
    return kind, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def element_type(declared: str) -> str:
    """Type of a field, or of the elements of a list, from its declaration in a message class."""
    match = _LIST.match(declared)
    return declared if match is None else match[1] or match[2]


def _lengthen(message: Any, name: str, length: int) -> None:
    """Lengthen a list of messages; only the type declaration says what its elements are."""
    elements = list(getattr(message, name))
    if len(elements) < length:
        declared = element_type(message.get_fields_and_field_types()[name])
        kind = message_class(declared.replace('/', '/msg/'), importlib.import_module)
        setattr(message, name, elements + [kind() for _ in range(length - len(elements))])


def _check_constant(path: str, value: Any, expected: Any) -> None:
    if hasattr(value, 'nanosec'):
        value = value.sec + value.nanosec * 1e-9
        same = abs(value - expected) < 1e-6
    else:
        value = list(value) if isinstance(expected, list) else value
        value = value.item() if hasattr(value, 'item') else value  # of an array
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
    """Class of ``package/msg/Name``, ``package/action/Name`` or ``package/srv/Name``.

    :param importer: importlib.import_module
    :raises ConfigError: the package or the type is not installed.
    """
    package, kind, name = type_name.split('/')
    try:
        module = importer(f'{package}.{kind}')
    except ImportError as error:
        raise ConfigError(
            f"{_KINDS[kind]} type '{type_name}' is not installed: {error}; "
            f'{install_remedy(package)}'
        ) from error
    found = getattr(module, name, None)
    if found is None:
        alike = get_close_matches(name, vars(module), 1)
        question = f'; is it {package}/{kind}/{alike[0]}?' if alike else ''
        raise ConfigError(
            f"{_KINDS[kind]} type '{type_name}': the installed {package} has no {_KINDS[kind]} "
            f'{name}{question}'
        )
    return found


def filled_class(type_name: str, importer: Callable[[str], Any]) -> Any:
    """Class of what a profile's paths begin at: a message, an action's goal, a service's request.

    :param importer: importlib.import_module
    :raises ConfigError: the package or the type is not installed.
    """
    kind = message_class(type_name, importer)
    part = {'msg': '', 'action': 'Goal', 'srv': 'Request'}[type_name.split('/')[1]]
    return getattr(kind, part) if part else kind
