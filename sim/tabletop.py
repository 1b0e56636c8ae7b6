"""EARL's tabletop organisation (Sharma et al. 2022): a planar gripper carries a mug."""

from __future__ import annotations

import numpy as np
import pybullet

from mbarl_sim.worlds import World, box, cylinder, picture

LIMIT = 2.8  # m, gripper and mug stay within +-LIMIT
REACH = 0.4  # m, the mug attaches if the closing gripper is nearer than this
STEP = 0.2  # m, largest motion per step
INITIAL = (0.0, 0.0, -1.0, 2.5, 0.0)
GOALS = ((-2.5, -1.0), (-2.5, 1.0), (0.0, 2.0), (0.0, -2.0))  # marks in the picture


class Tabletop(World):
    """The kinematic rules of EARL; PyBullet only draws.

    State: gripper_x, gripper_y (m), attached (-1 free, 0 held), mug_x, mug_y (m). Command: dx, dy
    (m per step) and grasp (closed while above 0).
    """

    state_names = ('gripper_x', 'gripper_y', 'attached', 'mug_x', 'mug_y')
    command_names = ('dx', 'dy', 'grasp')
    control_rate = 10.0

    def __init__(self, *, seed: int = 0) -> None:
        """Start in EARL's only initial state; the seed has no effect."""
        super().__init__(seed=seed)
        self._client: int | None = None
        self.reset()

    def reset(self) -> np.ndarray:
        """Reset: gripper in the middle, mug free at (2.5, 0)."""
        return self.set_state(np.array(INITIAL))

    def reset_to_start(self, index: int) -> np.ndarray:
        """Reset to the same initial state: EARL varies only the goal of an evaluation."""
        return self.reset()

    def set_state(self, state: np.ndarray) -> np.ndarray:
        """Set gripper and mug, anywhere on the table."""
        state = np.asarray(state, np.float64)
        self._gripper = np.clip(state[0:2], -LIMIT, LIMIT)
        self._mug = np.clip(state[3:5], -LIMIT, LIMIT)
        self._held = bool(state[2] > -0.5)
        return self._state()

    def step(self, command: np.ndarray) -> np.ndarray:
        """Close or open the gripper, then move by ``command`` [3]; a held mug goes with it."""
        command = np.clip(np.asarray(command, np.float64), -STEP, STEP)
        near = np.linalg.norm(self._gripper - self._mug) < REACH
        self._held = bool(command[2] > 0 and (self._held or near))
        before = self._gripper
        self._gripper = np.clip(before + command[:2], -LIMIT, LIMIT)
        if self._held:
            self._mug = np.clip(self._mug + (self._gripper - before), -LIMIT, LIMIT)
        return self._state()

    def render(self, width: int = 480, height: int = 480) -> np.ndarray:
        """Render the table from above, at a slight angle."""
        if self._client is None:
            self._client = pybullet.connect(pybullet.DIRECT)
            self._bodies = _build(self._client)
        mug, palm, left, right = self._bodies
        opening = 0.17 if self._held else 0.3
        x, y = self._gripper
        for body, position in (
            (mug, (*self._mug, 0.2)),
            (palm, (x, y, 0.62)),
            (left, (x - opening, y, 0.4)),
            (right, (x + opening, y, 0.4)),
        ):
            pybullet.resetBasePositionAndOrientation(
                body, position, (0, 0, 0, 1), physicsClientId=self._client
            )
        return picture(self._client, (0, -3.2, 8.6), 41, width, height)

    def close(self) -> None:
        """Disconnect the PyBullet client, if anything was rendered."""
        if self._client is not None:
            pybullet.disconnect(self._client)
            self._client = None

    def _state(self) -> np.ndarray:
        return np.array([*self._gripper, 0.0 if self._held else -1.0, *self._mug])


def _build(client: int) -> tuple[int, int, int, int]:
    """Build table, goal marks, mug and gripper; returns ids of mug, palm and the two fingers."""
    edge = LIMIT + 0.2
    box(client, (edge, edge, 0.05), (0, 0, -0.06), (0.76, 0.62, 0.45), solid=False)
    for goal in GOALS:
        cylinder(client, 0.25, 0.01, (*goal, 0.0), (0.3, 0.7, 0.35))
    mug = cylinder(client, 0.15, 0.4, (0, 0, 0.2), (0.2, 0.4, 0.85))
    grey = (0.25, 0.25, 0.28)
    palm = box(client, (0.36, 0.14, 0.06), (0, 0, 0.62), grey, solid=False)
    fingers = [box(client, (0.04, 0.12, 0.25), (0, 0, 0.4), grey, solid=False) for _ in '12']
    return mug, palm, fingers[0], fingers[1]
