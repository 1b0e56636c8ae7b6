"""Stand-ins for the drivers of arms that people own: their topics, types, QoS, and refusals.

What a driver would not execute is counted in ``refused``, with the reason, and moves nothing. Each
names the files of the driver that it is modelled on.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory

from mbarl_ros.schema.message_fields import set_stamp, stamp_ns

RATE = 50.0  # Hz at which a stand-in moves and publishes
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
UR = ['shoulder_pan_joint', 'shoulder_lift_joint', 'elbow_joint'] + [
    f'wrist_{number}_joint' for number in (1, 2, 3)
]
FR3 = [f'fr3_joint{number}' for number in range(1, 8)]
KINOVA = [f'joint_{number}' for number in range(1, 8)]
XARM = [f'joint{number}' for number in range(1, 8)]
SO101 = [
    f'{name}_joint'
    for name in (
        'shoulder_pan',
        'shoulder_lift',
        'elbow_flex',
        'wrist_flex',
        'wrist_roll',
        'gripper',
    )
]


class StandIn:
    """A driver's nodes in a thread of their own; subclasses say what they publish and obey."""

    urdf = ''

    def __init__(self, domain: int, namespace: str = '') -> None:
        """Start in a ROS domain."""
        self.refused: list[str] = []
        self.context, self.namespace = Context(), namespace
        rclpy.init(context=self.context, domain_id=domain)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.nodes: list[Node] = []
        self.driver = self.node('driver')
        if self.urdf:
            self.driver.create_publisher(String, 'robot_description', LATCHED).publish(
                String(data=self.urdf)
            )
        self.set_up()
        self.driver.create_timer(1 / RATE, self.advance)
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()

    def node(self, name: str, **parameters: object) -> Node:
        """Another node of the driver, with its parameters."""
        node = Node(name, context=self.context, namespace=self.namespace)
        for key, value in parameters.items():
            node.declare_parameter(key, value)
        self.executor.add_node(node)
        self.nodes.append(node)
        return node

    def set_up(self) -> None:
        """Create publishers and subscriptions."""

    def advance(self) -> None:
        """Move for a period of 1 / RATE, and publish."""

    def refuse(self, reason: str) -> None:
        """Count a command that the driver would not execute."""
        self.refused.append(reason)

    def close(self) -> None:
        """End the driver."""
        self.executor.shutdown()
        self.thread.join()
        for node in self.nodes:
            node.destroy_node()
        rclpy.shutdown(context=self.context)

    @property
    def place(self) -> np.ndarray:
        """Where the robot is, in the unit of its joints or in m; moves only by commands."""
        raise NotImplementedError


def urdf(name: str, joints: Sequence[tuple[str, float | None, float | None, float]]) -> str:
    """A robot description: (joint, low, high, velocity); without bounds it turns for ever."""
    links = ''.join(f'<link name="l{number}"/>' for number in range(len(joints) + 1))
    parts = []
    for number, (joint, low, high, speed) in enumerate(joints):
        kind = 'continuous' if low is None else 'revolute'
        bounds = '' if low is None else f'lower="{low}" upper="{high}" '
        parts.append(
            f'<joint name="{joint}" type="{kind}"><parent link="l{number}"/>'
            f'<child link="l{number + 1}"/><limit {bounds}velocity="{speed}" effort="9"/></joint>'
        )
    return f'<?xml version="1.0"?><robot name="{name}">{links}{"".join(parts)}</robot>'


