"""The dynamics model against what then happened: open-loop predictions of held-out practice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mbarl_ros.control.model import LearnedModel
from mbarl_ros.learning.dynamics import Ensemble
from mbarl_ros.learning.holdout import PhaseHoldout
from mbarl_ros.reports.attempts import ends, practised
from mbarl_ros.reports.run_data import RunData
from mbarl_ros.reports.saved_state import from_checkpoint
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.transitions import Transitions
from mbarl_ros.task import Task

HORIZONS = (50, 25, 10, 5)
"""Steps over which the model is rolled out: the first for which there are enough windows."""
ENOUGH, MOST = 20, 400  # windows
LATE = 0.5  # share of the run after which windows are taken, where there are enough


class StepModel(Protocol):
    """Predicts next states [elites, n, state_dim]; see :class:`LearnedModel`."""

    elites: int

    def step(self, state: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Next states, and rewards or None."""


@dataclass(frozen=True)
class Prediction:
    """Errors of open-loop predictions.

    ``errors`` [elites * windows, H, entries]: absolute, in the unit of each entry (rad for an
    angle; a binary entry is wrong, 1, or right, 0); ``still``: those of the prediction that nothing
    moves, [windows, H, entries]. ``ranges`` [entries]: of the task, 1 for binary ones.
    """

    names: Sequence[str]
    ranges: np.ndarray
    errors: np.ndarray
    still: np.ndarray

    @property
    def horizon(self) -> int:
        """Steps."""
        return self.errors.shape[1]


@dataclass(frozen=True)
class ModelCheck:
    """A prediction, and on which of a run's transitions it was made.

    ``trained_steps``: environment steps that the run had when the model was fitted last;
    ``held_out``: steps up to then that it was not trained on; ``windows``: how many were rolled
    out, the first of which begins after ``first`` steps of the run.
    """

    prediction: Prediction
    trained_steps: int
    held_out: int
    windows: int
    first: int


def check_model(run: RunData) -> ModelCheck:
    """Roll the model of the last checkpoint out over windows that it was not trained on.

    :raises ConfigError: there is no model, or nothing to compare it with; says why.
    """
    model, trained = load_model(run)
    rows = practised(run)
    arrival = np.argsort(rows['sequence'])  # of a fleet they stand phase by phase
    held_out, later = np.empty((2, len(arrival)), bool)
    held_out[arrival], _ = PhaseHoldout().mask(ends(rows)[arrival], rows['robot'][arrival])
    later[arrival] = np.arange(len(arrival)) >= trained
    unseen = held_out | later
    horizon, starts = windows(run.task, rows, unseen)
    predicted = predict(model, run.task, rows, starts, horizon)
    first = int(rows['sequence'][starts[0]])
    return ModelCheck(predicted, trained, int((held_out & ~later).sum()), len(starts), first)


def load_model(run: RunData) -> tuple[LearnedModel, int]:
    """The model of the last intact checkpoint, and after how many steps it was fitted.

    :raises ConfigError: there is none.
    """
    if run.agent.model is None:
        raise ConfigError(f"Agent '{run.agent.name}' has no dynamics model.")
    ensemble = Ensemble(run.task, run.agent.model, seed=0)

    def use(arrays: Mapping[str, np.ndarray], meta: dict[str, Any]) -> int:
        ensemble.load_state_arrays(arrays)
        return int(meta['imagination']['fitted_at'])

    trained = from_checkpoint(run, 'learner', use)
    if not ensemble.fits:
        raise ConfigError('The model had not been fitted when the last checkpoint was written.')
    return LearnedModel(ensemble.policy_arrays(), run.task, run.agent.model), trained


def windows(task: Task, rows: Transitions, unseen: np.ndarray) -> tuple[int, np.ndarray]:
    """Horizon, and the first rows of windows of so many steps that follow one another.

    :param unseen: rows that the model was not trained on, bool [n]
    :raises ConfigError: there is not a single one.
    """
    dim = task.state_dim
    after = rows['observation'][1:, :dim] == rows['next_observation'][:-1, :dim]
    same = rows['robot'][1:] == rows['robot'][:-1]
    broken = ~np.append(after.all(-1) & same, False) | ~unseen | ~np.append(unseen[1:], False)
    bounds = np.append(0, np.flatnonzero(broken) + 1)
    late = LATE * len(unseen)
    for enough, horizon in [(ENOUGH, h) for h in HORIZONS] + [(1, h) for h in HORIZONS]:
        # Half overlapping: every step is seen in two windows, at an early and at a late moment.
        stride = max(horizon // 2, 1)
        starts = [
            start
            for begin, end in itertools.pairwise(bounds)
            for start in range(begin, end - horizon + 1, stride)
        ]
        recent = [start for start in starts if start >= late]
        chosen = np.array(recent if len(recent) >= ENOUGH else starts)
        if len(chosen) >= enough:
            count = min(len(chosen), MOST)
            return horizon, chosen[np.linspace(0, len(chosen) - 1, count, dtype=int)]
    raise ConfigError(
        f'There is no stretch of {HORIZONS[-1]} steps yet that the model was not trained on.'
    )


def predict(
    model: StepModel, task: Task, rows: Transitions, starts: np.ndarray, horizon: int
) -> Prediction:
    """Errors of a model that is told the first state of each window and the executed actions."""
    dim, names = task.state_dim, [entry.name for entry in task.config.observation]
    kept = [i for i, name in enumerate(names) if names.index(name) == i]
    first = rows['observation'][starts, :dim]
    state = np.tile(first, (model.elites, 1, 1))
    errors, still = [], []
    for step in range(horizon):
        action = np.tile(rows['action'][starts + step], (model.elites, 1, 1))
        state = task.possible(model.step(state, action)[0]).astype(np.float32)
        truth = rows['next_observation'][starts + step, :dim]
        errors.append(_differences(task, state, truth)[..., kept].reshape(-1, len(kept)))
        still.append(_differences(task, first, truth)[..., kept])
    entries = [task.config.observation[i] for i in kept]
    ranges = [1.0 if e.binary else 2 * math.pi if e.angle else e.high - e.low for e in entries]
    return Prediction(
        [names[i] for i in kept], np.array(ranges), np.stack(errors, 1), np.stack(still, 1)
    )


def _differences(task: Task, state: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Absolute differences [..., entries] of states; the shorter way round for angles."""
    difference = task.to_entries(state) - task.to_entries(truth)
    for column, entry in enumerate(task.config.observation):
        value = difference[..., column]
        if entry.angle:
            value = (value + math.pi) % (2 * math.pi) - math.pi
        elif entry.binary:
            value = np.abs(value) > (entry.high - entry.low) / 2
        difference[..., column] = value
    return np.abs(difference)
