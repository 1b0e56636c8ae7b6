"""Decoupled exploration: cover states, but stay where demonstrations are.

pi_exp maximises H(rho_exp) subject to KL(rho_exp || rho*) < epsilon; the policies that exploit
learn from its transitions off-policy. Entropy is rewarded by the distance to the nearest
particles, a sample of all visited states (APT, Liu and Abbeel 2021; RE3, Seo et al. 2021). The
density ratio comes from a classifier C between demonstrated and explored states,
KL = E_exp[-logit C(s)], and the Lagrange multiplier from dual ascent. Both densities are blurred:
a handful of demonstrations has next to no volume, and the KL to it would be infinite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mbarl_ros.learning.networks import mlp, stacked_mlp
from mbarl_ros.learning.objective import Objective, demonstrated_states
from mbarl_ros.learning.optimiser import Adam
from mbarl_ros.learning.replay import Replay, evenly_spaced
from mbarl_ros.learning.sac import Sac
from mbarl_ros.learning.state_arrays import (
    Arrays,
    generator_arrays,
    load_generator,
    load_tensors,
    tensor_arrays,
)
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.storage.transitions import EXPLORE
from mbarl_ros.task import Task

RECENT = 1000  # explored states that rho_exp is estimated from: the policy changes
NEAREST = 0.01  # scaled distance below which states count as the same
FIRST_DUAL, MAX_DUAL = 2.0, 20.0
TARGET_SHARE = 0.85  # of epsilon, which the multiplier aims at: the policy follows it with a lag
MAX_LOGIT = 10.0


class Exploration(Objective):
    """Reward: (log(distance to the nearest particles) + dual * logit C(s') / d) / (1 + dual).

    d is the number of state entries: log density is -d * log(distance) up to a constant. Dividing
    by 1 + dual keeps the scale of values while the multiplier moves.
    """

    return_range = (-np.inf, np.inf)

    def __init__(
        self, task: Task, agent: AgentConfig, demonstrations: Mapping[str, np.ndarray], seed: int
    ) -> None:
        """New classifier; nothing has been explored."""
        super().__init__(task, agent, demonstrations, seed)
        assert agent.exploration is not None
        self.settings = agent.exploration
        self._positives = self._scaled(demonstrated_states(task, demonstrations))
        self._generator = torch.Generator().manual_seed(seed)
        hidden = self.settings.hidden
        sizes = [task.state_dim, hidden, hidden, 1]
        self._classifier = stacked_mlp(1, sizes, self._generator, last_scale=0.01)
        self._optimiser = Adam(self._classifier, self.settings.learning_rate, weight_decay=1e-3)
        self._explored = torch.zeros(0, task.state_dim)
        self._taken = 0
        self._particles = torch.zeros(0, task.state_dim)
        self.dual = FIRST_DUAL

    def train(self, replay: Replay) -> dict[str, float]:
        """Take new states, fit C, move the multiplier; entropy (nats), KL (nats) and dual."""
        rows = replay.since(self._taken)
        steps = replay.total // self.settings.every - self._taken // self.settings.every
        self._taken = replay.total
        self._particles = self._sample_particles(replay)
        states = rows['next_observation'][rows['phase'] == EXPLORE]
        self._explored = torch.cat([self._explored, self._scaled(states)])[-RECENT:]
        if len(self._explored) <= self.settings.neighbours:
            return {}
        for _ in range(steps):
            self._fit()
        with torch.no_grad():
            divergence = float(-self._logit(self._explored).mean())
        if len(states):  # rho_exp is only known while it is being visited
            excess = divergence - TARGET_SHARE * self.settings.epsilon
            dual = self.dual + self.settings.dual_rate * excess
            self.dual = float(np.clip(dual, 0.0, MAX_DUAL))
        return {
            'explore/entropy': self._entropy(),
            'explore/kl': divergence,
            'explore/dual': self.dual,
        }

    def reward(self, next_observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Zero as long as nothing was visited; the return never ends."""
        shape = next_observation.shape[:-1]
        reward = np.zeros(shape, np.float32)
        if len(self._particles) > self.settings.neighbours:
            states = self._scaled(next_observation).flatten(0, -2)
            with torch.no_grad():
                logit = self._logit(states).clamp(-MAX_LOGIT, MAX_LOGIT)
                novelty = torch.log(self._distance(states, self._particles) + NEAREST)
                total = (novelty + self.dual * logit / self.task.state_dim) / (1.0 + self.dual)
            reward = (1.0 - self.discount) * total.view(shape).numpy()
        return reward.astype(np.float32), np.zeros(shape, bool)

    def _fit(self) -> None:
        """One gradient step of C on blurred demonstrated and explored states."""
        half = self.settings.batch_size // 2
        parts = []
        for states in (self._positives, self._explored):
            index = torch.randint(len(states), (half,), generator=self._generator)
            noise = torch.randn(half, states.shape[1], generator=self._generator)
            parts.append(states[index] + self.settings.width * noise)
        label = torch.cat([torch.ones(half), torch.zeros(half)])
        logit = self._logit(torch.cat(parts))
        self._optimiser.minimise(functional.binary_cross_entropy_with_logits(logit, label))

    def _logit(self, states: Tensor) -> Tensor:
        """Log of demonstrated over explored density [n] of scaled states [n, d]."""
        return mlp(self._classifier, states[None])[0, :, 0]

    def _sample_particles(self, replay: Replay) -> Tensor:
        """States evenly spaced over the stream of all phases."""
        order = evenly_spaced(np.arange(len(replay)), self.settings.particles)
        return self._scaled(replay.rows(order)['next_observation'])

    def _distance(self, states: Tensor, particles: Tensor) -> Tensor:
        """Mean distance [n] of states [n, d] to their nearest particles."""
        distances = torch.cdist(states, particles)
        return distances.topk(self.settings.neighbours, largest=False).values.mean(-1)

    def _entropy(self) -> float:
        """Kozachenko-Leonenko estimate of H(rho_exp), nats in scaled units."""
        states = evenly_spaced(self._explored, self.settings.particles)
        # The nearest of these neighbours is the state itself.
        d, k = self.task.state_dim, self.settings.neighbours - 1
        distance = torch.cdist(states, states).topk(k + 1, largest=False).values[:, -1]
        ball = 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d + 1.0)
        digamma = torch.digamma(torch.tensor([float(len(states)), float(k)]))
        return float(digamma[0] - digamma[1] + ball + d * (distance + 1e-6).log().mean())

    def _scaled(self, states: np.ndarray) -> Tensor:
        dim = self.task.state_dim
        return torch.from_numpy(np.asarray(self.task.scaled(states[..., :dim]), np.float32))

    def policy_arrays(self, sac: Sac) -> Arrays:
        """Nothing: the robot needs only the policy."""
        return {}

    def state_dict(self) -> tuple[Arrays, dict[str, Any]]:
        """Classifier, optimiser, explored states and multiplier."""
        arrays = generator_arrays('explore', self._generator)
        arrays |= tensor_arrays('explore/classifier', self._classifier)
        arrays |= tensor_arrays('explore/adam', self._optimiser.tensors())
        arrays['explore/states'] = self._explored.numpy().copy()
        return arrays, {'seen': self._taken, 'dual': self.dual}

    def load_state_dict(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        load_tensors('explore/classifier', self._classifier, arrays)
        load_tensors('explore/adam', self._optimiser.tensors(), arrays)
        load_generator('explore', self._generator, arrays)
        self._explored = torch.from_numpy(np.array(arrays['explore/states']))
        self._taken, self.dual = meta['seen'], meta['dual']
