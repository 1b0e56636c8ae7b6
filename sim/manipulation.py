"""Worlds in which the Panda moves things: what they have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import pybullet

from mbarl_sim import panda
from mbarl_sim.panda import OPEN, REST, Panda, inverse
from mbarl_sim.tracker import Tracker
from mbarl_sim.worlds import SimulatorError, World, connect, picture

SUBSTEPS = 24  # of 1/240 s in a control step of 0.1 s
SPEED = 0.25  # m/s, of the hand in each direction
WIDE_SEED = 99  # of the wide starts
CANDIDATES = 500  # placements that are tried for a wide start
SETTLE = 10  # control steps without a command, after which a start is taken
_TWIST = ('vx', 'vy', 'vz', 'gripper')
_JOINT_VELOCITIES = (*(f'v{joint}' for joint in range(1, 8)), 'gripper')
_OBJECT = tuple(f'object_{entry}' for entry in ('x', 'y', 'z', 'qx', 'qy', 'qz', 'qw'))


class Manipulation(World):
    """The Panda on a table, and one object that is tracked.

    State: joint1 to joint7 (rad), velocity1 to velocity7 (rad/s), finger (m, of each from closed),
    hand_x, hand_y, hand_z, target_x, target_y, target_z (m; where the controller of the hand wants
    it), object_x, object_y, object_z (m), object_qx to object_qw.

    Command: vx, vy, vz of the hand (m/s), or v1 to v7 of the joints (rad/s) with ``command:
    joint_velocity``; and gripper, the finger position (m) that is wanted.

    Physics at 240 Hz. ``put_right`` counts how often an object that was out of reach was put back.
    """

    control_rate = 10.0
    hand_box: ClassVar[np.ndarray]  # m, [2, 3]: where the hand may be
    object_box: ClassVar[np.ndarray]  # m, [2, 3]: where the object may be
    eye: ClassVar[tuple[float, float, float]] = (1.35, -0.75, 0.75)  # m, of the camera
    look_at: ClassVar[tuple[float, float, float]] = (0.42, 0.0, 0.12)

    def __init__(
        self,
        *,
        seed: int = 0,
        command: str = 'twist',
        noise: float = 0.0,
        dropouts: float = 0.0,
    ) -> None:
        """Build the world in a PyBullet client of its own (no display).

        :param command: ``twist`` or ``joint_velocity``
        :param noise: m, standard deviation of the tracked position of the object
        :param dropouts: how often in a second the tracker loses the object, for 0.2 to 0.5 s; its
            pose is then ``unseen``
        :raises ValueError: another command, or more drop-outs than control steps
        """
        super().__init__(seed=seed)
        names = {'twist': _TWIST, 'joint_velocity': _JOINT_VELOCITIES}
        if command not in names:
            raise ValueError(f"command must be one of {', '.join(names)}, not '{command}'")
        self.command_names, self._noise = names[command], noise
        self.state_names = (
            *(f'joint{joint}' for joint in range(1, 8)),
            *(f'velocity{joint}' for joint in range(1, 8)),
            'finger',
            *(f'{what}_{axis}' for what in ('hand', 'target') for axis in 'xyz'),
            *_OBJECT,
        )
        self._tracker = Tracker(dropouts, self.control_rate)
        self._client = connect(self.control_rate, SUBSTEPS)
        # Bullet's own share leaves what is pressed down centimetres inside the ground.
        pybullet.setPhysicsEngineParameter(contactERP=0.9, physicsClientId=self._client)
        self.arm = Panda(self._client, 1 / self.control_rate, SUBSTEPS)
        self._build()
        self._forget_contacts()
        self._initial = pybullet.saveState(physicsClientId=self._client)
        self.reset()

    @property
    def unseen(self) -> tuple[str, ...]:
        """The pose of the object while the tracker has lost it."""
        return () if self._tracker.sees else _OBJECT

    @property
    def reach(self) -> dict[str, tuple[float, float]]:
        """Where hand and object can be."""
        boxes = {'hand': self.hand_box, 'target': self.hand_box, 'object': self.object_box}
        return {
            f'{what}_{axis}': (float(low), float(high))
            for what, box in boxes.items()
            for axis, low, high in zip('xyz', *box, strict=True)
        }

    @abstractmethod
    def _build(self) -> None:
        """Add table and object to the client."""

    @abstractmethod
    def _start(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Hand position [3] and object pose [7] of a training start."""

    @abstractmethod
    def _wide_start(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
        """The same, anywhere that the task allows; None: they overlap."""

    @abstractmethod
    def _pose(self) -> np.ndarray:
        """Pose [7] of the object."""

    @abstractmethod
    def _put(self, pose: np.ndarray) -> None:
        """Put the object at a pose [7], at rest."""

    def _lost(self, pose: np.ndarray) -> bool:
        """Whether the object is where nobody can reach it."""
        return False

    def reset(self) -> np.ndarray:
        """Reset to a random training start, at rest."""
        self._episode_rng = self.rng
        return self._reset(*self._start(self.rng))

    def reset_to_start(self, index: int) -> np.ndarray:
        """Reset to evaluation start ``index``, drawn like a training start."""
        self._episode_rng = np.random.default_rng([1, index])
        return self._reset(*self._start(self._episode_rng))

    def reset_to_wide(self, index: int) -> np.ndarray:
        """Reset to wide start ``index``: hand and object anywhere that the task allows, settled."""
        self._episode_rng = rng = np.random.default_rng([WIDE_SEED, index])
        for _ in range(CANDIDATES):
            start = self._wide_start(rng)
            if start is None:
                continue
            self._place(*start)
            if self._touches():
                continue
            state = self._settle()
            if not self._touches() and not self._lost(self._pose()):
                return state
        raise SimulatorError(
            f'{type(self).__name__}: none of {CANDIDATES} placements for wide start {index} is '
            'possible; widen _wide_start'
        )

    def set_state(self, state: np.ndarray) -> np.ndarray:
        """Reset arm and object to those of ``state``; the object is at rest."""
        state = np.asarray(state, np.float64)
        self._episode_rng = np.random.default_rng(0)
        self._restore()
        self.arm.place(state[:7], state[14], state[7:14])
        self.arm.target = state[18:21].copy()
        self._put(state[21:28])
        return self._state(self._pose())

    def _forget_contacts(self) -> None:
        """Lift the object away from all and step, which empties the contact caches.

        They are part of the state: nothing before a reset may affect what happens after it.
        """
        self.arm.place(REST, OPEN)
        self._put(np.array([0.5, 0.0, 2.0, 0.0, 0.0, 0.0, 1.0]))
        pybullet.stepSimulation(physicsClientId=self._client)

    def _restore(self) -> None:
        self._tracker.reset()
        self._forget_contacts()
        pybullet.restoreState(self._initial, physicsClientId=self._client)

    def _reset(self, hand: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """Place hand and object and let them settle."""
        self._place(hand, pose)
        return self._settle()

    def _place(self, hand: np.ndarray, pose: np.ndarray) -> None:
        self._restore()
        self.arm.place(inverse(hand, REST, iterations=30), OPEN / 2)
        self._put(pose)
        self.arm.target = hand.copy()

    def _settle(self) -> np.ndarray:
        for _ in range(SETTLE):
            self.arm.move_hand(np.zeros(3), self.hand_box)
            self._simulate(self.arm.finger)
        return self._state(self._pose())

    def _touches(self) -> bool:
        """Whether the arm, its fixed base apart, touches anything."""
        pybullet.performCollisionDetection(physicsClientId=self._client)
        contacts = pybullet.getContactPoints(bodyA=self.arm.body, physicsClientId=self._client)
        return any(
            other != self.arm.body and link > 0 and distance <= 0
            for _, _, other, link, _, _, _, _, distance, *_ in contacts
        )

    def _simulate(self, finger: float) -> None:
        """One control period with the drives as they are set, and the fingers."""
        self.arm.grip(finger)
        pybullet.stepSimulation(physicsClientId=self._client)
        self.arm.read()

    def step(self, command: np.ndarray) -> np.ndarray:
        """Move for one control period."""
        command = np.asarray(command, np.float64)
        if len(self.command_names) == len(_TWIST):
            self.arm.move_hand(np.clip(command[:3], -SPEED, SPEED), self.hand_box)
        else:
            self.arm.move_joints(command[:7], self.hand_box)
        self._simulate(command[-1])
        self._tracker.step(self._episode_rng)
        pose = self._pose()
        if self._lost(pose):
            self.put_right += 1
            self._put(self._start(self._episode_rng)[1])
            pose = self._pose()
        return self._state(pose)

    def render(self, width: int = 480, height: int = 480) -> np.ndarray:
        """Render the arm and what it moves."""
        return picture(self._client, self.eye, 32, width, height, at=self.look_at, up=(0, 0, 1))

    def frames(self) -> dict[str, np.ndarray]:
        """The links of the arm, and the object."""
        return {**self.arm.frames(), 'object': self._pose()}

    def description(self) -> str:
        """The arm as URDF."""
        return panda.description()

    def close(self) -> None:
        """Disconnect the PyBullet client."""
        if pybullet.isConnected(self._client):
            pybullet.disconnect(self._client)

    def _state(self, pose: np.ndarray) -> np.ndarray:
        arm = self.arm
        if self._noise:
            pose = pose.copy()
            pose[:3] += self._episode_rng.normal(0.0, self._noise, 3)
        return np.concatenate(
            [arm.joints, arm.joint_velocities, [arm.finger], arm.hand, arm.target, pose]
        )
