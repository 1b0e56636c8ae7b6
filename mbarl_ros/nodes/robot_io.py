"""The robot's topics as vectors, by its profile."""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState

from mbarl_ros.config import RobotConfig
from mbarl_ros.fields import TopicCodec, set_stamp, stamp_ns
from mbarl_ros.nodes import runtime

# No state or command is larger, and making Python objects of a huge message takes seconds.
MAX_BYTES = 64 * 1024


def subscribe(
    node: Any, kind: Any, topic: str, callback: Callable[[Any], None], qos: QoSProfile
) -> None:
    """Subscribe; messages that are oversized or cannot be read are refused, and the node lives."""

    def take(data: bytes) -> None:
        try:
            if len(data) > MAX_BYTES:
                raise ValueError(f'message of {len(data)} bytes; at most {MAX_BYTES} are read')
            message = deserialize_message(data, kind)
        except Exception as error:  # whatever the middleware raises at bytes that are no message
            node.refuse(error, topic)
            return
        callback(message)

    node.create_subscription(kind, topic, take, qos, raw=True)


class StateListener:
    """Subscribes to all state topics and calls back with the whole state vector.

    In lockstep the callback waits until every topic has delivered the same stamp; in real time
    it is called for each message once every topic has been heard. ``since`` is when (steady clock,
    s) the oldest part of the state came: a topic that died must not hide behind one that lives. A
    stamp that stands still is not news.
    """

    def __init__(
        self,
        node: Any,
        robot: RobotConfig,
        lockstep: bool,
        callback: Callable[[np.ndarray, int], None],
    ) -> None:
        """Subscribe on ``node``; ``callback(state [S], stamp in ns)``."""
        self._node = node
        self._callback = callback
        self._lockstep = lockstep
        self._state = np.full(len(robot.state_names), np.nan)
        self._stamps: list[int | None] = [None] * len(robot.state)
        self._received = [-math.inf] * len(robot.state)
        # A lost state would stall lockstep; a late one is worthless in real time.
        qos: QoSProfile = runtime.RELIABLE if lockstep else runtime.SENSOR
        start = 0
        for index, topic in enumerate(robot.state):
            codec = TopicCodec(topic)
            where = slice(start, start := start + len(codec.names))
            subscribe(
                node,
                runtime.message_class(topic.type),
                topic.topic,
                partial(self._receive, index, codec, where),
                qos,
            )

    @property
    def since(self) -> float:
        """When the oldest part of the state was received."""
        return min(self._received)

    def _receive(self, index: int, codec: TopicCodec, where: slice, message: Any) -> None:
        try:
            self._state[where] = codec.decode(message)
        except ValueError as error:
            self._node.get_logger().error(str(error), throttle_duration_sec=5.0)
            return
        stamp = stamp_ns(message)
        if not stamp or stamp != self._stamps[index]:
            self._received[index] = time.monotonic()
        self._stamps[index] = self._node.get_clock().now().nanoseconds if stamp is None else stamp
        if None in self._stamps:
            return
        if self._lockstep and len(set(self._stamps)) > 1:
            return
        self._callback(self._state.copy(), max(self._stamps))


class CommandPublisher:
    """Publishes a command vector on the robot's command topics."""

    def __init__(self, node: Any, robot: RobotConfig) -> None:
        """Create the publishers on ``node``."""
        self._topics = []
        start = 0
        for topic in robot.command:
            codec = TopicCodec(topic)
            where = slice(start, start := start + len(codec.names))
            kind = runtime.message_class(topic.type)
            publisher = node.create_publisher(kind, topic.topic, runtime.RELIABLE)
            self._topics.append((codec, where, kind, publisher))

    def publish(self, values: np.ndarray, stamp: int) -> None:
        """Publish ``values`` [C], physical units, in the profile's order.

        A topic of which a value is not known (NaN) gets nothing.
        """
        for codec, where, kind, publisher in self._topics:
            if not np.isfinite(values[where]).all():
                continue
            message = codec.encode(kind(), values[where])
            set_stamp(message, stamp)
            publisher.publish(message)

    def flush(self, seconds: float) -> None:
        """Wait until reliable subscribers have what was published, at most ``seconds``."""
        end = time.monotonic() + seconds
        for *_, publisher in self._topics:
            left = max(end - time.monotonic(), 0.0)
            publisher.wait_for_all_acked(Duration(seconds=left))


def command_message(names: list[str], values: np.ndarray, stamp: int, source: str) -> JointState:
    """A stamped, named command: JointState is the one standard message that is both.

    ``position`` holds the values whatever their unit, ``header.frame_id`` who asked, and the
    stamp is that of the state which the command answers.
    """
    message = JointState(name=names, position=array('d', values))
    message.header.frame_id = source
    set_stamp(message, stamp)
    return message
