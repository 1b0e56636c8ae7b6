"""Soft actor-critic (Haarnoja et al. 2018) for the forward and the backward policy in one pass."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mbarl_ros.control.model import CRITICS
from mbarl_ros.learning.batch import Batch
from mbarl_ros.learning.clones import Clones
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

CERTAIN = 0.5  # certainty of the clone from which on it counts in the critics' targets
WARM_UP = 2000  # steps of the critics until their word counts in full
INITIAL_LOG_STD = -1.5  # of a policy that begins as the clone, before tanh


class Sac:
    """Policies, twin (or more) critics, targets and temperatures, stacked along ``policies``.

    Differences from the paper, all for steadiness on sparse rewards: layer norm in the critics
    and no entropy in the critic's target (Ball et al. 2023); targets clipped to the range that
    returns can have, and from below to returns that were demonstrated (He et al. 2017); Fourier
    features for the critics; and the policies hold on to clones of the demonstrations
    where they know no better, and are valued as if they did (IBRL, Hu et al. 2023). ``deployed`` is
    a Polyak average of the policies.
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
        clones: Clones | None = None,
    ) -> None:
        """New networks.

        :param pairwise_differences: [pairs, observation_dim], see :class:`mbarl_ros.task.Task`
        :param return_range: [policies, 2], the lowest and highest return
        :param reward_scale: critics see rewards times this
        :param clones: which the policies begin as and hold on to
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
        self._clones = clones
        if clones is not None:
            self._begin_as(clones)
        self.deployed = [p.detach().clone() for p in self.actor]
        initial = float(np.log(config.initial_temperature))
        self.log_temperature = torch.full((count, 1), initial, requires_grad=True)
        self.target_entropy = config.target_entropy * action_dim
        limits = torch.from_numpy(return_range.astype(np.float32)) * self.reward_scale
        self.lowest_return, self.highest_return = limits[:, None].unbind(-1)
        self.critic_optimiser = Adam(self.critic, config.learning_rate)
        self.actor_optimiser = Adam(self.actor, config.learning_rate)
        self.temperature_optimiser = Adam([self.log_temperature], config.temperature_learning_rate)

    @torch.no_grad()
    def _begin_as(self, clones: Clones) -> None:
        """Let the policies begin as their clones."""
        actions = clones.parameters[-1].shape[-1]
        own = [parameter[: clones.count] for parameter in self.actor]
        torch._foreach_copy_(own[:-2], clones.parameters[:-2])
        torch._foreach_copy_([p[..., :actions] for p in own[-2:]], clones.parameters[-2:])
        own[-1][..., actions:] = INITIAL_LOG_STD

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
            torch._foreach_lerp_(self.target_critic, self.critic, self.config.tau)
        return {
            'critic_loss': critic_loss.detach(),
            **self._update_policies(inputs, features),
        }

    def _update_policies(self, inputs: Tensor, features: Tensor) -> dict[str, Tensor]:
        output = mlp(self.actor, inputs)
        action, log_prob = squashed_gaussian(output, self.generator)
        values = self.frozen_values(features, action)
        value = values.amin(1) if self.config.critics == 2 else values.mean(1)
        actor_loss = self.actor_loss(log_prob, value)
        if self._clones is not None:
            pull = self.clone_pull(self._clones, inputs, features, output, values)
            actor_loss = actor_loss + pull
        temperature, entropy = self.temperature, -log_prob.detach().mean(-1)
        loss = actor_loss.sum() + self.temperature_loss(entropy).sum()  # they share no parameters
        gradients = torch.autograd.grad(loss, [*self.actor, self.log_temperature])
        self.actor_optimiser.step(gradients[:-1])
        self.temperature_optimiser.step(gradients[-1:])
        with torch.no_grad():
            torch._foreach_lerp_(self.deployed, self.actor, self.config.deployed_tau)
        return {
            'value': value.detach().mean(-1) / self.reward_scale,
            'entropy': entropy,
            'temperature': temperature[:, 0],
        }

    @torch.no_grad()
    def td_target(self, batch: Batch) -> Tensor:
        """``r + discount * min_i Q'_i(s', a')``, a' ~ pi(s'), within its limits [policies, batch].

        The least of two critics, drawn where there are more (Chen et al. 2021, REDQ). The clone's
        action counts where it is known and worth more. Demonstrated returns bound the target from
        below: what was attained can be attained again (He et al. 2017, optimality tightening).
        """
        inputs, features = self._inputs(batch.next_observation)
        action = sample_action(mlp(self.actor, inputs), self.generator)
        two = torch.arange(2)
        if self.config.critics > 2:
            two = torch.randperm(self.config.critics, generator=self.generator)[:2]
        next_value = self.q_values(self.target_critic, features, action)[:, two].amin(1)
        if self._clones is not None:
            count = self._clones.count
            action, certainty = self._clones.act(inputs[:count])
            cloned = self._cloned_values(self.target_critic, features, action)[:, two].amin(1)
            better = (certainty > CERTAIN) & (cloned > next_value[:count])
            next_value[:count] = torch.where(better, cloned, next_value[:count])
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
        :param value: [policies, batch], the least of the critics' values of these actions
        """
        return (self.temperature * log_prob - value).mean(-1)

    def clone_pull(
        self, clones: Clones, inputs: Tensor, features: Tensor, output: Tensor, values: Tensor
    ) -> Tensor:
        """Weighted squared distance of the policies' mean actions from their clones' [policies].

        It counts where the clone is certain and not every critic prefers the policy: the choice of
        IBRL (Hu et al. 2023) as a pull, so that the policy is as good as its clone where the
        critics err. What critics say at first, before they have learned anything, does not count.

        :param inputs: of the policies; ``features``: of the critics
        :param output: [policies, batch, 2 * action_dim] of the policies
        :param values: [policies, critics, batch] of the policies' sampled actions
        """
        count = clones.count
        action, certainty = clones.act(inputs[:count])
        with torch.no_grad():
            cloned = self._cloned_values(self.critic, features, action)
            width = self.config.cloning_width * self.reward_scale
            doubt = torch.sigmoid((cloned - values[:count]).amax(1) / width)
            doubt.clamp_(min=1.0 - self.critic_optimiser.steps / WARM_UP)
        mean = torch.tanh(output[:count].chunk(2, -1)[0])
        pull = (certainty * doubt * (mean - action).square().sum(-1)).mean(-1)
        pull = functional.pad(pull, (0, len(output) - count))
        return self.config.cloning_weight * pull

    def _cloned_values(self, critic: list[Tensor], features: Tensor, action: Tensor) -> Tensor:
        """Values [clones, critics, batch] of actions [clones, batch, A], without gradient."""
        critics = self.config.critics
        own = [parameter.detach()[: len(action) * critics] for parameter in critic]
        with torch.no_grad():
            values = critic_mlp(own, features[: len(action)], action)
        return values.view(len(action), critics, -1)

    def temperature_loss(self, entropy: Tensor) -> Tensor:
        """Grows the temperature where the entropy is below its target [policies, 1] (eq. 18).

        As in the authors' code, the logarithm of the temperature stands for the temperature.
        """
        return self.log_temperature * (entropy - self.target_entropy)[:, None]

    def q_values(self, critic: list[Tensor], features: Tensor, action: Tensor) -> Tensor:
        """Each critic's value [policies, critics, batch]."""
        values = critic_mlp(critic, features, action)
        return values.view(len(self.policies), self.config.critics, -1)

    def frozen_values(self, features: Tensor, action: Tensor) -> Tensor:
        """:meth:`q_values` of the present critics, differentiable in the action only."""
        frozen = [parameter.detach() for parameter in self.critic]
        return self.q_values(frozen, features, action)

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
        return self.frozen_values(features, torch.tanh(mean)).amin(1) / self.reward_scale

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
