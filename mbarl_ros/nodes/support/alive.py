"""Tells the safety gate, many times a second, that this process lives."""

from __future__ import annotations

import threading
from typing import Any

from rclpy.exceptions import InvalidHandle
from std_msgs.msg import Empty

from mbarl_ros.nodes.support.qos import ALIVE

# s; three assertions may be late before the lease that the gate asks for has run out.
_PERIOD = 0.02


class Alive:
    """Asserts the liveliness of a topic from a thread of its own, also while the node is busy.

    The middleware would do so by itself if the liveliness were automatic, but to each process in
    the domain: with sixteen robots that is 60,000 packets a second. This goes to the subscribers.
    """

    def __init__(self, node: Any, topic: str) -> None:
        """Start; nothing is published on the topic."""
        self._publisher = node.create_publisher(Empty, topic, ALIVE)
        self._stopping = threading.Event()
        # Before real-time scheduling is asked for, which then holds for this thread, too.
        threading.Thread(target=self._assert, name='alive', daemon=True).start()

    def _assert(self) -> None:
        while not self._stopping.wait(_PERIOD):
            try:
                self._publisher.assert_liveliness()
            except InvalidHandle:  # the node was destroyed
                return

    def close(self) -> None:
        """Assert no more."""
        self._stopping.set()
