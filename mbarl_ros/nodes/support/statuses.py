"""What the nodes of a graph reported last on /diagnostics."""

from __future__ import annotations

import time

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import QoSProfile

from mbarl_ros.nodes.support import runtime
from mbarl_ros.schema import topics
from mbarl_ros.schema.executables import NODES

_LONGEST = 2000  # characters of a text that are kept; paths are up to 4096, but rarely


class StatusListener:
    """Collects the reports of our nodes in the namespace of ``node``.

    ``status``: node -> key -> text, as in :data:`mbarl_ros.view.status.GraphStatus`. Values that a
    node does not publish each time, such as a model's error, are kept.
    """

    def __init__(self, node: Node) -> None:
        """Subscribe to /diagnostics."""
        self.status: dict[str, dict[str, str]] = {}
        self._received_at: dict[str, float] = {}
        self._namespace = node.get_namespace()
        node.create_subscription(
            DiagnosticArray, topics.DIAGNOSTICS, self._receive, QoSProfile(depth=20)
        )

    def ages(self) -> dict[str, float]:
        """Node -> seconds since its last report."""
        now = time.monotonic()
        return {node: now - received for node, received in self._received_at.items()}

    def _receive(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name = runtime.node_of(status.name, self._namespace)
            if name in NODES:
                self._received_at[name] = time.monotonic()
                self.status[name] = {
                    **self.status.get(name, {}),
                    'level': str(int.from_bytes(status.level, 'little')),
                    'message': runtime.printable(status.message, _LONGEST),
                    **{
                        runtime.printable(item.key, _LONGEST): runtime.printable(
                            item.value, _LONGEST
                        )
                        for item in status.values
                    },
                }
