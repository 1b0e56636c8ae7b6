"""Practice: acting in forward and backward phases and assembling transitions.

The same class runs in the policy controller node and in the studies without ROS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mbarl_ros.control.model import has_model
from mbarl_ros.control.noise import PinkNoise
from mbarl_ros.control.planning_policy import Actor, PlanningPolicy
from mbarl_ros.control.policy import (
    DEPLOYED,
    GOALS,
    START_DISTANCE,
    STARTS,
    SUCCESS_CRITIC,
    Network,
    Policy,
    phases,
    policy_names,
)
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.storage.transitions import BACKWARD, FORWARD, PHASES, POLICY
from mbarl_ros.task import Task


class Practice:
    """Forward until success or its step limit, then backward until its limit, and so on.

    With decoupled exploration a third phase, as long as a forward phase, follows the backward one.
    A backward phase that has a goal of its own ends early when it reaches it; one without may end
    near a state in which a demonstration starts; and RISC's success critic may end a phase early. A
    phase switch changes policy and goal; the world is never touched. ``steps`` counts recorded
    transitions. With a preset that resets, the caller resets the world whenever ``reset_due`` is
    set, and clears the flag; so it does where the world has ended (key ``ended`` of the task),
    which also ends the phase. A forward phase follows each reset.
    """

    def __init__(
        self, task: Task, agent: AgentConfig, seed: int, *, evaluation: bool = False
    ) -> None:
        """Start in the forward phase; every random stream comes from ``seed``.

        :param evaluation: forward phases run the deployed policy, without noise, to their end;
            the backward policy, if there is one, puts the world back
        """
        self.task = task
        self.has_backward = agent.backward != 'none'
        self._evaluation = evaluation
        self._phases = phases(agent)
        self._policy_names = policy_names(agent)[:-1]
        if evaluation:
            self._phases = self._phases[:2]
            backward = self._policy_names[:2][-1:] if self.has_backward else ()
            self._policy_names = (DEPLOYED, *backward)
        self.rng = np.random.default_rng([seed, 1])
        self._limits = task.config.phases.limits
        self._noise = PinkNoise(task.action_dim, self.rng, max(self._limits))
        self._policies: list[Actor] = []
        self.planning = PlanningPolicy(task, agent, seed) if agent.planner else None
        self._switching = None if evaluation else agent.switching
        self._success_critic: Network | None = None
        self._backward_goals: np.ndarray | None = None
        self._starts: tuple[np.ndarray, float] | None = None  # scaled states, distance
        self._reach_states: np.ndarray | None = None  # [n, state_dim], any of which ends the phase
        self._resets = agent.resets
        self.reset_due = False
        self.steps = self.attempts = self.successes = 0
        self.phase = FORWARD
        self.phase_steps = 0
        self._turning = False  # the next step ends the phase
        self._choose_goal()
        self.goal = self._task_goal

    @property
    def phase_name(self) -> str:
        """``forward``, ``backward`` or ``explore``."""
        return PHASES[self.phase]

    def set_policies(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Act with new weights from the next action on."""
        self._policies = [Policy(arrays, name) for name in self._policy_names]
        if self.planning is not None and has_model(arrays):
            self.planning.load(arrays, self._policy_names[FORWARD])
            self._policies[FORWARD] = self.planning
        self._backward_goals = arrays.get(GOALS)
        if STARTS in arrays:
            self._starts = arrays[STARTS], float(arrays[START_DISTANCE][0])
        if self._switching:
            self._success_critic = Network(arrays, SUCCESS_CRITIC)

    @property
    def has_policies(self) -> bool:
        """Whether weights have been set; without them actions are uniformly random."""
        return bool(self._policies)

    def turn(self) -> None:
        """Give way to the next phase: the next step ends this one, truncated unless it succeeds."""
        self._turning = True

    def observe(self, robot_state: np.ndarray) -> np.ndarray:
        """Observation [O] of a robot state [S] with the goal of the current phase."""
        return self.task.observation(robot_state, self.goal)

    def act(self, observation: np.ndarray) -> np.ndarray:
        """Action [A] in [-1, 1] of the current phase's policy."""
        if not self._policies:
            return self.rng.uniform(-1, 1, self.task.action_dim).astype(np.float32)
        policy = self._policies[min(self.phase, len(self._policies) - 1)]
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

        A step is ``terminated`` or ``truncated`` if and only if its phase ends with it. Where the
        world has ended it is ``terminated``, and a success only if it is also that. A safety
        stop does not end a phase: the robot stands still for some steps, which ``source`` tells.

        :param next_state: robot state [S] after the step
        :param stamp: robot time of ``observation``, seconds
        """
        next_observation = self.observe(next_state)
        success = bool(self.task.success(next_observation))
        reached = success if self.phase == FORWARD else self._is_back(next_observation)
        ended = bool(self.task.ended(next_observation))
        terminated = reached or ended
        self.phase_steps += 1
        over = not terminated and (
            self._turning
            or self.phase_steps >= self._limits[self.phase]
            or self._switches_early(next_observation)
        )
        row = {
            'observation': observation,
            'action': action,
            'next_observation': next_observation,
            'reward': float(self.task.reward(next_observation)),
            'terminated': terminated,
            'truncated': over,
            'phase': self.phase,
            'source': source,
            'stamp': stamp,
            'sequence': self.steps,
        }
        self.steps += 1
        if terminated or over:
            self._switch(reached, ended)
        return row

    def _is_back(self, observation: np.ndarray) -> bool:
        """Whether a backward phase has reached a state that it was sent to."""
        if self._reach_states is None:
            return False
        distance = self.task.state_distance(observation[: self.task.state_dim], self._reach_states)
        return bool(distance.min() <= self.task.config.success.tolerance)

    def _switches_early(self, observation: np.ndarray) -> bool:
        """Whether the next phase may as well begin now.

        Near a start of the demonstrations there is nothing left to undo. RISC (Patil et al. 2024)
        switches where success is likely, to practise elsewhere.
        """
        if self.phase == BACKWARD and self._starts is not None:
            starts, near = self._starts
            state = self.task.scaled(observation[: self.task.state_dim])
            return bool(np.linalg.norm(starts - state, axis=-1).min() <= near)
        rule = self._switching
        if rule is None or self._success_critic is None:
            return False
        if self.phase_steps < rule.minimum_share * self._limits[self.phase]:
            return False
        success = np.clip(self._success_critic.output(observation)[0], 0.0, 1.0)
        return bool(self.rng.random() < success * (1.0 - rule.decay**self.phase_steps))

    def _switch(self, success: bool, ended: bool) -> None:
        if self.phase == FORWARD:
            self.attempts += 1
            self.successes += success
            self.reset_due = self._resets
            self._choose_goal()
        self.phase = self._phases[(self._phases.index(self.phase) + 1) % len(self._phases)]
        if ended:
            self.phase, self.reset_due = FORWARD, True
        self.phase_steps, self._turning = 0, False
        if self.planning is not None:
            self.planning.begin(1)
        self.goal, self._reach_states = self._task_goal, None
        if self.phase == BACKWARD and self._backward_goals is not None:
            self._choose_backward_goal()

    def _choose_goal(self) -> None:
        """Choose the goal of the next forward phase; the backward phase before it prepares it."""
        goals = self.task.goals
        self._goal_index = int(self.rng.integers(len(goals))) if len(goals) else 0
        self._task_goal = goals[self._goal_index] if len(goals) else None

    def _choose_backward_goal(self) -> None:
        """One of the candidates becomes the goal; without goals, any of them may be reached."""
        assert self._backward_goals is not None
        self._reach_states = self._backward_goals[:, self._goal_index]
        if self.task.goal_conditioned:
            self._reach_states = self._reach_states[[self.rng.integers(len(self._reach_states))]]
            self.goal = self._reach_states[0]
