"""Soft actor-critic (Haarnoja et al. 2018) for the forward and the backward policy in one pass."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mbarl_ros.control.model import CRITICS
from mbarl_ros.learning.batch import Batch
from mbarl_ros.learning.critic_mlp import centre, critic_mlp
from mbarl_ros.learning.imitation import policy_mean, regress
from mbarl_ros.learning.networks import (
    layer_arrays,
    mlp,
    sample_action,
    squashed_gaussian,
    stack_arrays,
    stacked_mlp,
    with_fourier_features,
    with_pairwise_differences,
)
from mbarl_ros.learning.optimiser import Adam
from mbarl_ros.learning.state_arrays import (
    Arrays,
    generator_arrays,
    group_arrays,
    load_generator,
    load_groups,
)
from mbarl_ros.schema.agent import SUCCESS_REWARD_SCALE, SacConfig


class Sac:
    """Policies, twin (or more) critics, targets and temperatures, stacked along ``policies``.

    Differences from the paper, all for steadiness on sparse rewards: layer norm in the critics
    and no entropy in the critic's target (Ball et al. 2023); targets clipped to the range that
    returns can have, and from below to returns that were attained (He et al. 2017); Fourier
    features for the critics; and behaviour cloning on demonstrated actions, which fades as
    practice goes on. ``deployed`` is a Polyak average of the policies.
    """

    def __init__(
        self,
        config: SacConfig,
        policies: tuple[str, ...],
        pairwise_differences: np.ndarray,
        action_dim: int,
        return_range: np.ndarray,
        seed: int,
        reward_scale: float = SUCCESS_REWARD_SCALE,
    ) -> None:
        """New networks.

        :param pairwise_differences: [pairs, observation_dim], see :class:`mbarl_ros.task.Task`
        :param return_range: [policies, 2], the lowest and highest return
        :param reward_scale: critics see rewards times this
        """
        self.config, self.reward_scale = config, reward_scale
        self.policies = policies
        self.generator = torch.Generator().manual_seed(seed)
        self._pairwise_differences = torch.from_numpy(pairwise_differences)
        count, entries = len(policies), sum(pairwise_differences.shape)
        features = entries * (1 + 2 * config.fourier_features)
        sizes = [features + action_dim, *config.hidden, 1]
        self.critic = stacked_mlp(count * config.critics, sizes, self.generator)
        with torch.no_grad():
            centre(self.critic)
        self.target_critic = [p.detach().clone() for p in self.critic]
        sizes = [entries, *config.hidden, 2 * action_dim]
        self.actor = stacked_mlp(count, sizes, self.generator, last_scale=0.01)
        self.deployed = [p.detach().clone() for p in self.actor]
        initial = float(np.log(config.initial_temperature))
        self.log_temperature = torch.full((count, 1), initial, requires_grad=True)
        self.target_entropy = config.target_entropy * action_dim
        limits = torch.from_numpy(return_range.astype(np.float32)) * self.reward_scale
        self.lowest_return, self.highest_return = limits[:, None].unbind(-1)
        self.critic_optimiser = Adam(self.critic, config.learning_rate)
        self.actor_optimiser = Adam(self.actor, config.learning_rate)
        self.temperature_optimiser = Adam([self.log_temperature], config.temperature_learning_rate)

    @property
    def temperature(self) -> Tensor:
        """[policies, 1], without gradient."""
        return self.log_temperature.detach().exp()

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step of critics, policies and temperatures; metrics [policies] each."""
        inputs, features = self._inputs(batch.observation)

        critic_loss = self.critic_loss(features, batch.action, self.td_target(batch))
        self.critic_optimiser.minimise(critic_loss.sum())
        with torch.no_grad():
            centre(self.critic)

        output = mlp(self.actor, inputs)
        action, log_prob = squashed_gaussian(output, self.generator)
        value = self.least_value(features, action)
        actor_loss = self.actor_loss(log_prob, value)
        if self.config.cloning_weight > 0 and batch.cloning_weight.shape[-1]:
            actor_loss = actor_loss + self.config.cloning_weight * cloning_loss(output, batch)
        temperature, entropy = self.temperature, -log_prob.detach().mean(-1)
        loss = actor_loss.sum() + self.temperature_loss(entropy).sum()  # they share no parameters
        gradients = torch.autograd.grad(loss, [*self.actor, self.log_temperature])
        self.actor_optimiser.step(gradients[:-1])
        self.temperature_optimiser.step(gradients[-1:])

        with torch.no_grad():
            torch._foreach_lerp_(self.target_critic, self.critic, self.config.tau)
            torch._foreach_lerp_(self.deployed, self.actor, self.config.deployed_tau)
        return {
            'critic_loss': critic_loss.detach(),
            'value': value.detach().mean(-1) / self.reward_scale,
            'entropy': entropy,
            'temperature': temperature[:, 0],
        }

    @torch.no_grad()
    def td_target(self, batch: Batch) -> Tensor:
        """``r + discount * min_i Q'_i(s', a')``, a' ~ pi(s'), within its limits [policies, batch].

        Attained returns bound it from below: what was attained can be attained again (He et al.
        2017, optimality tightening).
        """
        inputs, features = self._inputs(batch.next_observation)
        action = sample_action(mlp(self.actor, inputs), self.generator)
        next_value = self.q_values(self.target_critic, features, action).amin(1)
        target = self.reward_scale * batch.reward + batch.discount * next_value
        target = target.clamp(self.lowest_return, self.highest_return)
        return target.maximum(self.reward_scale * batch.return_lower_bound)

    def critic_loss(self, features: Tensor, action: Tensor, target: Tensor) -> Tensor:
        """Mean squared TD error over batch and critics [policies] (Haarnoja et al., eq. 5)."""
        error = self.q_values(self.critic, features, action) - target[:, None]
        return error.square().mean((1, 2))

    def actor_loss(self, log_prob: Tensor, value: Tensor) -> Tensor:
        """``E[temperature * log pi(a|s) - min_i Q_i(s, a)]`` [policies] (Haarnoja et al., eq. 7).

        :param log_prob: [policies, batch] of actions sampled from the policies
        :param value: [policies, batch], :meth:`least_value` of these actions
        """
        return (self.temperature * log_prob - value).mean(-1)

    def temperature_loss(self, entropy: Tensor) -> Tensor:
        """Grows the temperature where the entropy is below its target [policies, 1] (eq. 18).

        As in the authors' code, the logarithm of the temperature stands for the temperature.
        """
        return self.log_temperature * (entropy - self.target_entropy)[:, None]

    def q_values(self, critic: list[Tensor], features: Tensor, action: Tensor) -> Tensor:
        """Each critic's value [policies, critics, batch]."""
        values = critic_mlp(critic, features, action)
        return values.view(len(self.policies), self.config.critics, -1)

    def least_value(self, features: Tensor, action: Tensor) -> Tensor:
        """The least of the critics' values [policies, batch], differentiable in the action only."""
        frozen = [parameter.detach() for parameter in self.critic]
        return self.q_values(frozen, features, action).min(1).values

    def _inputs(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """What policies and what critics see of normalised observations."""
        inputs = with_pairwise_differences(observation, self._pairwise_differences)
        return inputs, with_fourier_features(inputs, self.config.fourier_features)

    @torch.no_grad()
    def act(self, observation: Tensor) -> Tensor:
        """Sampled actions [policies, batch, action_dim] for normalised observations."""
        inputs = with_pairwise_differences(observation, self._pairwise_differences)
        return sample_action(mlp(self.actor, inputs), self.generator)

    @torch.no_grad()
    def value(self, observation: Tensor) -> Tensor:
        """Least critic's value [policies, batch] of the mean action, without random numbers."""
        inputs, features = self._inputs(observation)
        mean, _ = mlp(self.actor, inputs).chunk(2, -1)
        return self.least_value(features, torch.tanh(mean)) / self.reward_scale

    def imitate(
        self,
        policy: int,
        observation: Tensor,
        action: Tensor,
        steps: int,
        generator: torch.Generator,
    ) -> float:
        """Fit one policy to actions [n, A] in normalised observations [n, O]; held-out error.

        The deployed policy follows where it is the average of this one.
        """
        inputs = with_pairwise_differences(observation, self._pairwise_differences)
        network = [p.detach()[policy : policy + 1].clone().requires_grad_() for p in self.actor]
        error = regress(policy_mean(network), network, inputs, action, generator, steps)
        with torch.no_grad():
            for stack in (self.actor, self.deployed):
                for parameter, fitted in zip(stack, network, strict=True):
                    parameter[policy] = fitted[0]
        return error

    def policy_arrays(self) -> Arrays:
        """``NAME/LAYER/weight|bias`` of every policy and of the deployed forward policy."""
        arrays = layer_arrays(self.deployed, 0, 'deployed', self._pairwise_differences)
        for index, name in enumerate(self.policies):
            arrays |= layer_arrays(self.actor, index, name, self._pairwise_differences)
        return arrays

    def critic_arrays(self) -> Arrays:
        """The forward policy's critics, for plans that end in a value."""
        first = self.config.critics
        return stack_arrays([p[:first] for p in self.critic], CRITICS)

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
            'target_critic': self.target_critic,
            'actor': self.actor,
            'deployed': self.deployed,
            'temperature': [self.log_temperature],
            'critic_adam': self.critic_optimiser.tensors(),
            'actor_adam': self.actor_optimiser.tensors(),
            'temperature_adam': self.temperature_optimiser.tensors(),
        }


def cloning_loss(output: Tensor, batch: Batch) -> Tensor:
    """Weighted squared error of the mean action on the leading, demonstrated rows [policies].

    :param output: [policies, batch, 2 * action_dim] of the policies
    """
    rows = batch.cloning_weight.shape[-1]
    mean = torch.tanh(output[:, :rows].chunk(2, -1)[0])
    error = (mean - batch.action[:, :rows]).square().sum(-1)
    return (batch.cloning_weight * error).mean(-1)
