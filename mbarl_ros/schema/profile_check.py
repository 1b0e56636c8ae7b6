"""Tries what a robot profile says on messages of the types that it names."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.field_maps import CommandEntry, TopicMap
from mbarl_ros.schema.field_paths import NAME_LISTS, FieldPath, parse_path
from mbarl_ros.schema.message_fields import (
    TopicCodec,
    element_type,
    filled_class,
    message_class,
)
from mbarl_ros.schema.robot import RobotConfig, TeleopMap
from mbarl_ros.schema.switches import AXIS_REMEDY, Press

_NEAR = 1e-5  # relative, of what a float32 holds
_TEXTS = ('string', 'wstring')  # bounded ones are string<10>


def check_messages(robot: RobotConfig) -> None:
    """Refuse paths and constants that the message types do not have, and commands with a gap.

    Types that are not installed are passed over: who uses one says so.

    :raises ConfigError: names the key, what is wrong with it, and what the type has.
    """
    for key, topics in (
        ('state', robot.state),
        ('command', robot.command),
        ('teleop', robot.teleop),
    ):
        for number, topic in enumerate(topics):
            kind = installed(topic.type)
            if kind is None or topic.frames:
                continue
            where = f'{key}.{number}'
            for name, path in topic.fields.items():
                check_number(kind, topic, path, f'{where}.fields.{name}')
            for path, value in topic.constants.items():
                _check_constant(kind, topic, path, value, f'{where}.constants.{path}')
            if key == 'command':
                _check_complete(kind, topic, where)
                _check_limits(kind, topic, robot, where)
    for number, source in enumerate(robot.teleop):
        _check_switches(source, f'teleop.{number}')


def installed(type_name: str) -> Any:
    """Class of a message, goal or request by its type; None if that is not installed."""
    try:
        return filled_class(type_name, importlib.import_module)
    except ConfigError:
        return None


def check_number(kind: Any, topic: TopicMap | CommandEntry, text: str, key: str) -> str:
    """Refuse a path that is not the path of one number, or of a Bool, in a message class.

    Returns the type that the class declares for it, such as ``double``.

    :raises ConfigError: names the ``key``.
    """
    leaf = _leaf(kind, parse_path(topic.label, text), key)
    if leaf.is_list:
        raise ConfigError(f"key '{key}': {text} is a list; name one element: {text}[0]")
    if leaf.type.startswith(_TEXTS) or '/' in leaf.type:
        inner = ''
        if '/' in leaf.type:
            fields = _fields(
                message_class(leaf.type.replace('/', '/msg/'), importlib.import_module)
            )
            inner = f' with {", ".join(f"{text}.{name}" for name in fields)}'
        raise ConfigError(f"key '{key}': {text} is no number but a {leaf.type}{inner}")
    return leaf.type


def _check_switches(source: TeleopMap, key: str) -> None:
    """Check the dead-man switch and the recorder's buttons of a teleoperation source."""
    for name, press in source.presses.items():
        _check_press(press, source, f'{key}.{name if name == "deadman" else f"buttons.{name}"}')
    if source.deadman and source.deadman_topic:
        _check_press(source.deadman, source.deadman_topic, f'{key}.deadman')


def _check_press(press: Press, topic: TopicMap, key: str) -> None:
    """Refuse a number without a threshold: nothing says where it rests."""
    kind = installed(topic.type)
    if kind is None:
        return
    declared = check_number(kind, topic, press.field, key)
    if declared != 'boolean' and not press.has_threshold and not press.is_joy_button:
        raise ConfigError(
            f"key '{key}': {press.field} is a number ({declared}), and nothing says when it is "
            f'pressed; {AXIS_REMEDY % press.field}'
        )


class _Leaf(NamedTuple):
    """Type at the end of a path, and whether it is a list of that."""

    type: str
    is_list: bool


def _leaf(kind: Any, path: FieldPath, key: str) -> _Leaf:
    kinds, found = [kind], _Leaf('', False)
    for depth, (field, element) in enumerate(path.steps):
        fields = _fields(kinds[-1])
        so_far = '.'.join(map(str, [*path.steps[:depth], field]))
        if field not in fields:
            raise ConfigError(
                f"key '{key}': a {_type_name(kinds[-1])} has no '{field}' ({path.text}); it has "
                f'{", ".join(fields)}'
            )
        inner = element_type(fields[field])
        is_list = inner != fields[field]
        if element is not None and not is_list:
            raise ConfigError(f"key '{key}': {so_far} is no list ({path.text}); leave [...] away")
        if isinstance(element, str) and not element.isdigit():
            _check_names(kinds, path, key)
        found = _Leaf(inner, is_list and element is None)
        if depth < len(path.steps) - 1:
            if '/' not in inner:
                raise ConfigError(f"key '{key}': {so_far} is a {inner} and has no fields")
            if found.is_list:
                raise ConfigError(f"key '{key}': {so_far} is a list; name an element: {so_far}[0]")
            kinds.append(_nested(inner))
    return found


