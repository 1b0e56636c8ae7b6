"""Demonstrated states and commands -> transitions, whatever they were read from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mbarl_ros.task import Task
from mbarl_ros.transitions import DEMONSTRATION, DTYPES, PHASES, Transitions, concatenate, select


def episode(
    task: Task,
    states: np.ndarray,
    commands: np.ndarray,
    stamps: np.ndarray,
    direction: str,
    whole: np.ndarray | None = None,
) -> Transitions:
    """Transitions of one demonstration; ``sequence`` counts from 0.

    A forward demonstration ends with its first success, as the robot's own forward phase does;
    on a goal-conditioned task it is labelled with the goal it came nearest to at its end. A
    backward one is repeated once per goal, as in MEDAL (Sharma et al. 2022), and rewarded, like
    all transitions, by the task's reward for that goal.

    :param states: robot states [n + 1, robot dim]
    :param commands: executed commands [n, action_dim], physical units
    :param stamps: robot time, s, of the states; the first n are used
    :param direction: ``forward`` or ``backward``
    :param whole: which steps [n] to keep; None: all
    :returns: transitions of at most n rows, or n rows per goal
    """
    if direction not in PHASES:
        raise ValueError(f"direction '{direction}' is not one of {', '.join(PHASES)}")
    forward = direction == PHASES[0]
    goals: Sequence[np.ndarray | None] = [None]
    if task.goal_conditioned:
        goals = [nearest_goal(task, states[-1])] if forward else list(task.goals)
    whole = np.ones(len(commands), bool) if whole is None else whole
    copies = [_labelled(task, states, commands, stamps, goal, forward) for goal in goals]
    return join([select(copy, whole[: len(copy['reward'])]) for copy in copies])


def join(episodes: list[Transitions]) -> Transitions:
    """Demonstrations one after the other, ``sequence`` numbered anew from 0."""
    rows = concatenate(episodes)
    rows['sequence'] = np.arange(len(rows['reward']), dtype=DTYPES['sequence'])
    return rows


def nearest_goal(task: Task, robot_state: np.ndarray) -> np.ndarray:
    """The task's goal [state_dim] to which a robot state is nearest, by the task's measure."""
    distances = [task.distance(task.observation(robot_state, goal)) for goal in task.goals]
    return task.goals[int(np.argmin(distances))]


def _labelled(
    task: Task,
    states: np.ndarray,
    commands: np.ndarray,
    stamps: np.ndarray,
    goal: np.ndarray | None,
    forward: bool,
) -> Transitions:
    observations = task.observation(states, goal)
    success = task.success(observations[1:])
    n = len(commands)
    if forward and success.any():
        n = int(np.argmax(success)) + 1
    terminated = np.zeros(n, bool)
    terminated[-1] = forward and success[n - 1]
    truncated = np.zeros(n, bool)
    truncated[-1] = not terminated[-1]
    rows = {
        'observation': observations[:n],
        'action': task.action(commands[:n]),
        'next_observation': observations[1 : n + 1],
        'reward': task.reward(observations[1 : n + 1]),
        'terminated': terminated,
        'truncated': truncated,
        'phase': np.full(n, 0 if forward else 1),
        'source': np.full(n, DEMONSTRATION),
        'stamp': stamps[:n],
        'sequence': np.arange(n),
    }
    return {name: np.asarray(rows[name], dtype) for name, dtype in DTYPES.items()}
