"""Numbers out of the history of a run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from mbarl_ros.storage.history import Sample
from mbarl_ros.view import status

_INFORMATION = ('level', 'message', 'task', 'robot', 'mode', 'spec_hash', 'use_sim_time')
"""Keys of every node that are no measurement."""


def number(sample: Sample, node: str, key: str) -> float:
    """A value of a sample; NaN where it was not reported, or is no number."""
    parsed = status.number(sample.status.get(node, {}).get(key))
    return float('nan') if parsed is None else parsed


def series(history: Sequence[Sample], node: str, key: str) -> np.ndarray:
    """A value over the samples [n]; NaN where it was not reported."""
    return np.array([number(sample, node, key) for sample in history])


def total(values: np.ndarray) -> float:
    """What a counter has counted in all, though it starts from 0 again with its node."""
    values = values[np.isfinite(values)]
    steps = np.diff(values, prepend=0.0)
    return float(np.where(steps >= 0, steps, values).sum())


def keys(history: Sequence[Sample], node: str) -> list[str]:
    """Keys of the measurements of a node, in the order in which they came up."""
    found: dict[str, None] = {}
    for sample in history:
        found |= dict.fromkeys(sample.status.get(node, {}))
    return [key for key in found if key not in _INFORMATION]


def stretches(history: Sequence[Sample], node: str, key: str) -> list[tuple[str, float]]:
    """Texts of a value one after the other, each with the time (s) for which it stayed.

    No longer than the samples are apart, it may have been another one in between.
    """
    found: list[tuple[str, float]] = []
    for sample, following in itertools.pairwise([*history, *history[-1:]]):
        values = sample.status.get(node, {})
        if key not in values:
            continue
        text, seconds = str(values[key]), max(following.time - sample.time, 0.0)
        if found and found[-1][0] == text:
            found[-1] = text, found[-1][1] + seconds
        else:
            found.append((text, seconds))
    return found
