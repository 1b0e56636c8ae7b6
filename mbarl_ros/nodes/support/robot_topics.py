"""State and command vectors of a robot, from and to the topics of its profile."""

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
from mbarl_ros.nodes.support.graph_checks import check_graph
from mbarl_ros.nodes.support.qos import RELIABLE, RELIABLE_STEPS, STATES
from mbarl_ros.nodes.support.runtime import message_class
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.findings import ERROR, Finding
from mbarl_ros.schema.message_fields import TopicCodec, set_stamp, stamp_ns
from mbarl_ros.schema.robot import RobotConfig

# No state or command is larger, and converting a huge message to Python objects takes seconds.
MAX_BYTES = 64 * 1024
_STAMPS_KEPT = 5000


def subscribe(
    node: Any,
    kind: Any,
    topic: str,
    callback: Callable[[Any], None],
    qos: QoSProfile,
    log_mismatch: bool = True,
) -> None:
    """Subscribe; refuse messages that are too large or cannot be deserialised.

    :param log_mismatch: log publishers whose QoS is incompatible
    """

    def take(data: bytes) -> None:
        try:
            if len(data) > MAX_BYTES:
                raise ValueError(f'message of {len(data)} bytes; at most {MAX_BYTES} are read')
            message = deserialize_message(data, kind)
        except Exception as error:  # the middleware raises many kinds for bytes that are no message
            node.refuse(error, topic)
            return
        callback(message)

    events = SubscriptionEventCallbacks(use_default_callbacks=log_mismatch)
    node.create_subscription(kind, topic, take, qos, raw=True, event_callbacks=events)


