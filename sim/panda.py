"""A Franka Emika Panda with its gripper in PyBullet: kinematics, drives and hand. No task."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pybullet
import pybullet_data

from mbarl_sim.worlds import load_urdf

# Franka's data sheet (Denavit-Hartenberg, Craig's convention): a, alpha of the link before, d.
_A = (0.0, 0.0, 0.0, 0.0825, -0.0825, 0.0, 0.088)
_ALPHA = (0.0, -np.pi / 2, np.pi / 2, np.pi / 2, -np.pi / 2, np.pi / 2, np.pi / 2)
_D = (0.333, 0.0, 0.316, 0.0, 0.384, 0.0, 0.0)
_TIP = 0.107 + 0.105  # m, from the last joint to the point between the finger tips
_LOW = np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973])
_HIGH = np.array([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973])
JOINT_LIMITS = (_LOW, _HIGH)  # rad
JOINT_SPEED = np.array([2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61])  # rad/s
JOINT_ACCELERATION = np.array([15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0])  # rad/s^2
REST = np.array([0.0, 0.1, 0.0, -2.2, 0.0, 2.3, np.pi / 4])  # hand down, fingers along y
OPEN = 0.04  # m, of each finger from closed
AT_REST = np.zeros(7)
# N m, beside what carries the arm: in libfranka's examples the arm stops itself above these.
_TORQUE = np.array([20.0, 20.0, 18.0, 18.0, 16.0, 14.0, 12.0])
_FINGER_SPEED, _FINGER_FORCE = 0.1, 30.0  # m/s and N of a finger
_BASE = 'panda_link0'
_JOINTS, _FINGERS, _HAND = tuple(range(7)), (9, 10), 11
# Half turn about x: the hand points down. Its fingers open along y.
_DOWN = np.diag([1.0, -1.0, -1.0])
_DAMPING = 1e-4  # of the least squares of the inverse kinematics
_WALL = 3.0  # 1/s: speed (m/s) of the hand towards its box for each m of distance
_LEAD = 0.03  # m, the target of the hand is no further than this from the hand


def _folder() -> Path:
    """Of the arm's URDF and its meshes."""
    return Path(pybullet_data.getDataPath()) / 'franka_panda'


