"""A source of commands that is hostile, broken or learning, at the inputs of a running gate."""

from __future__ import annotations

import importlib
import random
import time

from rclpy.node import Node
from sensor_msgs.msg import JointState

from mbarl_ros.schema import topics
from mbarl_ros.schema.message_fields import TopicCodec, message_class, set_stamp
from mbarl_ros.schema.robot import RobotConfig
from support.robot_side import Fuzz


class HostileSource:
    """Sends what a policy should not, in bursts and with wrong stamps and names, and teleoperates.

    ``sent`` counts the commands of the policy.
    """

    def __init__(self, node: Node, robot: RobotConfig, seed: int, longest: int = 200) -> None:
        """``longest``: run of one kind of commands."""
        self.chance = random.Random(seed)
        self.sent = 0
        self._names = list(robot.command_names)
        self._fuzz = Fuzz(self.chance, len(self._names), longest)
        self._commands = node.create_publisher(JointState, topics.COMMAND, 10)
        teleop = robot.teleop[0]
        self._codec, self._kind = (
            TopicCodec(teleop),
            message_class(teleop.type, importlib.import_module),
        )
        self._teleop = node.create_publisher(self._kind, teleop.topic, 10)

    def burst(self) -> int:
        """Send one command, or five: no more than the gate's queue holds; how many."""
        chance, number = self.chance, self.chance.choice((1, 1, 5))
        for _ in range(number):
            names = self._names if chance.random() > 0.01 else self._names[::-1]
            message = JointState(name=names, position=self._fuzz.command())
            offset = chance.uniform(-2.0, 2.0) if chance.random() < 0.03 else 0.0
            set_stamp(message, time.time_ns() + int(offset * 1e9))
            self._commands.publish(message)
            self.sent += 1
        return number

    def take_over(self) -> None:
        """Send a command as a person does who pushes the stick about."""
        values = [self.chance.uniform(-9.0, 9.0) for _ in self._codec.names]
        message = self._codec.encode(self._kind(), values)
        set_stamp(message, time.time_ns())
        self._teleop.publish(message)
