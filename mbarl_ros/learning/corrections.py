"""Corrections of demonstrated actions where the robot is off the demonstrated path.

A clone that sees only what was demonstrated does anything beside it, and a robot that it moves off
the path is lost. How the state follows the action shows what would bring the robot back (Ke et al.
2024, CCIL): where a velocity moved an entry, the entry as it were after some more steps of that
velocity is put right by as much of the opposite one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mbarl_ros.learning.networks import with_pairwise_differences
from mbarl_ros.task import Task

# An entry follows the action if that explains this share of its changes, and its own value none.
EXPLAINED, OWN = 0.98, 0.1
CROSS = 0.2  # share of the largest effect on an entry below which an effect is noise
FARTHEST = 4.0  # steps of an action by which the robot may be off the path
DISCOUNT = 4.0
GAIN = 0.5  # share of the way back that a correction asks for in a step, as far as actions reach


class Corrections:
    """How inputs of the clone change with a step of an action: ``effect`` [A, inputs]."""

    def __init__(self, task: Task, rows: Mapping[str, np.ndarray]) -> None:
        """Find out from demonstrated steps (``observation``, ``next_observation``, ``action``)."""
        effect = np.zeros((task.action_dim, task.observation_dim), np.float32)
        before, after = (
            np.asarray(task.scaled(rows[name]), np.float64)[:, : task.state_dim]
            for name in ('observation', 'next_observation')
        )
        action = np.asarray(rows['action'], np.float64)
        for entry in np.flatnonzero(~task.binary):
            effect[:, entry] = _effect(before[:, entry], after[:, entry], action)
        differences = torch.from_numpy(task.pairwise_differences)
        self.effect = with_pairwise_differences(torch.from_numpy(effect), differences)
        self._corrects = (self.effect != 0).any(1)
        basis = torch.linalg.svd(self.effect, full_matrices=False)
        directions = basis.Vh[basis.S > 1e-6]
        self.discount = (1.0 - 1.0 / DISCOUNT) * directions.T @ directions

    def discounted(self, inputs: Tensor) -> Tensor:
        """Inputs [..., inputs] in which what the robot moves counts :data:`DISCOUNT` times less."""
        return discounted(inputs, self.discount)

    def displaced(
        self, inputs: Tensor, action: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Inputs [..., inputs] off the path, most of them a little, and actions [..., A] back."""
        shape = action.shape
        steps = FARTHEST * torch.rand((*shape[:-1], 1), generator=generator).square()
        direction = 2.0 * torch.rand(shape, generator=generator) - 1.0
        off = steps * direction * self._corrects
        return inputs + off @ self.effect, (action - GAIN * off).clamp(-1.0, 1.0)


def discounted(inputs: Tensor, discount: Tensor) -> Tensor:
    """As :meth:`Corrections.discounted`, with its ``discount`` [inputs, inputs] on any device."""
    return inputs - inputs @ discount


def _effect(before: np.ndarray, after: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Change [A] of an entry with a step of each action; 0 where it does not follow them."""
    change = after - before
    none = np.zeros(action.shape[1])
    if change.std() < 1e-4:
        return none
    explaining = np.column_stack([action, before, np.ones(len(action))])
    weights, *_ = np.linalg.lstsq(explaining, change, rcond=None)
    explained = 1.0 - (change - explaining @ weights).var() / change.var()
    *of_action, of_itself, _ = weights
    if explained < EXPLAINED or abs(of_itself) > OWN:
        return none
    return np.where(np.abs(of_action) < CROSS * np.abs(of_action).max(), 0.0, of_action)