class StateListener:
    """Subscribes to all state topics and calls back with the whole state vector.

    In lockstep it calls back when all topics have delivered the same stamp. In real time it calls
    back for each message once all topics have delivered one, and ignores a message that was
    overtaken by a newer one of its topic. ``since`` is the time (steady clock, s) at which the
    oldest part of the state was received, so that a live topic cannot hide a dead one; a message
    that repeats a stamp does not count as received. ``late`` lists the topics whose part of the
    state is too old for a control step, in real time.
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
        kinds = [message_class(topic.type) for topic in robot.state]
        stamped = [hasattr(kind, 'header') for kind in kinds]
        if lockstep and not all(stamped):
            unstamped = robot.state[stamped.index(False)]
            raise ConfigError(
                f"robot '{robot.name}': topic '{unstamped.topic}': a {unstamped.type} has no "
                'header, so that it cannot be assigned to a step; give mode:=realtime'
            )
        self._any_stamped = any(stamped)
        self.health = [TopicHealth(topic, robot) for topic in robot.state]
        self._received = [-math.inf] * len(robot.state)
        self.late: list[str] = []
        # States: received at (s), stamp (ns).
        self._dated: deque[tuple[float, int]] = deque(maxlen=_STAMPS_KEPT)
        # In lockstep a lost state would stall the run; in real time a late one is of no use.
        qos: QoSProfile = RELIABLE_STEPS if lockstep else STATES
        start = 0
        for index, topic in enumerate(robot.state):
            codec = TopicCodec(topic)
            where = slice(start, start := start + len(codec.names))
            receive = partial(self._receive, index, codec, where)
            subscribe(node, kinds[index], topic.topic, receive, qos)

    @property
    def since(self) -> float:
        """When the oldest part of the state was received."""
        return min(self._received)

    def silent(self) -> list[str]:
        """Topics without a new message for longer than the state time-out."""
        now, limit = time.monotonic(), self._robot.state_timeout
        topics = zip(self._robot.state, self._received, strict=True)
        return [topic.topic for topic, received in topics if now - received > limit]

    def _receive(self, index: int, codec: TopicCodec, where: slice, message: Any) -> None:
        try:
            values = codec.decode(message)
        except ValueError as error:
            self._node.get_logger().error(str(error), throttle_duration_sec=5.0)
            self.health[index].add_fault(time.monotonic(), str(error))
            return
        stamp = stamp_ns(message)
        if not self._lockstep:
            clock = self._node.get_clock().now().nanoseconds
            if not self.health[index].receive(time.monotonic(), clock, stamp, values):
                return
        self._state[where] = values
        new = not stamp or stamp != self._stamps[index]
        if new:
            self._received[index] = time.monotonic()
        if stamp is None:  # dated by the stamped topics, else by its time of arrival
            stamp = 0 if self._any_stamped else self._node.get_clock().now().nanoseconds
        self._stamps[index] = stamp
        latest = max(stamp for stamp in self._stamps if stamp is not None)
        if new:
            self.health[index].date(stamp or latest, latest)
        if None in self._stamps:
            return
        if self._lockstep and len(set(self._stamps)) > 1:
            return
        if not self._lockstep:
            self.late = [health.topic.topic for health in self.health if health.late(latest)]
            self._dated.append((time.monotonic(), latest))
        self._callback(self._state.copy(), latest)

    def findings(self, window: float) -> list[Finding]:
        """Check the robot's topics by the messages of the last ``window`` s; errors come first.

        An error is a reason not to move.
        """
        now, sim_time = time.monotonic(), self._node.get_parameter('use_sim_time').value
        findings = check_graph(self._node, self._robot)
        reported = {finding.text.partition(':')[0] for finding in findings}
        for health in self.health:
            # A topic without a publisher is silent, too, which need not be reported twice.
            if not (health.silent(now) and health.topic.topic in reported):
                findings += health.findings(now, window, sim_time)
        stamps = [stamp for received, stamp in self._dated if now - received <= window]
        if states_too_sparse(stamps, self._robot):
            text = (
                'states come too seldom for a step in each control period: hardly any would be '
                "recorded; raise the rate of the robot's stamped topics or lower control_rate"
            )
            findings.append(Finding(ERROR, text))
        return sorted(findings, key=lambda finding: finding.level != ERROR)


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
            kind = message_class(topic.type)
            _check_writable(codec, kind, robot)
            publisher = node.create_publisher(kind, topic.topic, RELIABLE)
            self._topics.append((codec, where, kind, publisher))

    def publish(self, values: np.ndarray, stamp: int) -> None:
        """Publish ``values`` [C], physical units, in the profile's order.

        Stamped with the ``stamp`` of the state that they answer in lockstep, with the present time
        in real time: MoveIt Servo and others discard stale commands by it. Nothing is sent on a
        topic with an unknown value (NaN).
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
    def has_subscribers(self) -> bool:
        """Whether each of the topics has a subscriber."""
        return all(publisher.get_subscription_count() for *_, publisher in self._topics)

    def flush(self, seconds: float) -> None:
        """Wait until reliable subscribers have received everything, at most ``seconds``."""
        end = time.monotonic() + seconds
        for *_, publisher in self._topics:
            remaining = max(end - time.monotonic(), 0.0)
            publisher.wait_for_all_acked(Duration(seconds=remaining))


def _check_writable(codec: TopicCodec, kind: Any, robot: RobotConfig) -> None:
    """Check before anything moves that commands can be written into the message type."""
    try:
        codec.encode(kind(), [0.0] * len(codec.names))
    except (AssertionError, AttributeError, IndexError, TypeError, ValueError) as error:
        raise ConfigError(
            f"robot '{robot.name}': key 'command': topic '{codec.topic}': a {codec.type} does not "
            f'take these fields or constants: {error}'
        ) from error


def command_message(names: list[str], values: np.ndarray, stamp: int, source: str) -> JointState:
    """A command as a JointState, the one standard message with a stamp and named values.

    ``position`` holds the values in any unit, ``header.frame_id`` the source. The stamp is that of
    the state which the command answers; that of the latest state for an executed command in real
    time.
    """
    message = JointState(name=names, position=array('d', values))
    message.header.frame_id = source
    set_stamp(message, stamp)
    return message
