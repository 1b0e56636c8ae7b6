"""A single-threaded executor that keeps its wait set: about half rclpy's cost per message.

rclpy's SingleThreadedExecutor builds a new wait set and a task for each message. Robot state,
command and executed command cross three processes in every control step, so that cost decides
how fast a lockstep run can be. Subscriptions are served here straight from one reused wait set, as
is the news that a publisher has died; timers, services and other events, which are rare, go to
rclpy's own executor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from rclpy.event_handler import QoSSubscriptionEventType
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.subscription import Subscription

# Other QoS events are no reason to wake up; they are looked at this often (seconds).
_HOUSEKEEPING = 1.0
_BURST = 0.002  # s after which timers are looked at, however much there is to hear
# Who is so late (s) with a timer was held up; what came meanwhile has then come within _CATCH_UP,
# and is all there if nothing new comes for _SILENCE.
_HELD_UP, _CATCH_UP, _SILENCE = 0.01, 0.02, 0.002
_DEATHS = QoSSubscriptionEventType.RCL_SUBSCRIPTION_LIVELINESS_CHANGED


class DataPlaneExecutor(SingleThreadedExecutor):
    """Serves plain ``callback(message)`` subscriptions directly, all else as rclpy does."""

    def __init__(self, act: Callable[[bool], None], *, in_time: bool = False) -> None:
        """Create an executor on the default context.

        :param act: called when all that had come was heard; True: some of it came late
        :param in_time: for who moves a robot in real time: after this process was held up, ``act``
            and timers wait a few milliseconds for what the middleware has yet to read
        """
        super().__init__()
        self._act, self._in_time = act, in_time
        self._wait_set = None
        self._heard = 0  # messages
        self._died: list[Callable[[], None]] = []  # to be called back

    def spin_until(self, stop: Callable[[], bool], period: float = 0.1) -> None:
        """Serve callbacks until ``stop()`` is true, which is asked at least each ``period`` s."""
        next_housekeeping = time.monotonic()
        while not stop() and self._context.ok():
            rare = self._serve_subscriptions(period)
            if late := self._in_time and self._is_late():
                self._catch_up()
            self._act(late)
            while self._died:  # after the last of what they said
                self._died.pop(0)()
            now = time.monotonic()
            if rare or late or now >= next_housekeeping:
                next_housekeeping = now + _HOUSEKEEPING
                for _ in self._timers if late else (None,):  # each call serves one
                    self.spin_once(timeout_sec=0.0)

    def _is_late(self) -> bool:
        left = (timer.time_until_next_call() for timer in self._timers)  # ns; None: cancelled
        return any(ns is not None and ns < -1e9 * _HELD_UP for ns in left)

    def _catch_up(self) -> None:
        """Hear what came while this process was held up, before anybody acts on the oldest."""
        end, heard = time.monotonic() + _CATCH_UP, -1
        while heard < self._heard and time.monotonic() < end:
            heard = self._heard
            time.sleep(_SILENCE)
            self._serve_subscriptions(0.0)

    def _collect(self) -> None:
        nodes = list(self.get_nodes())
        self._subscriptions = [entity for node in nodes for entity in node.subscriptions]
        self._timers = [entity for node in nodes for entity in node.timers]
        self._services = [entity for node in nodes for entity in node.services]
        self._clients = [entity for node in nodes for entity in node.clients]
        self._deaths = [
            waitable
            for node in nodes
            for waitable in node.waitables
            if getattr(waitable, 'event_type', None) == _DEATHS
        ]
        self._by_pointer = {entity.handle.pointer: entity for entity in self._subscriptions}
        self._wait_set = rclpy_implementation.WaitSet(
            len(self._subscriptions),
            1,
            len(self._timers),
            len(self._clients),
            len(self._services),
            len(self._deaths),
            self._context.handle,
        )

    def _serve_subscriptions(self, timeout: float) -> bool:
        """Wait once, run the ready subscriptions; True if anything else is ready."""
        if self._wait_set is None:
            self._collect()
        wait_set = self._wait_set
        wait_set.clear_entities()
        for entity in self._subscriptions:
            wait_set.add_subscription(entity.handle)
        for entity in self._timers:
            wait_set.add_timer(entity.handle)
        for entity in self._services:
            wait_set.add_service(entity.handle)
        for entity in self._clients:
            wait_set.add_client(entity.handle)
        for entity in self._deaths:
            entity.add_to_wait_set(wait_set)
        wait_set.add_guard_condition(self._guard.handle)
        wait_set.wait(int(timeout * 1e9))
        if wait_set.get_ready_entities('guard_condition'):
            self._wait_set = None  # an entity came or went
        for entity in self._deaths:
            if entity.is_ready(wait_set):
                self._died.append(partial(entity.callback, entity.take_data()))
        end = time.monotonic() + _BURST
        for pointer in wait_set.get_ready_entities('subscription'):
            self._heard += _serve(self._by_pointer[pointer], end)
        return any(wait_set.get_ready_entities(kind) for kind in ('timer', 'service', 'client'))


def _serve(subscription: Subscription, end: float) -> int:
    """Call back with all that has come meanwhile, until ``end``; how many messages that were."""
    heard = 0
    while taken := subscription.handle.take_message(subscription.msg_type, subscription.raw):
        subscription.callback(taken[0])
        heard += 1
        if time.monotonic() > end:
            break
    return heard
