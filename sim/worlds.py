"""Interface of simulated worlds, and drawing helpers for PyBullet. No ROS."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pybullet

from mbarl_ros.schema.base import SimulatorError


class World(ABC):
    """A simulated robot and its surroundings: commands in, states out.

    A world is deterministic: the same seed and the same commands give bit-equal states.

    States are float64 vectors in the order of ``state_names`` (the robot profile's), commands
    float64 vectors in physical units in the order of ``command_names``.
    """

    state_names: tuple[str, ...]
    command_names: tuple[str, ...]
    control_rate: float
    put_right = 0  # how often an object that was lost has been put back
    unseen: tuple[str, ...] = ()
    """State entries that no sensor measured in the last step; their topics are silent then."""
    reach: Mapping[str, tuple[float, float]] = {}
    """State entry -> lowest and highest value that it can have; a target beyond is refused."""

    def __init__(self, *, seed: int = 0) -> None:
        """Seed the training starts; nothing else in a world is random."""
        self.rng = np.random.default_rng(seed)

    @abstractmethod
    def reset(self) -> np.ndarray:
        """Reset to a random training start, where demonstrations start, too; returns the state."""

    @abstractmethod
    def reset_to_start(self, index: int) -> np.ndarray:
        """Reset to evaluation start ``index``, the same for every seed; returns the state."""

    @abstractmethod
    def set_state(self, state: np.ndarray) -> np.ndarray:
        """Reset to ``state``, without any contact history; returns the state."""

    @abstractmethod
    def step(self, command: np.ndarray) -> np.ndarray:
        """Apply a command for one control period; returns the state at its end."""

    @abstractmethod
    def render(self, width: int = 480, height: int = 480) -> np.ndarray:
        """Render a picture, uint8 [height, width, 3]; needs no display.

        A :class:`Picture` also says which camera took it.
        """

    def frames(self) -> dict[str, np.ndarray]:
        """Pose [7] in the frame ``world`` of each frame that can be drawn: x, y, z (m), quaternion.

        The quaternion ends with w. By default there are none.
        """
        return {}

    def description(self) -> str:
        """The robot as URDF, whose links are among :meth:`frames`; empty: there is none."""
        return ''

    def close(self) -> None:  # noqa: B027 (a world may have nothing to free)
        """Release the simulator; the world cannot be used afterwards."""


def halton(index: int, base: int) -> float:
    """Element ``index`` (from 1) of the van der Corput sequence in ``base``, in (0, 1)."""
    value, digit = 0.0, 1.0
    while index > 0:
        digit /= base
        value += digit * (index % base)
        index //= base
    return value


def connect(control_rate: float, substeps: int) -> int:
    """A PyBullet client of its own, without display, whose every step is a control step.

    :param substeps: physics steps in a control step
    """
    client = pybullet.connect(pybullet.DIRECT)
    pybullet.setPhysicsEngineParameter(
        fixedTimeStep=1 / control_rate,
        numSubSteps=substeps,
        deterministicOverlappingPairs=1,
        physicsClientId=client,
    )
    return client


def load_urdf(client: int, path: str, **options: Any) -> int:
    """Load a URDF file; returns its body id.

    :param options: arguments of ``pybullet.loadURDF``
    :raises SimulatorError: PyBullet cannot load it; the message names the file.
    """
    try:
        return pybullet.loadURDF(path, physicsClientId=client, **options)
    except pybullet.error as error:
        print(flush=True)  # PyBullet has printed details, without a line break at their end
        reason = 'is no URDF that PyBullet can load' if Path(path).exists() else 'no such file'
        raise SimulatorError(f'{path}: {reason}; correct it, or install it again') from error


def box(
    client: int,
    half: tuple[float, float, float],
    position: tuple[float, float, float],
    colour: tuple[float, float, float],
    *,
    solid: bool,
) -> int:
    """Add a fixed box; only ``solid`` boxes collide. Returns its body id."""
    visual = pybullet.createVisualShape(
        pybullet.GEOM_BOX, halfExtents=half, rgbaColor=(*colour, 1), physicsClientId=client
    )
    collision = -1
    if solid:
        collision = pybullet.createCollisionShape(
            pybullet.GEOM_BOX, halfExtents=half, physicsClientId=client
        )
    return pybullet.createMultiBody(0, collision, visual, position, physicsClientId=client)


def cylinder(
    client: int,
    radius: float,
    height: float,
    position: tuple[float, float, float],
    colour: tuple[float, float, float],
) -> int:
    """Add an upright cylinder that does not collide (a mark, a mug). Returns its body id."""
    visual = cylinder_shape(client, radius, height, colour)
    return pybullet.createMultiBody(0, -1, visual, position, physicsClientId=client)


def cylinder_shape(
    client: int, radius: float, height: float, colour: tuple[float, float, float]
) -> int:
    """Visual shape of an upright cylinder with sharp edges; Bullet shades its own like a ball."""
    sides = 32
    angles = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    radial = np.column_stack([np.cos(angles), np.sin(angles), np.zeros(sides)])
    up = np.array([0.0, 0.0, height / 2])
    top, bottom = radius * radial + up, radius * radial - up
    vertices = np.concatenate([[up], top, top, bottom])
    normals = np.concatenate([np.tile([0.0, 0.0, 1.0], (1 + sides, 1)), radial, radial])
    faces = []
    for i in range(sides):
        j = (i + 1) % sides
        high, low = 1 + sides, 1 + 2 * sides
        faces += [0, 1 + i, 1 + j, high + i, low + i, low + j, high + i, low + j, high + j]
    return _mesh_shape(client, vertices, normals, faces, colour)


def capsule_shape(
    client: int, radius: float, length: float, colour: tuple[float, float, float]
) -> int:
    """Visual shape of an upright capsule, ``length`` from end to end; Bullet's has few faces."""
    sides, rings = 24, 16  # rings: an even number, half of them on each end
    tilt = np.repeat(np.linspace(0, np.pi, rings), sides)
    turn = np.tile(np.linspace(0, 2 * np.pi, sides, endpoint=False), rings)
    normals = np.column_stack(
        [np.sin(tilt) * np.cos(turn), np.sin(tilt) * np.sin(turn), np.cos(tilt)]
    )
    vertices = radius * normals
    vertices[:, 2] += np.where(tilt < np.pi / 2, 0.5, -0.5) * (length - 2 * radius)
    faces = []
    for ring in range(rings - 1):
        for i in range(sides):
            a, b = ring * sides + i, ring * sides + (i + 1) % sides
            faces += [a, a + sides, b, b, a + sides, b + sides]
    return _mesh_shape(client, vertices, normals, faces, colour)


def _mesh_shape(
    client: int,
    vertices: np.ndarray,
    normals: np.ndarray,
    faces: list[int],
    colour: tuple[float, float, float],
) -> int:
    return pybullet.createVisualShape(
        pybullet.GEOM_MESH,
        vertices=vertices.tolist(),
        indices=faces,
        normals=normals.tolist(),
        rgbaColor=(*colour, 1),
        physicsClientId=client,
    )


class Camera(NamedTuple):
    """A pinhole camera: its place, a point that it looks at, what is up in its picture (all m).

    ``fov``: its vertical field of view in degrees.
    """

    eye: tuple[float, float, float]
    at: tuple[float, float, float]
    up: tuple[float, float, float]
    fov: float

    def intrinsics(self, width: int, height: int) -> np.ndarray:
        """Camera matrix [3, 3] of a picture of this size; pixel (0, 0) has its middle at (0, 0)."""
        focal = height / 2 / np.tan(np.radians(self.fov) / 2)
        # TinyRenderer draws half a pixel to the right of the middle, and half a pixel above it.
        return np.array([[focal, 0, width / 2], [0, focal, height / 2 - 1], [0, 0, 1]])

    def project(self, point: np.ndarray, width: int, height: int) -> tuple[float, float]:
        """Column and row at which a point [3] (m) is in a picture of this size."""
        ahead = np.subtract(self.at, self.eye)
        right = np.cross(ahead, self.up)
        axes = np.stack([right, np.cross(ahead, right), ahead])  # x right, y down, z ahead
        axes /= np.linalg.norm(axes, axis=1, keepdims=True)
        x, y, depth = self.intrinsics(width, height) @ axes @ np.subtract(point, self.eye)
        return float(x / depth), float(y / depth)


class Picture(np.ndarray):
    """A picture, uint8 [height, width, 3], and the camera that took it."""

    camera: Camera | None = None


def picture(
    client: int,
    eye: tuple[float, float, float],
    fov: float,
    width: int,
    height: int,
    *,
    at: tuple[float, float, float] = (0, 0, 0),
    up: tuple[float, float, float] = (0, 1, 0),
) -> Picture:
    """Render the scene of a client, looking from ``eye`` ``at``, with the software renderer."""
    view = pybullet.computeViewMatrix(eye, at, up)
    projection = pybullet.computeProjectionMatrixFOV(fov, width / height, 0.1, 30)
    pixels = pybullet.getCameraImage(
        width,
        height,
        view,
        projection,
        lightDirection=(2, -3, 6),
        shadow=0,
        renderer=pybullet.ER_TINY_RENDERER,
        physicsClientId=client,
    )[2]
    rgba = np.asarray(pixels, np.uint8).reshape(height, width, 4)
    image = np.ascontiguousarray(rgba[..., :3]).view(Picture)
    image.camera = Camera(eye, at, up, fov)
    return image
