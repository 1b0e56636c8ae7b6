"""Scripted operators of the tasks in which the Panda moves things."""

from __future__ import annotations

import numpy as np

from mbarl_sim import door, push
from mbarl_sim.manipulation import SPEED
from mbarl_sim.operator import BACKWARD, FORWARD, Operator
from mbarl_sim.tray import edge_height

HIGH = 0.1  # m, height at which the hand travels


class ArmOperator(Operator):
    """Steers the hand of an arm to waypoints in space; subclasses say which, in ``_plan``."""

    directions, axes = (FORWARD, BACKWARD), 3
    home = np.array([0.4, -0.18, HIGH])  # m, where the hand is at the start
    rise = 0.015  # m, below its travelling height at which the hand is high enough

    def begin(self, direction: str = FORWARD, goal: np.ndarray | None = None) -> None:
        """Start an episode with a new pace."""
        super().begin(direction, goal)
        self._pace = self.rng.uniform(0.1, 0.16)  # m/s
        names = self.task.robot.state_names
        self._hand = [names.index(f'hand_{axis}') for axis in 'xyz']
        self._object = [names.index(f'object_{axis}') for axis in 'xyz']
        self._finished = False
        self._stage = 'begin'

    def command(self, state: np.ndarray) -> np.ndarray | None:
        """Command vx, vy, vz (m/s) and gripper (m); None when the episode is finished."""
        state = np.asarray(state, np.float64)
        motion, gripper = self._plan(state[self._hand], state[self._object])
        return None if self._finished else np.append(motion, gripper)

    def _plan(self, hand: np.ndarray, thing: np.ndarray) -> tuple[np.ndarray, float]:
        """Velocity [3] (m/s) and finger position (m) for positions [3] of hand and object."""
        raise NotImplementedError

    def _approach(
        self, hand: np.ndarray, place: np.ndarray, heights: tuple[float, float], near: float
    ) -> np.ndarray | None:
        """Velocity [3] (m/s) up, over ``place`` [2] and down there; None when the hand is there.

        :param heights: m, for travelling and at the place
        :param near: m, from the place at which the hand goes down
        """
        high, low = heights
        if self._stage == 'begin':
            if hand[2] < high - self.rise:
                return self._towards(np.array([*hand[:2], high]), hand)
            self._stage = 'over'
        if self._stage == 'over':
            if np.linalg.norm(hand[:2] - place) > near:
                return self._towards(np.array([*place, high]), hand)
            self._stage = 'down'
        if self._stage == 'down':
            if hand[2] > low + 0.012:
                return self._towards(np.array([*place, low]), hand)
            self._stage = 'move'
        return None

    def _towards(self, waypoint: np.ndarray, hand: np.ndarray, gain: float = 3.0) -> np.ndarray:
        return self._steer(waypoint - hand, self._pace, SPEED, gain)


class PushOperator(ArmOperator):
    """Goes round the puck, pushes it to its place; backward, the hand goes home afterwards."""

    rise = 0.02

    def begin(self, direction: str = FORWARD, goal: np.ndarray | None = None) -> None:
        """Start an episode."""
        super().begin(direction, goal)
        place = push.GOAL if direction == FORWARD else push.START
        self._place = place + self.rng.uniform(-0.01, 0.01, 2)

    def _plan(self, hand: np.ndarray, thing: np.ndarray) -> tuple[np.ndarray, float]:
        way = self._place - thing[:2]
        distance = float(np.linalg.norm(way))
        along = way / max(distance, 1e-9)
        if self._stage != 'home' and distance < 0.02:
            self._stage = 'home'
        if self._stage == 'home':
            return self._go_home(hand), 0.0
        behind = thing[:2] - along * (push.RADIUS + 0.035)
        low = 0.018 + edge_height(behind)
        aside = (hand[:2] - behind) - along * ((hand[:2] - behind) @ along)
        ahead = (hand[:2] - behind) @ along
        if self._stage == 'move' and (np.linalg.norm(aside) > 0.025 or ahead < -0.05):
            self._stage = 'begin'  # it slipped away
        approach = self._approach(hand, behind, (HIGH, low), near=0.012)
        if approach is not None:
            return approach, 0.0
        pace = min(self._pace, 2.0 * distance + 0.03)
        velocity = np.array([*(along * pace - 4.0 * aside), 4.0 * (0.018 - hand[2])])
        return self._steer(velocity, float(np.linalg.norm(velocity)), SPEED, 10.0), 0.0

    def _go_home(self, hand: np.ndarray) -> np.ndarray:
        if self.direction == FORWARD:
            self._finished = True
        up = np.array([*hand[:2], HIGH]) if hand[2] < HIGH - self.rise else self.home
        self._finished |= bool(np.linalg.norm(hand - self.home) < 0.03)
        return self._towards(up, hand)


class DoorOperator(ArmOperator):
    """Pushes the handle until the door is closed; backward, hooks the fingers behind it and pulls.

    Travels above the door and comes down at the side of the handle from which it moves it.
    Backward, a door that is too far open is pushed.
    """

    home = door.HAND_START
    _TRAVEL, _LOW = 0.215, 0.135  # m, heights of the hand above the door, and at the handle

    def begin(self, direction: str = FORWARD, goal: np.ndarray | None = None) -> None:
        """Start an episode."""
        super().begin(direction, goal)
        start = door.START + self.rng.uniform(-0.03, 0.03)
        self._place = 0.0 if direction == FORWARD else start  # rad

    def _plan(self, hand: np.ndarray, thing: np.ndarray) -> tuple[np.ndarray, float]:
        angle = door.opening(thing[:2])
        remaining = self._place - angle  # rad
        if self.direction == FORWARD:
            away = np.linalg.norm(thing[:2] - door.handle_pose(0.0)[:2])
            self._finished = bool(away <= self.task.config.success.tolerance)
        elif self._stage == 'move' and (remaining >= 0) == self._closing:
            self._stage = 'leave'
        if self._stage == 'leave':
            return self._go_home(hand), 0.0
        if self._stage == 'begin':
            self._closing = remaining < 0
        along, out = door.door_axes(angle)
        side = 1.0 if self._closing else -1.0
        beside = thing[:2] + side * (0.05 if self._closing else 0.036) * out
        offset = hand[:2] - beside
        if self._stage == 'move' and (abs(offset @ along) > 0.04 or side * (offset @ out) > 0.05):
            self._stage = 'begin'  # it slipped away
        approach = self._approach(hand, beside, (self._TRAVEL, self._LOW), near=0.01)
        if approach is not None:
            return approach, 0.0
        pace = self._pace
        if self.direction == BACKWARD:  # or it moves on when the hand leaves it
            pace = min(pace, 2.0 * door.BAR_AT * abs(remaining) + 0.03)
        planar = -side * pace * out - 4.0 * (offset @ along) * along
        velocity = np.array([*planar, 4.0 * (self._LOW - hand[2])])
        return self._steer(velocity, float(np.linalg.norm(velocity)), SPEED, 10.0), 0.0

    def _go_home(self, hand: np.ndarray) -> np.ndarray:
        high = hand[2] > self._TRAVEL - self.rise
        self._finished = bool(np.linalg.norm(hand - self.home) < 0.03)
        return self._towards(self.home if high else np.array([*hand[:2], self._TRAVEL]), hand)
