"""RISC's success critic: the discounted probability of reaching the goal (Patil et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mbarl_ros.learning.batch import Batch
from mbarl_ros.learning.networks import (
    layer_arrays,
    mlp,
    stacked_mlp,
    with_pairwise_differences,
)
from mbarl_ros.learning.optimiser import Adam
from mbarl_ros.learning.state_arrays import Arrays, group_arrays, load_groups
from mbarl_ros.schema.agent import SacConfig


class SuccessCritic:
    """F(s, g), trained to ``success + (1 - success) * discount * F(s', g)`` on real actions.

    One network, where RISC takes the lesser of two: nothing maximises over F, so that it is not
    overestimated. A plain ReLU network, since the robot evaluates it in NumPy.
    """

    def __init__(self, config: SacConfig, pairwise_differences: np.ndarray, seed: int) -> None:
        """New networks with values near 0; ``pairwise_differences`` as in :class:`Sac`."""
        generator = torch.Generator().manual_seed(seed)
        self._pairwise_differences = torch.from_numpy(pairwise_differences)
        sizes = [sum(pairwise_differences.shape), *config.hidden, 1]
        self._network = stacked_mlp(1, sizes, generator, last_scale=0.01)
        self._target = [p.detach().clone() for p in self._network]
        self._tau = config.tau
        self._optimiser = Adam(self._network, config.learning_rate)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step on the batch of the shared policy; metrics [1]."""
        value = self._values(self._network, batch.observation)
        self._optimiser.minimise((value - self.td_target(batch)).square().mean())
        with torch.no_grad():
            torch._foreach_lerp_(self._target, [p.detach() for p in self._network], self._tau)
        return {'success': value.detach().mean(-1)}

    @torch.no_grad()
    def td_target(self, batch: Batch) -> Tensor:
        """[1, batch], within [0, 1]; ``discount`` is 0 on success."""
        next_value = self._values(self._target, batch.next_observation)
        return (batch.reward[:1] + batch.discount[:1] * next_value).clamp(0.0, 1.0)

    def _values(self, network: list[Tensor], observation: Tensor) -> Tensor:
        inputs = with_pairwise_differences(observation[:1], self._pairwise_differences)
        return mlp(network, inputs)[..., 0]

    def policy_arrays(self) -> Arrays:
        """``success/LAYER/weight|bias`` of the policy message."""
        return layer_arrays(self._network, 0, 'success', self._pairwise_differences)

    def state_arrays(self) -> Arrays:
        """Everything that an exact resume needs."""
        return group_arrays('success_critic', self._groups())

    def load_state_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Inverse of :meth:`state_arrays`."""
        load_groups('success_critic', self._groups(), arrays)

    def _groups(self) -> dict[str, list[Tensor]]:
        return {
            'network': self._network,
            'target': self._target,
            'adam': self._optimiser.tensors(),
        }
