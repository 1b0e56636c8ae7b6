"""The typed batch that policies and critics are trained on."""

from __future__ import annotations

from dataclasses import dataclass

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
