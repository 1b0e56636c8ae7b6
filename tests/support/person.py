"""A person who drives the point mass by teleoperation, always at the same velocity."""

from __future__ import annotations

import time

from geometry_msgs.msg import Twist

from support.graph import Graph

VELOCITY = (0.35, -0.2)


class Person:
    """Publishes :data:`VELOCITY`, at 20 Hz by default."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._publisher = graph.node.create_publisher(Twist, 'teleop/cmd_vel', 10)
        self.messages = 0

    def drive(self, seconds: float, period: float = 0.05) -> None:
        """Drive for so long."""
        command = Twist()
        command.linear.x, command.linear.y = VELOCITY
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._publisher.publish(command)
            self.messages += 1
            self.graph.spin(period)
