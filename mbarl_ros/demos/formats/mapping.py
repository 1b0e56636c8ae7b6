"""Which numbers of a dataset are which entries of a task, by their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mbarl_ros.demos.formats.common import FormatError, Options, plain, unique

MAX_WIDTH = 1000
"""Of a feature whose numbers can be entries of a task."""
_NUMBERS = ('float16', 'float32', 'float64', 'int', 'uint', 'bool')


@dataclass(frozen=True)
class Source:
    """A number in each row of a dataset: one of a feature's, and its name there."""

    feature: str
    index: int
    name: str

    def __str__(self) -> str:
        """The name that no other number of the dataset has."""
        return f'{self.feature}[{self.name}]'


@dataclass(frozen=True)
class Side:
    """The observation or the action: entries of the task, and numbers of the dataset.

    ``main`` is the feature that the format means for it; its names go before those of others.
    """

    title: str
    main: str
    entries: tuple[str, ...]
    sources: tuple[Source, ...]

    def choose(self, place: str, options: Options) -> list[Source]:
        """Numbers of the dataset for the entries: as the user says, else those of equal names.

        :raises FormatError: an entry has none or several; the message has both lists.
        """
        given = _of_side(self, options.mapping)
        found = {name: self._find(given.get(name, name)) for name in self.entries}
        listed = f'{self.title} entries of the task: {", ".join(found)}; {self._listed()}'
        if unknown := [name for name, choice in found.items() if not choice]:
            wanted = ', '.join(
                f"{name} ('{given[name]}')" if name in given else name for name in unknown
            )
            arguments = ' '.join(f'--map NAME:={self.title}.{name}' for name in unknown)
            raise FormatError(
                f'{place}: the dataset has nothing for {wanted}. {listed}. Say which NAME each is: '
                f'{arguments}'
            )
        for name, choice in found.items():
            if len(choice) > 1:
                raise FormatError(
                    f"{place}: '{given.get(name, name)}' can be {' or '.join(map(str, choice))}. "
                    f"{listed}. Say which: --map '{choice[0]}:={self.title}.{name}'"
                )
        return [found[name][0] for name in self.entries]  # which may name one twice

    def factors(self, options: Options) -> np.ndarray:
        """Factor [entries] of each entry, as the user says; else 1."""
        given = _of_side(self, options.scales)
        return np.array([given.get(name, 1.0) for name in self.entries])

    def _find(self, name: str) -> list[Source]:
        exact = [source for source in self.sources if str(source) == name]
        named = [source for source in self.sources if source.name == name]
        return exact or [source for source in named if source.feature == self.main] or named

    def _listed(self) -> str:
        """Names of the dataset, by feature."""
        features: dict[str, list[str]] = {}
        for source in self.sources:
            features.setdefault(source.feature, []).append(source.name)
        return 'the dataset has ' + (
            '; '.join(f'{name} [{", ".join(names)}]' for name, names in features.items())
            or 'no numbers for it'
        )


def check_entries(place: str, sides: Iterable[Side], options: Options) -> None:
    """Refuse ``--map`` and ``--scale`` for what is no entry of the task.

    :raises FormatError: there is one; the message names it.
    """
    sides = list(sides)
    known = {name for side in sides for entry in side.entries for name in _names(side, entry)}
    for argument, given in (('--map', options.mapping), ('--scale', options.scales)):
        for name in given:
            if name not in known:
                listed = '; '.join(f'{side.title}: {", ".join(side.entries)}' for side in sides)
                raise FormatError(
                    f"{place}: {argument}: the task has no entry '{name}'; it has {listed}"
                )


def sources(place: str, features: Mapping[str, Any]) -> list[Source]:
    """All rows of numbers that the features of a dataset describe.

    Names are as given; a second one of the same text is ``y_2``. Without names they are positions.

    :raises FormatError: a name cannot be shown.
    """
    found = []
    for feature, about in features.items():
        shape, dtype = about.get('shape'), about.get('dtype')
        if not isinstance(dtype, str) or not dtype.startswith(_NUMBERS):
            continue
        if not isinstance(shape, list) or len(shape) != 1 or type(shape[0]) is not int:
            continue
        if not 0 < shape[0] <= MAX_WIDTH:  # empty, or an image or a spectrum
            continue
        names = _names_in(about.get('names'))
        if len(names) != shape[0]:  # such as ['dim'], which names the axis
            names = [str(index) for index in range(shape[0])]
        names = unique([plain(f'{place}: a name in {feature}', name) for name in names])
        found += [Source(feature, index, name) for index, name in enumerate(names)]
    return found


def _names_in(names: Any) -> list[str]:
    """Names of a feature: a list, a dictionary of lists, or one from name to position."""
    if isinstance(names, str):
        return [names]
    if isinstance(names, Mapping) and all(type(index) is int for index in names.values()):
        return sorted(map(str, names), key=lambda name: names[name])
    parts: Iterable[Any] = names.values() if isinstance(names, Mapping) else names or ()
    if not isinstance(parts, Iterable):
        return []
    return [name for part in parts for name in _names_in(part)]


def _names(side: Side, entry: str) -> Sequence[str]:
    """How the user may write an entry: ``vx`` on both sides, ``action.vx`` on one."""
    return entry, f'{side.title}.{entry}'


def _of_side(side: Side, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the user says about the entries of one side."""
    return {
        entry: given[name]
        for entry in side.entries
        for name in _names(side, entry)
        if name in given
    }
