"""The simulated world is reset between attempts, for presets that are allowed to."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from rclpy.task import Future
from std_srvs.srv import Trigger

from mbarl_ros.schema import topics

SERVICE = topics.SIM_RESET
_PATIENCE = 5.0  # s after which an answer counts as lost


class WorldReset:
    """Asks for a reset, and knows which state is the first after it.

    The answer names that state's stamp, since it may be heard before or after the state itself.
    """

    def __init__(self, node: Any, on_answer: Callable[[], None]) -> None:
        """A client on ``node``; ``on_answer`` is called once the world is placed."""
        self._node = node
        self._on_answer = on_answer
        self._client = node.create_client(Trigger, SERVICE)
        self._future: Future | None = None
        self._asked = 0.0

    def done(self, stamp: int) -> bool:
        """Whether the state of ``stamp`` ns comes after the reset; asks for one, if need be.

        True once for each reset.
        """
        if self._future is None or not self._future.done():
            self._ask()
            return False
        answer = self._future.result().message
        found = re.search(r'at (\d+) ns', answer)
        if found is None:
            self._node.get_logger().error(f"{SERVICE} answered '{answer}', without a stamp")
            self._future = None
            return False
        if stamp < int(found[1]):
            return False
        self._future = None
        return True

    def forget(self) -> None:
        """What was asked for is no longer wanted."""
        self._future = None

    def _ask(self) -> None:
        waits = self._future is not None and time.monotonic() - self._asked < _PATIENCE
        if waits or not self._client.service_is_ready():
            return
        self._asked = time.monotonic()
        self._future = self._client.call_async(Trigger.Request())
        self._future.add_done_callback(lambda _: self._on_answer())