class Panda:
    """The arm, fixed to the origin, with the hand pointing down.

    Each control step sets the speed of every drive so that it arrives at its reference at the end
    of the step. Drives push as hard as a real arm does before it stops itself for a collision; what
    they cannot push stays where it is. A Franka controller carries the weight of the arm by itself:
    the world must have no gravity, and give its objects their weight.
    """

    def __init__(self, client: int, period: float, substeps: int) -> None:
        """Load the arm.

        :param period: s, a control step
        :param substeps: physics steps in a control step
        :raises SimulatorError: its URDF cannot be loaded
        """
        self._client, self._period = client, period
        # PyBullet allows each substep the impulse of a whole step.
        self._torque = list(_TORQUE / substeps)
        self._finger_force = [_FINGER_FORCE / substeps] * 2
        self.body = load_urdf(
            client,
            str(_folder() / 'panda.urdf'),
            useFixedBase=True,
            flags=pybullet.URDF_ENABLE_CACHED_GRAPHICS_SHAPES,
        )
        for joint, speed in zip(_JOINTS, JOINT_SPEED, strict=True):
            pybullet.changeDynamics(
                self.body, joint, maxJointVelocity=speed, physicsClientId=client
            )
        for finger in _FINGERS:
            pybullet.changeDynamics(
                self.body, finger, lateralFriction=1.5, spinningFriction=0.1, physicsClientId=client
            )
        self.place(REST, OPEN)

    def place(self, joints: np.ndarray, finger: float, velocities: np.ndarray = AT_REST) -> None:
        """Put the arm at joint positions [7] with ``velocities`` [7], the fingers at ``finger``."""
        self.reference = np.clip(joints, *JOINT_LIMITS)
        self.speed = self._drive = np.clip(velocities, -JOINT_SPEED, JOINT_SPEED)
        for joint, angle, speed in zip(_JOINTS, self.reference, self.speed, strict=True):
            pybullet.resetJointState(self.body, joint, angle, speed, physicsClientId=self._client)
        for joint in _FINGERS:
            pybullet.resetJointState(self.body, joint, finger, 0.0, physicsClientId=self._client)
        self.target = tip(self.reference)[0]
        self.read()

    def read(self) -> None:
        """Read ``joints``, ``joint_velocities`` [7], ``finger`` and ``hand`` [3] (m)."""
        states = pybullet.getJointStates(
            self.body, (*_JOINTS, *_FINGERS), physicsClientId=self._client
        )
        values = np.array([state[:2] for state in states])
        self.joints, self.joint_velocities = values[:7, 0], values[:7, 1]
        self._fingers = values[7:, 0]
        self.finger = float(self._fingers[0] + self._fingers[1]) / 2
        link = pybullet.getLinkState(
            self.body, _HAND, computeForwardKinematics=1, physicsClientId=self._client
        )
        self.hand = np.array(link[4])

    def frames(self) -> dict[str, np.ndarray]:
        """Pose [7] of each link by its name in the URDF: position (m), quaternion."""
        links = range(pybullet.getNumJoints(self.body, physicsClientId=self._client))
        names = [
            pybullet.getJointInfo(self.body, link, physicsClientId=self._client)[12].decode()
            for link in links
        ]
        states = pybullet.getLinkStates(
            self.body, links, computeForwardKinematics=1, physicsClientId=self._client
        )
        poses = {
            name: np.array([*state[4], *state[5]])
            for name, state in zip(names, states, strict=True)
        }
        return {_BASE: np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]), **poses}

    def move_hand(self, velocity: np.ndarray, box: np.ndarray) -> None:
        """Move the target of the hand with ``velocity`` [3] (m/s) inside ``box`` [2, 3] (m).

        The target leads the hand by a few centimetres at most: pushing against what does not
        yield winds nothing up.
        """
        lead = self.target + velocity * self._period - self.hand
        distance = math.sqrt(lead @ lead)
        lead *= min(1.0, _LEAD / max(distance, 1e-9))
        self.target = _clip(self.hand + lead, *box)
        self._follow(inverse(self.target, self.reference) - self.reference)

    def move_joints(self, velocity: np.ndarray, box: np.ndarray) -> None:
        """Move the joints with ``velocity`` [7] (rad/s); a virtual wall keeps the hand in ``box``.

        The wall changes the velocity as little as possible. A velocity controller has no place to
        be at: what its drives could not do at once, it does not catch up on.
        """
        velocity = _clip(velocity, -JOINT_SPEED, JOINT_SPEED)
        self.reference = self.joints
        position, _, jacobian = tip(self.reference)
        jacobian = jacobian[:3]
        wanted = jacobian @ velocity
        allowed = _clip(wanted, *(_WALL * (box - position)))
        if (allowed != wanted).any():
            damped = jacobian @ jacobian.T + _DAMPING * np.eye(3)
            velocity = velocity + jacobian.T @ np.linalg.solve(damped, allowed - wanted)
        self._follow(velocity * self._period)
        self.target = tip(self.reference)[0]

    def _follow(self, motion: np.ndarray) -> None:
        """Move the reference by ``motion`` [7] (rad) as far as the limits of the drives allow."""
        change = JOINT_ACCELERATION * self._period
        low, high = JOINT_LIMITS
        speed = _clip(motion / self._period, self.speed - change, self.speed + change)
        speed = _clip(
            speed, -self._braking(self.reference - low), self._braking(high - self.reference)
        )
        self.reference = _clip(self.reference + speed * self._period, low, high)
        # What is held back must not catch up with a jump later.
        lead = 0.5 * JOINT_SPEED * self._period
        self.reference = _clip(self.reference, self.joints - lead, self.joints + lead)
        self.speed = speed
        drive = (self.reference - self.joints) / self._period
        drive = _clip(drive, self._drive - change, self._drive + change)
        self._drive = _clip(drive, -JOINT_SPEED, JOINT_SPEED)
        pybullet.setJointMotorControlArray(
            self.body,
            _JOINTS,
            pybullet.VELOCITY_CONTROL,
            targetVelocities=self._drive.tolist(),
            forces=self._torque,
            physicsClientId=self._client,
        )

    def _braking(self, room: np.ndarray) -> np.ndarray:
        """Speed [7] (rad/s) from which joints stop within ``room`` [7] (rad)."""
        period, room = self._period, np.maximum(room, 0.0)
        speed = JOINT_ACCELERATION * (np.sqrt(period**2 + 2 * room / JOINT_ACCELERATION) - period)
        return np.minimum(speed, JOINT_SPEED)

    def grip(self, finger: float) -> None:
        """Move both fingers towards ``finger`` (m); they press on what is between them."""
        wanted = (min(max(finger, 0.0), OPEN) - self._fingers) / self._period
        pybullet.setJointMotorControlArray(
            self.body,
            _FINGERS,
            pybullet.VELOCITY_CONTROL,
            targetVelocities=_clip(wanted, -_FINGER_SPEED, _FINGER_SPEED).tolist(),
            forces=self._finger_force,
            physicsClientId=self._client,
        )


