"""Episodes: demonstrations as observations and actions of a task, from any format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mbarl_ros.storage.transitions import (
    DEMONSTRATION,
    DIRECTIONS,
    DTYPES,
    Transitions,
    concatenate,
    select,
)
from mbarl_ros.task import Task

SUCCEEDED, DISCARDED, UNKNOWN = VERDICTS = ('success', 'discarded', 'unknown')


@dataclass(frozen=True)
class Episode:
    """One demonstration at the task's control steps; every format is read into it.

    ``states`` [n + 1, task.state_dim] float32, physical units, without the goal; ``actions``
    [n, action_dim] float32 in [-1, 1], as executed; ``stamps`` [n + 1] float64, s; ``whole`` [n]
    is False for a step in which messages were lost: it makes no transition. Goal and reward are not
    stored, because they follow from the states (:func:`transitions`). ``commands`` [n, action_dim]
    float64, physical units, are what the actions were before they were clipped; None: unknown.
    """

    states: np.ndarray
    actions: np.ndarray
    stamps: np.ndarray
    whole: np.ndarray
    direction: str = 'forward'
    verdict: str = UNKNOWN
    operator: str = 'unknown'
    name: str = ''
    origin: dict[str, Any] = field(default_factory=dict)
    commands: np.ndarray | None = None

    def check(self, task: Task) -> Episode:
        """Return self if it is a valid episode of the task.

        :raises ValueError: a wrong shape, type, direction or verdict, or a value that is not
            finite; the message names it.
        """
        n = len(self.actions)
        if n < 1:
            raise ValueError('it has no step')
        for what, array, shape, kind in (
            ('states', self.states, (n + 1, task.state_dim), np.float32),
            ('actions', self.actions, (n, task.action_dim), np.float32),
            ('stamps', self.stamps, (n + 1,), np.float64),
            ('whole', self.whole, (n,), np.bool_),
        ):
            if array.shape != shape or array.dtype != kind:
                raise ValueError(
                    f'{what} are {array.dtype} {array.shape}, task {task.name} needs '
                    f'{np.dtype(kind)} {shape}'
                )
            if not np.isfinite(array).all():
                row, *column = (int(index) for index in np.argwhere(~np.isfinite(array))[0])
                entries = {'states': task.config.columns, 'actions': task.config.action}
                entry = f' in {entries[what][column[0]].name}' if what in entries else ''
                raise ValueError(f'{what} are not finite (NaN or infinite) at step {row}{entry}')
        if np.abs(self.actions).max() > 1.0:
            raise ValueError('actions are not all in [-1, 1]')
        if self.direction not in DIRECTIONS or self.verdict not in VERDICTS:
            raise ValueError(
                f"direction '{self.direction}' or verdict '{self.verdict}' is unknown; known: "
                f'{", ".join(DIRECTIONS)}; {", ".join(VERDICTS)}'
            )
        return self

    @property
    def is_forward(self) -> bool:
        """Whether it demonstrates the task, not the way back."""
        return self.direction == DIRECTIONS[0]

    def goal(self, task: Task) -> np.ndarray | None:
        """Goal [state_dim] nearest to its end (backward: to its start); None without goals."""
        if not task.goal_conditioned:
            return None
        return nearest_goal(task, self.states[-1 if self.is_forward else 0])

    def rewards(self, task: Task) -> np.ndarray:
        """Task reward [n] float32 of each step, for the goal of :meth:`goal`."""
        return task.reward(_observations(self, task, self.goal(task))[1:])

    def reached(self, task: Task) -> bool:
        """Whether the last state is a success."""
        return bool(task.success(_observations(self, task, self.goal(task))[-1]))

    def signals(self, task: Task) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Name -> times (s) and values of states, actions and reward; NaN in left-out steps."""
        times = self.stamps - self.stamps[0]
        gap = np.where(self.whole, 0.0, np.nan)
        signals = {}
        values = task.to_entries(self.states)
        for column, entry in enumerate(task.config.observation):
            signals[entry.name] = times, values[:, column] + np.append(0.0, gap)
        for column, entry in enumerate(task.config.action):
            signals[f'action {entry.name}'] = times[:-1], self.actions[:, column] + gap
        signals['reward'] = times[1:], self.rewards(task) + gap
        return signals

    def succeeded(self, task: Task) -> bool:
        """Whether to learn from it: its verdict is success.

        Without a verdict: it is a forward demonstration, and its last state is a success.
        """
        if self.verdict != UNKNOWN:
            return self.verdict == SUCCEEDED
        return self.is_forward and self.reached(task)

    def success_distances(self, task: Task) -> np.ndarray:
        """Distance to success [n + 1] of each state, for the goal of :meth:`goal`."""
        return task.distance(_observations(self, task, self.goal(task)))


