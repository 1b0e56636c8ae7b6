"""Learning curves of the studies ``mpc`` and ``mbmf``: returns of episodes against steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WINDOW = 3  # episodes of MPC that its curve averages over
TRPO_BIN = 20_000  # steps that a point of TRPO's curve averages over
FINAL = 0.9  # a final return is the mean over the last tenth of the steps

Curve = tuple[np.ndarray, np.ndarray]
"""Steps [n] and returns [n]."""


def trpo_curve(returns: Sequence[Sequence[float]], steps: int) -> Curve:
    """Steps and mean return of training episodes in bins of ``TRPO_BIN`` steps."""
    table = np.array(returns)
    edges = np.arange(0, steps + 1, min(TRPO_BIN, steps))
    bins = np.digitize(table[:, 0], edges, right=True)
    filled = [b for b in range(1, len(edges)) if (bins == b).any()]
    return edges[filled], np.array([table[bins == b, 1].mean() for b in filled])


def planned_curve(returns: Sequence[Sequence[float]]) -> Curve:
    """Steps and return of planned episodes, the mean of the last ``WINDOW`` (trailing).

    :param returns: rows of steps, return and, where some episodes were not planned, whether it was
    """
    table = np.array([row[:2] for row in returns if len(row) < 3 or row[2]])
    smooth = [table[max(0, i + 1 - WINDOW) : i + 1, 1].mean() for i in range(len(table))]
    return table[:, 0], np.array(smooth)


def final(curve: Curve) -> float:
    """Mean return over the last tenth of the steps."""
    steps, returns = curve
    return float(returns[steps >= FINAL * steps[-1]].mean())


def steps_to(curve: Curve, level: float) -> float:
    """First steps at which a curve reaches a level; infinite if it never does."""
    reached = np.flatnonzero(curve[1] >= level)
    return float(curve[0][reached[0]]) if len(reached) else np.inf


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Mean over seeds, at the steps of the first, as far as all have come."""
    last = min(steps[-1] for steps, _ in curves)
    steps = curves[0][0][curves[0][0] <= last]
    return steps, np.mean([np.interp(steps, *curve) for curve in curves], 0)
