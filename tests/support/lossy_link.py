"""A lossy link: messages of a topic arrive late on ``lossy/<topic>``, or never.

    python tests/support/lossy_link.py '{"topics": {"odom": "nav_msgs/msg/Odometry"}, "loss": 0.1,
                                 "stall": 0.1, "delay": 0.2, "seed": 0}'

Order is kept, as DDS keeps it: messages behind a delayed one wait, too.
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


class Link:
    """One topic of the link."""

    def __init__(self, node: Node, topic: str, kind: Any) -> None:
        # Fits every subscriber. A lost latched message is lost for late subscribers, too.
        offered = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._publisher = node.create_publisher(kind, f'lossy/{topic}', offered)
        node.create_subscription(kind, topic, self._receive, KEEP_ALL, raw=True)

    def _receive(self, data: bytes) -> None:
        if chance.random() < trouble['loss']:
            return
        due = time.monotonic() + trouble['delay'] * (chance.random() < trouble['stall'])
        if self._waiting:
            due = max(due, self._waiting[-1][0])
        self._waiting.append((due, data))
        self.forward()

    def forward(self) -> None:
        """Publish the messages that are due."""
        while self._waiting and self._waiting[0][0] <= time.monotonic():
            self._publisher.publish(self._waiting.popleft()[1])


trouble = json.loads(sys.argv[1])
chance = random.Random(trouble['seed'])
rclpy.init()
node = Node('lossy_link')
links = [Link(node, topic, message_class(name)) for topic, name in trouble['topics'].items()]
for link in links:
    node.create_timer(0.01, link.forward)
rclpy.spin(node)