def _check_names(kinds: list[Any], path: FieldPath, key: str) -> None:
    """Refuse an element by name in messages without a list of names."""
    for kind in kinds:
        fields = _fields(kind)
        if any(element_type(fields.get(name, '')) != fields.get(name, '') for name in NAME_LISTS):
            return
    raise ConfigError(
        f"key '{key}': a {_type_name(kinds[-1])} has no list of names ({path.text}); write the "
        'index of the element, from 0'
    )


def _check_constant(
    kind: Any, topic: TopicMap | CommandEntry, text: str, value: Any, key: str
) -> None:
    _leaf(kind, parse_path(topic.label, text), key)
    try:
        codec = TopicCodec(topic.model_copy(update={'constants': {text: value}}))
        codec.decode(codec.encode(kind(), [0.0] * len(codec.names)))
    except (AssertionError, AttributeError, IndexError, TypeError, ValueError) as error:
        raise ConfigError(
            f"key '{key}': a {topic.type} does not take {value!r} there: {error}"
        ) from error


def _check_complete(kind: Any, topic: TopicMap | CommandEntry, key: str) -> None:
    """Refuse a command with a gap: an element without an entry would be sent as 0, unlimited."""
    codec = TopicCodec(topic)
    try:
        message = codec.encode(kind(), [0.0] * len(codec.names))
    except (AssertionError, TypeError, ValueError) as error:
        raise ConfigError(
            f"key '{key}': a {topic.type} does not take numbers there: {error}"
        ) from error
    if np.isnan(codec.decode(message)).any():
        numbers = [str(path) for path in topic.fields.values() if path.endswith(']')]
        raise ConfigError(
            f"key '{key}': {topic.label}: {', '.join(numbers)} are looked up in the "
            f'names {", ".join(codec.listed)}, where a number is a name too; write the '
            'names, or an index as [#0]'
        )
    listed = codec.listed
    for owner, elements in codec.elements(message).items():
        for element in sorted(set(range(max(elements))) - elements):
            label = listed[element] if element < len(listed) else element
            raise ConfigError(
                f"key '{key}': {topic.label}: {owner}[{label}] has no entry and would be "
                'sent as 0; add it to fields or constants'
            )


def _check_limits(kind: Any, topic: TopicMap | CommandEntry, robot: RobotConfig, key: str) -> None:
    """Refuse limits and stops that a field of whole numbers, or a Bool, cannot hold.

    Rounding and saturation would send something else.
    """
    limits = [robot.limits[name] for name in topic.fields]
    middles = {n: (one.low + one.high) / 2 for n, one in zip(topic.fields, limits, strict=True)}
    codec = TopicCodec(topic, middles)
    for what in ('stop', 'low', 'high'):
        wanted = [getattr(one, what) for one in limits]
        numbers = [value if isinstance(value, int | float) else 0.0 for value in wanted]
        held = codec.decode(codec.encode(kind(), numbers))
        for name, value, got, one in zip(topic.fields, wanted, held, limits, strict=True):
            if not isinstance(value, int | float):
                continue
            inner = _leaf(kind, parse_path(topic.label, topic.fields[name]), key).type
            if inner == 'boolean':
                # At the middle rounding decides; off is what a stop means there.
                wrong = what == 'stop' and abs(value - middles[name]) < 1e-6 and got > 0.5
            else:
                near = _NEAR * max(1.0, abs(value))
                off = abs(got - value) > max(near, 0.5 * abs(topic.factor(name)) + near)
                wrong = off or not one.low - near <= got <= one.high + near
            if wrong:
                raise ConfigError(
                    f"key 'limits.{name}.{what}': {value:g} becomes {got:g} in the {inner} of "
                    f'{topic.label}; correct limits, scale or offset so that the field can hold it'
                )


def _nested(declared: str) -> Any:
    """Class of a message type as a field declares it: ``geometry_msgs/Vector3``."""
    return message_class(declared.replace('/', '/msg/'), importlib.import_module)


def _fields(kind: Any) -> Mapping[str, str]:
    return kind.get_fields_and_field_types()


def _type_name(kind: Any) -> str:
    package, part, _ = kind.__module__.split('.')
    return f'{package}/{part}/{kind.__name__}'
