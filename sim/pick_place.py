"""The Panda grasps a cube and takes it to one of four places on a tray."""

from __future__ import annotations

import numpy as np
import pybullet

from mbarl_sim.tray import Tray
from mbarl_sim.worlds import cylinder

SIDE = 0.04  # m, of the cube
PLACES = ((0.58, -0.12), (0.58, 0.03), (0.54, 0.15), (0.42, 0.12))  # m, the goals of the task
PLACE_RADIUS = 0.035  # m
START, SPREAD = np.array([0.42, -0.13]), 0.02  # m, where demonstrations begin
HAND_START = np.array([0.42, -0.02, 0.12])  # m, where the hand is then


class PickPlace(Tray):
    """A cube on a tray, held by nothing but the friction between it and the fingers."""

    mass = 0.1

    def _build(self) -> None:
        super()._build()
        client = self._client
        for place in PLACES:
            cylinder(client, PLACE_RADIUS, 0.001, (*place, 0.0005), (0.3, 0.7, 0.35))
        half = [SIDE / 2] * 3
        shape = pybullet.createCollisionShape(
            pybullet.GEOM_BOX, halfExtents=half, physicsClientId=client
        )
        visual = pybullet.createVisualShape(
            pybullet.GEOM_BOX,
            halfExtents=half,
            rgbaColor=(0.2, 0.4, 0.85, 1),
            physicsClientId=client,
        )
        self._object = pybullet.createMultiBody(self.mass, shape, visual, physicsClientId=client)
        pybullet.changeDynamics(
            self._object, -1, lateralFriction=0.6, spinningFriction=0.003, physicsClientId=client
        )

    def _start(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        hand = HAND_START + rng.uniform(-0.02, 0.02, 3)
        return hand, _resting(START + rng.uniform(-SPREAD, SPREAD, 2), rng.uniform(-0.3, 0.3))

    def _wide_start(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
        start = self._anywhere(rng, SIDE / 2, SIDE)
        if start is None or np.linalg.norm(start[1] - PLACES, axis=1).min() < 2 * PLACE_RADIUS:
            return None
        return start[0], _resting(start[1], rng.uniform(-np.pi, np.pi))


def _resting(place: np.ndarray, turn: float) -> np.ndarray:
    """Pose [7] of the cube on the tray, turned about the vertical by ``turn`` (rad)."""
    return np.array([*place, SIDE / 2, 0.0, 0.0, np.sin(turn / 2), np.cos(turn / 2)])
