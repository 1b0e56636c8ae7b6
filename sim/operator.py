"""A scripted operator: demonstrates a task in simulation like a person with a gamepad."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from mbarl_ros.storage.transitions import DIRECTIONS
from mbarl_ros.task import Task

FORWARD, BACKWARD = DIRECTIONS


class Operator(ABC):
    """Steers to waypoints like a person: with tremor, changing pace, short pauses and overshoot.

    Call ``begin`` at the start of an episode, then ``command`` with each robot state until it
    returns None.
    """

    directions: tuple[str, ...]
    axes = 2  # of the hand's motion

    def __init__(self, task: Task, seed: int = 0) -> None:
        """``seed``: of everything in which episodes differ."""
        self.task = task
        self.rng = np.random.default_rng(seed)

    def begin(self, direction: str = FORWARD, goal: np.ndarray | None = None) -> None:
        """Start an episode.

        :param goal: of a goal-conditioned task; None for other tasks
        :raises ValueError: the operator cannot demonstrate this direction.
        """
        if direction not in self.directions:
            raise ValueError(
                f'{type(self).__name__} drives {" and ".join(self.directions)}, not {direction}'
            )
        self.direction, self.goal = direction, goal
        self._velocity, self._tremor = np.zeros(self.axes), np.zeros(self.axes)
        self._pace_drift = 0.0
        self._pause = 0
        self._started = False

    @abstractmethod
    def command(self, state: np.ndarray) -> np.ndarray | None:
        """Command in physical units for a robot state; None when the episode is finished."""

    def _steer(self, towards: np.ndarray, pace: float, limit: float, gain: float) -> np.ndarray:
        """Command [axes] along the vector ``towards`` the waypoint, at most ``limit`` per axis.

        Its speed is about ``pace``, and at most ``gain * distance`` near the waypoint.
        """
        rng = self.rng
        self._pace_drift = 0.95 * self._pace_drift + 0.05 * rng.standard_normal()
        self._tremor = 0.7 * self._tremor + 0.05 * rng.standard_normal(self.axes)
        if self._pause == 0 and rng.random() < 0.012:
            self._pause = int(rng.integers(2, 5))
        target = np.zeros(self.axes)
        if self._pause:
            self._pause -= 1
        else:
            distance = float(np.linalg.norm(towards))
            speed = min(pace * float(np.clip(1 + self._pace_drift, 0.6, 1.4)), gain * distance)
            target = towards * (speed / max(distance, 1e-9))
        # The hand lags behind the eye, so the path overshoots at corners.
        self._velocity += 0.5 * (target - self._velocity)
        return np.clip(self._velocity + pace * self._tremor, -limit, limit)
