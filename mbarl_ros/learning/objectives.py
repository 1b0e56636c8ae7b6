"""Backward objectives: what the policy between two attempts is rewarded for.

A new one is a class here, its line in :data:`BACKWARD_OBJECTIVES` and its line in
:data:`mbarl_ros.schema.agent.OBJECTIVES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mbarl_ros.control.policy import GOALS, MAX_CANDIDATES
from mbarl_ros.learning.classifier import MAX_REWARD, MIN_REWARD, backward_reward, logits
from mbarl_ros.learning.exploration import Exploration
from mbarl_ros.learning.networks import mlp, stacked_mlp, with_fourier_features
from mbarl_ros.learning.objective import Objective, demonstrated_states
from mbarl_ros.learning.optimiser import Adam
from mbarl_ros.learning.replay import Replay, evenly_spaced
from mbarl_ros.learning.sac import Sac
from mbarl_ros.learning.state_arrays import Arrays, group_arrays, load_groups
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.transitions import BACKWARD, EXPLORE
from mbarl_ros.task import Task

CANDIDATES = 256  # demonstrated states that the curriculum chooses from
MAX_BONUS = 5.0  # largest novelty bonus, in running root mean squares
FEATURES = 32  # outputs of the networks of random network distillation


class DemonstrationMatching(Objective):
    """MEDAL (Sharma et al. 2022): match the states of the demonstrations, -log(1 - C(s')).

    The factor (1 - discount) makes the value a mean of rewards: one scale for all critics.
    """

    return_range = (MIN_REWARD, MAX_REWARD)
    _classifier: Arrays | None = None

    def set_classifier(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Reward by these weights from now on."""
        self._classifier = {name: np.array(array, np.float32) for name, array in arrays.items()}

    def reward(self, next_observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Zero as long as there is no classifier; the return never ends."""
        reward = np.zeros(next_observation.shape[:-1], np.float32)
        if self._classifier is not None:
            logit = logits(self._classifier, next_observation)
            reward = (1.0 - self.discount) * backward_reward(logit)
        return reward.astype(np.float32), np.zeros(next_observation.shape[:-1], bool)

    def state_dict(self) -> tuple[Arrays, dict[str, Any]]:
        """The classifier in use."""
        classifier = self._classifier or {}
        return {f'current/{name}': array for name, array in classifier.items()}, {}

    def load_state_dict(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        prefix = 'current/'
        current = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
        self._classifier = current or None


class InitialState(Objective):
    """Forward-backward RL (Eysenbach et al. 2018, as EARL has it): reach an initial state.

    Initial states are those in which the forward demonstrations start. Where the task has goals,
    one of them is the goal; else being within the task's tolerance of any of them counts.
    """

    def __init__(
        self, task: Task, agent: AgentConfig, demonstrations: Mapping[str, np.ndarray], seed: int
    ) -> None:
        """As the base.

        :raises ConfigError: there is no forward demonstration.
        """
        super().__init__(task, agent, demonstrations, seed)
        self.discount = agent.sac.discount or 1.0 - 2.0 / task.config.phases.backward_limit
        initial = demonstrated_states(task, demonstrations, starts=True)
        if not len(initial):
            raise ConfigError(
                f"agent '{agent.name}', key 'backward: {agent.backward}': initial states are where "
                f"forward demonstrations start; task '{task.name}' has none"
            )
        self.goals = self.initial = evenly_spaced(initial, MAX_CANDIDATES)

    def reward(self, next_observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """1 within the task's tolerance, where the return ends; else 0."""
        if self.task.goal_conditioned:
            success = self.task.success(next_observation)
        else:
            distance = self.task.state_distance(next_observation[..., None, :], self.initial).min(
                -1
            )
            success = distance <= self.task.config.success.tolerance
        return success.astype(np.float32), success

    def policy_arrays(self, sac: Sac) -> Arrays:
        """Every initial state, for each of the task's goals."""
        return {GOALS: np.repeat(self.initial[:, None], max(len(self.task.goals), 1), 1)}


class Curriculum(InitialState):
    """VaPRL (Sharma et al. 2021): start where the task can be solved, ever nearer to the start.

    The goal before an attempt at g is the demonstrated state c nearest to the initial states among
    those with a value V(c, g) of at least ``value_threshold``; if there is none, the one with the
    highest value.
    """

    def __init__(
        self, task: Task, agent: AgentConfig, demonstrations: Mapping[str, np.ndarray], seed: int
    ) -> None:
        """As the base."""
        super().__init__(task, agent, demonstrations, seed)
        self.goals = evenly_spaced(demonstrated_states(task, demonstrations), CANDIDATES)
        self._distance = task.state_distance(self.goals[:, None], self.initial).min(-1)

    def policy_arrays(self, sac: Sac) -> Arrays:
        """The state to go back to for each of the task's goals."""
        value = self._values(sac)
        allowed = value >= self.agent.value_threshold
        nearest = np.where(allowed, self._distance, np.inf).argmin(1)
        chosen = np.where(allowed.any(1), nearest, value.argmax(1))
        return {GOALS: self.goals[chosen][None]}

    def _values(self, sac: Sac) -> np.ndarray:
        """V(c, g) [goals, candidates]."""
        goals, states = np.broadcast_arrays(self.task.goals[:, None], self.goals)
        scaled = self.task.scaled(np.concatenate([states, goals], -1))
        value = sac.value(torch.from_numpy(scaled.astype(np.float32)).flatten(0, 1)[None])
        return value[0].view(goals.shape[:2]).numpy()


class Novelty(Objective):
    """R3L (Zhu et al. 2020): a perturbation controller that seeks states it has seldom visited.

    The bonus is the error of a network that learns to predict the output of a random one (random
    network distillation, Burda et al. 2018), divided by its root mean square over all visited
    states. Two differences: values are means of rewards, so that the bonus itself is normalised
    and not its return; and both networks see Fourier features, since a network of few raw
    coordinates generalises everywhere at once.
    """

    return_range = (0.0, MAX_BONUS)

    def __init__(
        self, task: Task, agent: AgentConfig, demonstrations: Mapping[str, np.ndarray], seed: int
    ) -> None:
        """New networks; nothing has been visited."""
        super().__init__(task, agent, demonstrations, seed)
        settings = agent.novelty
        generator = torch.Generator().manual_seed(seed)
        entries = task.state_dim * (1 + 2 * agent.sac.fourier_features)
        self._random = stacked_mlp(1, [entries, settings.hidden, FEATURES], generator)
        sizes = [entries, settings.hidden, settings.hidden, FEATURES]
        self._predictor = stacked_mlp(1, sizes, generator)
        self._optimiser = Adam(self._predictor, settings.learning_rate)
        self._rng = np.random.default_rng([seed, 7])
        self._trained = self._count = 0
        self._squares = 0.0

    def train(self, replay: Replay) -> dict[str, float]:
        """One gradient step for every ``novelty.every`` new real steps."""
        states = replay.since(self._trained)['next_observation']
        if not len(states):
            return {}
        with torch.no_grad():
            error = self._error(states)
        self._count += len(states)
        self._squares += float(error.square().sum())
        every = self.agent.novelty.every
        for _ in range(replay.total // every - self._trained // every):
            order = replay.sample(self._rng, (self.agent.novelty.batch_size,))
            error_of_batch = self._error(replay.rows(order)['next_observation'])
            self._optimiser.minimise(error_of_batch.mean())
        self._trained = replay.total
        return {'novelty/error': float(error.mean()), 'novelty/scale': self._scale}

    @property
    def _scale(self) -> float:
        return (self._squares / self._count) ** 0.5 if self._squares else 1.0

    def reward(self, next_observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The bonus, capped at :data:`MAX_BONUS`; the return never ends."""
        with torch.no_grad():
            bonus = self._error(next_observation).numpy() / self._scale
        reward = (1.0 - self.discount) * np.minimum(bonus, MAX_BONUS)
        return reward.astype(np.float32), np.zeros(reward.shape, bool)

    def _error(self, observation: np.ndarray) -> torch.Tensor:
        """Mean squared error [...] of the prediction for observations [..., O]."""
        dim = self.task.state_dim
        scaled = self.task.scaled(observation[..., :dim])
        flat = torch.from_numpy(np.asarray(scaled, np.float32)).view(1, -1, dim)
        features = with_fourier_features(flat, self.agent.sac.fourier_features)
        with torch.no_grad():
            target = mlp(self._random, features)
        error = (mlp(self._predictor, features) - target).square().mean(-1)
        return error.view(observation.shape[:-1])

    def state_dict(self) -> tuple[Arrays, dict[str, Any]]:
        """Networks, optimiser and running scale."""
        return group_arrays('novelty', self._groups()), {
            'rng': self._rng.bit_generator.state,
            'trained': self._trained,
            'count': self._count,
            'squares': self._squares,
        }

    def load_state_dict(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        load_groups('novelty', self._groups(), arrays)
        self._rng.bit_generator.state = meta['rng']
        self._trained, self._count = meta['trained'], meta['count']
        self._squares = meta['squares']

    def _groups(self) -> dict[str, list[torch.Tensor]]:
        return {
            'random': self._random,
            'predictor': self._predictor,
            'adam': self._optimiser.tensors(),
        }


BACKWARD_OBJECTIVES: dict[str, type[Objective]] = {
    'classifier': DemonstrationMatching,
    'initial_state': InitialState,
    'novelty': Novelty,
    'curriculum': Curriculum,
}


def objectives(
    task: Task, agent: AgentConfig, demonstrations: Mapping[str, np.ndarray], seed: int
) -> dict[int, Objective]:
    """The objective of each phase but the forward one."""
    of_phase: dict[int, Objective] = {}
    if agent.backward != 'none':
        backward = BACKWARD_OBJECTIVES[agent.backward]
        of_phase[BACKWARD] = backward(task, agent, demonstrations, seed)
    if agent.exploration:
        of_phase[EXPLORE] = Exploration(task, agent, demonstrations, seed)
    return of_phase
