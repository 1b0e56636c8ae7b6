"""The robot's topics as vectors, by its profile."""

from __future__ import annotations

import math
import time
from array import array
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from rclpy.duration import Duration
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState

from mbarl_ros.control.topic_health import TopicHealth, states_too_sparse
from mbarl_ros.nodes.support import runtime
from mbarl_ros.nodes.support.graph_checks import check_graph
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.findings import ERROR, Finding
from mbarl_ros.schema.message_fields import TopicCodec, set_stamp, stamp_ns
from mbarl_ros.schema.robot import RobotConfig

# No state or command is larger, and making Python objects of a huge message takes seconds.
MAX_BYTES = 64 * 1024
_KEPT = 5000  # times


def subscribe(
    node: Any,
    kind: Any,
    topic: str,
    callback: Callable[[Any], None],
    qos: QoSProfile,
    complain: bool = True,
) -> None:
    """Subscribe; messages that are oversized or cannot be read are refused, and the node lives.

    :param complain: log publishers whose QoS does not fit
    """

    def take(data: bytes) -> None:
        try:
            if len(data) > MAX_BYTES:
                raise ValueError(f'message of {len(data)} bytes; at most {MAX_BYTES} are read')
            message = deserialize_message(data, kind)
        except Exception as error:  # whatever the middleware raises at bytes that are no message
            node.refuse(error, topic)
            return
        callback(message)

    events = SubscriptionEventCallbacks(use_default_callbacks=complain)
    node.create_subscription(kind, topic, take, qos, raw=True, event_callbacks=events)


class StateListener:
    """Subscribes to all state topics and calls back with the whole state vector.

    In lockstep the callback waits until every topic has delivered the same stamp; in real time
    it is called for each message once every topic has been heard, but for one that a newer one of
    its topic has overtaken. ``since`` is when (steady clock, s) the oldest part of the state came:
    a topic that died must not hide behind one that lives. A stamp that stands still is not news.
    """

    def __init__(
        self,
        node: Any,
        robot: RobotConfig,
        lockstep: bool,
        callback: Callable[[np.ndarray, int], None],
    ) -> None:
        """Subscribe on ``node``; ``callback(state [S], stamp in ns)``.

        :raises ConfigError: lockstep with a topic that has no stamp.
        """
        self._node, self._robot = node, robot
        self._callback = callback
        self._lockstep = lockstep
        self._state = np.full(len(robot.state_names), np.nan)
        self._stamps: list[int | None] = [None] * len(robot.state)
        kinds = [runtime.message_class(topic.type) for topic in robot.state]
        stamped = [hasattr(kind, 'header') for kind in kinds]
        if lockstep and not all(stamped):
            unstamped = robot.state[stamped.index(False)]
            raise ConfigError(
                f"robot '{robot.name}': topic '{unstamped.topic}': a {unstamped.type} has no "
                'header, so nobody knows to which step it belongs; give mode:=realtime'
            )
        self._anywhere = any(stamped)
        self.heard = [TopicHealth(topic, robot) for topic in robot.state]
        self._received = [-math.inf] * len(robot.state)
        self._dated: deque[tuple[float, int]] = deque(maxlen=_KEPT)  # states: heard when, stamp
        # A lost state would stall lockstep; a late one is worthless in real time.
        qos: QoSProfile = runtime.RELIABLE_STEPS if lockstep else runtime.STATES
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
            values = codec.decode(message)
        except ValueError as error:
            self._node.get_logger().error(str(error), throttle_duration_sec=5.0)
            self.heard[index].add_fault(time.monotonic(), str(error))
            return
        stamp = stamp_ns(message)
        if not self._lockstep:
            clock = self._node.get_clock().now().nanoseconds
            if not self.heard[index].receive(time.monotonic(), clock, stamp, values):
                return
        self._state[where] = values
        if not stamp or stamp != self._stamps[index]:
            self._received[index] = time.monotonic()
        if stamp is None:  # dated by the stamped topics, if there are any, else by its arrival
            stamp = 0 if self._anywhere else self._node.get_clock().now().nanoseconds
        self._stamps[index] = stamp
        if None in self._stamps:
            return
        if self._lockstep and len(set(self._stamps)) > 1:
            return
        latest = max(self._stamps)
        if not self._lockstep:
            self._dated.append((time.monotonic(), latest))
        self._callback(self._state.copy(), latest)

    def findings(self, window: float) -> list[Finding]:
        """What is wrong with the robot's topics, by the last ``window`` s; errors first.

        An error is a reason not to move.
        """
        now, sim_time = time.monotonic(), self._node.get_parameter('use_sim_time').value
        found = check_graph(self._node, self._robot)
        unknown = {finding.text.partition(':')[0] for finding in found}
        for hearing in self.heard:
            heard = hearing.findings(now, window, sim_time)
            # A topic that nobody publishes is silent; once is enough.
            if not (hearing.silent(now) and hearing.topic.topic in unknown):
                found += heard
        stamps = [stamp for heard, stamp in self._dated if now - heard <= window]
        if states_too_sparse(stamps, self._robot):
            text = (
                'states come too seldom for a step in each control period: hardly any would be '
                "recorded; raise the rate of the robot's stamped topics or lower control_rate"
            )
            found.append(Finding(ERROR, text))
        return sorted(found, key=lambda finding: finding.level != ERROR)


