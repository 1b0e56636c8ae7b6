"""Model-predictive control: search action sequences in the learned model, execute the first action.

Three methods behind one interface (:class:`Planner`): random shooting (Nagabandi et al. 2018,
sec. IV-B), the cross-entropy method with coloured noise (Chua et al. 2018; Pinneri et al. 2020) and
MPPI (Williams et al. 2017). All work on a batch of problems at once.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from mbarl_ros.control.model import LearnedModel, LearnedValue
from mbarl_ros.control.noise import coloured_noise
from mbarl_ros.control.policy import Policy
from mbarl_ros.schema.model import PlannerConfig
from mbarl_ros.task import Task


class OutOfTimeError(Exception):
    """The time for planning ended during a rollout."""


class Rollouts:
    """Scores action sequences by rolling them out in the learned model.

    The score of a sequence is ``sum_t discount^t r_t + discount^H V(s_H)``. Candidate i follows one
    elite of the ensemble all the way (Chua et al. 2018, "TS-infinity"), by its mean prediction.
    """

    def __init__(
        self,
        task: Task,
        config: PlannerConfig,
        model: LearnedModel,
        discount: float,
        policy: Policy | None = None,
        value: LearnedValue | None = None,
    ) -> None:
        """Plan for a task; ``policy`` proposes candidates and, with ``value``, ends them."""
        self._task, self._config, self._model = task, config, model
        self._discount, self._policy, self._value = discount, policy, value
        self._ends = task.reward_known or task.config.success.target is not None

    def score(
        self,
        observation: np.ndarray,
        sequences: np.ndarray,
        rng: np.random.Generator,
        proposals: int = 0,
        deadline: float = np.inf,
    ) -> np.ndarray:
        """Scores [problems, candidates] of ``sequences`` [problems, candidates, horizon, A].

        :param observation: [problems, O], where all candidates of a problem start
        :param proposals: number of leading candidates whose actions are replaced by the policy's
        :param deadline: on the clock of :func:`time.monotonic`
        :raises OutOfTimeError: the deadline passed.
        """
        problems, candidates, horizon, _ = sequences.shape
        elites = self._model.elites
        shape = (elites, problems, candidates // elites)
        # candidate i of a problem is row i // elites of elite i % elites
        actions = sequences.reshape(problems, -1, elites, horizon, self._task.action_dim)
        actions = np.ascontiguousarray(actions.transpose(3, 2, 0, 1, 4), np.float32)
        rows = np.broadcast_to(observation[None, :, None], (*shape, observation.shape[-1]))
        rows = rows.astype(np.float32).reshape(elites, -1, observation.shape[-1])
        proposed = np.zeros(shape, bool)
        proposed[..., : proposals // elites] = True
        proposed = proposed.reshape(elites, -1)
        total, weight = np.zeros(rows.shape[:2], np.float32), np.ones(rows.shape[:2], np.float32)
        for step in actions.reshape(horizon, elites, -1, self._task.action_dim):
            if time.monotonic() > deadline:
                raise OutOfTimeError
            if proposals:
                step[proposed] = self._propose(rows[proposed], rng)
            rows = self._advance(rows, step, total, weight)
        if self._value is not None and self._policy is not None:
            flat = rows.reshape(-1, rows.shape[-1])
            value = self._value.value(flat, self._policy.mean_action(flat))
            total += weight * value.reshape(total.shape)
        if proposals:
            sequences[:] = actions.transpose(2, 3, 1, 0, 4).reshape(sequences.shape)
        return total.reshape(shape).transpose(1, 2, 0).reshape(problems, candidates)

    def _propose(self, observation: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        assert self._policy is not None
        noise = rng.standard_normal((len(observation), self._task.action_dim), np.float32)
        return self._policy.sample(observation, noise)

    def _advance(
        self, rows: np.ndarray, action: np.ndarray, total: np.ndarray, weight: np.ndarray
    ) -> np.ndarray:
        """One step of all candidates: next observations; adds to ``total`` what it is worth.

        ``weight`` is the discount so far, 0 where a candidate has reached the goal or the world has
        ended.
        """
        state_dim = self._task.state_dim
        next_state, reward = self._model.step(rows[..., :state_dim], action)
        following = self._task.following(rows, next_state)
        success = self._task.success(following)
        if self._config.objective == 'distance':
            total -= weight * self._task.distance(following)
        else:
            total += weight * (success if reward is None else reward)
        weight *= np.where(success, 0.0, self._discount) if self._ends else self._discount
        weight *= ~self._task.ended(following)
        return following


class Planner(ABC):
    """Receding-horizon control of a batch of independent problems.

    Each plan starts from the last one, shifted by a step. ``cut_short`` counts plans that ended
    before their last iteration for want of time, ``continued`` those for which there was not even
    time for the first: they continue the last plan.
    """

    rollouts: Rollouts
    """To be set before the first plan, and whenever there is a new model."""

    def __init__(self, config: PlannerConfig, action_dim: int, seed: int) -> None:
        """Every random number comes from ``seed``."""
        self.config, self._action_dim, self._seed = config, action_dim, seed
        self.rng = np.random.default_rng([seed, 8])
        self.cut_short = self.continued = self.plans = 0
        self.forget()

    def forget(self, problems: int = 1, *, reseed: bool = False) -> None:
        """Begin ``problems`` new problems; with ``reseed`` as if they were the first."""
        if reseed:
            self.rng = np.random.default_rng([self._seed, 8])
        shape = (problems, self.config.horizon, self._action_dim)
        self._plan = np.zeros(shape, np.float32)

    def keep(self, mask: np.ndarray) -> None:
        """Go on with some of the problems, bool [problems]."""
        self._plan = self._plan[mask]

    def plan(self, observation: np.ndarray, seconds: float = np.inf) -> np.ndarray:
        """First actions [problems, A] in [-1, 1] for observations [problems, O].

        :param seconds: time for planning
        """
        deadline = time.monotonic() + seconds
        self.plans += 1
        deviation = np.full_like(self._plan, self.config.noise)
        for iteration in range(self.config.iterations):
            sequences = self._sample(deviation)
            try:
                score = self._score(observation, sequences, iteration, deadline)
            except OutOfTimeError:
                self.cut_short += iteration > 0
                self.continued += iteration == 0
                break
            self._plan, deviation = self._improve(sequences, score)
        action = self._plan[:, 0].copy()
        self._plan = np.concatenate([self._plan[:, 1:], self._plan[:, -1:]], 1)
        return action

    def _score(
        self, observation: np.ndarray, sequences: np.ndarray, iteration: int, deadline: float
    ) -> np.ndarray:
        share = 0.0 if iteration else self.config.policy_share
        proposals = round(share * self.config.candidates)
        return self.rollouts.score(observation, sequences, self.rng, proposals, deadline)

    def _sample(self, deviation: np.ndarray) -> np.ndarray:
        """Sequences [problems, candidates, horizon, A] around the plan; its own is the last."""
        problems, horizon, action_dim = self._plan.shape
        candidates = self.config.candidates
        rows = problems * candidates * action_dim
        noise = coloured_noise(self.rng, rows, horizon, self.config.noise_exponent)
        noise = noise.reshape(problems, candidates, action_dim, horizon).swapaxes(2, 3)
        sequences = np.clip(self._plan[:, None] + deviation[:, None] * noise, -1.0, 1.0)
        sequences[:, -1] = self._plan
        return sequences

    @abstractmethod
    def _improve(self, sequences: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The next plan and deviation [problems, horizon, A] after sequences were scored."""