class Arm(StandIn):
    """Joints under joint_state_broadcaster (ros2_control): its order is not the controller's.

    ``others``: what else is in its messages. ``unit``: rad for each unit of the driver.
    """

    joints: Sequence[str] = ()
    others: Mapping[str, float] = MappingProxyType({})
    home = 0.3
    states_topic = 'joint_states'
    unit = 1.0

    def set_up(self) -> None:
        self.q = np.full(len(self.joints), self.home) / self.unit
        self.states = self.driver.create_publisher(JointState, self.states_topic, 10)
        self.take_commands()

    def take_commands(self) -> None:
        """Subscribe to commands."""

    def move(self) -> None:
        """Move the joints for one period."""

    def advance(self) -> None:
        self.move()
        values = {**dict(zip(self.joints, self.q.tolist(), strict=True)), **self.others}
        names = sorted(values, reverse=True)
        message = JointState(name=names, position=[values[name] for name in names])
        set_stamp(message, time.time_ns())
        self.states.publish(message)

    @property
    def place(self) -> np.ndarray:
        return self.q * self.unit

    def take_numbers(self, message: Float64MultiArray) -> None:
        """As forward_command_controller does: one number for each joint, none of them NaN."""
        if len(message.data) != len(self.joints):
            self.refuse(f'command size ({len(message.data)}) does not match')
        elif not np.isfinite(message.data).all():
            self.refuse('NaN in a command')
        else:
            self.command = np.array(message.data)


class UrVelocity(Arm):
    """ur_robot_driver: ur_controllers.yaml, forward_velocity_controller; it never times out."""

    joints = UR
    urdf = urdf('ur5e', [(joint, -6.2832, 6.2832, 3.1416) for joint in UR])

    def take_commands(self) -> None:
        self.command = np.zeros(6)
        node = self.node('forward_velocity_controller', joints=UR, interface_name='velocity')
        node.create_subscription(Float64MultiArray, '~/commands', self.take_numbers, 10)
        self.pose = self.driver.create_publisher(PoseStamped, 'tcp_pose_broadcaster/pose', 10)

    def move(self) -> None:
        self.q = self.q + self.command / RATE
        self.publish_pose([0.4, 0.1, 0.3])

    def publish_pose(self, xyz: Sequence[float]) -> None:
        """Publish the pose of the TCP, in the frame that the controller of the arm has."""
        message = PoseStamped()
        message.header.frame_id = 'base'
        position = message.pose.position
        position.x, position.y, position.z = map(float, xyz)
        set_stamp(message, time.time_ns())
        self.pose.publish(message)


class UrServo(UrVelocity):
    """ur_moveit_config: ur_servo.yaml. Servo knows the frames of the robot, halts without news."""

    timeout = 0.1  # s, incoming_command_timeout
    # base is turned by 180 degrees about z
    turns = MappingProxyType({'base': 1.0, 'base_link': -1.0})

    def take_commands(self) -> None:
        super().take_commands()
        self.tcp, self.twist, self.since = np.array([0.4, 0.1, 0.3]), np.zeros(3), -math.inf
        servo = self.node('servo_node')
        servo.create_publisher(Float64MultiArray, 'forward_velocity_controller/commands', 10)
        servo.create_subscription(TwistStamped, '~/delta_twist_cmds', self.take_twist, 10)

    def take_twist(self, message: TwistStamped) -> None:
        """Take a command of Servo."""
        turn = self.turns.get(message.header.frame_id)
        if turn is None:
            self.refuse(f"frame '{message.header.frame_id}' is not in TF")
        elif time.time() - stamp_ns(message) * 1e-9 > 3 * self.timeout:  # this machine stalls, too
            self.refuse('stale command')
        else:
            linear = message.twist.linear
            self.twist = np.array([turn * linear.x, turn * linear.y, linear.z])
            self.since = time.monotonic()

    def move(self) -> None:
        if time.monotonic() - self.since <= self.timeout:
            self.tcp = self.tcp + self.twist / RATE
        self.publish_pose(self.tcp)

    @property
    def place(self) -> np.ndarray:
        return self.tcp


