"""Results of study ``offline`` as tables: success of the policies, error of the models, visits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mbarl_ros.storage.wire import pack, unpack
from mbarl_ros.studies.study import Results
from mbarl_ros.task import Task

NARROW, DEMONSTRATIONS = 'narrow', 'demonstrations'
MEASURES = {'room_success': 'whole room', 'corner_success': 'corner'}
COVERAGE = 'coverage'
VISITS_FILE = 'visits.safetensors'
_SQUARE = 0.1  # m, of the grid that visits are counted on


class Key(NamedTuple):
    """A policy cell: size of the model's data, rollout length, start states, seed."""

    samples: int
    length: int
    starts: str
    seed: int


@dataclass(frozen=True)
class Table:
    """Success of the policies and coverage of their practice: cell -> measure -> rate."""

    values: Mapping[Key, Mapping[str, float]]

    @classmethod
    def of(cls, results: Results) -> Table:
        """The policy cells among the results."""
        values = {}
        for each in results.values():
            settings, result = each['settings'], each['result']
            if 'rollout_length' in settings:
                key = Key(
                    settings['samples'],
                    settings['rollout_length'],
                    settings['starts'],
                    settings['seed'],
                )
                values[key] = {name: result[name] for name in (*MEASURES, COVERAGE)}
        return cls(values)

    def axis(self, name: str) -> list[Any]:
        """Sorted values of a field of :class:`Key`."""
        return sorted({getattr(key, name) for key in self.values})

    def rates(self, measure: str, **fixed: Any) -> np.ndarray:
        """Rates [n] of all cells with these fields."""
        return np.array([self.values[key][measure] for key in self._keys(fixed)])

    def pairs(
        self, measure: str, first: Mapping[str, Any], second: Mapping[str, Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Success rates [n] of the cells with fields ``first``, and of their partners.

        A partner differs in nothing but that it has the fields ``second``.
        """
        keys = [(key, key._replace(**second)) for key in self._keys(first)]
        found = [(one, other) for one, other in keys if other in self.values]
        rates = [[self.values[key][measure] for key in pair] for pair in found]
        one, other = np.array(rates).reshape(-1, 2).T
        return one, other

    def size_means(self, measure: str, starts: str) -> np.ndarray:
        """Mean success over rollout lengths [seeds, model sizes]."""
        return np.array(
            [
                [
                    self.rates(measure, samples=size, starts=starts, seed=seed).mean()
                    for size in self.axis('samples')
                ]
                for seed in self.axis('seed')
            ]
        )

    def _keys(self, fixed: Mapping[str, Any]) -> list[Key]:
        return [
            key
            for key in sorted(self.values)
            if all(getattr(key, name) == value for name, value in fixed.items())
        ]


def model_results(results: Results) -> dict[int, list[dict[str, Any]]]:
    """Results of the model cells by the size of their data, ascending."""
    models: dict[int, list[dict[str, Any]]] = {}
    for each in results.values():
        if 'rollout_length' not in each['settings']:
            models.setdefault(each['settings']['samples'], []).append(each['result'])
    return dict(sorted(models.items()))


def pack_visits(task: Task, positions: np.ndarray) -> tuple[bytes, float]:
    """How often each square of the room was visited, as a file, and the share that ever was.

    :param positions: x, y [n, 2] in m
    """
    low, high = task.state_low[:2], task.state_high[:2]
    bins = ((high - low) / _SQUARE).round().astype(int)
    counts, _, _ = np.histogram2d(*positions.T, bins=bins, range=list(zip(low, high, strict=True)))
    return pack({'counts': counts.astype(np.int64)}, {}, 'visits'), float((counts > 0).mean())


def unpack_visits(data: bytes) -> np.ndarray:
    """Inverse of :func:`pack_visits`: counts [x, y]."""
    return unpack(data, 'visits')[0]['counts']
