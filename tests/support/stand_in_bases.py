"""Stand-ins for the drivers of mobile bases that people own."""

from __future__ import annotations

import math
import time

import numpy as np
from geometry_msgs.msg import Twist, TwistStamped
from nav_msgs.msg import Odometry
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import JointState

from mbarl_ros.schema.message_fields import set_stamp
from support.stand_ins import RATE, StandIn


class Base(StandIn):
    """A base with differential drive.

    ``timeout``: s after which its driver stops by itself; ``fastest``: m/s, rad/s.
    """

    command_type: type = TwistStamped
    command_topic, odometry_topic = 'cmd_vel', 'odom'
    child_frame, timeout, fastest = 'base_link', 0.5, (1.0, 1.0)
    odometry_qos: QoSProfile | int = 10

    def set_up(self) -> None:
        self.pose, self.speed, self.since = np.zeros(3), np.zeros(2), -math.inf
        self.odometry = self.driver.create_publisher(
            Odometry, self.odometry_topic, self.odometry_qos
        )
        self.driver.create_subscription(self.command_type, self.command_topic, self.take_twist, 10)

    def take_twist(self, message: Twist | TwistStamped) -> None:
        """Take a command."""
        twist = message.twist if self.command_type is TwistStamped else message
        wanted = np.array([twist.linear.x, twist.angular.z])
        if not np.isfinite(wanted).all():
            self.refuse('NaN in a command')
            return
        self.speed = np.clip(wanted, -np.array(self.fastest), self.fastest)
        self.since = time.monotonic()

    def advance(self) -> None:
        if time.monotonic() - self.since > self.timeout:
            self.speed = np.zeros(2)
        x, y, heading = self.pose
        step = self.speed / RATE
        self.pose = np.array(
            [x + step[0] * math.cos(heading), y + step[0] * math.sin(heading), heading + step[1]]
        )
        message = Odometry(child_frame_id=self.child_frame)
        message.header.frame_id = 'odom'
        message.pose.pose.position.x, message.pose.pose.position.y = self.pose[:2].tolist()
        message.pose.pose.orientation.z = math.sin(self.pose[2] / 2)
        message.pose.pose.orientation.w = math.cos(self.pose[2] / 2)
        message.twist.twist.linear.x, message.twist.twist.angular.z = self.speed.tolist()
        set_stamp(message, time.time_ns())
        self.odometry.publish(message)

    @property
    def place(self) -> np.ndarray:
        return self.pose


class TurtleBot3(Base):
    """turtlebot3_node: burger.yaml, turtlebot3.cpp; wheels on joint_states; nothing times out."""

    child_frame, timeout, fastest = 'base_footprint', math.inf, (0.22, 2.84)

    def set_up(self) -> None:
        super().set_up()
        self.wheels = self.driver.create_publisher(JointState, 'joint_states', 10)

    def advance(self) -> None:
        super().advance()
        names = ['wheel_left_joint', 'wheel_right_joint']
        message = JointState(name=names, position=[self.pose[0] / 0.033] * 2)
        set_stamp(message, time.time_ns())
        self.wheels.publish(message)


class TurtleBot4(Base):
    """turtlebot4_bringup: republisher.yaml; create3_docs: safety.md. Best-effort odometry."""

    command_type, fastest, odometry_qos = Twist, (0.306, 1.9), qos_profile_sensor_data

    def set_up(self) -> None:
        super().set_up()
        self.driver.create_subscription(TwistStamped, 'cmd_vel_stamped', self.take_stamped, 10)

    def take_stamped(self, message: TwistStamped) -> None:
        """Take a command of the other topic."""
        self.take_twist(message.twist)


class Husky(Base):
    """clearpath_control: diff_4wd.yaml (Jazzy); its topics are in a namespace."""

    odometry_topic = 'platform/odom'
