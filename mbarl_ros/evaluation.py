"""The deployed protocol: how often the deterministic policy reaches the goal from given starts."""

from __future__ import annotations

from typing import Any

import numpy as np

from mbarl_ros.control.policy import Policy
from mbarl_ros.task import Task


def evaluate(task: Task, world: Any, policy: Policy, episodes: int, start: int = 0) -> float:
    """Success rate over ``episodes`` starts ``world.place(start + i)``.

    An episode succeeds if the goal is reached at any step within the task's evaluation horizon;
    episode i has goal i modulo their number. The world must not be the one that is trained in.
    """
    return float(np.mean([attempt(task, world, policy, start + i) for i in range(episodes)]))


def attempt(task: Task, world: Any, policy: Policy, index: int) -> bool:
    """One deployed episode from evaluation start ``index``: whether it succeeds."""
    goal = task.goals[index % len(task.goals)] if task.goal_conditioned else None
    observation = task.observation(world.place(index), goal)
    for _ in range(task.config.evaluation.horizon):
        if task.success(observation):
            return True
        state = world.step(task.command(policy.mean_action(observation)))
        observation = task.observation(state, goal)
    return bool(task.success(observation))
