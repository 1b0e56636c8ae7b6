"""Resets of the simulated world between attempts, for presets that are allowed to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from rclpy.task import Future
from std_srvs.srv import Trigger

from mbarl_ros.schema import topics

_TIMEOUT = 5.0  # s after which an answer counts as lost


def reset_answer(resets: int, stamp: int) -> str:
    """Message of the answer to a reset: JSON with the number of resets and a stamp in ns.

    The stamp is that of the first state after the reset. It comes with the answer, since answer
    and state are delivered in either order, and since others may reset the world as well.
    """
    return json.dumps({'resets': resets, 'stamp_ns': stamp})


def first_stamp(answer: str) -> int:
    """Stamp in ns of the first state after a reset, from its answer.

    :raises ValueError: the answer holds none.
    """
    try:
        return int(json.loads(answer)['stamp_ns'])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"answered '{answer}', which holds no stamp_ns") from None


class WorldReset:
    """Requests resets of the world, and knows which state is the first after one."""

    def __init__(self, node: Any, on_answer: Callable[[], None]) -> None:
        """Create a client on ``node``; ``on_answer`` is called when the world has been reset."""
        self._node = node
        self._on_answer = on_answer
        self._client = node.create_client(Trigger, topics.SIM_RESET)
        self._future: Future | None = None
        self._requested_at = 0.0

    def done(self, stamp: int) -> bool:
        """Whether the state of ``stamp`` ns comes after the reset; True once for each reset.

        Requests a reset where none is pending.
        """
        if self._future is None or not self._future.done():
            self._request()
            return False
        try:
            first = first_stamp(self._future.result().message)
        except ValueError as error:
            self._node.get_logger().error(f'{topics.SIM_RESET} {error}')
            self._future = None
            return False
        if stamp < first:
            return False
        self._future = None
        return True

    def destroy(self) -> None:
        """Destroy the client; an answer that is still to come is dropped."""
        self._node.destroy_client(self._client)

    def _request(self) -> None:
        pending = self._future is not None and time.monotonic() - self._requested_at < _TIMEOUT
        if pending or not self._client.service_is_ready():
            return
        self._requested_at = time.monotonic()
        self._future = self._client.call_async(Trigger.Request())
        self._future.add_done_callback(lambda _: self._on_answer())