class RandomShooting(Planner):
    """The best of uniformly random sequences (Nagabandi et al. 2018); nothing is kept."""

    def _sample(self, deviation: np.ndarray) -> np.ndarray:
        problems, horizon, action_dim = self._plan.shape
        shape = (problems, self.config.candidates, horizon, action_dim)
        return self.rng.uniform(-1.0, 1.0, shape).astype(np.float32)

    def _improve(self, sequences: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        best = sequences[np.arange(len(score)), score.argmax(1)]
        return best, best


class CrossEntropy(Planner):
    """Refits mean and deviation to the best sequences (Chua et al. 2018)."""

    def _improve(self, sequences: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        best = np.argpartition(-score, self.config.elites - 1, axis=1)[:, : self.config.elites]
        elites = np.take_along_axis(sequences, best[..., None, None], 1)
        return elites.mean(1), elites.std(1)


class PathIntegral(Planner):
    """MPPI: the mean of all sequences, weighted by exp(score / temperature)."""

    def _improve(self, sequences: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scale = self.config.temperature * np.maximum(score.std(1, keepdims=True), 1e-6)
        weight = np.exp((score - score.max(1, keepdims=True)) / scale)
        weight = (weight / weight.sum(1, keepdims=True))[..., None, None]
        plan = (weight * sequences).sum(1)
        return plan, np.sqrt((weight * (sequences - plan[:, None]) ** 2).sum(1))


PLANNERS: dict[str, Callable[..., Planner]] = {
    'random_shooting': RandomShooting,
    'cem': CrossEntropy,
    'mppi': PathIntegral,
}
