"""Probabilistic dynamics ensemble (Chua et al. 2018, Janner et al. 2019), shared by both policies.

Predicts the normalised change of the state part and, for binary entries, a logit. Goals do not
move and are not modelled. Entries that a task lists twice are modelled once. Where the task's
reward is not a known function it is one more entry, binary where it has only been 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mbarl_ros.learning.networks import forward, mlp, stacked_mlp, with_relations, with_waves
from mbarl_ros.learning.state import (
    Adam,
    Arrays,
    descend,
    generator_arrays,
    load_generator,
    load_tensors,
    tensor_arrays,
)
from mbarl_ros.schema.agent import ModelConfig
from mbarl_ros.task import Task

MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -10.0, 1.0


class Ensemble:
    """``members`` networks in one stack; rollouts route each state to one of the elites."""

    def __init__(self, task: Task, config: ModelConfig, seed: int) -> None:
        """Fresh networks, nothing is trusted before the first :meth:`fit`."""
        self.config = config
        self._task = task
        names = [entry.name for entry in task.config.observation]
        # `attached` of the tabletop is listed twice: model the first, copy it to the second
        self.index = np.array([i for i, name in enumerate(names) if names.index(name) == i])
        self._expand = np.array([list(self.index).index(names.index(name)) for name in names])
        # an unknown reward is an entry that starts from 0 and has no limits
        self._rewarded = not task.reward_known
        extra = [0.0] * self._rewarded
        self._binary = torch.tensor([*task.binary[self.index], *extra], dtype=torch.bool)
        self._low = torch.tensor([*task.state_low[self.index], *([-math.inf] * self._rewarded)])
        self._high = torch.tensor([*task.state_high[self.index], *([math.inf] * self._rewarded)])
        self._offset = torch.from_numpy(task.offset[self.index])
        self._scale = torch.from_numpy(task.scale[self.index])
        self.generator = torch.Generator().manual_seed(seed)
        self._relations = torch.from_numpy(task.state_relations[:, self.index])
        seen = sum(self._relations.shape)
        sizes = [
            seen * (1 + 2 * config.fourier_features) + task.action_dim,
            *config.hidden,
            2 * len(self._binary),
        ]
        self._parameters = stacked_mlp(config.members, sizes, self.generator)
        self._optimiser = Adam(self._parameters, config.learning_rate, weight_decay=1e-5)
        self._change_scale = torch.ones(len(self._binary))
        self.elites = torch.arange(config.elites)
        self._elect()
        self.fits = 0
        # share of each entry's change (binary: of its information) that is NOT explained
        self.error = np.ones(len(self._binary), np.float32)

    def fit(
        self, train: Mapping[str, np.ndarray], held_out: Mapping[str, np.ndarray], steps: int
    ) -> dict[str, float]:
        """Up to ``steps`` gradient steps from the present weights; early stop on held-out data.

        Arguments are transitions (``observation``, ``action``, ``next_observation`` and, where it
        is not known, ``reward``); metrics are the held-out error of every entry, 0 = perfect,
        1 = as bad as predicting the mean.
        """
        inputs, change, following = self._tensors(train)
        self._change_scale.copy_(change.std(0).clamp(min=1e-4))
        if self._rewarded:
            rewards = change[:, -1]
            self._reward_is_binary(bool(((rewards == 0) | (rewards == 1)).all()))
        target = self._target(change, following)
        best, bad, done = np.inf, 0, 0
        while done < steps and bad < 3:
            for _ in range(min(self.config.holdout_interval, steps - done)):
                shape = (self.config.members, self.config.batch_size)
                rows = torch.randint(len(inputs), shape, generator=self.generator)
                loss = self._loss(inputs[rows], target[rows])
                descend(self._optimiser, loss.mean(-1).sum())
                done += 1
            score = self._evaluate(held_out)
            best, bad = (score, 0) if score < 0.99 * best else (best, bad + 1)
        self.fits += 1
        names = [self._task.config.observation[i].name for i in self.index]
        names += ['reward'] * self._rewarded
        metrics = {
            f'model/error/{name}': float(e) for name, e in zip(names, self.error, strict=True)
        }
        return {**metrics, 'model/steps': float(done)}

    @torch.no_grad()
    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Sampled next states [n, state_dim] (physical units), each from one random elite.

        And rewards [n], zero where the task knows its reward function.

        ``n`` must be a multiple of the number of elites: a random permutation routes equal
        shares, which is 5 to 10 times cheaper than evaluating every member for every state.
        """
        order = torch.randperm(len(state), generator=self.generator)
        state = state[order][:, self.index]
        inputs = self._inputs(state, action[order]).unflatten(0, (len(self.elites), -1))
        output = forward(self._elected, inputs, 'silu')
        mean, log_variance = self._head(output.flatten(0, 1))
        noise = torch.randn(mean.shape, generator=self.generator)
        change = (mean + (0.5 * log_variance).exp() * noise) * self._change_scale
        uniform = torch.rand(mean.shape, generator=self.generator)
        flag = torch.where(uniform < torch.sigmoid(mean), self._high, self._low)
        moved = (self._extended(state) + change).clamp(self._low, self._high)
        following = torch.empty_like(moved)
        following[order] = torch.where(self._binary, flag, moved)
        reward = following[:, -1] if self._rewarded else torch.zeros(len(state))
        return following[:, self._expand], reward

    def _extended(self, state: Tensor, reward: Tensor | None = None) -> Tensor:
        """States with the entry of the reward, where there is one: 0 before the step."""
        if not self._rewarded:
            return state
        return torch.cat([state, torch.zeros(len(state), 1) if reward is None else reward], 1)

    def _reward_is_binary(self, binary: bool) -> None:
        self._binary[-1] = binary
        self._low[-1], self._high[-1] = (0.0, 1.0) if binary else (-math.inf, math.inf)

    def _elect(self) -> None:
        """Copy the elites' weights, which :meth:`step` uses until the next fit."""
        self._elected = [p.detach()[self.elites] for p in self._parameters]

    def _target(self, change: Tensor, following: Tensor) -> Tensor:
        """Scaled changes, and of binary entries 1 where the value is the high one."""
        label = (following > (self._low + self._high) / 2).float()
        return torch.where(self._binary, label, change / self._change_scale)

    def _loss(self, inputs: Tensor, target: Tensor) -> Tensor:
        """Negative log-likelihood [members, batch]."""
        mean, log_variance = self._head(mlp(self._parameters, inputs, 'silu'))
        error = (mean - target).square()
        # beta-NLL (Seitzer et al. 2022) with beta 1: else rows that are sure (a robot that leans
        # against a wall does not move) drown the gradient of all others
        weight = log_variance.detach().exp()
        gaussian = weight * (error * (-log_variance).exp() + log_variance)
        bernoulli = functional.softplus(mean) - target * mean
        return torch.where(self._binary, bernoulli, gaussian).sum(-1)

    def _head(self, output: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = output.chunk(2, -1)
        # soft bounds: outside the data the variance must neither explode nor vanish
        log_variance = MAX_LOG_VARIANCE - functional.softplus(MAX_LOG_VARIANCE - raw)
        log_variance = MIN_LOG_VARIANCE + functional.softplus(log_variance - MIN_LOG_VARIANCE)
        return mean, log_variance

    def _evaluate(self, held_out: Mapping[str, np.ndarray]) -> float:
        """Mean held-out error; chooses the elites and updates ``error``.

        Squared error, not likelihood, as in MBPO's code: the likelihood of an entry that hardly
        changes outweighs all others.
        """
        inputs, change, following = self._tensors(held_out)
        with torch.no_grad():
            stacked = inputs.expand(self.config.members, -1, -1)
            mean, _ = self._head(forward(self._parameters, stacked, 'silu'))
            target = self._target(change, following)
            rate = target.mean(0)
            spread = (target - rate).square().mean(0).clamp(min=1e-3)
            chance = (rate * (1 - rate)).clamp(min=1e-2)
            flag = (torch.sigmoid(mean) - target).square().mean(1) / chance
            moved = (mean - target).square().mean(1) / spread
            error = torch.where(self._binary, flag, moved)
            order = error.mean(-1).argsort()[: self.config.elites]
            self.elites.copy_(order.sort().values)
            self._elect()
            self.error = error[self.elites].mean(0).numpy()
        return float(self.error.mean())

    def _tensors(self, rows: Mapping[str, np.ndarray]) -> tuple[Tensor, Tensor, Tensor]:
        state = torch.from_numpy(rows['observation'][:, self.index])
        reward = torch.from_numpy(rows['reward'])[:, None] if self._rewarded else None
        following = torch.from_numpy(rows['next_observation'][:, self.index])
        following = self._extended(following, reward)
        inputs = self._inputs(state, torch.from_numpy(rows['action']))
        return inputs, following - self._extended(state), following

    def _inputs(self, state: Tensor, action: Tensor) -> Tensor:
        scaled = with_relations((state - self._offset) / self._scale, self._relations)
        return torch.cat([with_waves(scaled, self.config.fourier_features), action], -1)

    def state_arrays(self) -> Arrays:
        """Everything that an exact resume needs."""
        arrays = generator_arrays('model', self.generator)
        arrays |= tensor_arrays('model/network', self._parameters)
        arrays |= tensor_arrays('model/adam', self._optimiser.tensors())
        arrays |= tensor_arrays('model/normaliser', [self._change_scale, self.elites])
        arrays['model/error'] = self.error.copy()
        arrays['model/binary'] = self._binary.numpy().copy()
        arrays['model/fits'] = np.array(self.fits)
        return arrays

    def load_state_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Inverse of :meth:`state_arrays`."""
        load_tensors('model/network', self._parameters, arrays)
        load_tensors('model/adam', self._optimiser.tensors(), arrays)
        load_tensors('model/normaliser', [self._change_scale, self.elites], arrays)
        self._elect()
        if self._rewarded:
            self._reward_is_binary(bool(arrays['model/binary'][-1]))
        load_generator('model', self.generator, arrays)
        self.error = np.array(arrays['model/error'])
        self.fits = int(arrays['model/fits'])
