"""The Panda closes the door of a cabinet; backward, it pulls the door open by its handle."""

from __future__ import annotations

import math

import numpy as np
import pybullet

from mbarl_sim.manipulation import SUBSTEPS, Manipulation
from mbarl_sim.worlds import box

HINGE = np.array([0.65, 0.18])  # m; from here the closed door lies along -y and faces the arm
WIDTH, BOTTOM, TOP, THICK = 0.3, 0.01, 0.16, 0.02  # m, of the door
BAR_AT, BAR_LENGTH, BAR_RADIUS, BAR_HEIGHT = 0.24, 0.11, 0.007, 0.145  # m, of the handle
STANDOFF = 0.075  # m, from the middle of the door to the bar: the closed fingers fit between
MASS, FRICTION = 1.5, 0.3  # kg; N m that hold the hinge where it was left
WIDEST = np.radians(75)  # opening at the stop
START, SPREAD = np.radians(60), np.radians(3)  # opening at which demonstrations begin
HAND_START = np.array([0.34, 0.2, 0.22])  # m, where the hand is then
WIDE = np.radians(12), np.radians(72)  # openings of wide starts
_LEVEL = (0.0, 0.0, 0.0, 1.0)


class Door(Manipulation):
    """A door with friction on an upright hinge; the pose that is tracked is that of its handle."""

    hand_box = np.array([[0.3, -0.22, 0.125], [0.64, 0.3, 0.28]])
    eye = (0.1, -1.1, 0.95)
    look_at = (0.36, 0.02, 0.2)

    @property
    def object_box(self) -> np.ndarray:
        """Corners [2, 3] (m) of the box round the way of the handle."""
        way = np.array([handle_pose(angle)[:3] for angle in np.linspace(0.0, WIDEST, 50)])
        return np.array([way.min(0), way.max(0)])

    def _build(self) -> None:
        client = self._client
        box(client, (0.5, 0.5, 0.05), (0.45, 0.0, -0.05), (0.76, 0.62, 0.45), solid=True)
        self._build_cabinet()
        collision, visual = _door_shapes(client)
        self._door = pybullet.createMultiBody(
            0,
            -1,
            -1,
            (*HINGE, 0),
            linkMasses=[MASS],
            linkCollisionShapeIndices=[collision],
            linkVisualShapeIndices=[visual],
            linkPositions=[(0, 0, 0)],
            linkOrientations=[_LEVEL],
            linkInertialFramePositions=[(0, -WIDTH / 2, (BOTTOM + TOP) / 2)],
            linkInertialFrameOrientations=[_LEVEL],
            linkParentIndices=[0],
            linkJointTypes=[pybullet.JOINT_REVOLUTE],
            linkJointAxis=[(0, 0, -1)],
            physicsClientId=client,
        )
        pybullet.changeDynamics(
            self._door,
            0,
            jointLowerLimit=0.0,
            jointUpperLimit=WIDEST,
            lateralFriction=0.5,
            physicsClientId=client,
        )
        pybullet.setJointMotorControl2(
            self._door,
            0,
            pybullet.VELOCITY_CONTROL,
            # PyBullet allows each substep the impulse of a whole step.
            force=FRICTION / SUBSTEPS,
            physicsClientId=client,
        )

    def _build_cabinet(self) -> None:
        """Side walls, back and top behind the closed door."""
        colour, depth, front = (0.88, 0.88, 0.86), 0.18, HINGE[0] + THICK / 2 + 0.002
        left, right = HINGE[1] + 0.01, HINGE[1] - WIDTH - 0.01
        middle, half = (left + right) / 2, (left - right) / 2 + 0.01
        for size, at in (
            ((depth / 2, 0.01, TOP / 2), (front + depth / 2, left, TOP / 2)),
            ((depth / 2, 0.01, TOP / 2), (front + depth / 2, right, TOP / 2)),
            ((0.01, half, TOP / 2), (front + depth, middle, TOP / 2)),
            ((depth / 2 + 0.01, half, 0.008), (front + depth / 2, middle, TOP + 0.008)),
        ):
            box(self._client, size, at, colour, solid=True)

    def _start(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        hand = HAND_START + rng.uniform(-0.02, 0.02, 3)
        return hand, handle_pose(START + rng.uniform(-SPREAD, SPREAD))

    def _wide_start(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
        return rng.uniform(*self.hand_box), handle_pose(rng.uniform(*WIDE))

    def _pose(self) -> np.ndarray:
        state = pybullet.getJointState(self._door, 0, physicsClientId=self._client)
        return handle_pose(state[0])

    def _put(self, pose: np.ndarray) -> None:
        pybullet.resetJointState(
            self._door, 0, opening(pose[:2]), 0.0, physicsClientId=self._client
        )


def handle_pose(angle: float) -> np.ndarray:
    """Pose [7] of the middle of the handle's bar, of a door that is ``angle`` (rad) open."""
    sine, cosine = math.sin(angle), math.cos(angle)
    x = HINGE[0] - BAR_AT * sine - STANDOFF * cosine
    y = HINGE[1] - BAR_AT * cosine + STANDOFF * sine
    turn = -angle / 2
    return np.array([x, y, BAR_HEIGHT, 0.0, 0.0, math.sin(turn), math.cos(turn)])


def opening(handle: np.ndarray) -> float:
    """Angle (rad) by which the door is open, for a position [2] (m) of its handle."""
    x, y = handle - HINGE
    clockwise = np.arctan2(-BAR_AT, -STANDOFF) - np.arctan2(y, x)  # from the closed door
    return float(np.remainder(clockwise + np.pi, 2 * np.pi) - np.pi)


def door_axes(angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Directions [2] along the door, away from the hinge, and out of its front."""
    sine, cosine = np.sin(angle), np.cos(angle)
    return np.array([-sine, -cosine]), np.array([-cosine, sine])


def _door_shapes(client: int) -> tuple[int, int]:
    """Collision and visual shape of door, handle bar and the two posts that carry the bar."""
    along_y, along_x = (0.7071068, 0.0, 0.0, 0.7071068), (0.0, 0.7071068, 0.0, 0.7071068)
    bar, ends = (-STANDOFF, -BAR_AT, BAR_HEIGHT), (BAR_AT - BAR_LENGTH / 2, BAR_AT + BAR_LENGTH / 2)
    posts = [(-STANDOFF / 2, -end, BAR_HEIGHT) for end in ends]
    door = (THICK / 2, WIDTH / 2, (TOP - BOTTOM) / 2), (0.0, -WIDTH / 2, (TOP + BOTTOM) / 2)
    kinds = [pybullet.GEOM_BOX, *[pybullet.GEOM_CYLINDER] * 3]
    sizes = {
        'halfExtents': [door[0], *[(0.0, 0.0, 0.0)] * 3],
        'radii': [0.0, *[BAR_RADIUS] * 3],
        'lengths': [0.0, BAR_LENGTH + 2 * BAR_RADIUS, STANDOFF, STANDOFF],
    }
    places, turns = [door[1], bar, *posts], [_LEVEL, along_y, along_x, along_x]
    collision = pybullet.createCollisionShapeArray(
        shapeTypes=kinds,
        **sizes,
        collisionFramePositions=places,
        collisionFrameOrientations=turns,
        physicsClientId=client,
    )
    visual = pybullet.createVisualShapeArray(
        shapeTypes=kinds,
        **sizes,
        visualFramePositions=places,
        visualFrameOrientations=turns,
        rgbaColors=[(0.25, 0.45, 0.75, 1), *[(0.9, 0.6, 0.15, 1)] * 3],
        physicsClientId=client,
    )
    return collision, visual
