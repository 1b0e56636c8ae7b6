"""Batches for the policies: drawn, relabelled with goals and rewarded as of now."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from mbarl_ros.learning.batch import Batch
from mbarl_ros.learning.imagination import Imagination
from mbarl_ros.learning.objective import Objective
from mbarl_ros.learning.replay import Demonstrations, Replay
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.storage.transitions import BACKWARD, FORWARD
from mbarl_ros.task import Task

RECENT = 2000  # half of the real rows are that new: what goes wrong now is corrected soon
HINDSIGHT_DELAY = 4  # mean delay of a hindsight goal: a phase limit divided by this

Rows = dict[str, np.ndarray]


class BatchSampler:
    """Draws each policy's batches from demonstrations, real practice and imagined practice."""

    def __init__(
        self,
        task: Task,
        agent: AgentConfig,
        policies: int,
        replay: Replay,
        demonstrations: Demonstrations,
        imagination: Imagination | None,
        objectives: Mapping[int, Objective],
        seed: int,
    ) -> None:
        """Sample from these sources, which others fill.

        :param objectives: of every phase but the forward one
        """
        self.task, self.agent, self.policies = task, agent, policies
        self._replay, self._demonstrations = replay, demonstrations
        self._imagination, self._objectives = imagination, objectives
        limit = task.config.phases.forward_limit
        self._limits = task.config.phases.limits
        self._discounts = {FORWARD: agent.forward_discount(limit)}
        self._discounts |= {phase: objective.discount for phase, objective in objectives.items()}
        self.rng = np.random.default_rng([seed, 1])

    def draw(self, updates: int) -> Batch:
        """A block of batches, with a leading axis [updates]."""
        parts = [self._policy_batches(phase, updates) for phase in range(self.policies)]
        stacked = {name: np.stack([part[name] for part in parts], axis=1) for name in parts[0]}
        return Batch(**{name: torch.from_numpy(array) for name, array in stacked.items()})

    def _policy_batches(self, phase: int, updates: int) -> Rows:
        """Fields of :class:`Batch` [updates, batch, ...] for the policy of one phase."""
        demonstrated, real, imagined = self._shares()
        parts = []
        if demonstrated:
            parts.append(self.draw_rows(self._demonstrations, phase, (updates, demonstrated)))
        if real:
            parts.append(self.draw_rows(self._replay, phase, (updates, real)))
        if imagined and self._imagination:
            source = self._imagination.buffers[phase]
            parts.append(self.draw_rows(source, phase, (updates, imagined)))
        rows = {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}
        reward, ends = self.reward(phase, rows)
        if not self.agent.bootstrap_truncation:
            ends = ends | rows['truncated'].astype(bool)
        return {
            'observation': self.task.scaled(rows['observation']),
            'action': rows['action'],
            'next_observation': self.task.scaled(rows['next_observation']),
            'reward': reward,
            'discount': (self._discounts[phase] * ~ends).astype(np.float32),
            'return_lower_bound': rows['return_lower_bound'],
        }

    def _shares(self) -> tuple[int, int, int]:
        """How many rows of a batch are demonstrated, real and imagined."""
        batch = self.agent.sac.batch_size
        imagined = round(batch * (self._imagination.fraction if self._imagination else 0.0))
        demonstrated = round(batch * self.agent.demonstration_fraction)
        if not self._replay.has_rows_to_sample():
            demonstrated = batch - imagined
        return demonstrated, batch - demonstrated - imagined, imagined

    def reward(self, phase: int, rows: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Reward as of now and whether the return ends; it never ends at a truncation."""
        reward, ends = self._phase_reward(phase, rows)
        return reward, ends | self.task.ended(rows['next_observation'])

    def _phase_reward(
        self, phase: int, rows: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        next_observation = rows['next_observation']
        if phase in self._objectives:
            return self._objectives[phase].reward(next_observation)
        if not self.task.reward_known:
            # A success is worth what staying there would go on to bring; else hovering beside it
            # were worth more.
            return rows['reward'], np.zeros(rows['reward'].shape, bool)
        success = self.task.success(next_observation)
        return success.astype(np.float32), success

    def draw_rows(self, source: Replay, phase: int, shape: tuple[int, int]) -> Rows:
        """Rows of one source for the policy of ``phase``, relabelled if the task has goals.

        ``return_lower_bound``: the return that was demonstrated from there, for the goal that the
        row now has, else -inf.
        """
        order = self._sample(source, shape)
        rows = source.rows(order)
        rows['return_lower_bound'] = np.full(shape, -np.inf, np.float32)
        if self.task.goal_conditioned:
            self._set_goals(rows, np.ones(shape, bool), self._choose_goals(source, phase, rows))
        # Where the state tells the goal, the backward objectives do not depend on it.
        hindsight = self.task.goal_conditioned or (self.task.goal_in_state and phase == FORWARD)
        reaches_goals = phase == FORWARD or (phase == BACKWARD and self.agent.reaches)
        if not reaches_goals or not self.task.reward_known:
            return rows
        if source is self._demonstrations and (phase == FORWARD or self.task.goal_conditioned):
            self._bound_by_demonstrated_success(rows, order, phase)
        if hindsight and self.agent.hindsight_fraction > 0:
            self._relabel_in_hindsight(rows, source, order, phase)
        return rows

    def _sample(self, source: Replay, shape: tuple[int, int]) -> np.ndarray:
        if source is self._demonstrations:
            return self._demonstrations.sample_directions(self.rng, shape)
        return source.sample(self.rng, shape, RECENT if source is self._replay else None)

    def _bound_by_demonstrated_success(self, rows: Rows, order: np.ndarray, phase: int) -> None:
        """Where a demonstration ends in the goal of the row, its return is a lower bound."""
        steps = self._demonstrations.steps_to_end(order)
        end = self._demonstrations.rows(order + steps)['next_observation']
        end[..., self.task.state_dim :] = rows['observation'][..., self.task.state_dim :]
        attained = self.task.success(end)
        rows['return_lower_bound'][attained] = self._discounts[phase] ** steps[attained]

    def _relabel_in_hindsight(
        self, rows: Rows, source: Replay, order: np.ndarray, phase: int
    ) -> None:
        """Make a later state of the same chain the goal of some rows (Andrychowicz et al. 2017)."""
        mean_delay = self._limits[phase] / HINDSIGHT_DELAY
        later, delay = source.later(order, self.rng, mean_delay)
        relabelled = self.rng.random(order.shape) < self.agent.hindsight_fraction
        # What ended at its goal, as an environment may, would not have ended at another.
        relabelled &= ~self.task.ended(rows['next_observation'])
        self._set_goals(rows, relabelled, later[relabelled, : self.task.state_dim])
        # A demonstration of the way to its goal also demonstrates the way to states before it. What
        # practice came to, and imagination more so, may have been luck (and is no lower bound).
        shown = source is self._demonstrations
        attained = self._discounts[phase] ** delay[relabelled] if shown else -np.inf
        rows['return_lower_bound'][relabelled] = attained

    def _choose_goals(self, source: Replay, phase: int, rows: Rows) -> np.ndarray:
        """Goals [..., state_dim] for drawn rows: their own, the task's or the objective's."""
        shape = rows['phase'].shape
        goals = rows['observation'][..., self.task.state_dim :]
        # A measured reward belongs to the goal that the row was practised with.
        if source is self._replay and self.task.reward_known:
            goals = self.task.goals[self.rng.integers(len(self.task.goals), size=shape)]
        objective = self._objectives.get(BACKWARD)
        backward_goals = None if objective is None else objective.goals
        if backward_goals is not None and (phase == BACKWARD or self.agent.shared):
            backward = (rows['phase'] == BACKWARD) | (phase == BACKWARD)
            drawn = backward_goals[self.rng.integers(len(backward_goals), size=shape)]
            goals = np.where(backward[..., None], drawn, goals)
        return goals

    def _set_goals(self, rows: Rows, chosen: np.ndarray, goals: np.ndarray) -> None:
        """Replace the goals of the ``chosen`` rows (a mask) in both observations."""
        for name in ('observation', 'next_observation'):
            states = goals.reshape(-1, self.task.state_dim)
            rows[name][chosen] = self.task.with_goal(rows[name][chosen], states)
