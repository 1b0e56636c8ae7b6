"""Paths of the fields of ROS messages, as robot profiles write them.

``pose.pose.position.x`` is a field, ``data[0]`` an element of an array. ``position[elbow]`` is the
element at the place that ``elbow`` has in the list of names beside the array, or in a message
around it. Where there is such a list, a number is a name too: ``position[2]`` is the joint that is
called 2, ``position[#2]`` the third element, whatever its name. Within a path, as in
``points[0].positions[elbow]``, a number is always an index.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mbarl_ros.schema.base import ConfigError

NAME_LISTS = ('name', 'names', 'joint_names', 'interface_names')
"""Lists of names that messages have: JointState, JointTrajectory, DynamicJointState..."""

_STEP = re.compile(r'([A-Za-z]\w*)(?:\[([^\[\]]+)\])?(?:\.(?!$)|$)')
_INDEX = re.compile(r'#\d+$')

Names = Callable[[str], Sequence[str] | None]
"""The list of texts at a path of a message; None if the message has no such list."""


class NotNamedError(ValueError):
    """A message that does not name the element of a path; others of its topic may."""


class Step(NamedTuple):
    """A field, and which of its elements: ``position[elbow]``; None for a field that is no list."""

    field: str
    element: str | int | None = None

    def __str__(self) -> str:
        return self.field if self.element is None else f'{self.field}[{self.element}]'


class Place(NamedTuple):
    """A step with the index of its element in a message."""

    field: str
    element: int | None = None

    def __str__(self) -> str:
        return self.field if self.element is None else f'{self.field}[{self.element}]'


class FieldPath(NamedTuple):
    """A parsed path: its steps from the message inwards."""

    text: str
    steps: tuple[Step, ...]

    def is_named(self, names: Names) -> bool:
        """Whether a message may lack the element: its list has names beside it."""
        if self.steps[-1].element is None:
            return False
        return any(names(where) is not None for where in name_lists(self.steps[:-1]))

    def with_names_pinned(self, pinned: Mapping[str, object]) -> FieldPath:
        """The path in messages whose names are known: a number that is none of them is an index.

        :param pinned: path of a field -> what always stands there
        """
        *owner, (field, element) = self.steps
        for where in name_lists(owner):
            listed = pinned.get(where)
            if isinstance(listed, list) and isinstance(element, str) and element.isdigit():
                return (
                    self
                    if element in listed
                    else self._replace(steps=(*owner, Step(field, int(element))))
                )
        return self

    def resolve(self, names: Names) -> tuple[Place, ...]:
        """The steps in a message, with an index in place of each name.

        :raises NotNamedError: the message has a list of names, without the one that is needed.
        :raises ValueError: it has no list of names.
        """
        places: list[Place] = []
        for field, element in self.steps:
            if isinstance(element, str):
                element = self._index(element, places, names)
            places.append(Place(field, element))
        return tuple(places)

    def _index(self, element: str, owner: Sequence[Place], names: Names) -> int:
        for path in name_lists(owner):
            listed = names(path)
            if listed is None or (not listed and element.isdigit()):
                continue  # nothing has a name: a number can only be an index
            return self._look_up(element, path, list(listed))
        if element.isdigit():
            return int(element)
        raise ValueError(
            f"{self.text}: the message has no list of names with '{element}'; write its index"
        )

    def _look_up(self, element: str, path: str, listed: list[str]) -> int:
        if element in listed:
            return listed.index(element)
        text = f"{self.text}: '{element}' is not in {path} ({', '.join(listed) or 'empty'})"
        if element.isdigit():
            text += f'; as an index write [#{element}]'
        raise NotNamedError(text)


def name_lists(owner: Sequence[Step | Place]) -> Iterator[str]:
    """Paths of the lists that may name the elements of a list in ``owner``, the nearest first."""
    for depth in range(len(owner), -1, -1):
        for name in NAME_LISTS:
            yield '.'.join([*map(str, owner[:depth]), name])


def parse_path(label: str, text: str) -> FieldPath:
    """Parse a path of the profile.

    :param label: the topic, action or service, as an error names it
    :raises ConfigError: it cannot be parsed.
    """
    steps: list[Step] = []
    at = 0
    while at < len(text) or not steps:
        match = _STEP.match(text, at)
        if match is None:
            hint = ': a path has no sign; use scale' if text[:1] in ('-', '+') else ''
            raise ConfigError(f"{label}: cannot read field path '{text}'{hint}")
        at = match.end()
        steps.append(Step(match[1], _element(match[2], at == len(text))))
    return FieldPath(text, tuple(steps))


def _element(text: str | None, last: bool) -> str | int | None:
    if text is not None and (_INDEX.match(text) or (text.isdigit() and not last)):
        return int(text.removeprefix('#'))
    return text