def description() -> str:
    """URDF of the arm; its meshes are named by absolute paths, so that RViz finds them."""
    text = (_folder() / 'panda.urdf').read_text()
    return text.replace('package://meshes', f'{_folder().as_uri()}/meshes')


def _clip(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """``np.clip``, which takes four times as long for a few numbers."""
    return np.minimum(np.maximum(values, low), high)


def tip(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position [3] (m), orientation [3, 3] and Jacobian [6, 7] of the point between the fingers."""
    cosine, sine = np.cos(joints)[:, None], np.sin(joints)[:, None]
    frames = _LINKS.copy()
    frames[:, :, 0] = cosine * _LINKS[:, :, 0] + sine * _LINKS[:, :, 1]
    frames[:, :, 1] = cosine * _LINKS[:, :, 1] - sine * _LINKS[:, :, 0]
    for index in range(1, 7):
        frames[index] = np.dot(frames[index - 1], frames[index])
    axes, origins = frames[:, :3, 2], frames[:, :3, 3]
    position = origins[6] + _TIP * axes[6]
    arm = position - origins
    jacobian = np.empty((6, 7))
    jacobian[:3] = (axes[:, _NEXT] * arm[:, _LAST] - axes[:, _LAST] * arm[:, _NEXT]).T
    jacobian[3:] = axes.T
    return position, frames[6, :3, :3] @ _HAND_TURN, jacobian


def inverse(position: np.ndarray, joints: np.ndarray, iterations: int = 1) -> np.ndarray:
    """Joint positions [7] with the hand at ``position``, pointing down, from ``joints`` on.

    Damped least squares (Nakamura and Hanafusa 1986); the free joint motion goes towards the rest
    position. One iteration a control step is enough to follow a moving target within 4 mm.
    """
    joints = joints.copy()
    for _ in range(iterations):
        at, orientation, jacobian = tip(joints)
        turn = _DOWN @ orientation.T
        axis = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
        error = np.concatenate([position - at, axis / 2])
        rest = 0.05 * (REST - joints)
        damped = jacobian @ jacobian.T + _DAMPING_6
        joints += rest + jacobian.T @ np.linalg.solve(damped, error - jacobian @ rest)
        joints = _clip(joints, _LOW, _HIGH)
    return joints


def _link(index: int) -> np.ndarray:
    """Transform [4, 4] from the frame of one joint to that of the next, at angle 0."""
    cosine, sine = np.cos(_ALPHA[index]), np.sin(_ALPHA[index])
    return np.array(
        [
            [1.0, 0.0, 0.0, _A[index]],
            [0.0, cosine, -sine, -sine * _D[index]],
            [0.0, sine, cosine, cosine * _D[index]],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


_LINKS = np.stack([_link(index) for index in range(7)])
_NEXT, _LAST = [1, 2, 0], [2, 0, 1]  # of a cross product; np.cross takes longer than all the rest
_DAMPING_6 = _DAMPING * np.eye(6)
_C = np.sqrt(0.5)
_HAND_TURN = np.array([[_C, _C, 0.0], [-_C, _C, 0.0], [0.0, 0.0, 1.0]])  # -45 degrees about z
