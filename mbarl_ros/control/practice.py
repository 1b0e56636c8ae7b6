"""Practice: acting in forward and backward phases and assembling transitions.

The same class runs in the policy controller node and in the studies without ROS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mbarl_ros.config import AgentConfig
from mbarl_ros.control.policy import DEPLOYED, PinkNoise, Policy, WhiteNoise, policy_names
from mbarl_ros.task import Task
from mbarl_ros.transitions import BACKWARD, FORWARD, PHASES, POLICY, SAFETY


class Practice:
    """Forward until success or its step limit, then backward until its limit, and so on.

    A phase switch changes policy and, before a forward phase, the goal; the world is never
    touched. ``steps`` counts recorded transitions.
    """

    def __init__(
        self, task: Task, agent: AgentConfig, seed: int, *, evaluation: bool = False
    ) -> None:
        """Start in the forward phase; every random stream comes from ``seed``.

        :param evaluation: try forward with the deployed policy, without noise; the backward
            policy, if there is one, puts the world back
        """
        self.task = task
        self.has_backward = agent.backward != 'none'
        self._evaluation = evaluation
        self._policy_names = policy_names(agent)[:-1]
        if evaluation:
            self._policy_names = (DEPLOYED, *self._policy_names[1:])
        self.rng = np.random.default_rng([seed, 1])
        limits = task.config.phases
        self._limits = (limits.forward_limit, limits.backward_limit)
        if agent.exploration_noise == 'pink':
            self._noise = PinkNoise(task.action_dim, self.rng, max(self._limits))
        else:
            self._noise = WhiteNoise(task.action_dim, self.rng)
        self._policies: list[Policy] = []
        self.steps = self.attempts = self.successes = 0
        self.phase = FORWARD
        self.phase_steps = 0
        self.goal = task.sample_goal(self.rng)

    @property
    def phase_name(self) -> str:
        """``forward`` or ``backward``."""
        return PHASES[self.phase]

    def set_policies(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Act with new weights from the next action on."""
        self._policies = [Policy(arrays, name) for name in self._policy_names]

    @property
    def has_policies(self) -> bool:
        """Whether weights have been set; without them actions are uniformly random."""
        return bool(self._policies)

    def observe(self, robot_state: np.ndarray) -> np.ndarray:
        """Observation [O] of a robot state [S] with the goal of the present phase."""
        return self.task.observation(robot_state, self.goal)

    def act(self, observation: np.ndarray) -> np.ndarray:
        """Action [A] in [-1, 1] of the present phase's policy."""
        if not self._policies:
            return self.rng.uniform(-1, 1, self.task.action_dim).astype(np.float32)
        policy = self._policies[self.phase]
        if self._evaluation and self.phase == FORWARD:
            return policy.mean_action(observation)
        return policy.sample(observation, self._noise.sample())

    def record(
        self,
        observation: np.ndarray,
        action: np.ndarray,
        next_state: np.ndarray,
        stamp: float,
        source: int = POLICY,
    ) -> dict[str, Any]:
        """Transition of one step with the executed action; switches the phase where due.

        :param next_state: robot state [S] after the step
        :param stamp: robot time of ``observation``, seconds
        """
        next_observation = self.observe(next_state)
        success = bool(self.task.success(next_observation))
        terminated = success and self.phase == FORWARD
        self.phase_steps += 1
        limit = self.phase_steps >= self._limits[self.phase]
        row = {
            'observation': observation,
            'action': action,
            'next_observation': next_observation,
            'reward': float(success),
            'terminated': terminated,
            'truncated': (limit or source == SAFETY) and not terminated,
            'phase': self.phase,
            'source': source,
            'stamp': stamp,
            'sequence': self.steps,
        }
        self.steps += 1
        if terminated or limit:
            self._switch(terminated)
        return row

    def _switch(self, success: bool) -> None:
        if self.phase == FORWARD:
            self.attempts += 1
            self.successes += success
        self.phase = BACKWARD if self.phase == FORWARD and self.has_backward else FORWARD
        if self.phase == FORWARD:
            self.goal = self.task.sample_goal(self.rng)
        self.phase_steps = 0
