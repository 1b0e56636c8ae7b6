"""Scores of ``mbarl tune``: of a seed, of settings over tasks and seeds, and how sure they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mbarl_ros.studies.statistics import sign_flip_p

_LEAST_ROOM = 0.1
_DRAWS = 10_000

Scores = Mapping[str, Sequence[float]]
"""Task -> score of each seed, in the order of seeds."""


def seed_score(lines: Sequence[Mapping[str, Any]], clone: float, until: float = np.inf) -> float:
    """Mean deployed success over the steps of practice, relative to the clone: -1 to 1.

    0: as good as the clone of the same demonstrations all the time; 1: always successful; -1: never
    successful, so practice has unlearned what was shown. Gains are shares of what the clone leaves,
    losses of what it has; where that is less than 0.1 it counts as 0.1.

    :param lines: of ``evaluations.jsonl``, at least one
    :param clone: success of the clone of the same task and seed; 0 without demonstrations
    :param until: environment steps; the first evaluation at or after them is the last that counts
    """
    count = 1 + sum(line['environment_steps'] < until for line in lines)
    steps = np.array([line['environment_steps'] for line in lines[:count]], float)
    success = np.array([line['deployed_success'] for line in lines[:count]])
    span = steps[-1] - steps[0]
    mean = float(np.trapezoid(success, steps) / span) if span else float(success[-1])
    gain = mean - clone
    return gain / max(1.0 - clone if gain > 0 else clone, _LEAST_ROOM)


def interquartile_mean(values: Sequence[float] | np.ndarray) -> float:
    """Mean of the middle half: a quarter of the values is left out at each end, rounded down."""
    ordered = np.sort(np.asarray(values, float).ravel())
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def total_score(scores: Scores) -> float:
    """The score of settings: half the interquartile mean of all seeds, half that of the worst task.

    Seeds of settings that only work on some tasks do not make up for the task that fails.
    """
    everything = [score for task in scores.values() for score in task]
    worst = min(interquartile_mean(task) for task in scores.values())
    return (interquartile_mean(everything) + worst) / 2


@dataclass(frozen=True)
class Difference:
    """Score of one setting less that of another, with its 95 % interval and the p-value.

    ``p``: one-sided, that the seeds of the first are better by chance (:func:`sign_flip_p`).
    """

    mean: float
    low: float
    high: float
    p: float


def difference(one: Scores, other: Scores) -> Difference:
    """Compare settings on the same seeds: percentile bootstrap over seeds, in pairs."""
    rng = np.random.default_rng(0)
    seeds = len(next(iter(one.values())))
    draws = rng.integers(seeds, size=(_DRAWS, seeds))
    values = [_drawn(one, draw) - _drawn(other, draw) for draw in draws]
    low, high = np.percentile(values, [2.5, 97.5])
    pairs = np.mean([np.subtract(one[task], other[task]) for task in one], axis=0)
    mean = total_score(one) - total_score(other)
    return Difference(mean, float(low), float(high), sign_flip_p(pairs))


def interval(scores: Scores) -> tuple[float, float]:
    """95 % interval of a score: percentile bootstrap over seeds."""
    rng = np.random.default_rng(0)
    seeds = len(next(iter(scores.values())))
    draws = rng.integers(seeds, size=(_DRAWS, seeds))
    low, high = np.percentile([_drawn(scores, draw) for draw in draws], [2.5, 97.5])
    return float(low), float(high)


def _drawn(scores: Scores, draw: np.ndarray) -> float:
    return total_score({task: np.asarray(values)[draw] for task, values in scores.items()})
