"""A tray with tilted edges on which one object lies free: what tasks on it have in common."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pybullet

from mbarl_sim.manipulation import Manipulation
from mbarl_sim.worlds import box

MIDDLE, HALF = np.array([0.5, 0.0]), np.array([0.13, 0.2])  # m, the flat part of the tray
GRAVITY = 9.81  # m/s^2
EDGE, SLOPE = 0.1, np.radians(30)  # m, width of the tilted edges and their slope


class Tray(Manipulation):
    """The flat part of a table with tilted edges, from which the object slides back.

    Subclasses make the object, ``_object``, in ``_build``.
    """

    hand_box = np.array([[0.3, -0.28, 0.012], [0.7, 0.28, 0.2]])
    mass: ClassVar[float]  # kg, of the object
    object_box = np.array([[*(MIDDLE - HALF - EDGE), 0.0], [*(MIDDLE + HALF + EDGE), 0.25]])
    _object: int

    def _build(self) -> None:
        client = self._client
        wood, edge = (0.76, 0.62, 0.45), (0.66, 0.52, 0.37)
        floor = box(client, (0.45, 0.5, 0.05), (0.45, 0.0, -0.05), wood, solid=True)
        pybullet.changeDynamics(floor, -1, lateralFriction=0.4, physicsClientId=client)
        for axis in range(2):
            for sign in (-1, 1):
                self._tilted_edge(axis, sign, edge)

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

    def _anywhere(
        self, rng: np.random.Generator, radius: float, height: float
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Hand position [3] and place [2] of an object of that size (m); None: they overlap."""
        low, high = self.hand_box
        hand = rng.uniform(low, [high[0], high[1], 0.15])
        place = rng.uniform(MIDDLE - HALF + radius, MIDDLE + HALF - radius)
        away = np.linalg.norm(hand[:2] - place) > radius + 0.06 or hand[2] > height + 0.02
        inside = (np.abs(hand[:2] - MIDDLE) < HALF - 0.01).all() or hand[2] > 0.09
        return (hand, place) if away and inside else None

    def _simulate(self, finger: float) -> None:
        """One control period, in which the object has its weight."""
        pybullet.applyExternalForce(
            self._object,
            -1,
            (0.0, 0.0, -GRAVITY * self.mass),
            self._pose()[:3],
            pybullet.WORLD_FRAME,
            physicsClientId=self._client,
        )
        super()._simulate(finger)

    def _pose(self) -> np.ndarray:
        position, turn = pybullet.getBasePositionAndOrientation(
            self._object, physicsClientId=self._client
        )
        return np.array([*position, *turn])

    def _put(self, pose: np.ndarray) -> None:
        pybullet.resetBasePositionAndOrientation(
            self._object, pose[:3], pose[3:], physicsClientId=self._client
        )
        pybullet.resetBaseVelocity(self._object, (0, 0, 0), (0, 0, 0), physicsClientId=self._client)

    def _lost(self, pose: np.ndarray) -> bool:
        outside = np.abs(pose[:2] - MIDDLE) > HALF + EDGE
        return bool(outside.any() or pose[2] < 0)


def edge_height(place: np.ndarray) -> float:
    """Height (m) of the tilted edge at a place [2]; 0 on the flat part."""
    return float(max((np.abs(place - MIDDLE) - HALF).max(), 0.0) * np.tan(SLOPE))
