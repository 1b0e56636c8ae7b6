"""Probabilistic dynamics ensemble (Chua et al. 2018, Janner et al. 2019), shared by both policies.

Predicts the normalised change of the state part and, for binary entries, a logit. Whether an entry
moves at all is predicted beside how far: what is not touched rests, and does not creep away in a
long rollout. Goals do not move and are not modelled. Entries that a task lists twice are modelled
once. Where the task's reward is not a known function it is one more entry, binary where it has only
been 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mbarl_ros.control.model import MODEL, ModelLayout
from mbarl_ros.learning.networks import (
    CPU,
    Tape,
    generator_on,
    mlp,
    mlp_gradients,
    stack_arrays,
    stacked_mlp,
    standard_normal,
    to_numpy,
    with_fourier_features,
    with_pairwise_differences,
)
from mbarl_ros.learning.optimiser import Adam
from mbarl_ros.learning.state_arrays import (
    Arrays,
    generator_arrays,
    load_generator,
    load_tensors,
    tensor_arrays,
)
from mbarl_ros.schema.model import ModelConfig
from mbarl_ros.task import Task

AT_REST = 0.02  # scaled change that counts as none
UNLIKELY = 0.05  # probability of a move, or of none, that counts as 0
MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -10.0, 1.0
RARE = 0.01  # share of real rows on which the elites may disagree more than usual
LEAST_VARIANCE = 0.1  # of held-out changes that errors are shares of; 1 is that of training rows
MIN_USUAL = 0.05  # disagreement that is never a surprise
MIN_HELD_OUT = 50  # rows from which on they tell how far the elites disagree
AS_GOOD = 1.01  # ratio of held-out errors
MAX_BAD_CHECKS = 3  # held-out checks in a row without an improvement of 1 % end a fit


def choose_elites(error: Tensor, elites: int) -> Tensor:
    """Numbers of the members with the least mean error, ascending, of errors [members, entries].

    More than 1 is worse than no prediction and counts as that: an entry that hardly changes, or
    only by chance, does not outweigh the others.
    """
    return error.clamp(max=1.0).mean(-1).argsort()[:elites].sort().values


class Outputs(NamedTuple):
    """What members predict [members, n, entries], of scaled changes.

    ``mean``: or the logit of a binary entry; ``moves``: logit of whether an entry changes at all.
    """

    mean: Tensor
    log_variance: Tensor
    moves: Tensor

    @property
    def probability(self) -> Tensor:
        """Of a move; what is unlikely is impossible: fifty steps would make it likely."""
        unlikely = UNLIKELY / (1.0 - 2.0 * UNLIKELY)
        return torch.sigmoid(self.moves).mul_(1.0 + 2.0 * unlikely).sub_(unlikely).clamp_(0.0, 1.0)

    def of_each(self, member: Tensor) -> Outputs:
        """Row i as predicted by member ``member[i]`` [n, entries]."""
        row = torch.arange(len(member))
        return Outputs(*(each[member, row] for each in self))


class Prediction(NamedTuple):
    """``state`` [n, state_dim] (physical units), ``reward`` [n], 0 where the task knows its own.

    ``surprise`` [n]: how far the elites disagree on it; 1 is rare where the robot has been.
    """

    state: Tensor
    reward: Tensor
    surprise: Tensor


class Ensemble:
    """``members`` networks in one stack; each imagined step is drawn from one of the elites."""

    def __init__(
        self, task: Task, config: ModelConfig, seed: int, device: torch.device = CPU
    ) -> None:
        """New networks on a device; ``error`` stays 1 until the first :meth:`fit`."""
        self.device = device
        self.config = config
        self._task = task
        layout = ModelLayout(task, config)
        self.index, self._expand = layout.index, layout.expand
        self._models_reward = layout.models_reward
        self._binary, self._low, self._high = map(
            self._tensor, (layout.binary, layout.low, layout.high)
        )
        self._offset, self._scale = map(self._tensor, (layout.offset, layout.scale))
        self._pairwise_differences = self._tensor(layout.pairwise_differences)
        generator = torch.Generator().manual_seed(seed)  # the same networks on any device
        self._parameters = stacked_mlp(config.members, layout.sizes, generator, device=device)
        self.generator = generator_on(device, seed, generator)
        self._optimiser = Adam(self._parameters, config.learning_rate, weight_decay=1e-5)
        entries = len(self._binary)
        self._change_scale = torch.ones(entries, device=device)
        self._usual = torch.full((entries,), MIN_USUAL, device=device)
        self.elites = torch.arange(config.elites, device=device)
        self._copy_elites()
        self.fits = 0
        # Share of each entry's change (binary: of its information) that is NOT explained.
        self.error = np.ones(len(self._binary), np.float32)

    def fit(
        self,
        train: Mapping[str, np.ndarray],
        held_out: Mapping[str, np.ndarray],
        steps: int,
        weights: np.ndarray | None = None,
    ) -> dict[str, float]:
        """Up to ``steps`` gradient steps from the present weights; keeps the best by held-out data.

        Arguments are transitions (``observation``, ``action``, ``next_observation`` and, where it
        is not known, ``reward``); metrics are the held-out error of every entry, 0 = perfect,
        1 = as bad as predicting the mean. Without held-out data it is unknown and counts as 1.

        :param weights: [train rows], of each row in a batch; None: all are drawn equally often
        """
        inputs, change, next_state = self._tensors(train)
        self._change_scale.copy_(change.std(0).clamp(min=1e-4))
        if self._models_reward:
            rewards = change[:, -1]
            self._set_reward_binary(bool(((rewards == 0) | (rewards == 1)).all()))
        target = self._target(change, next_state)
        best, bad_checks, done = self._validate(held_out), 0, 0
        kept = self._weights()
        while done < steps and bad_checks < MAX_BAD_CHECKS:
            for _ in range(min(self.config.holdout_interval, steps - done)):
                shape = (self.config.members, self.config.batch_size)
                rows = self._draw(len(inputs), shape, weights)
                self._optimiser.step(self._gradients(inputs[rows], target[rows]))
                done += 1
            score = self._validate(held_out)
            bad_checks = 0 if score < 0.99 * best else bad_checks + 1
            if score <= AS_GOOD * best:  # the newest of those: what is learned late shows late
                best, kept = min(score, best), self._weights()
        with torch.no_grad():
            torch._foreach_copy_(self._parameters, kept)
        self._validate(held_out)
        enough = len(held_out['observation']) >= MIN_HELD_OUT
        self._calibrate(held_out if enough else train)
        self.fits += 1
        names = [self._task.config.columns[i].name for i in self.index]
        names += ['reward'] * self._models_reward
        metrics = {
            f'model/error/{name}': float(e) for name, e in zip(names, self.error, strict=True)
        }
        return {**metrics, 'model/steps': float(done)}

    def _weights(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self._parameters]

    def _draw(self, rows: int, shape: tuple[int, int], weights: np.ndarray | None) -> Tensor:
        """Row numbers [members, batch] of one gradient step."""
        if weights is None:
            return torch.randint(rows, shape, generator=self.generator, device=self.device)
        # By the inverse of the cumulative weights: torch.multinomial walks all of them each time.
        cumulative = self._tensor(np.cumsum(weights, dtype=np.float64))
        uniform = self._uniform(shape, torch.float64)
        return torch.searchsorted(cumulative, uniform * cumulative[-1]).clamp_(max=rows - 1)

    @torch.no_grad()
    def _gradients(self, inputs: Tensor, target: Tensor) -> list[Tensor]:
        """Of the negative log-likelihood of each member's own batch [members, batch, entries].

        Of changes beta-NLL (Seitzer et al. 2022) with beta 1, ``sg(var) * ((mean - target)^2 / var
        + log var)``: without that weight rows that are certain (a robot that leans against a wall
        does not move) drown the gradient of all others. Only rows that moved tell how far. Of
        binary entries, and of whether others move, cross-entropy.
        """
        tape = Tape()
        output = mlp(self._parameters, inputs, 'silu', tape)
        mean, raw, moves = output.chunk(3, -1)
        log_variance, slope = _limited(raw)
        error, moved = mean - target, (target.abs() > AT_REST) & ~self._binary
        of_mean = torch.where(self._binary, torch.sigmoid(mean) - target, 2.0 * error * moved)
        of_raw = (log_variance.exp() - error.square()) * slope * moved
        of_moves = (torch.sigmoid(moves) - moved.float()) * ~self._binary
        gradient = torch.cat([of_mean, of_raw, of_moves], -1) / inputs.shape[1]
        return mlp_gradients(self._parameters, tape, gradient, 'silu')

    @torch.no_grad()
    def step(self, state: Tensor, action: Tensor) -> Prediction:
        """Sampled next states of ``state`` [n, state_dim], each from one random elite."""
        state = state[:, self.index].to(self.device)
        inputs = self._inputs(state, action.to(self.device))
        elites = len(self.elites)
        outputs = self._predict(self._elite_parameters, inputs.expand(elites, -1, -1))
        surprise = (self._disagreement(outputs) / self._usual).amax(-1)
        member = torch.randint(elites, (len(state),), generator=self.generator, device=self.device)
        drawn = outputs.of_each(member)
        noise = standard_normal(drawn.mean.shape, self.generator)
        change = (drawn.mean + (0.5 * drawn.log_variance).exp() * noise) * self._change_scale
        uniform = self._uniform(noise.shape)
        flag = torch.where(uniform < torch.sigmoid(drawn.mean), self._high, self._low)
        moved = self._extended(state) + change * (uniform < drawn.probability)
        moved = moved.clamp(self._low, self._high)
        next_state = torch.where(self._binary, flag, moved)
        reward = next_state[:, -1].cpu() if self._models_reward else torch.zeros(len(state))
        return Prediction(next_state[:, self._expand].cpu(), reward, surprise.cpu())

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _uniform(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device, dtype=dtype)

    def _disagreement(self, outputs: Outputs) -> Tensor:
        """Standard deviation [n, entries] of the elites' mean changes, or of flags' probabilities.

        What is only noise, such as a drifting sensor's, is no disagreement.
        """
        change = outputs.mean * outputs.probability
        means = torch.where(self._binary, torch.sigmoid(outputs.mean), change)
        return _variance(means).sqrt()

    @torch.no_grad()
    def _calibrate(self, rows: Mapping[str, np.ndarray]) -> None:
        """Learn how far the elites disagree on real rows that they were not trained on.

        Of each entry, the rest but for a share of :data:`RARE`; a surprise of 1 is then that rare
        where the robot has been.
        """
        inputs, *_ = self._tensors(rows)
        elites = len(self.elites)
        predicted = self._predict(self._elite_parameters, inputs.expand(elites, -1, -1))
        disagreement = self._disagreement(predicted)
        self._usual.copy_(torch.quantile(disagreement, 1.0 - RARE, dim=0).clamp(min=MIN_USUAL))
        surprise = (disagreement / self._usual).amax(-1)
        self._usual.mul_(torch.quantile(surprise, 1.0 - RARE).clamp(min=1.0))

    def _extended(self, state: Tensor, reward: Tensor | None = None) -> Tensor:
        """States and, where it is modelled, the reward entry: 0 before the step."""
        if not self._models_reward:
            return state
        return torch.cat([state, torch.zeros_like(state[:, :1]) if reward is None else reward], 1)

    def _set_reward_binary(self, binary: bool) -> None:
        self._binary[-1] = binary
        self._low[-1], self._high[-1] = (0.0, 1.0) if binary else (-math.inf, math.inf)

    def _copy_elites(self) -> None:
        """Copy the elites' weights, which :meth:`step` uses until the next fit."""
        self._elite_parameters = [p.detach()[self.elites] for p in self._parameters]

    def _target(self, change: Tensor, next_state: Tensor) -> Tensor:
        """Scaled changes, and of binary entries 1 where the value is the high one."""
        label = (next_state > (self._low + self._high) / 2).float()
        return torch.where(self._binary, label, change / self._change_scale)

    def _predict(self, parameters: list[Tensor], inputs: Tensor) -> Outputs:
        mean, raw, moves = mlp(parameters, inputs, 'silu').chunk(3, -1)
        return Outputs(mean, _limited(raw)[0], moves)

    @torch.no_grad()
    def _validate(self, held_out: Mapping[str, np.ndarray]) -> float:
        """Choose the elites on held-out rows and update ``error``; its mean, see choose_elites."""
        error = self._unexplained(held_out)
        self.elites.copy_(choose_elites(error, self.config.elites))
        self._copy_elites()
        self.error = to_numpy(error[self.elites].mean(0))
        return float(self.error.clip(max=1.0).mean())

    def _unexplained(self, rows: Mapping[str, np.ndarray]) -> Tensor:
        """Unexplained share [members, entries] of the variance of scaled changes and flags.

        1 where there are no rows to tell.

        Squared error, not likelihood, as in MBPO's code: the likelihood of an entry that hardly
        changes outweighs all others.
        """
        if not len(rows['observation']):
            return torch.ones(self.config.members, len(self._binary), device=self.device)
        inputs, change, next_state = self._tensors(rows)
        outputs = self._predict(self._parameters, inputs.expand(self.config.members, -1, -1))
        target = self._target(change, next_state)
        rate = target.mean(0)
        variance = (target - rate).square().mean(0).clamp(min=LEAST_VARIANCE)
        flag_variance = (rate * (1 - rate)).clamp(min=1e-2)
        flag_error = (torch.sigmoid(outputs.mean) - target).square().mean(1) / flag_variance
        # The smooth expectation: a rare move is not predicted for certain for a while.
        change = outputs.mean * torch.sigmoid(outputs.moves)
        change_error = (change - target).square().mean(1) / variance
        return torch.where(self._binary, flag_error, change_error)

    def _tensors(self, rows: Mapping[str, np.ndarray]) -> tuple[Tensor, Tensor, Tensor]:
        """Network inputs, changes and next states [n, ...] of transitions."""
        state = self._tensor(rows['observation'][:, self.index])
        reward = self._tensor(rows['reward'])[:, None] if self._models_reward else None
        next_state = self._tensor(rows['next_observation'][:, self.index])
        next_state = self._extended(next_state, reward)
        inputs = self._inputs(state, self._tensor(rows['action']))
        return inputs, next_state - self._extended(state), next_state

    def _inputs(self, state: Tensor, action: Tensor) -> Tensor:
        scaled = (state - self._offset) / self._scale
        differences = with_pairwise_differences(scaled, self._pairwise_differences)
        return torch.cat(
            [with_fourier_features(differences, self.config.fourier_features), action], -1
        )

    def policy_arrays(self) -> Arrays:
        """The elites, for planning; see :func:`mbarl_ros.control.model.model_shapes`."""
        arrays = stack_arrays(self._elite_parameters, MODEL)
        arrays[f'{MODEL}/change_scale'] = to_numpy(self._change_scale)
        if self._models_reward:
            arrays[f'{MODEL}/reward_binary'] = to_numpy(self._binary[-1:]).astype(np.float32)
        return arrays

    def state_arrays(self) -> Arrays:
        """Everything that an exact resume needs."""
        arrays = generator_arrays('model', self.generator)
        arrays |= tensor_arrays('model/network', self._parameters)
        arrays |= tensor_arrays('model/adam', self._optimiser.tensors())
        arrays |= tensor_arrays('model/normaliser', [self._change_scale, self.elites, self._usual])
        arrays['model/error'] = self.error.copy()
        arrays['model/binary'] = to_numpy(self._binary)
        arrays['model/fits'] = np.array(self.fits)
        return arrays

    def load_state_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Inverse of :meth:`state_arrays`."""
        load_tensors('model/network', self._parameters, arrays)
        load_tensors('model/adam', self._optimiser.tensors(), arrays)
        load_tensors('model/normaliser', [self._change_scale, self.elites, self._usual], arrays)
        self._copy_elites()
        if self._models_reward:
            self._set_reward_binary(bool(arrays['model/binary'][-1]))
        load_generator('model', self.generator, arrays)
        self.error = np.array(arrays['model/error'])
        self.fits = int(arrays['model/fits'])


def _limited(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Log variances within soft limits (Chua et al. 2018, app. A), and their slopes.

    Outside the data the variance must neither explode nor vanish.
    """
    below = MAX_LOG_VARIANCE - functional.softplus(MAX_LOG_VARIANCE - raw)
    log_variance = MIN_LOG_VARIANCE + functional.softplus(below - MIN_LOG_VARIANCE)
    slope = torch.sigmoid(MAX_LOG_VARIANCE - raw) * torch.sigmoid(below - MIN_LOG_VARIANCE)
    return log_variance, slope


def _variance(values: Tensor) -> Tensor:
    """Over the first axis, which is short: ``torch.var`` is slow there."""
    return (values - values.mean(0)).square_().mean(0)
