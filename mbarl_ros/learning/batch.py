"""The typed batch that policies and critics are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch for each policy; a block of batches has a further leading axis.

    Observations are normalised.

    ``observation``, ``next_observation``: [policies, batch, observation_dim]
    ``action``: [policies, batch, action_dim], in [-1, 1]
    ``reward``: [policies, batch]
    ``discount``: [policies, batch], 0 where the return ends
    ``return_lower_bound``: [policies, batch], a return that was attained from there, else -inf
    """

    observation: Tensor
    action: Tensor
    next_observation: Tensor
    reward: Tensor
    discount: Tensor
    return_lower_bound: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))

    def __getitem__(self, number: int) -> Batch:
        """One batch of a block."""
        return Batch(
            observation=self.observation[number],
            action=self.action[number],
            next_observation=self.next_observation[number],
            reward=self.reward[number],
            discount=self.discount[number],
            return_lower_bound=self.return_lower_bound[number],
        )


def joined(batches: Sequence[Batch]) -> Batch:
    """Blocks of batches of several learners as one, along the axis of the policies."""
    if len(batches) == 1:
        return batches[0]
    names = [field.name for field in fields(Batch)]
    return Batch(*(torch.cat([getattr(batch, name) for batch in batches], 1) for name in names))
