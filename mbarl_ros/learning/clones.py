"""Clones of the demonstrations: what a policy holds on to where it knows no better.

A clone is worth asking near what was shown; how near is told by the demonstrations themselves: a
state is near if it is no farther away than one demonstration usually is from another. It is also
taught the way back for a robot that is off the path (:mod:`~.corrections`), so that a robot may be
farther away than what it moves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mbarl_ros.learning.corrections import Corrections, discounted
from mbarl_ros.learning.holdout import episode_numbers
from mbarl_ros.learning.networks import (
    CPU,
    Tape,
    mlp,
    mlp_gradients,
    stacked_mlp,
    with_pairwise_differences,
)
from mbarl_ros.learning.optimiser import Adam
from mbarl_ros.learning.state_arrays import (
    Arrays,
    generator_arrays,
    load_generator,
    load_tensors,
    tensor_arrays,
)
from mbarl_ros.learning.torch_setup import set_up_torch
from mbarl_ros.storage.transitions import Transitions
from mbarl_ros.task import Task

BATCH, DISPLACED = 96, 32  # rows of a gradient step, and how many of them are off the path
LEARNING_RATE = 5e-3  # falls to 0 as a cosine
STEPS_PER_ROW = 10  # gradient steps for each row of the longer direction
STEPS_AGAIN = 400  # gradient steps after a person has shown more
USUAL = 0.9  # share of the demonstrated states that are no farther from another demonstration
SHOWN = 500  # demonstrated states of a direction that distances are measured to
LEAST_DISTANCE = 0.02  # of states that count as near, in half ranges of the observation
ONLY_EPISODE = 0.1  # the same where there is no other demonstration to compare with


class Cloned(NamedTuple):
    """``action`` [clones, n, A] and its ``certainty`` [clones, n], 1 to 0."""

    action: Tensor
    certainty: Tensor


class Acting(NamedTuple):
    """What :meth:`Clones.act` needs, on its device; the first axis is the clones'.

    ``shown`` [clones, n, inputs]: some demonstrated states, ``discount`` [inputs, inputs] as in
    :class:`~.corrections.Corrections`, ``near`` [clones, 1]: distance within which a state is near.
    """

    parameters: list[Tensor]
    shown: Tensor
    shown_squares: Tensor
    near: Tensor
    discount: Tensor


class Clones:
    """Behaviour cloning for each of the first policies; deterministic by its seed.

    ``count``: how many policies have a clone; ``parameters``: stack [count] of networks.
    """

    def __init__(
        self,
        task: Task,
        demonstrations: Mapping[str, np.ndarray],
        phases: Sequence[int],
        hidden: Sequence[int],
        steps: int,
        seed: int,
        device: torch.device = CPU,
    ) -> None:
        """Fit them, on the processor.

        :param steps: most gradient steps; few rows need fewer, :data:`STEPS_PER_ROW`
        :param demonstrations: whole episodes in order
        :param phases: of the policies; there is a demonstration of each
        :param device: on which :meth:`act` works
        """
        set_up_torch()
        self.count, self._phases, self._task, self._device = len(phases), phases, task, device
        self._differences = torch.from_numpy(task.pairwise_differences)
        self._parts: list[Transitions] = []
        self._generator = torch.Generator().manual_seed(seed)
        sizes = [sum(task.pairwise_differences.shape), *hidden, task.action_dim]
        parameters = stacked_mlp(self.count, sizes, self._generator, last_scale=0.01)
        self.parameters = [parameter.detach() for parameter in parameters]
        self.add(demonstrations)
        rows = max(np.count_nonzero(demonstrations['phase'] == phase) for phase in phases)
        self._fit(min(steps, STEPS_PER_ROW * rows))

    def add(self, demonstrations: Mapping[str, np.ndarray]) -> None:
        """Take further demonstrations; :meth:`train` learns from them."""
        names = (
            'observation',
            'action',
            'next_observation',
            'phase',
            'truncated',
            'terminated',
        )
        self._parts.append({name: np.array(demonstrations[name]) for name in names})
        self._new = True

    def train(self) -> None:
        """Fit them once more if there are new demonstrations."""
        if self._new:
            self._fit(STEPS_AGAIN)

    @torch.no_grad()
    def act(self, inputs: Tensor) -> Cloned:
        """What the clones would do.

        :param inputs: [count, n, entries], scaled observations with pairwise differences
        """
        acting = self.acting
        near, where = acting.near.square(), discounted(inputs, acting.discount)
        products = torch.baddbmm(acting.shown_squares, where, acting.shown.mT, alpha=-2.0)
        squared_distance = products.amin(-1).add_(where.square().sum(-1))
        certainty = (near / squared_distance.maximum(near)).square()
        return Cloned(torch.tanh(mlp(acting.parameters, inputs)), certainty)

    def state_arrays(self) -> Arrays:
        """What an exact resume needs beside the demonstrations, which come back by :meth:`add`."""
        arrays = tensor_arrays('clones', self.parameters)
        return arrays | generator_arrays('clones', self._generator)

    def load_state_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Inverse of :meth:`state_arrays`."""
        load_tensors('clones', self.parameters, arrays)
        load_generator('clones', self._generator, arrays)
        self._measure()
        self._new = False
        self._begin_to_act()

    @torch.no_grad()
    def _fit(self, steps: int) -> None:
        """Steps on the mean squared error of the actions, of as many rows of each phase."""
        inputs, action, of_phase = self._measure()
        optimiser = Adam(self.parameters, LEARNING_RATE, weight_decay=1e-5)
        for step in range(steps):
            optimiser.learning_rate = LEARNING_RATE * (1 + math.cos(math.pi * step / steps)) / 2
            drawn = [
                torch.randint(len(rows), (BATCH,), generator=self._generator) for rows in of_phase
            ]
            batch = torch.stack([rows[d] for rows, d in zip(of_phase, drawn, strict=True)])
            shown, wanted = inputs[batch], action[batch]
            shown[:, :DISPLACED], wanted[:, :DISPLACED] = self._corrections.displaced(
                shown[:, :DISPLACED], wanted[:, :DISPLACED], self._generator
            )
            tape = Tape()
            mean = torch.tanh(mlp(self.parameters, shown, tape=tape))
            slope = (mean - wanted) * (1.0 - mean.square()) * (2.0 / mean[0].numel())
            optimiser.step(mlp_gradients(self.parameters, tape, slope))
        self._new = False
        self._begin_to_act()

    def _begin_to_act(self) -> None:
        """Copy what :meth:`act` needs to its device."""
        device = self._device
        self.acting = Acting(
            [parameter.to(device) for parameter in self.parameters],
            self._shown.to(device),
            self._shown.square().sum(-1)[:, None].to(device),
            self._near.to(device),
            self._corrections.discount.to(device),
        )

    def _measure(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Note what was shown, and what is near it; inputs, actions, and rows of each phase."""
        rows = {
            name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]
        }
        self._corrections = Corrections(self._task, rows)
        scaled = torch.from_numpy(np.asarray(self._task.scaled(rows['observation']), np.float32))
        inputs = with_pairwise_differences(scaled, self._differences)
        action = torch.from_numpy(np.asarray(rows['action'], np.float32))
        of_phase = [torch.from_numpy(np.flatnonzero(rows['phase'] == p)) for p in self._phases]
        ended = np.asarray(rows['truncated'], bool) | np.asarray(rows['terminated'], bool)
        episode = torch.from_numpy(episode_numbers(ended))
        some = [rows[torch.linspace(0, len(rows) - 1, SHOWN).long()] for rows in of_phase]
        self._shown = torch.stack([self._corrections.discounted(inputs[rows]) for rows in some])
        distance = torch.cdist(self._shown, self._shown)
        same = torch.stack([episode[rows][:, None] == episode[rows] for rows in some])
        to_others = distance.masked_fill(same, math.inf).amin(-1)
        usual = torch.quantile(to_others, USUAL, dim=-1, keepdim=True, interpolation='lower')
        usual = torch.where(usual.isfinite(), usual, ONLY_EPISODE)
        self._near = usual.clamp(min=LEAST_DISTANCE)
        return inputs, action, of_phase
