"""RISC's success critic: how surely the goal is reached from here (Patil et al. 2024, ICLR)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mbarl_ros.learning.networks import layer_arrays, mlp, stacked_mlp, with_relations
from mbarl_ros.learning.state import Adam, Arrays, descend, group_arrays, load_groups
from mbarl_ros.schema.agent import SacConfig


class SuccessCritic:
    """F(s, g), trained to ``success + (1 - success) * discount * F(s', g)`` on what was done.

    One network, where RISC takes the lesser of two: nothing maximises over F, so that it has no
    reason to be too high. A plain ReLU network, since the robot evaluates it in NumPy.
    """

    def __init__(self, config: SacConfig, relations: np.ndarray, seed: int) -> None:
        """Fresh networks; nothing counts as reached yet. ``relations`` as in :class:`Sac`."""
        generator = torch.Generator().manual_seed(seed)
        self._relations = torch.from_numpy(relations)
        sizes = [sum(relations.shape), *config.hidden, 1]
        self._network = stacked_mlp(1, sizes, generator, last_scale=0.01)
        self._target = [p.detach().clone() for p in self._network]
        self._tau = config.tau
        self._optimiser = Adam(self._network, config.learning_rate)

    def update(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One gradient step on the batch of the shared policy; metrics [1]."""
        with torch.no_grad():
            following = mlp(self._target, self._seen(batch['next_observation']))[..., 0]
            target = (batch['reward'][:1] + batch['discount'][:1] * following).clamp(0.0, 1.0)
        found = mlp(self._network, self._seen(batch['observation']))[..., 0]
        descend(self._optimiser, (found - target).square().mean())
        with torch.no_grad():
            torch._foreach_lerp_(self._target, [p.detach() for p in self._network], self._tau)
        return {'success': found.detach().mean(-1)}

    def _seen(self, observation: Tensor) -> Tensor:
        return with_relations(observation[:1], self._relations)

    def policy_arrays(self) -> Arrays:
        """``success/LAYER/weight|bias`` of the policy message."""
        return layer_arrays(self._network, 0, 'success', self._relations)

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
