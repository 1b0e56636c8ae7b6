"""What the nodes of a graph reported last on /diagnostics."""

from __future__ import annotations

import time
from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import QoSProfile

from mbarl_ros.nodes.support import runtime
from mbarl_ros.schema import topics
from mbarl_ros.schema.executables import NODES


class StatusListener:
    """Collects the reports of our nodes in the namespace of ``node``.

    ``status``: node -> key -> text, as in :data:`mbarl_ros.view.status.GraphStatus`. Values that a
    node does not publish each time, such as a model's error, are kept.
    """

    def __init__(self, node: Node, on_change: Callable[[], None] = lambda: None) -> None:
        """Subscribe to /diagnostics; ``on_change`` is called after each message."""
        self._on_change = on_change
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
                    'message': status.message,
                    **{item.key: item.value for item in status.values},
                }
        self._on_change()
