"""Kinematic worlds of common robots: planar arms with a gripper, and a base with wheels.

Use them to try out a robot profile before the robot. Joints and wheels follow their commands as
fast as the drives can, and nothing collides. PyBullet only draws.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import pybullet

from mbarl_sim.worlds import World, box, cylinder, halton, picture

LINKS = (0.5, 0.4)  # m, upper arm and forearm
JOINT_LIMITS = np.array([2.0, 2.5])  # rad
JOINT_SPEED = 1.5  # rad/s, the drives' limit
HOME = (-0.6, 1.2)  # rad, where the arm starts
ARM_GOAL, ARM_TOLERANCE = np.array([0.4, 0.6]), 0.08  # m
BASE_GOAL, BASE_TOLERANCE = np.array([1.2, 0.8]), 0.25  # m
BASE_SPEED = np.array([0.8, 1.5])  # m/s, rad/s


class Kinematic(World):
    """A world without physics; subclasses compute the motion and the positions of the parts."""

    def __init__(self, *, seed: int = 0) -> None:
        """Start at a training start."""
        super().__init__(seed=seed)
        self._client: int | None = None
        self.reset()

    @property
    def _period(self) -> float:
        return 1.0 / self.control_rate

    @abstractmethod
    def _parts(self) -> list[np.ndarray]:
        """Positions [2] to draw: the moving parts, then the goal."""

    def render(self, width: int = 480, height: int = 480) -> np.ndarray:
        """Render from above; the scene is rebuilt each time, since pictures are rare."""
        client = pybullet.connect(pybullet.DIRECT)
        box(client, (2.5, 2.5, 0.05), (0, 0, -0.06), (0.8, 0.8, 0.78), solid=False)
        *parts, goal = self._parts()
        cylinder(client, 0.12, 0.02, (*goal, 0.0), (0.3, 0.7, 0.35))
        for part in parts:
            cylinder(client, 0.06, 0.2, (*part, 0.1), (0.9, 0.35, 0.15))
        image = picture(client, (0, -1.5, 3.5), 60, width, height)
        pybullet.disconnect(client)
        return image


class ArmPosition(Kinematic):
    """A planar arm with two joints and a gripper, commanded by joint positions.

    State: shoulder, elbow (rad), gripper (0 open, 1 closed), tip_x, tip_y (m), at_goal (0 or 1, as
    from a detector), closeness (0 to 1, usable as a reward). Command: shoulder, elbow (rad),
    gripper.
    """

    state_names = ('shoulder', 'elbow', 'gripper', 'tip_x', 'tip_y', 'at_goal', 'closeness')
    command_names = ('shoulder', 'elbow', 'gripper')
    control_rate = 20.0

    def reset(self) -> np.ndarray:
        """Reset to a random pose near home, gripper open."""
        return self.set_state(np.array([*(HOME + self.rng.uniform(-0.1, 0.1, 2)), 0.0]))

    def reset_to_start(self, index: int) -> np.ndarray:
        """Reset to point ``index`` of a Halton sequence over joint positions."""
        share = np.array([halton(index + 1, 2), halton(index + 1, 3)])
        return self.set_state(np.array([*((2 * share - 1) * 0.9 * JOINT_LIMITS), 0.0]))

    def set_state(self, state: np.ndarray) -> np.ndarray:
        """Set joints and gripper; the other entries follow from them."""
        self.joints = np.clip(np.asarray(state[:2], np.float64), -JOINT_LIMITS, JOINT_LIMITS)
        self._gripper = float(np.clip(state[2], 0.0, 1.0))
        return self._state()

    def step(self, command: np.ndarray) -> np.ndarray:
        """Move for one control period."""
        speed = np.clip(self._speed(np.asarray(command)), -JOINT_SPEED, JOINT_SPEED)
        joints = np.clip(self.joints + speed * self._period, -JOINT_LIMITS, JOINT_LIMITS)
        return self.set_state(np.array([*joints, command[-1]]))

    def _speed(self, command: np.ndarray) -> np.ndarray:
        """Joint speeds [2] in rad/s that the command sets for the drives."""
        return (command[:2] - self.joints) / self._period

    def _jacobian(self) -> np.ndarray:
        (_, elbow), tip = self._parts()[:2], self._parts()[2]
        levers = np.array([tip, tip - elbow])
        return np.array([-levers[:, 1], levers[:, 0]])

    def _parts(self) -> list[np.ndarray]:
        shoulder, elbow = self.joints[0], self.joints.sum()
        first = LINKS[0] * np.array([np.cos(shoulder), np.sin(shoulder)])
        tip = first + LINKS[1] * np.array([np.cos(elbow), np.sin(elbow)])
        return [np.zeros(2), first, tip, ARM_GOAL]

    def _state(self) -> np.ndarray:
        tip = self._parts()[2]
        distance = float(np.linalg.norm(tip - ARM_GOAL))
        at_goal = float(distance <= ARM_TOLERANCE)
        return np.array([*self.joints, self._gripper, *tip, at_goal, np.exp(-2 * distance)])


class ArmVelocity(ArmPosition):
    """The same arm, commanded by joint velocities (rad/s)."""

    command_names = ('shoulder_velocity', 'elbow_velocity', 'gripper')

    def _speed(self, command: np.ndarray) -> np.ndarray:
        return command[:2]


class ArmTwist(ArmPosition):
    """The same arm behind a Cartesian controller like MoveIt Servo: tip_vx, tip_vy (m/s)."""

    command_names = ('tip_vx', 'tip_vy', 'gripper')

    def _speed(self, command: np.ndarray) -> np.ndarray:
        jacobian = self._jacobian()  # damped least squares: slow near singular poses
        damped = jacobian @ jacobian.T + 1e-3 * np.eye(2)
        return jacobian.T @ np.linalg.solve(damped, command[:2])


class Base(Kinematic):
    """A base with differential drive.

    State: x, y (m), turn_z, turn_w (of the orientation's quaternion), speed (m/s), turning (rad/s).
    Command: speed, turning.
    """

    state_names = ('x', 'y', 'turn_z', 'turn_w', 'speed', 'turning')
    command_names = ('speed', 'turning')
    control_rate = 10.0

    def reset(self) -> np.ndarray:
        """Reset to a random pose near the origin, facing along x."""
        x, y, yaw = self.rng.uniform(-0.2, 0.2, 3)
        return self.set_state(np.array([x, y, np.sin(yaw / 2), np.cos(yaw / 2), 0.0, 0.0]))

    def reset_to_start(self, index: int) -> np.ndarray:
        """Reset to point ``index`` of a Halton sequence over positions and headings."""
        x, y, yaw = (2 * halton(index + 1, base) - 1 for base in (2, 3, 5))
        turn = np.pi * yaw / 2
        return self.set_state(np.array([1.8 * x, 1.8 * y, np.sin(turn), np.cos(turn), 0.0, 0.0]))

    def set_state(self, state: np.ndarray) -> np.ndarray:
        """Set pose and speeds."""
        x, y, z, w, *speeds = (float(value) for value in state)
        self._pose = np.clip([x, y], -2.0, 2.0)
        self._yaw = 2 * np.arctan2(z, w)
        self._speeds = np.clip(speeds, -BASE_SPEED, BASE_SPEED)
        return self._state()

    def step(self, command: np.ndarray) -> np.ndarray:
        """Move for one control period."""
        self._speeds = np.clip(np.asarray(command, np.float64), -BASE_SPEED, BASE_SPEED)
        speed, turning = self._speeds
        middle = self._yaw + turning * self._period / 2
        heading = np.array([np.cos(middle), np.sin(middle)])
        self._pose = np.clip(self._pose + speed * self._period * heading, -2.0, 2.0)
        self._yaw = np.remainder(self._yaw + turning * self._period + np.pi, 2 * np.pi) - np.pi
        return self._state()

    def frames(self) -> dict[str, np.ndarray]:
        """The base, and the frame of its odometry, which does not drift."""
        turn = [0.0, 0.0, np.sin(self._yaw / 2), np.cos(self._yaw / 2)]
        return {
            'odom': np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]),
            'base_link': np.array([*self._pose, 0.0, *turn]),
        }

    def _parts(self) -> list[np.ndarray]:
        nose = 0.15 * np.array([np.cos(self._yaw), np.sin(self._yaw)])
        return [self._pose, self._pose + nose, BASE_GOAL]

    def _state(self) -> np.ndarray:
        turn = self._yaw / 2
        return np.array([*self._pose, np.sin(turn), np.cos(turn), *self._speeds])
