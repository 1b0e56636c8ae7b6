"""Definitions of installed message types, as bags carry them."""

from __future__ import annotations

import importlib
import re

from mbarl_ros.schema.message_fields import message_class

_WORDS = {'boolean': 'bool', 'octet': 'byte', 'float': 'float32', 'double': 'float64'}
_SEQUENCE = re.compile(r'sequence<(.+?)(?:, *(\d+))?>$')
_ARRAY = re.compile(r'(.+)\[(\d+)\]$')
_BOUNDED_TEXT = re.compile(r'(w?string)<(\d+)>$')
_SEPARATOR = '=' * 80


def definition(type_name: str) -> str:
    """Text of a message type and of all types in it (format ros2msg), without its constants.

    It is made from the message class: an installed package need not have the ``.msg`` file.

    :raises ConfigError: the package or the message is not installed.
    """
    texts: dict[str, str] = {}
    left = [type_name]
    while left:
        name = left.pop(0)
        if name not in texts:
            lines = [f'{_written(declared)} {field}' for field, declared in _fields(name)]
            texts[name] = '\n'.join(lines)
            left += [inner for _, declared in _fields(name) if (inner := _message(declared))]
    first, *others = texts
    parts = [texts[first], *(f'MSG: {_short(name)}\n{texts[name]}' for name in others)]
    return f'\n{_SEPARATOR}\n'.join(parts) + '\n'


def _fields(type_name: str) -> list[tuple[str, str]]:
    kind = message_class(type_name, importlib.import_module)
    return list(kind.get_fields_and_field_types().items())


def _written(declared: str) -> str:
    """A type as a ``.msg`` file writes it, from its declaration in a class."""
    if match := _SEQUENCE.match(declared):
        return f'{_written(match[1])}[{"<=" + match[2] if match[2] else ""}]'
    if match := _ARRAY.match(declared):
        return f'{_written(match[1])}[{match[2]}]'
    if match := _BOUNDED_TEXT.match(declared):
        return f'{match[1]}<={match[2]}'
    return _WORDS.get(declared, declared)


def _message(declared: str) -> str | None:
    """The message type in a declaration; None for numbers and texts."""
    inner = declared
    while match := _SEQUENCE.match(inner) or _ARRAY.match(inner):
        inner = match[1]
    return inner.replace('/', '/msg/') if '/' in inner else None


def _short(type_name: str) -> str:
    return type_name.replace('/msg/', '/')
