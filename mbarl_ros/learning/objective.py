"""The base of all phase objectives, and what several of them need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mbarl_ros.control.policy import MAX_CANDIDATES, START_DISTANCE, STARTS
from mbarl_ros.learning.replay import Replay, evenly_spaced
from mbarl_ros.learning.sac import Sac
from mbarl_ros.learning.state_arrays import Arrays
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.storage.transitions import FORWARD
from mbarl_ros.task import Task

LEAST_DISTANCE = 0.1  # of a start that counts as near, in half ranges of the observation


class Objective:
    """Reward of a phase other than forward, recomputed whenever rows are drawn.

    ``return_range`` is the lowest and the highest return, ``discount`` that of the phase's policy.
    ``goals`` [n, state_dim] are the goals that backward rows are relabelled with, None without.
    """

    return_range = (0.0, 1.0)
    goals: np.ndarray | None = None

    def __init__(
        self, task: Task, agent: AgentConfig, demonstrations: Mapping[str, np.ndarray], seed: int
    ) -> None:
        """Build it for a task from the transitions of its demonstrations."""
        self.task, self.agent = task, agent
        self.discount = agent.sac.backward_discount

    def reward(self, next_observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reward, float32 [...], and whether the return ends, bool [...], of [..., O]."""
        raise NotImplementedError

    def train(self, replay: Replay) -> dict[str, float]:
        """Learn from the real rows that have been added since the last call; metrics."""
        return {}

    def set_classifier(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take a classifier message; objectives without a classifier ignore it."""

    def policy_arrays(self, sac: Sac) -> Arrays:
        """Arrays that the robot needs beside the policies: ``backward_goals`` or nothing."""
        return {}

    def state_dict(self) -> tuple[Arrays, dict[str, Any]]:
        """Arrays and JSON-able metadata for an exact resume."""
        return {}, {}

    def load_state_dict(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""


def demonstrated_states(
    task: Task, demonstrations: Mapping[str, np.ndarray], *, starts: bool = False
) -> np.ndarray:
    """States [n, state_dim] of the forward demonstrations; with ``starts`` only the first ones."""
    chosen = np.asarray(demonstrations['phase']) == FORWARD
    if starts:
        ended = np.asarray(demonstrations['truncated']) | np.asarray(demonstrations['terminated'])
        chosen = chosen & np.concatenate([[True], ended[:-1].astype(bool)])[: len(chosen)]
    return np.array(demonstrations['observation'][chosen, : task.state_dim], np.float32)


def start_arrays(task: Task, demonstrations: Mapping[str, np.ndarray]) -> Arrays:
    """Where demonstrations start, and how near is near, for :class:`~.phases.Practice`."""
    starts = task.scaled(demonstrated_states(task, demonstrations, starts=True))
    starts = evenly_spaced(starts, MAX_CANDIDATES).astype(np.float32)
    distance = np.linalg.norm(starts[:, None] - starts, axis=-1)
    np.fill_diagonal(distance, np.inf)
    to_nearest = distance.min(1)
    usual = float(np.median(to_nearest)) if len(starts) > 1 else 0.0
    near = np.array([max(usual, LEAST_DISTANCE)], np.float32)
    return {STARTS: starts, START_DISTANCE: near}
