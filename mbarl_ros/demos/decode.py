"""Decodes serialised messages (CDR) to numbers, thousands at a time.

Most messages of a topic have the same layout and differ in their numbers only. The layout is
derived from one message, and all messages of this layout are read as columns of a matrix, several
times as fast as making an object of each (``benchmarks/demos.py``).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.interfaces.typing import Typesdict
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from mbarl_ros.demos.mcap_file import IDL_START, SEPARATOR
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.definitions import definition
from mbarl_ros.schema.field_paths import FieldPath, NotNamedError, Place, name_lists
from mbarl_ros.schema.message_fields import TopicCodec
from mbarl_ros.schema.packages import install_remedy
from mbarl_ros.schema.robot import TopicMap

_KINDS = {
    'bool': 'u1',
    'byte': 'u1',
    'char': 'u1',
    'octet': 'u1',
    'float32': 'f4',
    'float64': 'f8',
    **{
        f'{sign}int{bits}': f'{sign[:1] or "i"}{bits // 8}'
        for sign in ('u', '')
        for bits in (8, 16, 32, 64)
    },
}
_TIME = ('sec', 'nanosec')
_WIDE_TEXT = re.compile(r'^\s*wstring\b', re.MULTILINE)
_STAMP = tuple(f'header.stamp.{part}' for part in _TIME)
# What stands in the place of a message without fields.
_NO_FIELDS = [('structure_needs_at_least_one_member', (Nodetype.BASE, ('uint8', 0)))]
_MAX_TEMPLATES = 64  # kept per message size; texts that differ in each message would fill memory


class DecodeError(ValueError):
    """Messages that do not match the robot profile; names the topic and the reason."""


def typestore(definitions: dict[str, str] | None = None) -> Typestore:
    """Message types of the common packages of ROS 2 Jazzy, and others that are needed.

    :param definitions: type -> text of its definition in a bag; used for unknown types only. If the
        bag does not define it (an empty text), the installed type counts.
    :raises DecodeError: a definition is not understood.
    """
    unknown = {
        kind: text for kind, text in (definitions or {}).items() if kind not in _common().types
    }
    if not unknown:
        return _common()
    store = get_typestore(Stores.ROS2_JAZZY)
    for kind, text in unknown.items():
        text = text or _installed(kind)
        if not text:
            continue
        if _WIDE_TEXT.search(text):  # which rosbags takes for a message
            raise DecodeError(
                f"message type '{kind}': it has a wstring, which is not read; relay the topic "
                'without it'
            )
        try:
            types = _types(kind, text)
            store.register(
                {
                    name: (constants, fields or _NO_FIELDS)
                    for name, (constants, fields) in types.items()
                    if name not in store.types
                }
            )
        except Exception as error:  # the parser of rosbags raises any exception
            raise DecodeError(
                f"message type '{kind}': its definition is not understood ({error!r})"
            ) from error
    return store


def _installed(kind: str) -> str:
    """Definition of an installed message type; empty if it is not installed."""
    try:
        return definition(kind)
    except ConfigError:
        return ''


def _types(kind: str, text: str) -> Typesdict:
    if not text.startswith(IDL_START):
        return get_types_from_msg(text, kind)
    types: Typesdict = {}
    for part in text.split(SEPARATOR)[1:]:
        types |= get_types_from_idl(part.partition('\n')[2])
    return types


@functools.cache
def _common() -> Typestore:
    return get_typestore(Stores.ROS2_JAZZY)


class TopicDecoder:
    """Reads the named values of one topic, and its header stamp, from serialised messages."""

    def __init__(self, topic: TopicMap, store: Typestore) -> None:
        """Compile the fields of a topic map.

        :raises DecodeError: the message type is not known.
        """
        if topic.type not in store.types:
            raise DecodeError(
                f"topic '{topic.topic}': message type '{topic.type}' is not installed, and the bag "
                f'does not define it; {install_remedy(topic.type.partition("/")[0])}'
            )
        self.topic = topic
        self._store = store
        self._codec = TopicCodec(topic)
        # Whether a message may hold some of the values only: all are looked up by name.
        self.in_parts = False
        self._listed: dict[str, None] = {}  # names in the messages, in their order
        self._templates: dict[int, list[_Template]] = {}

    def decode(self, messages: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Header stamps [n] in ns (-1 where there is no header) and values [n, fields] float64.

        A value is NaN where a message does not name it.

        :raises DecodeError: a message is torn, lacks a field or an index, or holds something else
            than a constant of the profile.
        """
        stamps = np.full(len(messages), -1, np.int64)
        values = np.full((len(messages), len(self._codec.paths)), np.nan)
        sizes = np.array([len(message) for message in messages])
        for size in np.unique(sizes):
            rows = np.flatnonzero(sizes == size)
            joined = b''.join(messages[row] for row in rows)
            block = np.frombuffer(joined, np.uint8).reshape(len(rows), size)
            left = np.arange(len(rows))
            for template in self._templates.setdefault(int(size), []):
                left = self._read(template, block, left, rows, stamps, values)
            while len(left):
                template = self._template(messages[rows[left[0]]])
                left = self._read(template, block, left, rows, stamps, values)
                if len(self._templates[int(size)]) < _MAX_TEMPLATES:
                    self._templates[int(size)].append(template)
        return stamps, self._codec.in_units(values)

    def nothing_named(self, values: Sequence[str]) -> str:
        """What to say where no message holds some of the values."""
        text = self._codec.nothing_named(values, list(self._listed))
        return f"topic '{self.topic.topic}': {text}"

    def _read(
        self,
        template: _Template,
        block: np.ndarray,
        left: np.ndarray,
        rows: np.ndarray,
        stamps: np.ndarray,
        values: np.ndarray,
    ) -> np.ndarray:
        """Read the messages with the template's layout; returns the rows that remain."""
        same = (block[left][:, template.fixed] == template.text).all(1)
        mine, where = block[left[same]], rows[left[same]]
        for column, number in enumerate(template.wanted):
            if number is not None:
                values[where, column] = number.read(mine)
        if template.stamp is not None:
            sec, nanosec = (number.read(mine).astype(np.int64) for number in template.stamp)
            stamps[where] = sec * 1_000_000_000 + nanosec
        return left[~same]

    def _template(self, message: bytes) -> _Template:
        try:
            walk = _Walk(self._store, message)
            walk.visit(self.topic.type, '')
            self._codec.check_constants(walk.constant)
            wanted = [walk.find(path) for path in self._codec.paths]
            for where in {w for path in self._codec.paths for w in name_lists(path.steps[:-1])}:
                self._listed |= dict.fromkeys(walk.names(where) or ())
            self.in_parts = all(path.is_named(walk.names) for path in self._codec.paths)
        except (ValueError, IndexError, KeyError, OverflowError, RecursionError) as error:
            raise DecodeError(self._codec.refusal(error)) from error
        stamp = None
        if all(name in walk.numbers for name in _STAMP):
            stamp = tuple(walk.numbers[name] for name in _STAMP)
        fixed = np.array(walk.fixed, int)
        text = np.frombuffer(message, np.uint8)[fixed]
        return _Template(wanted, stamp, fixed, text)


