"""Interval estimates of success: of one policy over its episodes, of an agent over its seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np

LEVEL = 0.95
"""Of every interval in a report."""
_RESAMPLES = 2000


def wilson(successes: np.ndarray | float, trials: np.ndarray | float) -> tuple[np.ndarray, ...]:
    """Lowest and highest success rate [...] that so many successes speak for (Wilson 1927).

    :param trials: how often it was tried; 0 gives 0 and 1
    """
    successes, trials = np.asarray(successes, float), np.asarray(trials, float)
    some = np.maximum(trials, 1.0)
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    rate = successes / some
    centre = (rate + z**2 / (2 * some)) / (1 + z**2 / some)
    spread = np.sqrt(rate * (1 - rate) / some + z**2 / (4 * some**2))
    half = z / (1 + z**2 / some) * spread
    low, high = np.clip(centre - half, 0.0, 1.0), np.clip(centre + half, 0.0, 1.0)
    return np.where(trials > 0, low, 0.0), np.where(trials > 0, high, 1.0)


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half of values [..., n] -> [...], as rliable has it.

    The lowest and the highest quarter are left out, each rounded down: of three values none is.
    """
    ordered = np.sort(np.asarray(values, float), axis=-1)
    count = ordered.shape[-1]
    cut = count // 4
    return ordered[..., cut : count - cut].mean(-1)


def bootstrap(
    strata: Sequence[np.ndarray], statistic: Callable[[np.ndarray], np.ndarray], seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of a statistic over runs, resampled within each stratum.

    As in Agarwal et al. 2021, where a stratum is a task: a resample has as many runs of each task
    as there are. One run in each stratum gives an interval of no width.

    :param strata: values [..., runs] of each stratum
    :param statistic: of resampled values [..., runs of all strata] over the last axis
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for values in map(np.asarray, strata):
        runs = values.shape[-1]
        index = rng.integers(runs, size=(_RESAMPLES, runs))
        drawn.append(np.moveaxis(values[..., index], -2, 0))  # [resamples, ..., runs]
    estimates = statistic(np.concatenate(drawn, axis=-1))
    low, high = np.quantile(estimates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def separation(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive scores above a negative; ties are half.

    NaN where there are none of one kind.
    """
    if not len(positives) or not len(negatives):
        return float('nan')
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, 'left')
    not_above = np.searchsorted(ordered, positives, 'right')
    return float((below + not_above).mean() / 2 / len(negatives))
