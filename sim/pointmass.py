"""A holonomic disc in a walled room; it has to pass a gap in a wall to reach the goal."""

from __future__ import annotations

import numpy as np
import pybullet

from mbarl_sim.worlds import World, box, connect, cylinder, cylinder_shape, halton, picture

RADIUS = 0.15  # m, of the disc
HALF = 2.0  # m, inner faces of the outer walls
WALL = 0.05  # m, half thickness of the dividing wall along y = 0
GAP = (0.7, 1.3)  # m, the opening in the dividing wall
GOAL, GOAL_RADIUS = (-0.9, 0.8), 0.25
CORNER, SPREAD = (-1.6, -1.6), 0.15  # m; training and demonstrations start around the corner
SPEED, ACCELERATION = 1.0, 15.0  # m/s, m/s^2: the drive's limits
SUBSTEPS = 5  # of 20 ms: at 1 m/s the disc moves a fifth of the wall's thickness in each
# The disc weighs 1 kg. PyBullet allows each substep the impulse of a whole step.
_FORCES = (ACCELERATION / SUBSTEPS, ACCELERATION / SUBSTEPS)


class PointMass(World):
    """A PyBullet room in which the disc collides with the walls and slides along them.

    State: x, y (m), vx, vy (m/s). Command: vx, vy (m/s).
    """

    state_names = ('x', 'y', 'vx', 'vy')
    command_names = ('vx', 'vy')
    control_rate = 10.0

    def __init__(self, *, seed: int = 0) -> None:
        """Build the room in a PyBullet client of its own (no display)."""
        super().__init__(seed=seed)
        self._client = connect(self.control_rate, SUBSTEPS)
        self._build_room()
        self._robot = self._build_robot()
        # Contact caches are part of the state. Every reset restores them from here, so that nothing
        # that happened before a reset affects what happens after it.
        self._initial = pybullet.saveState(physicsClientId=self._client)
        self._starts: list[tuple[float, float]] = []
        self._candidates = 0
        self.reset()

    def reset(self) -> np.ndarray:
        """Reset to a random position near the lower left corner, at rest."""
        x, y = np.array(CORNER) + self.rng.uniform(-SPREAD, SPREAD, 2)
        return self.set_state(np.array([x, y, 0.0, 0.0]))

    def reset_to_start(self, index: int) -> np.ndarray:
        """Reset to point ``index`` of a Halton sequence over the free space, at rest."""
        while len(self._starts) <= index:
            self._candidates += 1
            reach = HALF - RADIUS
            x = (2 * halton(self._candidates, 2) - 1) * reach
            y = (2 * halton(self._candidates, 3) - 1) * reach
            if free(x, y) and np.hypot(x - GOAL[0], y - GOAL[1]) > GOAL_RADIUS:
                self._starts.append((x, y))
        return self.set_state(np.array([*self._starts[index], 0.0, 0.0]))

    def set_state(self, state: np.ndarray) -> np.ndarray:
        """Reset to a position and velocity.

        :raises ValueError: the disc would overlap a wall.
        """
        x, y, vx, vy = (float(value) for value in state)
        if not free(x, y):
            raise ValueError(f'pointmass: a disc at ({x:.3f}, {y:.3f}) would overlap a wall')
        pybullet.restoreState(self._initial, physicsClientId=self._client)
        for joint, (position, velocity) in enumerate(((x, vx), (y, vy))):
            pybullet.resetJointState(
                self._robot, joint, position, velocity, physicsClientId=self._client
            )
        return self._state()

    def step(self, command: np.ndarray) -> np.ndarray:
        """Accelerate towards velocity ``command`` [2] for 0.1 s."""
        vx, vy = command
        pybullet.setJointMotorControlArray(
            self._robot,
            (0, 1),
            pybullet.VELOCITY_CONTROL,
            targetVelocities=(
                min(max(float(vx), -SPEED), SPEED),
                min(max(float(vy), -SPEED), SPEED),
            ),
            forces=_FORCES,
            physicsClientId=self._client,
        )
        pybullet.stepSimulation(physicsClientId=self._client)
        return self._state()

    def render(self, width: int = 480, height: int = 480) -> np.ndarray:
        """Render the room from above, at a slight angle."""
        return picture(self._client, (0, -2.6, 6.4), 42, width, height)

    def frames(self) -> dict[str, np.ndarray]:
        """The disc, as the base of a robot."""
        x, y, *_ = self._state()
        return {'base_link': np.array([x, y, 0.0, 0.0, 0.0, 0.0, 1.0])}

    def close(self) -> None:
        """Disconnect the PyBullet client."""
        if pybullet.isConnected(self._client):
            pybullet.disconnect(self._client)

    def _state(self) -> np.ndarray:
        (x, vx, *_), (y, vy, *_) = pybullet.getJointStates(
            self._robot, (0, 1), physicsClientId=self._client
        )
        return np.array([x, y, vx, vy])

    def _build_room(self) -> None:
        grey, blue = (0.45, 0.48, 0.55), (0.25, 0.35, 0.6)
        thick = 0.1
        box(self._client, (HALF, HALF, 0.01), (0, 0, -0.02), (0.9, 0.89, 0.85), solid=False)
        cylinder(self._client, GOAL_RADIUS, 0.01, (*GOAL, 0.0), (0.3, 0.75, 0.35))
        walls = []
        for sign in (-1, 1):
            middle = sign * (HALF + thick)
            for half, centre in (
                ((thick, HALF + 2 * thick, 0.15), (middle, 0, 0.15)),
                ((HALF, thick, 0.15), (0, middle, 0.15)),
            ):
                walls.append(box(self._client, half, centre, grey, solid=True))
        for low, high in ((-HALF, GAP[0]), (GAP[1], HALF)):
            half, centre = ((high - low) / 2, WALL, 0.15), ((low + high) / 2, 0, 0.15)
            walls.append(box(self._client, half, centre, blue, solid=True))
        for wall in walls:
            pybullet.changeDynamics(wall, -1, lateralFriction=0, physicsClientId=self._client)

    def _build_robot(self) -> int:
        """A disc on two prismatic joints, so that it moves in the plane and cannot tilt or turn."""
        shape = pybullet.createCollisionShape(
            pybullet.GEOM_CYLINDER, radius=RADIUS, height=0.2, physicsClientId=self._client
        )
        visual = cylinder_shape(self._client, RADIUS, 0.2, (0.9, 0.35, 0.15))
        zero, level = (0, 0, 0), (0, 0, 0, 1)
        robot = pybullet.createMultiBody(
            0,
            -1,
            -1,
            (0, 0, 0.12),
            linkMasses=(1e-3, 1.0 - 1e-3),
            linkCollisionShapeIndices=(-1, shape),
            linkVisualShapeIndices=(-1, visual),
            linkPositions=(zero, zero),
            linkOrientations=(level, level),
            linkInertialFramePositions=(zero, zero),
            linkInertialFrameOrientations=(level, level),
            linkParentIndices=(0, 1),
            linkJointTypes=(pybullet.JOINT_PRISMATIC, pybullet.JOINT_PRISMATIC),
            linkJointAxis=((1, 0, 0), (0, 1, 0)),
            physicsClientId=self._client,
        )
        for link in (-1, 0, 1):
            pybullet.changeDynamics(
                robot,
                link,
                lateralFriction=0,
                restitution=0,
                linearDamping=0,
                angularDamping=0,
                jointDamping=0,
                physicsClientId=self._client,
            )
        return robot


def free(x: float, y: float) -> bool:
    """Whether a disc centred at (x, y) touches no wall."""
    if max(abs(x), abs(y)) > HALF - RADIUS:
        return False
    if abs(y) >= WALL + RADIUS or GAP[0] + RADIUS <= x <= GAP[1] - RADIUS:
        return True
    # At the gap, the distance to the nearer end of the wall decides.
    end = GAP[0] if x < (GAP[0] + GAP[1]) / 2 else GAP[1]
    inside = x <= GAP[0] or x >= GAP[1]
    across = 0.0 if inside else abs(x - end)
    return bool(np.hypot(across, max(abs(y) - WALL, 0.0)) >= RADIUS)
