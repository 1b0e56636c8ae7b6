"""The Panda pushes a puck to a place in a tray, without grasping it."""

from __future__ import annotations

import numpy as np
import pybullet

from mbarl_sim.tray import Tray
from mbarl_sim.worlds import cylinder, cylinder_shape

RADIUS, HEIGHT = 0.035, 0.04  # m, of the puck
GOAL, GOAL_RADIUS = np.array([0.55, 0.13]), 0.04  # m
START, SPREAD = np.array([0.45, -0.1]), 0.03  # m, where demonstrations begin


class Push(Tray):
    """A puck slides on a tray."""

    mass = 0.15

    def _build(self) -> None:
        super()._build()
        client = self._client
        cylinder(client, GOAL_RADIUS, 0.001, (*GOAL, 0.0005), (0.3, 0.7, 0.35))
        shape = pybullet.createCollisionShape(
            pybullet.GEOM_CYLINDER, radius=RADIUS, height=HEIGHT, physicsClientId=client
        )
        visual = cylinder_shape(client, RADIUS, HEIGHT, (0.2, 0.4, 0.85))
        self._object = pybullet.createMultiBody(self.mass, shape, visual, physicsClientId=client)
        pybullet.changeDynamics(
            self._object, -1, lateralFriction=0.5, spinningFriction=0.005, physicsClientId=client
        )

    def _start(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        hand = np.array([0.4, -0.18, 0.1]) + rng.uniform(-0.02, 0.02, 3)
        return hand, _lying(START + rng.uniform(-SPREAD, SPREAD, 2))

    def _wide_start(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
        start = self._anywhere(rng, RADIUS, HEIGHT)
        if start is None or np.linalg.norm(start[1] - GOAL) < 2 * GOAL_RADIUS:
            return None
        return start[0], _lying(start[1])

    def _lost(self, pose: np.ndarray) -> bool:
        fallen = abs(pose[3]) > 0.5 or abs(pose[4]) > 0.5  # it stands on its side
        return bool(fallen or super()._lost(pose))


def _lying(place: np.ndarray) -> np.ndarray:
    return np.array([*place, HEIGHT / 2, 0.0, 0.0, 0.0, 1.0])
