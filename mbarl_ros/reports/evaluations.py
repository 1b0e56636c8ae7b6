"""Evaluations of the deployed policy of a run, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mbarl_ros.reports.intervals import wilson
from mbarl_ros.schema.base import ConfigError


@dataclass(frozen=True)
class Evaluations:
    """Arrays [n], at least one: environment ``steps``, ``success`` rate over ``episodes``.

    ``clone``: success rate of the clone of the demonstrations, None where there are none;
    ``last_return``: of the last evaluation, None where the reward is the success.
    """

    steps: np.ndarray
    success: np.ndarray
    episodes: np.ndarray
    clone: float | None
    last_return: float | None
    robot_seconds: float

    def interval(self) -> tuple[np.ndarray, ...]:
        """Wilson interval of each evaluation: lowest and highest rate [n]."""
        return wilson(self.success * self.episodes, self.episodes)

    def steps_to(self, target: float) -> int | None:
        """Environment steps after which an evaluation first reached the target; None: never."""
        reached = np.flatnonzero(self.success >= target - 1e-9)
        return int(self.steps[reached[0]]) if len(reached) else None


def evaluations(lines: Sequence[Mapping[str, Any]]) -> Evaluations:
    """Arrays of the lines of ``evaluations.jsonl`` that are whole.

    :raises ConfigError: there is none.
    """
    keys = ('environment_steps', 'deployed_success', 'episodes')
    whole = [line for line in lines if all(_is_number(line.get(key)) for key in keys)]
    if not whole:
        raise ConfigError(
            'No policy has been evaluated: only runs in simulation have an evaluator, and it '
            'evaluates first when evaluation.every steps have been practised.'
        )
    steps, success, episodes = (np.array([line[key] for line in whole], float) for key in keys)
    last = whole[-1]
    clone, last_return, seconds = (
        float(value) if _is_number(value := last.get(key)) else None
        for key in ('clone_success', 'deployed_return', 'robot_seconds')
    )
    return Evaluations(
        steps,
        success.clip(0.0, 1.0),
        episodes.clip(min=0.0),
        clone,
        last_return,
        float('nan') if seconds is None else seconds,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)


def rate_text(rate: float, low: float, high: float) -> str:
    """A rate with its interval."""
    return f'{rate:.2f} ({low:.2f} to {high:.2f})'
