"""Which entries of a state follow from the others: what a drawn state needs to be possible.

A puck that is not held lies on the table, the handle of a door stays on an arc, a hand is near the
place that its controller wants. States that are drawn entry by entry know nothing of that.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mbarl_ros.learning.networks import mlp, stacked_mlp
from mbarl_ros.learning.optimiser import Adam
from mbarl_ros.learning.state_arrays import (
    Arrays,
    generator_arrays,
    load_generator,
    load_tensors,
    tensor_arrays,
)
from mbarl_ros.task import Task

HIDDEN, BATCH, STEPS, LEARNING_RATE = 32, 128, 200, 3e-3
TIGHT = 0.01  # root mean square, in half ranges, below which an entry follows from the others
# It must do so in each part of its values: what lay still most of the time would else follow from
# anything. Parts with few rows tell nothing.
BINS, FEW = 20, 5
SWEEPS = 2  # entries that follow from entries that follow


class Relations:
    """A small network for each state entry, which predicts it from all others."""

    def __init__(self, task: Task, seed: int) -> None:
        """Before the first :meth:`fit` no entry follows from others."""
        self._task, entries = task, task.state_dim
        self._generator = torch.Generator().manual_seed(seed)
        self._others = (1.0 - torch.eye(entries))[:, None]  # each network sees all but its entry
        sizes = [entries, HIDDEN, HIDDEN, 1]
        self._parameters = stacked_mlp(entries, sizes, self._generator)
        self._optimiser = Adam(self._parameters, LEARNING_RATE)
        self._error = torch.full((entries,), torch.inf)

    def fit(self, train: Mapping[str, np.ndarray], held_out: Mapping[str, np.ndarray]) -> None:
        """Some gradient steps on the states of transitions."""
        states, unseen = self._states(train), self._states(held_out)
        for _ in range(STEPS):
            rows = torch.randint(len(states), (BATCH,), generator=self._generator)
            self._optimiser.minimise(self._errors(states[rows]).mean(1).sum())
        with torch.no_grad():
            rows = torch.cat([states, unseen])
            self._error.copy_(_worst(self._errors(rows), rows.T).sqrt())

    @property
    def tight(self) -> np.ndarray:
        """Numbers of the entries that follow from the others, the most certain first."""
        entries = [number for number in self._error.argsort().tolist() if self._follows(number)]
        return np.array(entries, int)

    @torch.no_grad()
    def complete(self, states: np.ndarray) -> np.ndarray:
        """States [n, state_dim] whose dependent entries follow from the others."""
        scaled, tight = self._scaled(states), self.tight
        for number in np.tile(tight, SWEEPS):
            network = [parameter[number : number + 1] for parameter in self._parameters]
            predicted = mlp(network, scaled[None] * self._others[number])
            scaled[:, number] = predicted[0, :, 0].clamp(-1.0, 1.0)
        dim = self._task.state_dim
        rows = scaled.numpy() * self._task.scale[:dim] + self._task.offset[:dim]
        return np.where(np.isin(np.arange(dim), tight), rows, states).astype(np.float32)

    def _follows(self, number: int) -> bool:
        return not self._task.binary[number] and bool(self._error[number] <= TIGHT)

    def _errors(self, scaled: Tensor) -> Tensor:
        """Squared errors [entries, n] of scaled states [n, entries]."""
        predicted = mlp(self._parameters, scaled * self._others)[..., 0]
        return (predicted - scaled.T).square()

    def _states(self, rows: Mapping[str, np.ndarray]) -> Tensor:
        return self._scaled(rows['next_observation'][:, : self._task.state_dim])

    def _scaled(self, states: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(self._task.scaled(states), np.float32))

    def state_arrays(self) -> Arrays:
        """Everything that an exact resume needs."""
        arrays = tensor_arrays('relations', [*self._parameters, *self._optimiser.tensors()])
        arrays |= tensor_arrays('relations/error', [self._error])
        return arrays | generator_arrays('relations', self._generator)

    def load_state_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Inverse of :meth:`state_arrays`."""
        load_tensors('relations', [*self._parameters, *self._optimiser.tensors()], arrays)
        load_tensors('relations/error', [self._error], arrays)
        load_generator('relations', self._generator, arrays)


def _worst(errors: Tensor, values: Tensor) -> Tensor:
    """Mean of ``errors`` in the worst bin of the ``values`` in -1 to 1, both [entries, n]."""
    bins = ((values + 1.0) * (BINS / 2)).long().clamp(0, BINS - 1)
    sums, counts = (
        torch.zeros(len(values), BINS).scatter_add_(1, bins, each)
        for each in (errors, torch.ones_like(errors))
    )
    return torch.where(counts >= FEW, sums / counts.clamp(min=1), 0.0).amax(1)
