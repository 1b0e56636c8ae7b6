"""What ``mbarl tune`` may vary: settings of a preset by dotted key, with ranges or choices."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import is_path, override

_DIGITS = 4  # of a number that is drawn; more would only look exact
_FORMS = 'log:LOW:HIGH, float:LOW:HIGH, int:LOW:HIGH, or values with commas'


class Dimension(ABC):
    """The values of one setting."""

    @abstractmethod
    def distribution(self) -> Any:
        """As Optuna takes it."""

    @abstractmethod
    def value(self, drawn: Any) -> Any:
        """The value of the setting that Optuna has drawn."""

    @abstractmethod
    def samples(self) -> Sequence[Any]:
        """Values that must be valid, so that all are."""


@dataclass(frozen=True)
class Range(Dimension):
    """Numbers from ``low`` to ``high``, whole or not, evenly or by their logarithm."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def distribution(self) -> Any:
        """As Optuna takes it."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.low), int(self.high))
        return FloatDistribution(self.low, self.high, log=self.log)

    def value(self, drawn: Any) -> Any:
        """The number, rounded."""
        return int(drawn) if self.whole else float(f'{drawn:.{_DIGITS}g}')

    def samples(self) -> Sequence[Any]:
        """Both ends and, of fractions, one between them: a whole key takes whole ends only."""
        ends = [self.low, self.high]
        if not self.whole:
            ends.append(min(self.low + 0.5, (self.low + self.high) / 2))
        return [self.value(each) for each in ends]


@dataclass(frozen=True)
class Choice(Dimension):
    """One of some values of any kind."""

    values: tuple[Any, ...]

    def distribution(self) -> Any:
        """As Optuna takes it: it knows no lists, so each value is a text."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution([json.dumps(value) for value in self.values])

    def value(self, drawn: Any) -> Any:
        """The value that the text stands for."""
        return json.loads(drawn)

    def samples(self) -> Sequence[Any]:
        """All of them."""
        return self.values


def read_space(words: Sequence[str], agent: AgentConfig) -> dict[str, Dimension]:
    """Dotted key -> what it may be, from ``KEY=RANGE`` and YAML files of ``KEY: RANGE``.

    :raises ConfigError: a word of another form, a file that cannot be read, a key given twice, or a
        value that the preset refuses.
    """
    if not words:
        raise ConfigError(f'--search: give what to vary, as KEY=RANGE; RANGE is {_FORMS}')
    space: dict[str, Dimension] = {}
    for word in words:
        for key, text in (_from_file(Path(word)) if is_path(word) else _from_word(word)).items():
            if key in space:
                raise ConfigError(f"--search: key '{key}' is given twice; leave one")
            if key == 'name':
                raise ConfigError("--search: key 'name' is that of a trial; leave it out")
            space[key] = dimension = _dimension(key, text)
            for value in dimension.samples():
                override(agent, {key: value}, '--search')
    return space


def _from_word(word: str) -> dict[str, Any]:
    key, equals, text = word.partition('=')
    if not key or not equals:
        raise ConfigError(f"--search: '{word}' is not of the form KEY=RANGE; RANGE is {_FORMS}")
    return {key: text}


def _from_file(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.expanduser().read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f'--search: {path}: cannot be read as YAML: {error}') from None
    if not isinstance(raw, Mapping) or not raw or not all(isinstance(key, str) for key in raw):
        raise ConfigError(f'--search: {path}: must hold lines KEY: RANGE; RANGE is {_FORMS}')
    return dict(raw)


def _dimension(key: str, given: Any) -> Dimension:
    if isinstance(given, list):
        return _choice(key, given)
    kind, colon, rest = str(given).partition(':')
    if colon and kind in ('log', 'float', 'int'):
        return _range(key, kind, rest)
    try:
        values = yaml.safe_load(f'[{given}]')
    except yaml.YAMLError:
        raise ConfigError(f"--search: key '{key}': '{given}' is not one of {_FORMS}") from None
    return _choice(key, values)


def _choice(key: str, values: list[Any]) -> Choice:
    if len(values) < 2 or any(isinstance(value, Mapping) for value in values):
        raise ConfigError(f"--search: key '{key}': give {_FORMS}; one value alone is no search")
    if any(value in values[:number] for number, value in enumerate(values)):
        raise ConfigError(f"--search: key '{key}': a value is given twice; leave one")
    return Choice(tuple(values))


def _range(key: str, kind: str, text: str) -> Range:
    whole = kind == 'int'
    try:
        low, high = ((int if whole else float)(part) for part in text.split(':'))
    except ValueError:
        raise ConfigError(f"--search: key '{key}': '{kind}:{text}' is not {_FORMS}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"--search: key '{key}': {text}: the first number must be the lower one")
    if kind == 'log' and low <= 0:
        raise ConfigError(f"--search: key '{key}': {text}: a logarithm needs numbers above 0")
    return Range(low, high, log=kind == 'log', whole=whole)


def variant(preset: str, name: str, changes: Mapping[str, Any]) -> str:
    """The preset, perhaps a variant, with changes, called ``name``: as ``mbarl bench`` reads it.

    Floats are written so that YAML reads them as such: 1.0e-05, not 1e-05.
    """
    words = [f'name={name}']
    for key, value in changes.items():
        text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix('...\n')
        words.append(f'{key}={text.strip()}')
    return preset + (',' if ':' in preset else ':') + ','.join(words)
