"""What the nodes of a graph reported last on /diagnostics."""

from __future__ import annotations

import time
from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import QoSProfile

from mbarl_ros.nodes.support import runtime
from mbarl_ros.schema import topics

_SILENT, _LEFT = 5.0, 300.0  # s without a report of a robot's node, as below

_LONGEST = 2000  # characters of a text that are kept; paths are up to 4096, but rarely


class StatusListener:
    """Collects the reports of our nodes in the namespace of ``node``, of a fleet also its robots'.

    ``status``: node -> key -> text, as in :data:`mbarl_ros.view.status.GraphStatus`. Values that a
    node does not publish each time, such as a model's error, are kept. In a fleet a robot's node is
    ``robot_1/safety_gate``; :meth:`mark_silent_robots` tells which are silent.
    """

    def __init__(
        self, node: Node, on_change: Callable[[], None] = lambda: None, *, fleet: bool = False
    ) -> None:
        """Subscribe to /diagnostics.

        :param on_change: called after each message
        :param fleet: also listen to the robots in the namespaces below
        """
        self._on_change, self._fleet = on_change, fleet
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

    def mark_silent_robots(self) -> None:
        """Say in ``status`` which robot of a fleet is silent, and forget one that has left."""
        for name, silent in self.ages().items():
            if '/' not in name or silent < _SILENT:
                continue
            if silent < _LEFT:
                self.status[name] |= {'level': '2', 'message': f'silent for {silent:.0f} s'}
            else:
                del self._received_at[name], self.status[name]

    def _receive(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name = runtime.node_of(status.name, self._namespace, fleet=self._fleet)
            if name:
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
        self._on_change()
