"""Soft actor-critic (Haarnoja et al. 2018) for the forward and the backward policy in one pass."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mbarl_ros.learning.networks import (
    backward,
    centre,
    forward,
    input_gradient,
    layer_arrays,
    squashed_gaussian,
    stacked_mlp,
    with_relations,
    with_waves,
)
from mbarl_ros.learning.state import (
    Adam,
    Arrays,
    generator_arrays,
    group_arrays,
    load_generator,
    load_groups,
)
from mbarl_ros.schema.agent import SacConfig


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
        sizes = [seen * (1 + 2 * config.fourier_features) + action_dim, *config.hidden, 1]
        self.critic = stacked_mlp(count * config.critics, sizes, self.generator)
        with torch.no_grad():
            centre(self.critic)
        self.target = [p.detach().clone() for p in self.critic]
        sizes = [seen, *config.hidden, 2 * action_dim]
        self.actor = stacked_mlp(count, sizes, self.generator, last_scale=0.01)
        self.deployed = [p.detach().clone() for p in self.actor]
        start = float(np.log(config.initial_temperature))
        self.log_temperature = torch.full((count, 1), start, requires_grad=True)
        self.target_entropy = config.target_entropy * action_dim
        bounds = torch.from_numpy(value_bounds.astype(np.float32)) * config.reward_scale
        self.low, self.high = bounds[:, None].unbind(-1)
        self.critic_optimiser = Adam(self.critic, config.learning_rate)
        self.actor_optimiser = Adam(self.actor, config.learning_rate)
        self.temperature_optimiser = Adam([self.log_temperature], config.temperature_learning_rate)

    @torch.no_grad()
    def act(self, observation: Tensor) -> Tensor:
        """Sampled actions [policies, batch, action_dim] for normalised observations."""
        seen = with_relations(observation, self._relations)
        return self._act(seen)

    def _act(self, seen: Tensor) -> Tensor:
        return squashed_gaussian(forward(self.actor, seen, 'relu'), self.generator)[0]

    @torch.no_grad()
    def value(self, observation: Tensor) -> Tensor:
        """Least critic's value [policies, batch] of the mean action, without random numbers."""
        seen = with_relations(observation, self._relations)
        mean, _ = forward(self.actor, seen, 'relu').chunk(2, -1)
        waves = with_waves(seen, self.config.fourier_features)
        value = self._values(self.critic, waves, torch.tanh(mean)).amin(1)
        return value / self.config.reward_scale

    @torch.no_grad()
    def update(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One gradient step of critics, policies and temperatures; metrics [policies].

        ``batch``: observation, next_observation [policies, batch, O] (normalised), action
        [policies, batch, A], reward, discount (0 where terminated) and bound (a return that was
        attained from there) [policies, batch], and clone [policies, demonstrations]: how much
        each of the leading rows is to be imitated.
        """
        seen = with_relations(batch['observation'], self._relations)
        waves = with_waves(seen, self.config.fourier_features)
        following = with_relations(batch['next_observation'], self._relations)
        metrics = {'critic_loss': self._critic_step(batch, waves, following)}
        metrics |= self._actor_step(batch, seen, waves)
        torch._foreach_lerp_(self.target, self.critic, self.config.tau)
        torch._foreach_lerp_(self.deployed, self.actor, self.config.deployed_tau)
        return metrics

    def _critic_step(self, batch: Mapping[str, Tensor], waves: Tensor, next_seen: Tensor) -> Tensor:
        scale = self.config.reward_scale
        following = self._act(next_seen)
        next_waves = with_waves(next_seen, self.config.fourier_features)
        bootstrap = self._values(self.target, next_waves, following).amin(1)
        target = scale * batch['reward'] + batch['discount'] * bootstrap
        target = torch.minimum(torch.maximum(target, self.low), self.high)
        # what was attained can be attained again (He et al. 2017, optimality tightening)
        target = torch.maximum(target, scale * batch['bound'])
        tape: list = []
        error = self._values(self.critic, waves, batch['action'], tape) - target[:, None]
        slope = error * (2.0 / error[0].numel())  # of the sum of each policy's mean square
        gradients = backward(self.critic, tape, slope.flatten(0, 1)[..., None], 'norm_relu')
        self.critic_optimiser.step(gradients)
        centre(self.critic)
        return error.square().mean((1, 2))

    def _actor_step(
        self, batch: Mapping[str, Tensor], seen: Tensor, waves: Tensor
    ) -> dict[str, Tensor]:
        tape: list = []
        output = forward(self.actor, seen, 'relu', tape).requires_grad_()
        temperature = self.log_temperature.exp()
        with torch.enable_grad():
            proposal, log_prob = squashed_gaussian(output, self.generator)
            value, slope = self._value_and_slope(waves, proposal.detach())
            # its gradient is that of the value
            linear_value = (slope * proposal).sum(-1)
            loss = (temperature * log_prob - linear_value).mean(-1)
            if self.config.cloning_weight > 0 and batch['clone'].shape[-1]:
                loss = loss + self.config.cloning_weight * self._cloning_loss(batch, output)
            (gradient,) = torch.autograd.grad(loss.sum(), output)
        self.actor_optimiser.step(backward(self.actor, tape, gradient, 'relu'))
        entropy = -log_prob.detach().mean(-1)
        # gradient of -log_temperature * (mean log-probability + target entropy)
        self.temperature_optimiser.step([(entropy - self.target_entropy)[:, None]])
        return {
            'value': value.mean(-1) / self.config.reward_scale,
            'entropy': entropy,
            'temperature': temperature[:, 0],
        }

    def _values(
        self, critic: list[Tensor], waves: Tensor, action: Tensor, tape: list | None = None
    ) -> Tensor:
        """Every critic's value [policies, critics, batch]."""
        inputs = torch.cat([waves, action], -1)
        inputs = inputs[:, None].expand(-1, self.config.critics, -1, -1).flatten(0, 1)
        values = forward(critic, inputs, 'norm_relu', tape)
        return values.view(len(self.policies), self.config.critics, -1)

    @torch.no_grad()
    def _value_and_slope(self, waves: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """The least of the critics' values [policies, batch] and its gradient by the action."""
        tape: list = []
        values = self._values(self.critic, waves, action, tape)
        value, least = values.min(1, keepdim=True)
        chosen = torch.zeros_like(values).scatter_(1, least, 1.0)
        slope = input_gradient(
            self.critic, tape, chosen.flatten(0, 1)[..., None], 'norm_relu', action.shape[-1]
        )
        slope = slope.unflatten(0, (len(self.policies), -1)).sum(1)
        return value[:, 0], slope

    @staticmethod
    def _cloning_loss(batch: Mapping[str, Tensor], output: Tensor) -> Tensor:
        rows = batch['clone'].shape[-1]
        mean = torch.tanh(output[:, :rows].chunk(2, -1)[0])
        error = (mean - batch['action'][:, :rows]).square().sum(-1)
        return (batch['clone'] * error).mean(-1)

    def policy_arrays(self) -> Arrays:
        """``NAME/LAYER/weight|bias`` of every policy and of the deployed forward policy."""
        arrays = layer_arrays(self.deployed, 0, 'deployed', self._relations)
        for index, name in enumerate(self.policies):
            arrays |= layer_arrays(self.actor, index, name, self._relations)
        return arrays

    def state_arrays(self) -> Arrays:
        """Everything that an exact resume needs."""
        return generator_arrays('sac', self.generator) | group_arrays('sac', self._groups())

    def load_state_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Inverse of :meth:`state_arrays`."""
        load_groups('sac', self._groups(), arrays)
        load_generator('sac', self.generator, arrays)

    def _groups(self) -> dict[str, list[Tensor]]:
        return {
            'critic': self.critic,
            'target': self.target,
            'actor': self.actor,
            'deployed': self.deployed,
            'temperature': [self.log_temperature],
            'critic_adam': self.critic_optimiser.tensors(),
            'actor_adam': self.actor_optimiser.tensors(),
            'temperature_adam': self.temperature_optimiser.tensors(),
        }
