"""Soft actor-critic (Haarnoja et al. 2018) for the forward and the backward policy in one pass."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mbarl_ros.config import SacConfig
from mbarl_ros.learning.networks import (
    layer_arrays,
    mlp,
    squashed_gaussian,
    stacked_mlp,
    with_relations,
    with_waves,
)
from mbarl_ros.learning.state import (
    Arrays,
    adam,
    adam_tensors,
    descend,
    generator_arrays,
    load_generator,
    load_tensors,
    tensor_arrays,
)


class Sac:
    """Policies, twin (or more) critics, targets and temperatures, stacked along ``policies``.

    Differences from the paper, all for steadiness on sparse rewards: layer norm in the critics
    and no entropy in the critic's target (Ball et al. 2023), targets clipped to the range that
    returns can have, Fourier features for the critics, and behaviour cloning on demonstrated
    actions that the critic prefers (the Q-filter of Nair et al. 2018). ``deployed`` is a Polyak
    average of the policies.
    """

    def __init__(
        self,
        config: SacConfig,
        policies: tuple[str, ...],
        relations: np.ndarray,
        action_dim: int,
        value_bounds: np.ndarray,
        seed: int,
    ) -> None:
        """Fresh networks.

        :param relations: [pairs, observation_dim], further inputs that are linear in the others
        :param value_bounds: [policies, 2], the lowest and highest return
        """
        self.config = config
        self.policies = policies
        count = len(policies)
        self.generator = torch.Generator().manual_seed(seed)
        self._relations = torch.from_numpy(relations)
        seen = sum(relations.shape)
        sizes = [seen * (1 + 2 * config.frequencies) + action_dim, *config.hidden, 1]
        self.critic = stacked_mlp(count * config.critics, sizes, self.generator)
        self.target = [p.detach().clone() for p in self.critic]
        sizes = [seen, *config.hidden, 2 * action_dim]
        self.actor = stacked_mlp(count, sizes, self.generator, last_scale=0.01)
        self.deployed = [p.detach().clone() for p in self.actor]
        start = float(np.log(config.initial_temperature))
        self.log_temperature = torch.full((count, 1), start, requires_grad=True)
        self.target_entropy = config.target_entropy * action_dim
        bounds = torch.from_numpy(value_bounds.astype(np.float32)) * config.value_scale
        self.low, self.high = bounds[:, None].unbind(-1)
        self.critic_optimiser = adam(self.critic, config.learning_rate)
        self.actor_optimiser = adam(self.actor, config.learning_rate)
        self.temperature_optimiser = adam([self.log_temperature], config.temperature_rate)

    def act(self, observation: Tensor) -> Tensor:
        """Sampled actions [policies, batch, action_dim] for normalised observations."""
        with torch.no_grad():
            seen = with_relations(observation, self._relations)
            return squashed_gaussian(self.actor, seen, self.generator)[0]

    def values(self, critic: list[Tensor], observation: Tensor, action: Tensor) -> Tensor:
        """Every critic's value [policies, critics, batch]; ``observation`` with its relations."""
        inputs = torch.cat([with_waves(observation, self.config.frequencies), action], -1)
        inputs = inputs.repeat_interleave(self.config.critics, 0)
        values = mlp(critic, inputs, layer_norm=True)
        return values.view(len(self.policies), self.config.critics, -1)

    def value(self, observation: Tensor) -> Tensor:
        """Least critic's value [policies, batch] of the mean action, without random numbers."""
        with torch.no_grad():
            seen = with_relations(observation, self._relations)
            mean, _ = mlp(self.actor, seen).chunk(2, -1)
            value = self.values(self.critic, seen, torch.tanh(mean)).amin(1)
            return value / self.config.value_scale

    def update(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One gradient step of critics, policies and temperatures; metrics [policies].

        ``batch``: observation, next_observation [policies, batch, O] (normalised), action
        [policies, batch, A], reward, discount (0 where terminated) and bound (a return that was
        attained from there) [policies, batch], and clone [policies, demonstrations]: how much
        each of the leading rows is to be imitated.
        """
        observation = with_relations(batch['observation'], self._relations)
        action = batch['action']
        with torch.no_grad():
            next_observation = with_relations(batch['next_observation'], self._relations)
            following, _, _ = squashed_gaussian(self.actor, next_observation, self.generator)
            bootstrap = self.values(self.target, next_observation, following).amin(1)
            scale = self.config.value_scale
            target = scale * batch['reward'] + batch['discount'] * bootstrap
            target = torch.minimum(torch.maximum(target, self.low), self.high)
            # what has been attained can be attained again (He et al. 2017, optimality tightening)
            target = torch.maximum(target, scale * batch['bound'])
        error = self.values(self.critic, observation, action) - target[:, None]
        critic_loss = error.square().mean((1, 2))
        descend(self.critic_optimiser, critic_loss.sum())

        proposal, log_prob, mean = squashed_gaussian(self.actor, observation, self.generator)
        value = self.values(self.critic, observation, proposal).amin(1)
        temperature = self.log_temperature.detach().exp()
        actor_loss = (temperature * log_prob - value).mean(-1)
        if self.config.cloning_weight > 0 and batch['clone'].shape[-1]:
            actor_loss = actor_loss + self.config.cloning_weight * self._cloning_loss(batch, mean)
        descend(self.actor_optimiser, actor_loss.sum())

        surplus = (log_prob + self.target_entropy).detach().mean(-1, keepdim=True)
        descend(self.temperature_optimiser, -(self.log_temperature * surplus).sum())
        with torch.no_grad():
            torch._foreach_lerp_(self.target, [p.detach() for p in self.critic], self.config.tau)
            average = self.config.deployed_tau
            torch._foreach_lerp_(self.deployed, [p.detach() for p in self.actor], average)
        return {
            'critic_loss': critic_loss.detach(),
            'value': value.detach().mean(-1) / self.config.value_scale,
            'entropy': -log_prob.detach().mean(-1),
            'temperature': temperature[:, 0],
        }

    @staticmethod
    def _cloning_loss(batch: Mapping[str, Tensor], mean: Tensor) -> Tensor:
        rows = batch['clone'].shape[-1]
        error = (mean[:, :rows] - batch['action'][:, :rows]).square().sum(-1)
        return (batch['clone'] * error).mean(-1)

    def policy_arrays(self) -> Arrays:
        """``NAME/LAYER/weight|bias`` of every policy and of the deployed forward policy."""
        arrays = layer_arrays(self.deployed, 0, 'deployed', self._relations)
        for index, name in enumerate(self.policies):
            arrays |= layer_arrays(self.actor, index, name, self._relations)
        return arrays

    def state_arrays(self) -> Arrays:
        """Everything that an exact resume needs."""
        arrays = generator_arrays('sac', self.generator)
        for name, tensors in self._groups().items():
            arrays |= tensor_arrays(f'sac/{name}', tensors)
        return arrays

    def load_state_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Inverse of :meth:`state_arrays`."""
        for name, tensors in self._groups().items():
            load_tensors(f'sac/{name}', tensors, arrays)
        load_generator('sac', self.generator, arrays)

    def _groups(self) -> dict[str, list[Tensor]]:
        return {
            'critic': self.critic,
            'target': self.target,
            'actor': self.actor,
            'deployed': self.deployed,
            'temperature': [self.log_temperature],
            'critic_adam': adam_tensors(self.critic_optimiser),
            'actor_adam': adam_tensors(self.actor_optimiser),
            'temperature_adam': adam_tensors(self.temperature_optimiser),
        }
