"""A single-threaded executor that keeps its wait set: about half rclpy's cost per message.

rclpy's SingleThreadedExecutor builds a new wait set and a task for each message. Robot state,
command and executed command cross three processes in every control step, so that cost decides
how fast a lockstep run can be; and the safety gate looks at its time-outs a hundred times a second.
This executor serves subscriptions, timers and liveliness events directly from one reused wait set,
and leaves services, actions and other events, which are rare, to rclpy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from rclpy.action import ActionClient, ActionServer
from rclpy.event_handler import QoSSubscriptionEventType
from rclpy.exceptions import InvalidHandle
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.subscription import Subscription
from rclpy.waitable import NumberOfEntities

# Other QoS events do not wake the executor; it serves them this often (s).
_HOUSEKEEPING = 1.0
_BURST = 0.002  # s after which timers are served, however many messages are waiting
# A process whose timer is so late (s) was stalled. It then receives what arrived in the meantime:
# until nothing new comes for _SILENCE, or for at most _CATCH_UP.
_STALLED, _CATCH_UP, _SILENCE = 0.01, 0.02, 0.002
_LIVELINESS_CHANGED = QoSSubscriptionEventType.RCL_SUBSCRIPTION_LIVELINESS_CHANGED


class DataPlaneExecutor(SingleThreadedExecutor):
    """Serves plain ``callback(message)`` subscriptions and timers directly, all else as rclpy."""

    def __init__(self, act: Callable[[bool], None], *, time_critical: bool = False) -> None:
        """Create an executor on the default context.

        :param act: called after each batch of messages; True: this process was stalled before
        :param time_critical: the node moves a robot in real time: after a stall, ``act`` and timers
            wait a few milliseconds for messages that the middleware has yet to read
        """
        super().__init__()
        self._act, self._time_critical = act, time_critical
        self._wait_set = None
        self._entities_changed = True
        self._received = 0  # messages
        self._lost_publishers: list[Callable[[], None]] = []  # callbacks that are due

    def spin_until(self, stop: Callable[[], bool], period: float = 0.1) -> None:
        """Serve callbacks until ``stop()`` is true, which is checked at least each ``period`` s."""
        next_housekeeping = time.monotonic()
        while not stop() and self._context.ok():
            rare = self._serve_subscriptions(period)
            if late := self._time_critical and self._is_late():
                self._catch_up()
            self._act(late)
            while self._lost_publishers:  # after their last messages
                self._lost_publishers.pop(0)()
            now = time.monotonic()
            self._serve_timers()
            if rare or now >= next_housekeeping:
                next_housekeeping = now + _HOUSEKEEPING
                self.spin_once(timeout_sec=0.0)

    def wake(self) -> None:
        """Called by a node that has created or destroyed an entity."""
        # At once, since rclpy's part of this executor may take the guard condition away.
        self._entities_changed = True
        super().wake()

    def _serve_timers(self) -> None:
        """Call each timer that is due, once."""
        for timer in self._timers:
            with suppress(InvalidHandle):  # a callback before it has destroyed it
                if not timer.is_ready():
                    continue
                timer.handle.call_timer()
            timer.callback()

    def _is_late(self) -> bool:
        due = (timer.time_until_next_call() for timer in self._timers)  # ns; None: cancelled
        return any(ns is not None and ns < -1e9 * _STALLED for ns in due)

    def _catch_up(self) -> None:
        """Receive what arrived during a stall, before the node acts on the oldest of it."""
        end, received = time.monotonic() + _CATCH_UP, -1
        while received < self._received and time.monotonic() < end:
            received = self._received
            time.sleep(_SILENCE)
            self._serve_subscriptions(0.0)

    def _collect(self) -> None:
        nodes = list(self.get_nodes())
        self._subscriptions = [entity for node in nodes for entity in node.subscriptions]
        self._timers = [entity for node in nodes for entity in node.timers]
        self._services = [entity for node in nodes for entity in node.services]
        self._clients = [entity for node in nodes for entity in node.clients]
        self._liveliness_events = [
            waitable
            for node in nodes
            for waitable in node.waitables
            if getattr(waitable, 'event_type', None) == _LIVELINESS_CHANGED
        ]
        self._actions = [
            waitable
            for node in nodes
            for waitable in node.waitables
            if isinstance(waitable, ActionClient | ActionServer)
        ]
        self._by_pointer = {entity.handle.pointer: entity for entity in self._subscriptions}
        size = NumberOfEntities(
            num_subs=len(self._subscriptions),
            num_gcs=1,
            num_timers=len(self._timers),
            num_clients=len(self._clients),
            num_services=len(self._services),
            num_events=len(self._liveliness_events),
        )
        for action in self._actions:
            size += action.get_num_entities()
        self._wait_set = rclpy_implementation.WaitSet(
            size.num_subscriptions,
            size.num_guard_conditions,
            size.num_timers,
            size.num_clients,
            size.num_services,
            size.num_events,
            self._context.handle,
        )

    def _serve_subscriptions(self, timeout: float) -> bool:
        """Wait once, run the ready subscriptions; True if rclpy has something to do."""
        if self._entities_changed:
            self._entities_changed = False
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
        for entity in (*self._liveliness_events, *self._actions):
            entity.add_to_wait_set(wait_set)
        wait_set.add_guard_condition(self._guard.handle)
        wait_set.wait(int(timeout * 1e9))
        # Rung for entities that have changed, and for callbacks of futures.
        rare = bool(wait_set.get_ready_entities('guard_condition'))
        self._entities_changed |= rare
        for entity in self._liveliness_events:
            if entity.is_ready(wait_set):
                self._lost_publishers.append(partial(entity.callback, entity.take_data()))
        end = time.monotonic() + _BURST
        for pointer in wait_set.get_ready_entities('subscription'):
            if subscription := self._by_pointer.get(pointer):
                self._received += _serve(subscription, end)
            else:  # feedback or status of an action
                rare = True
        return rare or any(wait_set.get_ready_entities(kind) for kind in ('service', 'client'))


def _serve(subscription: Subscription, end: float) -> int:
    """Call back with the messages that are waiting, until ``end``; returns their number."""
    received = 0
    while taken := subscription.handle.take_message(subscription.msg_type, subscription.raw):
        subscription.callback(taken[0])
        received += 1
        if time.monotonic() > end:
            break
    return received
