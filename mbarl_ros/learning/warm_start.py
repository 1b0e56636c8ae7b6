"""Warm start of the forward policy: behaviour cloning and DAgger from the planner.

Mb-Mf of Nagabandi et al. (2018, sec. V): the planner is the expert, the policy imitates it, and
model-free learning goes on from there. DAgger (Ross et al. 2011): what the policy visits itself is
labelled by the expert, too.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from mbarl_ros.control.planning_policy import PlanningPolicy
from mbarl_ros.learning.replay import Replay
from mbarl_ros.learning.sac import Sac
from mbarl_ros.learning.state_arrays import Arrays, generator_arrays, load_generator
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.schema.model import WarmStartConfig
from mbarl_ros.storage.transitions import FORWARD, PHASES
from mbarl_ros.task import Task


class WarmStart:
    """Who acts at first, and when the forward policy imitates the planner."""

    def __init__(self, task: Task, agent: AgentConfig, config: WarmStartConfig, seed: int) -> None:
        """Start with the planner."""
        self._task, self._config = task, config
        self._planning = PlanningPolicy(task, agent, seed)
        self._rng = np.random.default_rng([seed, 9])
        self._generator = torch.Generator().manual_seed(seed)
        self.rounds_done = 0  # cloning is round 0

    @property
    def planner_acts(self) -> bool:
        """Whether the planner still acts; later the policy does."""
        return self.rounds_done == 0

    def due(self, steps: int) -> bool:
        """Whether the next round is due after ``steps`` environment steps."""
        config = self._config
        at = config.planner_steps + self.rounds_done * config.round_steps
        return self.rounds_done <= config.rounds and steps >= at

    def imitate(
        self, sac: Sac, replay: Replay, arrays: Mapping[str, np.ndarray]
    ) -> dict[str, float]:
        """One round: label visited forward states with plans, fit the forward policy; metrics.

        :param arrays: the policy message, with those for planning
        """
        rows = replay.held()
        forward = np.flatnonzero(rows['phase'] == FORWARD)
        chosen = self._rng.choice(forward, min(self._config.states, len(forward)), replace=False)
        observation = rows['observation'][chosen]
        self._planning.load(arrays, PHASES[FORWARD])
        error = sac.imitate(
            FORWARD,
            torch.from_numpy(self._task.scaled(observation)),
            torch.from_numpy(self._label(observation)),
            self._config.gradient_steps,
            self._generator,
        )
        self.rounds_done += 1
        return {'warm_start/round': float(self.rounds_done), 'warm_start/error': error}

    def _label(self, observation: np.ndarray) -> np.ndarray:
        """The planner's actions [n, A], each from a plan of its own."""
        self._planning.planner.rng = np.random.default_rng(int(self._rng.integers(2**32)))
        return self._planning.label(observation)

    def state_dict(self) -> tuple[Arrays, dict]:
        """Arrays and metadata for an exact resume."""
        meta = {'rounds_done': self.rounds_done, 'rng': self._rng.bit_generator.state}
        return generator_arrays('warm_start', self._generator), meta

    def load_state_dict(self, arrays: Mapping[str, np.ndarray], meta: Mapping) -> None:
        """Inverse of :meth:`state_dict`."""
        load_generator('warm_start', self._generator, arrays)
        self._rng.bit_generator.state = meta['rng']
        self.rounds_done = meta['rounds_done']
