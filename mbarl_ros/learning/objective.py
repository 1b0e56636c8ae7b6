"""The base of all phase objectives, and what several of them need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from mbarl_ros.learning.replay import Replay
from mbarl_ros.learning.sac import Sac
from mbarl_ros.learning.state_arrays import Arrays
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.storage.transitions import FORWARD
from mbarl_ros.task import Task

Rows = TypeVar('Rows', np.ndarray, Tensor)


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


def evenly_spaced(rows: Rows, limit: int) -> Rows:
    """At most ``limit`` of the rows, evenly spaced."""
    if len(rows) <= limit:
        return rows
    return rows[np.linspace(0, len(rows) - 1, limit).astype(int)]