class Trajectory(Arm):
    """joint_trajectory_controller, as ros2_controllers (Jazzy) validate a trajectory."""

    controller = 'joint_trajectory_controller'

    def take_commands(self) -> None:
        self.goal, self.arrival = self.q.copy(), 0.0
        node = self.node(self.controller, joints=list(self.joints))
        node.create_subscription(JointTrajectory, '~/joint_trajectory', self.take_trajectory, 10)

    def take_trajectory(self, message: JointTrajectory) -> None:
        """Take one that the controller would take."""
        last = message.points[-1] if message.points else None
        seconds = last.time_from_start.sec + last.time_from_start.nanosec * 1e-9 if last else 0.0
        stamp = stamp_ns(message) * 1e-9
        if sorted(message.joint_names) != sorted(self.joints):
            self.refuse(f'joints on incoming trajectory do not match: {message.joint_names}')
        elif last is None or len(last.positions) != len(self.joints):
            self.refuse('mismatch between joint_names and positions')
        elif stamp and stamp + seconds < time.time():
            self.refuse('received trajectory with non-zero start time that ends in the past')
        elif any(abs(velocity) > 1e-7 for velocity in last.velocities):
            self.refuse('velocity of last trajectory point is not zero')
        else:
            where = {name: index for index, name in enumerate(message.joint_names)}
            self.goal = np.array([last.positions[where[name]] for name in self.joints])
            self.arrival = time.monotonic() + seconds

    def move(self) -> None:
        left = max(self.arrival - time.monotonic(), 0.0) + 1 / RATE
        self.q = self.q + (self.goal - self.q) / (left * RATE)


class Franka(Trajectory):
    """franka_ros2: fr3_ros_controllers.yaml; joint_state_publisher merges arm and hand."""

    joints, controller, home = FR3, 'fr3_arm_controller', -0.4
    others = MappingProxyType({'fr3_finger_joint1': 0.02, 'fr3_finger_joint2': 0.02})
    urdf = urdf('fr3', [(joint, -2.9, 2.9, 2.62) for joint in FR3])

    def set_up(self) -> None:
        super().set_up()
        self.q[5] = self.goal[5] = 1.5
        self.arm_alone = self.driver.create_publisher(JointState, 'franka/joint_states', 10)

    def advance(self) -> None:
        super().advance()
        message = JointState(name=list(self.joints), position=self.q.tolist())
        set_stamp(message, time.time_ns())
        self.arm_alone.publish(message)


class Kinova(Trajectory):
    """ros2_kortex: ros2_controllers.yaml; four joints turn for ever."""

    joints, others = KINOVA, MappingProxyType({'robotiq_85_left_knuckle_joint': 0.1})
    urdf = urdf(
        'gen3',
        [
            (joint, *((None, None) if number % 2 == 0 else (-2.23, 2.23)), 1.2218)
            for number, joint in enumerate(KINOVA)
        ],
    )


class XArm(Trajectory):
    """xarm_ros2: xarm7_controllers.yaml."""

    joints, controller = XARM, 'xarm7_traj_controller'
    urdf = urdf('xarm7', [(joint, -1.69, 3.1416, 2.14) for joint in XARM])


class So101(Arm):
    """ros2_so_arm100: forward_position_controller and joint_trajectory_controller, both configured.

    Servos turn at most at 4.7 rad/s.
    """

    joints = SO101
    urdf = urdf('so101', [(joint, -1.69, 1.69, 10.0) for joint in SO101])

    def take_commands(self) -> None:
        self.command = self.q.copy()
        node = self.node('forward_position_controller', joints=list(self.joints))
        node.create_subscription(Float64MultiArray, '~/commands', self.take_numbers, 10)

    def move(self) -> None:
        step = 4.7 / self.unit / RATE
        self.q = self.q + np.clip(self.command - self.q, -step, step)


class So101Numbered(So101):
    """The same with the URDF of TheRobotStudio, whose joints are called 1 to 6; not published."""

    joints, urdf = tuple(str(number) for number in range(1, 7)), ''


class So101LeRobot(So101):
    """A bridge to LeRobot's SOFollower (so_follower.py): degrees, names with .pos."""

    joints = tuple(f'{name.removesuffix("_joint")}.pos' for name in SO101)
    states_topic, unit, urdf = 'follower/joint_states', math.pi / 180, ''

    def take_commands(self) -> None:
        self.command = self.q.copy()
        self.driver.create_subscription(JointState, 'follower/joint_commands', self.take_states, 10)

    def take_states(self, message: JointState) -> None:
        """Take goals by name; SOFollower knows no others."""
        unknown = set(message.name) - set(self.joints)
        if unknown or len(message.name) != len(message.position):
            self.refuse(f'unknown joints {sorted(unknown)}')
            return
        for name, value in zip(message.name, message.position, strict=True):
            self.command[list(self.joints).index(name)] = value