def episode(
    task: Task,
    states: np.ndarray,
    commands: np.ndarray,
    stamps: np.ndarray,
    direction: str,
    whole: np.ndarray | None = None,
    **about: Any,
) -> Episode:
    """Episode from robot states [n + 1, robot dim] and commands [n, action_dim], physical units.

    :param stamps: robot time, s, of the states; with n stamps the last is one period later
    :param about: verdict, operator, name, origin
    """
    stamps = np.asarray(stamps, np.float64)
    if len(stamps) == len(commands):
        stamps = np.append(stamps, stamps[-1] + 1 / task.robot.control_rate)
    return Episode(
        states=task.state(states),
        actions=task.action(commands),
        stamps=stamps,
        whole=np.ones(len(commands), bool) if whole is None else np.asarray(whole, bool),
        direction=direction,
        commands=np.asarray(commands, np.float64),
        **about,
    ).check(task)


def transitions(task: Task, demonstration: Episode) -> Transitions:
    """Transitions of one demonstration; ``sequence`` counts from 0.

    A forward demonstration ends at its first success, as the robot's own forward phase does. On a
    goal-conditioned task its goal is the one nearest to its end. A backward one is repeated once
    per goal, as in MEDAL (Sharma et al. 2022). All rewards are the task's, for the goal in the
    observation.

    :returns: transitions, at most n rows per goal
    """
    goals: Sequence[np.ndarray | None] = [demonstration.goal(task)]
    if not demonstration.is_forward and task.goal_conditioned:
        goals = list(task.goals)
    copies = [_labelled(task, demonstration, goal) for goal in goals]
    return join([select(copy, demonstration.whole[: len(copy['reward'])]) for copy in copies])


def join(parts: list[Transitions]) -> Transitions:
    """Concatenate demonstrations; ``sequence`` counts from 0 again."""
    rows = concatenate(parts)
    rows['sequence'] = np.arange(len(rows['reward']), dtype=DTYPES['sequence'])
    return rows


def nearest_goal(task: Task, state: np.ndarray) -> np.ndarray:
    """The goal [state_dim] nearest to a state [state_dim], by the task's distance to success."""
    candidates = np.stack([np.concatenate([state, goal]) for goal in task.goals])
    return task.goals[int(np.argmin(task.distance(candidates)))]


def _observations(demonstration: Episode, task: Task, goal: np.ndarray | None) -> np.ndarray:
    if goal is None:
        return demonstration.states
    goals = np.broadcast_to(goal, demonstration.states.shape)
    return np.concatenate([demonstration.states, goals], -1, dtype=np.float32)


def _labelled(task: Task, demonstration: Episode, goal: np.ndarray | None) -> Transitions:
    forward = demonstration.is_forward
    observations = _observations(demonstration, task, goal)
    success = task.success(observations[1:])
    n = len(demonstration.actions)
    if forward and success.any():
        n = int(np.argmax(success)) + 1
    terminated = np.zeros(n, bool)
    terminated[-1] = forward and success[n - 1]
    truncated = np.zeros(n, bool)
    truncated[-1] = not terminated[-1]
    rows = {
        'observation': observations[:n],
        'action': demonstration.actions[:n],
        'next_observation': observations[1 : n + 1],
        'reward': task.reward(observations[1 : n + 1]),
        'terminated': terminated,
        'truncated': truncated,
        'phase': np.full(n, DIRECTIONS.index(demonstration.direction)),
        'source': np.full(n, DEMONSTRATION),
        'stamp': demonstration.stamps[:n],
        'sequence': np.arange(n),
        'robot': np.zeros(n),
    }
    return {name: np.asarray(rows[name], dtype) for name, dtype in DTYPES.items()}
