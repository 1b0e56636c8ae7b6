"""The Panda pushes a puck to a place in a tray, without grasping it."""

from __future__ import annotations

import numpy as np
import pybullet

from mbarl_sim.manipulation import Manipulation
from mbarl_sim.worlds import box, cylinder, cylinder_shape

RADIUS, HEIGHT, MASS = 0.035, 0.04, 0.15  # m, m, kg; of the puck
MIDDLE, HALF = np.array([0.5, 0.0]), np.array([0.13, 0.2])  # m, the flat part of the tray
GOAL, GOAL_RADIUS = np.array([0.55, 0.13]), 0.04  # m
START, SPREAD = np.array([0.45, -0.1]), 0.03  # m, where demonstrations begin
EDGE, SLOPE = 0.1, np.radians(30)  # m, width of the tilted edges and their slope


class Push(Manipulation):
    """A puck slides on a table with tilted edges, from which it slides back."""

    hand_box = np.array([[0.3, -0.28, 0.012], [0.7, 0.28, 0.2]])

    def _build(self) -> None:
        client = self._client
        wood, edge = (0.76, 0.62, 0.45), (0.66, 0.52, 0.37)
        floor = box(client, (0.45, 0.5, 0.05), (0.45, 0.0, -0.05), wood, solid=True)
        pybullet.changeDynamics(floor, -1, lateralFriction=0.4, physicsClientId=client)
        for axis in range(2):
            for sign in (-1, 1):
                self._tilted_edge(axis, sign, edge)
        cylinder(client, GOAL_RADIUS, 0.001, (*GOAL, 0.0005), (0.3, 0.7, 0.35))
        shape = pybullet.createCollisionShape(
            pybullet.GEOM_CYLINDER, radius=RADIUS, height=HEIGHT, physicsClientId=client
        )
        visual = cylinder_shape(client, RADIUS, HEIGHT, (0.2, 0.4, 0.85))
        self._puck = pybullet.createMultiBody(MASS, shape, visual, physicsClientId=client)
        pybullet.changeDynamics(
            self._puck, -1, lateralFriction=0.5, spinningFriction=0.005, physicsClientId=client
        )

    def _tilted_edge(self, axis: int, sign: int, colour: tuple[float, float, float]) -> None:
        """A slab that rises outwards from one side of the flat part."""
        half = np.array([0.0, 0.0, 0.01])
        half[axis] = EDGE / 2 / np.cos(SLOPE)
        half[1 - axis] = HALF[1 - axis] + EDGE
        position = np.array([*MIDDLE, EDGE / 2 * np.tan(SLOPE) - 0.01 / np.cos(SLOPE)])
        position[axis] += sign * (HALF[axis] + EDGE / 2)
        turn = [0.0, 0.0, 0.0]
        turn[1 - axis] = -sign * SLOPE if axis == 0 else sign * SLOPE
        slab = box(self._client, tuple(half), tuple(position), colour, solid=True)
        pybullet.resetBasePositionAndOrientation(
            slab, position, pybullet.getQuaternionFromEuler(turn), physicsClientId=self._client
        )
        pybullet.changeDynamics(slab, -1, lateralFriction=0.1, physicsClientId=self._client)

    def _start(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        hand = np.array([0.4, -0.18, 0.1]) + rng.uniform(-0.02, 0.02, 3)
        return hand, _lying(START + rng.uniform(-SPREAD, SPREAD, 2))

    def _wide_start(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
        low, high = self.hand_box
        hand = rng.uniform(low, [high[0], high[1], 0.15])
        puck = rng.uniform(MIDDLE - HALF + RADIUS, MIDDLE + HALF - RADIUS)
        away = np.linalg.norm(hand[:2] - puck) > RADIUS + 0.06 or hand[2] > HEIGHT + 0.02
        inside = (np.abs(hand[:2] - MIDDLE) < HALF - 0.01).all() or hand[2] > 0.09
        if not (away and inside) or np.linalg.norm(puck - GOAL) < 2 * GOAL_RADIUS:
            return None
        return hand, _lying(puck)

    def _pose(self) -> np.ndarray:
        position, turn = pybullet.getBasePositionAndOrientation(
            self._puck, physicsClientId=self._client
        )
        return np.array([*position, *turn])

    def _put(self, pose: np.ndarray) -> None:
        pybullet.resetBasePositionAndOrientation(
            self._puck, pose[:3], pose[3:], physicsClientId=self._client
        )
        pybullet.resetBaseVelocity(self._puck, (0, 0, 0), (0, 0, 0), physicsClientId=self._client)

    def _lost(self, pose: np.ndarray) -> bool:
        outside = np.abs(pose[:2] - MIDDLE) > HALF + EDGE
        fallen = abs(pose[3]) > 0.5 or abs(pose[4]) > 0.5  # it stands on its side
        return bool(outside.any() or fallen or pose[2] < 0)


def edge_height(place: np.ndarray) -> float:
    """Height (m) of the tilted edge at a place [2]; 0 on the flat part."""
    return float(max((np.abs(place - MIDDLE) - HALF).max(), 0.0) * np.tan(SLOPE))


def _lying(place: np.ndarray) -> np.ndarray:
    return np.array([*place, HEIGHT / 2, 0.0, 0.0, 0.0, 1.0])
