"""Soft actor-critic (Haarnoja et al. 2018) for the forward and the backward policy in one pass."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from mbarl_ros.control.model import CRITICS
from mbarl_ros.learning.batch import Batch
from mbarl_ros.learning.clones import Cloned, Clones
from mbarl_ros.learning.critic_mlp import (
    CriticTape,
    action_gradient,
    centre,
    feature_sums,
    parameter_gradients,
    values,
)
from mbarl_ros.learning.imitation import policy_mean, regress
from mbarl_ros.learning.networks import (
    CPU,
    Generators,
    Tape,
    generator_on,
    layer_arrays,
    mlp,
    mlp_gradients,
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
        device: torch.device = CPU,
    ) -> None:
        """New networks.

        :param pairwise_differences: [pairs, observation_dim], see :class:`mbarl_ros.task.Task`
        :param return_range: [policies, 2], the lowest and highest return
        :param reward_scale: critics see rewards times this
        :param clones: which the policies begin as and hold on to; on the same device
        :param device: of the networks; public methods take and return tensors of the processor,
            :meth:`update` those of the device
        """
        self.config, self.reward_scale = config, reward_scale
        self.policies, self.device, self.seeds = policies, device, 1
        generator = torch.Generator().manual_seed(seed)  # the same networks on any device
        self._pairwise_differences = torch.from_numpy(pairwise_differences).to(device)
        count, entries = len(policies), sum(pairwise_differences.shape)
        features = entries * (1 + 2 * config.fourier_features)
        sizes = [features + action_dim, *config.hidden, 1]
        self.critic = stacked_mlp(count * config.critics, sizes, generator, device=device)
        with torch.no_grad():
            centre(self.critic)
        self.target_critic = [p.detach().clone() for p in self.critic]
        sizes = [entries, *config.hidden, 2 * action_dim]
        self.actor = stacked_mlp(count, sizes, generator, last_scale=0.01, device=device)
        self.generator: Generators = generator_on(device, seed, generator)
        self.clones = clones
        if clones is not None:
            self._begin_as(clones)
        self.deployed = [p.detach().clone() for p in self.actor]
        initial = float(np.log(config.initial_temperature))
        self.log_temperature = torch.full((count, 1), initial, device=device)
        self.target_entropy = config.target_entropy * action_dim
        limits = torch.from_numpy(return_range.astype(np.float32)).to(device) * self.reward_scale
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

    @torch.no_grad()
    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One gradient step of critics, policies and temperatures; metrics [policies] each."""
        observations = torch.stack([batch.observation, batch.next_observation])
        (inputs, next_inputs), (features, next_features) = self._inputs(observations)
        shown, next_shown = self._cloned_actions(inputs, next_inputs)
        target = self._td_target(batch, next_inputs, next_features, next_shown)
        return {
            'critic_loss': self._update_critics(features, batch.action, target),
            **self._update_policies(inputs, features, shown),
        }

    def _update_critics(self, features: Tensor, action: Tensor, target: Tensor) -> Tensor:
        """Step on the mean squared TD error, which it returns (Haarnoja et al., eq. 5)."""
        tape = CriticTape()
        value = values(self.critic, feature_sums(self.critic, features), action, tape)
        error = self._by_policy(value) - target[:, None]
        gradient = error.flatten(0, 1) * (2.0 / error[0].numel())
        gradients = parameter_gradients(self.critic, tape, features, action, gradient)
        self.critic_optimiser.step(gradients)
        centre(self.critic)
        torch._foreach_lerp_(self.target_critic, self.critic, self.config.tau)
        return error.square().mean((1, 2))

    def _update_policies(
        self, inputs: Tensor, features: Tensor, shown: Cloned | None
    ) -> dict[str, Tensor]:
        """Step on ``E[temperature * log pi(a|s) - min_i Q_i(s, a)]`` and the pull of the clones.

        Haarnoja et al., eq. 7; of more than two critics the mean counts (Chen et al. 2021). The
        temperature grows where the entropy is below its target (eq. 18); as in the authors' code,
        its logarithm stands for it.
        """
        tape = Tape()
        output = mlp(self.actor, inputs, tape=tape)
        sample = squashed_gaussian(output, self.generator)
        sums, of_critics = feature_sums(self.critic, features), CriticTape()
        each = self._by_policy(values(self.critic, sums, sample.action, of_critics))
        batch = each.shape[-1]
        if self.config.critics == 2:
            value = each.amin(1)
            counts = (each == value[:, None]).float()
        else:
            value = each.mean(1)
            counts = torch.full_like(each, 1.0 / self.config.critics)
        slope = action_gradient(
            self.critic, of_critics, counts.flatten(0, 1) / -batch, sample.action.shape[-1]
        )
        temperature = self.temperature
        of_action = slope.unflatten(0, (len(each), -1)).sum(1)
        gradient = sample.gradient(of_action, temperature[..., None] / batch)
        if shown is not None:
            pull = self._clone_pull(shown, output, each, sums)
            pulled = self._cloned_part(gradient)[..., : pull.shape[-1]]
            pulled += pull.view_as(pulled)
        self.actor_optimiser.step(mlp_gradients(self.actor, tape, gradient))
        entropy = -sample.log_prob.mean(-1)
        self.temperature_optimiser.step([(entropy - self.target_entropy)[:, None]])
        torch._foreach_lerp_(self.deployed, self.actor, self.config.deployed_tau)
        return {
            'value': value.mean(-1) / self.reward_scale,
            'entropy': entropy,
            'temperature': temperature[:, 0],
        }

    def _td_target(
        self, batch: Batch, inputs: Tensor, features: Tensor, shown: Cloned | None
    ) -> Tensor:
        """``r + discount * min_i Q'_i(s', a')``, a' ~ pi(s'), within its limits [policies, batch].

        The least of two critics, drawn where there are more (Chen et al. 2021, REDQ). The clone's
        action counts where it is known and worth more. Demonstrated returns bound the target from
        below: what was attained can be attained again (He et al. 2017, optimality tightening).

        :param inputs: of the policies in the next states; ``features``: of the critics
        :param shown: what the clones would do there
        """
        action = sample_action(mlp(self.actor, inputs), self.generator)
        sums = feature_sums(self.target_critic, features)
        each = self._by_policy(values(self.target_critic, sums, action))
        drawn = self._drawn_critics()
        next_value = _least(each, drawn)
        if shown is not None:
            own = self._cloned_part(next_value)
            of_clones = None if drawn is None else self._rows_with_clone(drawn)
            cloned = self._cloned_values(self.target_critic, sums, shown.action)
            cloned = _least(cloned, of_clones).view_as(own)
            better = (shown.certainty.view_as(own) > CERTAIN) & (cloned > own)
            own.copy_(torch.where(better, cloned, own))
        target = self.reward_scale * batch.reward + batch.discount * next_value
        target = target.clamp(self.lowest_return, self.highest_return)
        return target.maximum(self.reward_scale * batch.return_lower_bound)

    def _cloned_actions(self, *inputs: Tensor) -> list[Cloned] | list[None]:
        """What the clones would do for each of the inputs, if there are clones."""
        if self.clones is None:
            return [None] * len(inputs)
        rows = [self._rows_with_clone(each) for each in inputs]
        sizes = [each.shape[1] for each in rows]
        parts = [part.split(sizes, 1) for part in self.clones.act(torch.cat(rows, 1))]
        return [Cloned(*part) for part in zip(*parts, strict=True)]

    def _clone_pull(self, shown: Cloned, output: Tensor, each: Tensor, sums: Tensor) -> Tensor:
        """Gradient [clones, batch, A] of the pull on the means of the policies, before tanh.

        The pull is the weighted squared distance of the policies' mean actions from their clones'.
        It counts where the clone is certain and not every critic prefers the policy: the choice of
        IBRL (Hu et al. 2023) as a pull, so that the policy is as good as its clone where the
        critics err. What critics say at first, before they have learned anything, does not count.

        :param output: [policies, batch, 2 * action_dim] of the policies
        :param each: [policies, critics, batch], values of the policies' sampled actions
        :param sums: of the features in the critics
        """
        _, batch, actions = shown.action.shape
        cloned = self._cloned_values(self.critic, sums, shown.action)
        width = self.config.cloning_width * self.reward_scale
        doubt = torch.sigmoid((cloned - self._rows_with_clone(each)).amax(1) / width)
        doubt.clamp_(min=1.0 - self.critic_optimiser.steps / WARM_UP)
        weight = shown.certainty * doubt * (2.0 * self.config.cloning_weight / batch)
        mean = torch.tanh(self._rows_with_clone(output)[..., :actions])
        return weight[..., None] * (mean - shown.action) * (1.0 - mean.square())

    def _cloned_values(self, critic: list[Tensor], sums: Tensor, action: Tensor) -> Tensor:
        """Values [clones, critics, batch] of actions [clones, batch, A]."""
        critics = self.config.critics
        parameters = [self._rows_with_clone(parameter, critics) for parameter in critic]
        return self._by_policy(values(parameters, self._rows_with_clone(sums, critics), action))

    def _cloned_part(self, stack: Tensor, each: int = 1) -> Tensor:
        """View of what belongs to policies with a clone, of a stack [policies * each, ...].

        The first ones of each seed; of several seeds the view has an axis more.
        """
        count, policies = self.clones.count * each, len(self.policies) // self.seeds * each
        if count == policies:
            return stack
        if self.seeds == 1:
            return stack[:count]
        return stack.unflatten(0, (self.seeds, policies))[:, :count]

    def _rows_with_clone(self, stack: Tensor, each: int = 1) -> Tensor:
        """As :meth:`_cloned_part`, [seeds * clones * each, ...]."""
        part = self._cloned_part(stack, each)
        return part if part.dim() == stack.dim() else part.flatten(0, 1)

    def _drawn_critics(self) -> Tensor | None:
        """Numbers of two critics for each policy [policies, 2]; None: there are no more."""
        critics = self.config.critics
        if critics == 2:
            return None
        generators = self.generator
        if isinstance(generators, torch.Generator):
            generators = [generators]
        drawn = [torch.randperm(critics, generator=g, device=g.device)[:2] for g in generators]
        return torch.stack(drawn).repeat_interleave(len(self.policies) // self.seeds, 0)

    def _by_policy(self, value: Tensor) -> Tensor:
        """[policies, critics, batch] of [policies * critics, batch]."""
        return value.unflatten(0, (-1, self.config.critics))

    def _inputs(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """What policies and what critics see of normalised observations."""
        inputs = with_pairwise_differences(observation, self._pairwise_differences)
        return inputs, with_fourier_features(inputs, self.config.fourier_features)

    @torch.no_grad()
    def act(self, observation: Tensor) -> Tensor:
        """Sampled actions [policies, batch, action_dim] for normalised observations."""
        observation = observation.to(self.device)
        inputs = with_pairwise_differences(observation, self._pairwise_differences)
        return sample_action(mlp(self.actor, inputs), self.generator).cpu()

    @torch.no_grad()
    def value(self, observation: Tensor) -> Tensor:
        """Least critic's value [policies, batch] of the mean action, without random numbers."""
        inputs, features = self._inputs(observation.to(self.device))
        mean, _ = mlp(self.actor, inputs).chunk(2, -1)
        return self._action_values(features, torch.tanh(mean)).amin(1).cpu()

    @torch.no_grad()
    def action_values(self, observation: Tensor, action: Tensor) -> Tensor:
        """Each critic's value [policies, critics, batch] of normalised observations and actions."""
        features = self._inputs(observation.to(self.device))[1]
        return self._action_values(features, action.to(self.device)).cpu()

    def _action_values(self, features: Tensor, action: Tensor) -> Tensor:
        value = values(self.critic, feature_sums(self.critic, features), action)
        return self._by_policy(value) / self.reward_scale

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
        observation, action = observation.to(self.device), action.to(self.device)
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
        assert isinstance(self.generator, torch.Generator)  # a seed's own
        return generator_arrays('sac', self.generator) | group_arrays('sac', self._groups())

    def load_state_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Inverse of :meth:`state_arrays`."""
        load_groups('sac', self._groups(), arrays)
        assert isinstance(self.generator, torch.Generator)
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


def _least(each: Tensor, drawn: Tensor | None) -> Tensor:
    """Least value [policies, batch] of all critics [policies, critics, batch], or of those drawn.

    :param drawn: numbers of critics [policies, 2]
    """
    if drawn is None:
        return each.amin(1)
    return each.gather(1, drawn[..., None].expand(-1, -1, each.shape[-1])).amin(1)
