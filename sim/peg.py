"""The Panda puts a peg into a box; backward, it pulls the peg out again and puts it away."""

from __future__ import annotations

import numpy as np
import pybullet

from mbarl_sim.tray import Tray
from mbarl_sim.worlds import box, capsule_shape

RADIUS, LENGTH = 0.02, 0.08  # m
BALLAST = 0.01  # m, centre of mass above the tip; below RADIUS, a peg that fell stands up by itself
CLEARANCE = 0.005  # m, by which the hole is wider than the peg
HOLE = np.array([0.54, 0.06])  # m, its middle
WALL, DEPTH = 0.012, 0.04  # m, thickness and height of the walls round the hole
OUTER = RADIUS + CLEARANCE / 2 + WALL  # m, half width of the box
START, SPREAD = np.array([0.44, -0.1]), 0.02  # m, where demonstrations begin
HAND_START = np.array([0.42, -0.02, 0.12])  # m, where the hand is then


class Peg(Tray):
    """A peg with round ends, of which the lower is heavy, and a box with a square hole.

    Its pose is that of its centre of mass, ``BALLAST`` above the ground while it stands there.
    """

    mass = 0.15

    def _build(self) -> None:
        super()._build()
        client, colour = self._client, (0.25, 0.5, 0.3)
        inner, middle = OUTER - WALL, OUTER - WALL / 2
        for sign in (-1, 1):
            along_x, along_y = (OUTER, WALL / 2, DEPTH / 2), (WALL / 2, inner, DEPTH / 2)
            box(client, along_x, (HOLE[0], HOLE[1] + sign * middle, DEPTH / 2), colour, solid=True)
            box(client, along_y, (HOLE[0] + sign * middle, HOLE[1], DEPTH / 2), colour, solid=True)
        shape = pybullet.createCollisionShape(
            pybullet.GEOM_CAPSULE,
            radius=RADIUS,
            height=LENGTH - 2 * RADIUS,
            physicsClientId=client,
        )
        visual = capsule_shape(client, RADIUS, LENGTH, (0.85, 0.35, 0.2))
        self._object = pybullet.createMultiBody(
            self.mass,
            shape,
            visual,
            baseInertialFramePosition=(0.0, 0.0, BALLAST - LENGTH / 2),
            physicsClientId=client,
        )
        pybullet.changeDynamics(
            self._object,
            -1,
            lateralFriction=0.6,
            spinningFriction=0.003,
            rollingFriction=0.0005,
            angularDamping=0.9,
            physicsClientId=client,
        )

    def _start(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        hand = HAND_START + rng.uniform(-0.02, 0.02, 3)
        return hand, _standing(START + rng.uniform(-SPREAD, SPREAD, 2))

    def _wide_start(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
        start = self._anywhere(rng, RADIUS, LENGTH)
        if start is None or np.abs(start[1] - HOLE).max() < OUTER + RADIUS:
            return None
        return start[0], _standing(start[1])


def _standing(place: np.ndarray) -> np.ndarray:
    return np.array([*place, BALLAST, 0.0, 0.0, 0.0, 1.0])