class CommandPublisher:
    """Publishes a command vector on the robot's command topics."""

    def __init__(self, node: Any, robot: RobotConfig) -> None:
        """Create the publishers on ``node``.

        :raises ConfigError: fields or constants that the message type does not have.
        """
        self._node = node
        self._topics = []
        start = 0
        for topic in robot.command:
            codec = TopicCodec(topic)
            where = slice(start, start := start + len(codec.names))
            kind = runtime.message_class(topic.type)
            _try(codec, kind, robot)
            publisher = node.create_publisher(kind, topic.topic, runtime.RELIABLE)
            self._topics.append((codec, where, kind, publisher))

    def publish(self, values: np.ndarray, stamp: int) -> None:
        """Publish ``values`` [C], physical units, in the profile's order.

        In lockstep with the ``stamp`` of the state that they answer; in real time with the present
        one, by which MoveIt Servo and others tell whether a command is stale. A topic of which a
        value is not known (NaN) gets nothing.
        """
        if not self._node.lockstep:
            stamp = self._node.get_clock().now().nanoseconds
        for codec, where, kind, publisher in self._topics:
            if not np.isfinite(values[where]).all():
                continue
            message = kind()
            set_stamp(message, stamp)
            publisher.publish(codec.encode(message, values[where]))

    @property
    def is_heard(self) -> bool:
        """Whether somebody subscribes to each of the topics."""
        return all(publisher.get_subscription_count() for *_, publisher in self._topics)

    def flush(self, seconds: float) -> None:
        """Wait until reliable subscribers have what was published, at most ``seconds``."""
        end = time.monotonic() + seconds
        for *_, publisher in self._topics:
            left = max(end - time.monotonic(), 0.0)
            publisher.wait_for_all_acked(Duration(seconds=left))


def _try(codec: TopicCodec, kind: Any, robot: RobotConfig) -> None:
    """Find out before anything moves whether commands can be written."""
    try:
        codec.encode(kind(), [0.0] * len(codec.names))
    except (AssertionError, AttributeError, IndexError, TypeError, ValueError) as error:
        raise ConfigError(
            f"robot '{robot.name}': key 'command': topic '{codec.topic}': a {codec.type} does not "
            f'take these fields or constants: {error}'
        ) from error


def command_message(names: list[str], values: np.ndarray, stamp: int, source: str) -> JointState:
    """A stamped, named command: JointState is the one standard message that is both.

    ``position`` holds the values whatever their unit, ``header.frame_id`` who asked, and the
    stamp is that of the state which the command answers, or, for what the gate has executed in real
    time, of the latest one.
    """
    message = JointState(name=names, position=array('d', values))
    message.header.frame_id = source
    set_stamp(message, stamp)
    return message