@dataclass(frozen=True)
class _Number:
    """Position of a number, or of the first of several, in a message."""

    offset: int
    kind: np.dtype
    count: int | None = None

    def read(self, block: np.ndarray) -> np.ndarray:
        """Its values [n] in messages [n, size]."""
        columns = np.ascontiguousarray(block[:, self.offset : self.offset + self.kind.itemsize])
        return columns.view(self.kind)[:, 0]


@dataclass(frozen=True)
class _Template:
    """A message layout: in all its messages, the bytes at ``fixed`` equal ``text``.

    ``wanted``: None for a value that these messages do not name.
    """

    wanted: list[_Number | None]
    stamp: tuple[_Number, ...] | None
    fixed: np.ndarray
    text: np.ndarray


@dataclass
class _Walk:
    """Parses one message in CDR (OMG DDS-RTPS 2.3, section 10)."""

    store: Typestore
    message: bytes
    at: int = 4
    numbers: dict[str, _Number] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    single: set[str] = field(default_factory=set)  # texts that are no lists
    empty: set[str] = field(default_factory=set)  # lists of numbers without any
    fixed: list[int] = field(default_factory=lambda: [0, 1])

    def __post_init__(self) -> None:
        if self.message[:1] != b'\0' or self.message[1:2] not in (b'\0', b'\1'):
            raise ValueError(f"encapsulation '{self.message[:2].hex()}' is not plain CDR")
        self.order = '<' if self.message[1] else '>'

    def visit(self, kind: str, prefix: str) -> None:
        """Parse the fields of a message of type ``kind``."""
        for name, node in self.store.fielddefs[kind][1]:
            self._node(node, f'{prefix}{name}')

    def names(self, path: str) -> list[str] | None:
        """The list of texts at a path; None if there is no such list."""
        return None if path in self.single else self.texts.get(path)

    def find(self, path: FieldPath) -> _Number | None:
        """The number at a path of the profile; None where the message does not name it."""
        try:
            *owner, (field, index) = path.resolve(self.names)
        except NotNamedError:
            return None
        where = '.'.join(map(str, [*owner, Place(field)]))
        number = self.numbers.get(where)
        if number is None and where in self.empty and path.is_named(self.names):
            return None
        if number is None:
            raise ValueError(f'there is no number {where}')
        if index is None:
            if number.count is not None:
                raise ValueError(f'{where} has several numbers; name one by [index]')
            return number
        if number.count is None or index >= number.count:
            if path.is_named(self.names):
                return None
            raise ValueError(f'{where} has {number.count or "no"} entries, not [{index}]')
        return _Number(number.offset + index * number.kind.itemsize, number.kind)

    def constant(self, path: FieldPath) -> Any:
        """What stands at a path; it stands in all messages of this layout."""
        *owner, (field, index) = path.resolve(self.names)
        where = '.'.join(map(str, [*owner, Place(field)]))
        if where in self.texts:
            texts = self.texts[where]
            return texts[0] if where in self.single else texts if index is None else texts[index]
        if f'{where}.nanosec' in self.numbers:
            sec, nanosec = (self._fix(self.numbers[f'{where}.{part}']) for part in _TIME)
            return SimpleNamespace(sec=sec, nanosec=nanosec)
        values = [] if where in self.empty else self._fix(self.numbers[where])
        return values if index is None else values[index]

    def _fix(self, number: _Number) -> Any:
        """Value of a number, or of a list of them, whose bytes become part of the layout."""
        count = 1 if number.count is None else number.count
        end = number.offset + count * number.kind.itemsize
        self.fixed.extend(range(number.offset, end))
        values = np.frombuffer(self.message[number.offset : end], number.kind).tolist()
        return values[0] if number.count is None else values

    def _node(self, node: Any, path: str) -> None:
        what, detail = node
        if what == Nodetype.NAME:
            self.visit(detail, f'{path}.')
        elif what == Nodetype.BASE:
            if detail[0] in ('string', 'wstring'):
                self.texts[path] = [self._text()]
                self.single.add(path)
            else:
                self.numbers[path] = self._numbers(detail[0], None)
        else:
            element, count = detail
            if what == Nodetype.SEQUENCE:
                count = self._length()
            self._elements(element, path, count)

    def _elements(self, element: Any, path: str, count: int) -> None:
        what, detail = element
        if what == Nodetype.BASE and detail[0] not in ('string', 'wstring'):
            if count:
                self.numbers[path] = self._numbers(detail[0], count)
            else:
                self.empty.add(path)
            return
        if count > len(self.message):
            raise ValueError(f'{path} claims {count} entries')
        if what == Nodetype.BASE:
            self.texts[path] = []
        for index in range(count):
            if what == Nodetype.BASE:
                self.texts[path].append(self._text())
            else:
                self._node(element, f'{path}[{index}]')

    def _numbers(self, base: str, count: int | None) -> _Number:
        kind = np.dtype(self.order + _KINDS[base])
        self._align(kind.itemsize)
        number = _Number(self.at, kind, count)
        self._skip(kind.itemsize * (1 if count is None else count))
        return number

    def _length(self) -> int:
        self._align(4)
        start = self.at
        self._skip(4)
        self.fixed.extend(range(start, self.at))
        return int.from_bytes(
            self.message[start : self.at], 'little' if self.order == '<' else 'big'
        )

    def _text(self) -> str:
        size = self._length()
        start = self.at
        self._skip(size)
        self.fixed.extend(range(start, self.at))
        return self.message[start : max(self.at - 1, start)].decode()

    def _align(self, size: int) -> None:
        self.at += -(self.at - 4) % size

    def _skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self.message):
            raise ValueError(f'it ends after {len(self.message)} bytes, within a field')
