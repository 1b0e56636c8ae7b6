"""A bad line between nodes: what is said on a topic arrives late on ``lossy/<topic>``, or never.

    python tests/lossy_link.py '{"topics": {"odom": "nav_msgs/msg/Odometry"}, "loss": 0.1,
                                 "stall": 0.1, "delay": 0.2, "seed": 0}'

Order is kept, as DDS keeps it: what comes behind a message that is held up waits, too.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import deque
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from mbarl_ros.nodes.support.qos import KEEP_ALL
from mbarl_ros.nodes.support.runtime import message_class


class Line:
    """One topic of the line."""

    def __init__(self, node: Node, topic: str, kind: Any) -> None:
        # Fits every subscriber; a latched message that gets lost is lost for who comes later, too.
        offered = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._publisher = node.create_publisher(kind, f'lossy/{topic}', offered)
        node.create_subscription(kind, topic, self._take, KEEP_ALL, raw=True)

    def _take(self, data: bytes) -> None:
        if chance.random() < trouble['loss']:
            return
        due = time.monotonic() + trouble['delay'] * (chance.random() < trouble['stall'])
        if self._waiting:
            due = max(due, self._waiting[-1][0])
        self._waiting.append((due, data))
        self.pass_on()

    def pass_on(self) -> None:
        """Publish what is due."""
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            self._publisher.publish(self._waiting.popleft()[1])


trouble = json.loads(sys.argv[1])
chance = random.Random(trouble['seed'])
rclpy.init()
node = Node('lossy_link')
lines = [Line(node, topic, message_class(name)) for topic, name in trouble['topics'].items()]
for line in lines:
    node.create_timer(0.01, line.pass_on)
rclpy.spin(node)
