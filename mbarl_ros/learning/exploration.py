"""Decoupled exploration: cover states, but stay where demonstrations are.

pi_exp maximises H(rho_exp) subject to KL(rho_exp || rho*) < epsilon; what it sees is learned from
off-policy by the policies that exploit. The entropy is that of particles (APT, Liu and Abbeel
2021; RE3, Seo et al. 2021), the density ratio comes from a classifier C between demonstration
states and explored ones, KL = E_exp[-logit C(s)], and the Lagrange multiplier from dual ascent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mbarl_ros.config import AgentConfig
from mbarl_ros.learning.networks import mlp, stacked_mlp
from mbarl_ros.learning.objective import Objective, demonstrated_states
from mbarl_ros.learning.replay import Replay
from mbarl_ros.learning.sac import Sac
from mbarl_ros.learning.state import (
    Adam,
    Arrays,
    descend,
    generator_arrays,
    load_generator,
    load_tensors,
    tensor_arrays,
)
from mbarl_ros.task import Task
from mbarl_ros.transitions import EXPLORE

RECENT = 2000  # explored states that rho_exp is estimated from: the policy changes
NEAREST = 0.01  # scaled distance below which states count as the same
MAX_LOGIT, MAX_DUAL = 5.0, 20.0


class Exploration(Objective):
    """Reward: d * log(distance to the k nearest explored states) + dual * logit C(s'), over d.

    d is the number of state entries: log density is -d * log(distance) up to a constant.
    """

    bounds = (-np.inf, np.inf)

    def __init__(
        self, task: Task, agent: AgentConfig, demonstrations: Mapping[str, np.ndarray], seed: int
    ) -> None:
        """Fresh classifier; nothing has been explored."""
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
        self._seen = 0
        self.dual = 1.0

    def train(self, replay: Replay) -> dict[str, float]:
        """Take new states, fit C, move the multiplier; entropy (nats), KL (nats) and dual."""
        fresh = min(replay.total - self._seen, len(replay))
        rows = replay.rows(np.arange(len(replay) - fresh, len(replay)))
        steps = replay.total // self.settings.every - self._seen // self.settings.every
        self._seen = replay.total
        states = rows['next_observation'][rows['phase'] == EXPLORE]
        if len(states):
            self._explored = torch.cat([self._explored, self._scaled(states)])[-RECENT:]
        if len(self._explored) < self.settings.particles:
            return {}
        for _ in range(steps):
            self._fit()
        with torch.no_grad():
            divergence = float(-self._logit(self._explored).mean())
            distance = self._distance(self._particles())
        if len(states):  # rho_exp is only known while it is being visited
            dual = self.dual + self.settings.dual_rate * (divergence - self.settings.epsilon)
            self.dual = float(np.clip(dual, 0.0, MAX_DUAL))
        return {
            'explore/entropy': self._entropy(distance),
            'explore/kl': divergence,
            'explore/dual': self.dual,
        }

    def reward(self, following: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Zero until there are particles enough; never ends."""
        shape = following.shape[:-1]
        reward = np.zeros(shape, np.float32)
        if len(self._explored) >= self.settings.particles:
            states = self._scaled(following[..., : self.task.state_dim]).flatten(0, -2)
            with torch.no_grad():
                logit = self._logit(states).clamp(-MAX_LOGIT, MAX_LOGIT)
                novelty = torch.log(self._distance(states) + NEAREST)
                total = novelty + self.dual * logit / self.task.state_dim
            reward = (1.0 - self.discount) * total.view(shape).numpy()
        return reward.astype(np.float32), np.zeros(shape, bool)

    def _fit(self) -> None:
        half = self.settings.batch // 2
        parts = []
        for states in (self._positives, self._explored):
            index = torch.randint(len(states), (half,), generator=self._generator)
            parts.append(states[index])
        label = torch.cat([torch.ones(half), torch.zeros(half)])
        logit = self._logit(torch.cat(parts))
        loss = functional.binary_cross_entropy_with_logits(logit, label)
        descend(self._optimiser, loss)

    def _logit(self, states: Tensor) -> Tensor:
        """Log of demonstrated over explored density [n] of scaled states [n, d]."""
        return mlp(self._classifier, states[None])[0, :, 0]

    def _particles(self) -> Tensor:
        index = np.linspace(0, len(self._explored) - 1, self.settings.particles).astype(int)
        return self._explored[index]

    def _distance(self, states: Tensor) -> Tensor:
        """Mean distance [n] of states [n, d] to their nearest particles."""
        apart = torch.cdist(states, self._particles())
        return apart.topk(self.settings.neighbours, largest=False).values.mean(-1)

    def _entropy(self, distance: Tensor) -> float:
        """Kozachenko-Leonenko estimate of H(rho_exp) in scaled units, from mean distances."""
        d, n, k = self.task.state_dim, self.settings.particles, self.settings.neighbours
        ball = 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d + 1.0)
        digamma = torch.digamma(torch.tensor([float(n), float(k)]))
        return float(digamma[0] - digamma[1] + ball + d * (distance + 1e-6).log().mean())

    def _scaled(self, states: np.ndarray) -> Tensor:
        dim = self.task.state_dim
        scaled = (states[..., :dim] - self.task.offset[:dim]) / self.task.scale[:dim]
        return torch.from_numpy(np.asarray(scaled, np.float32))

    def policy_arrays(self, sac: Sac) -> Arrays:
        """Nothing: the robot runs the policy, that is all."""
        return {}

    def state_dict(self) -> tuple[Arrays, dict[str, Any]]:
        """Classifier, optimiser, explored states and multiplier."""
        arrays = generator_arrays('explore', self._generator)
        arrays |= tensor_arrays('explore/classifier', self._classifier)
        arrays |= tensor_arrays('explore/adam', self._optimiser.tensors())
        arrays['explore/states'] = self._explored.numpy().copy()
        return arrays, {'seen': self._seen, 'dual': self.dual}

    def load_state_dict(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        load_tensors('explore/classifier', self._classifier, arrays)
        load_tensors('explore/adam', self._optimiser.tensors(), arrays)
        load_generator('explore', self._generator, arrays)
        self._explored = torch.from_numpy(np.array(arrays['explore/states']))
        self._seen, self.dual = meta['seen'], meta['dual']
