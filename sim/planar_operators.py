"""Scripted operators of the two flat worlds, pointmass and tabletop."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from mbarl_sim import pointmass, tabletop
from mbarl_sim.operator import BACKWARD, FORWARD, Operator


class PointMassOperator(Operator):
    """Drives through the gap to the goal; above the wall, straight to the goal."""

    directions = (FORWARD,)

    def begin(self, direction: str = FORWARD, goal: np.ndarray | None = None) -> None:
        """Start an episode with a new pace and new waypoints."""
        super().begin(direction, goal)
        middle = sum(pointmass.GAP) / 2
        self._pace = self.rng.uniform(0.65, 0.9)  # m/s
        self._waypoints = [
            np.array([middle, y]) + self.rng.normal(0, noise, 2)
            for y, noise in ((-0.45, 0.05), (0.4, 0.04))
        ]
        self._waypoints.append(np.array(pointmass.GOAL) + self.rng.normal(0, 0.05, 2))

    def command(self, state: np.ndarray) -> np.ndarray | None:
        """Velocity command [2] (m/s) for state x, y, vx, vy; None inside the goal region."""
        if self.task.success(self.task.observation(state)):
            return None
        position = np.asarray(state[:2], np.float64)
        if not self._started:
            self._started = True
            if position[1] > pointmass.WALL + pointmass.RADIUS:
                del self._waypoints[:2]
        if len(self._waypoints) > 1 and np.linalg.norm(self._waypoints[0] - position) < 0.12:
            del self._waypoints[0]
        # Steer as if a passing waypoint were at least 1.2 m away, or the pace would drop before it.
        towards = self._waypoints[0] - position
        distance = float(np.linalg.norm(towards))
        if len(self._waypoints) > 1:
            towards = towards * (max(distance, 1.2) / max(distance, 1e-9))
        return self._steer(towards, self._pace, pointmass.SPEED, gain=1.5)


class TabletopOperator(Operator):
    """Fetches the mug, carries it to its target, releases it and moves the gripper home.

    Target and home come from the goal (forward) or from the initial state (backward). Moves at
    most 0.12 m per step and axis, as in EARL's demonstrations.
    """

    directions = (FORWARD, BACKWARD)
    _LIMIT = 0.6 * tabletop.STEP

    def begin(self, direction: str = FORWARD, goal: np.ndarray | None = None) -> None:
        """Start an episode; forward episodes need a goal [6] of the task."""
        super().begin(direction, goal)
        names = [entry.name for entry in self.task.config.observation]
        if direction == FORWARD:
            target = dict(zip(names, np.asarray(goal, np.float64), strict=True))
        else:
            target = dict(zip(tabletop.Tabletop.state_names, tabletop.INITIAL, strict=True))
        self._home = np.array([target['gripper_x'], target['gripper_y']])
        self._mug_target = np.array([target['mug_x'], target['mug_y']])
        self._stage = 'reach'
        self._wait = int(self.rng.integers(2, 5))
        self._offset = self.rng.normal(0, 0.05, 2)

    def finished(self, state: np.ndarray) -> bool:
        """Whether gripper and mug are at the target of this episode."""
        gripper, mug = np.asarray(state)[[0, 1]], np.asarray(state)[[3, 4]]
        error = np.concatenate([gripper - self._home, mug - self._mug_target])
        return bool(np.linalg.norm(error) <= self.task.config.success.tolerance)

    def command(self, state: np.ndarray) -> np.ndarray | None:
        """Command [3]: dx, dy (m per step), grasp; None when gripper and mug are at the target."""
        if self.finished(state):
            return None
        gripper, mug = np.asarray(state[:2], np.float64), np.asarray(state[3:5], np.float64)
        if not self._started:
            self._started = True
            self._choose_pace(gripper, mug)
        towards = self._advance(gripper, mug, held=state[2] > -0.5)
        move = self._steer(towards, self._pace, self._LIMIT, gain=0.8)
        grip = self._stage in ('close', 'carry')
        grasp = (1 if grip else -1) * self.rng.uniform(0.5, 0.95) * tabletop.STEP
        return np.array([*move, grasp])

    def _choose_pace(self, gripper: np.ndarray, mug: np.ndarray) -> None:
        corners = (gripper, mug, self._mug_target, self._home)
        path = sum(float(np.linalg.norm(b - a)) for a, b in pairwise(corners))
        self._pace = min(path / self.rng.uniform(88, 98), 0.115)

    def _advance(self, gripper: np.ndarray, mug: np.ndarray, *, held: bool) -> np.ndarray:
        """Go to the next stage if the present one is finished; the vector [2] to move along."""
        waiting = np.zeros(2)
        if self._stage == 'reach':
            towards = mug + self._offset - gripper
            if np.linalg.norm(towards) > 0.15:
                return towards
            self._stage = 'close'
        if self._stage == 'close':
            self._wait -= 1
            if not held or self._wait > 0:
                return waiting
            self._stage = 'carry'
        if self._stage == 'carry':
            towards = self._mug_target - mug
            if np.linalg.norm(towards) > 0.06:
                return towards
            self._stage, self._wait = 'open', int(self.rng.integers(2, 5))
        if self._stage == 'open':
            self._wait -= 1
            if held or self._wait > 0:
                return waiting
            self._stage = 'home'
        if np.linalg.norm(mug - self._mug_target) > 0.17:  # it slipped
            self._stage, self._wait = 'reach', int(self.rng.integers(2, 5))
            return mug - gripper
        return self._home - gripper
