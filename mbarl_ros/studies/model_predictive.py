"""Model-based control (Nagabandi et al. 2018, Algorithm 1): fit a model, plan, collect, repeat."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mbarl_ros.control.model import LearnedModel
from mbarl_ros.control.planning import PLANNERS, Rollouts
from mbarl_ros.learning.dynamics import Ensemble
from mbarl_ros.learning.holdout import block_holdout_mask
from mbarl_ros.learning.replay import Replay
from mbarl_ros.learning.torch_setup import set_up_torch
from mbarl_ros.schema.model import ModelConfig, PlannerConfig
from mbarl_ros.task import Task


class ModelPredictiveControl:
    """The data sets D_rand and D_RL, the dynamics model that is fitted to both, and the planner.

    ``rows``: all transitions, those of random actions first. ``returns``: (environment steps at its
    end, return, whether it was planned) of each episode; a control step is ``settings['repeat']``
    of the environment's own steps.
    """

    def __init__(self, settings: Mapping[str, Any], seed: int) -> None:
        """Make task, world, model and planner.

        :param settings: as in :data:`mbarl_ros.studies.mpc_settings.PURE`
        """
        self.settings = settings
        self.task = Task.load(settings['task'])
        self.world = self.task.load_world(seed=seed)
        self._model_config = ModelConfig(**settings['model'])
        self._planner_config = PlannerConfig(**settings['planner'])
        self.ensemble = Ensemble(self.task, self._model_config, seed)
        make = PLANNERS[self._planner_config.method]
        self.planner = make(self._planner_config, self.task.action_dim, seed)
        self.rows = Replay(settings['steps'], self.task.observation_dim, self.task.action_dim)
        self.random_rows = 0
        self.returns: list[tuple[int, float, bool]] = []
        self.errors: list[float] = []
        self._rng = np.random.default_rng([seed, 11])
        set_up_torch()

    @property
    def steps(self) -> int:
        """Environment steps so far."""
        return self.rows.total

    def run(self, report_progress: Callable[[float], None] = lambda share: None) -> dict[str, Any]:
        """Collect ``settings['steps']`` environment steps; returns what a report needs."""
        start = time.process_time()
        while self.steps < self.settings['random_steps']:
            self.episode(self.settings['random_steps'] - self.steps, self._random_action)
        self.random_rows = self.steps
        while self.steps < self.settings['steps']:
            self.fit()
            self.episode(self.settings['steps'] - self.steps, self.plan)
            report_progress(self.steps / self.settings['steps'])
        return {
            'returns': self.returns,
            'model_error': self.errors,
            'processor_seconds': round(time.process_time() - start, 1),
        }

    def episode(self, steps: int, act: Callable[[np.ndarray], np.ndarray]) -> None:
        """Add an episode of at most ``steps`` and ``settings['episode']`` to the data."""
        rows, total = self.rollout(min(steps, self.settings['episode']), act)
        count = len(rows['reward'])
        held_out = block_holdout_mask(self.rows.total + np.arange(count))
        self.rows.add(rows, np.arange(count) == count - 1, held_out)
        repeat = self.settings['repeat']
        planned = act != self._random_action
        self.returns.append((self.steps * repeat, total * repeat, planned))

    def rollout(
        self, steps: int, act: Callable[[np.ndarray], np.ndarray]
    ) -> tuple[dict[str, np.ndarray], float]:
        """Transitions of one episode, and its return."""
        self.planner.forget()
        observation = self.task.observation(self.world.reset())
        rows = []
        for _ in range(steps):
            action = act(observation)
            state = self.world.step(self.task.command(action))
            following = self.task.observation(state)
            rows.append((observation, action, following, float(self.task.reward(following))))
            observation = following
        names = ('observation', 'action', 'next_observation', 'reward')
        columns = zip(*rows, strict=True)
        arrays = {n: np.array(c, np.float32) for n, c in zip(names, columns, strict=True)}
        return arrays, float(arrays['reward'].sum())

    def fit(self) -> None:
        """Fit the model to D_rand and D_RL, and plan with it from now on.

        ``settings['on_policy_share']``: share of D_RL in a batch, 0.9 in the paper.
        """
        held_out = self.rows.held_out()
        train, test = (self.rows.rows(np.flatnonzero(m)) for m in (~held_out, held_out))
        gradient_steps, weights = self.settings['first_gradient_steps'], None
        if self.steps > self.random_rows:
            gradient_steps = self.settings['gradient_steps']
            weights = self._weights(np.flatnonzero(~held_out))
        metrics = self.ensemble.fit(train, test, gradient_steps, weights)
        errors = [value for name, value in metrics.items() if name.startswith('model/error')]
        self.errors.append(float(np.mean(errors)))
        self.planner.rollouts = self.rollouts()

    def _weights(self, order: np.ndarray) -> np.ndarray:
        random = order < self.random_rows
        share = self.settings['on_policy_share'] if random.any() else 1.0
        return np.where(random, (1 - share) / max(random.sum(), 1), share / (~random).sum())

    def model(self) -> LearnedModel:
        """The model as it is fitted now, for planning."""
        return LearnedModel(self.ensemble.policy_arrays(), self.task, self._model_config)

    def rollouts(self) -> Rollouts:
        """Rollouts in the model as it is fitted now."""
        discount = self._planner_config.discount or 1.0
        return Rollouts(self.task, self._planner_config, self.model(), discount)

    def plan(self, observation: np.ndarray) -> np.ndarray:
        """First action [A] of a plan from observation [O]."""
        return self.planner.plan(observation[None])[0]

    def _random_action(self, _: np.ndarray) -> np.ndarray:
        return self._rng.uniform(-1, 1, self.task.action_dim).astype(np.float32)
