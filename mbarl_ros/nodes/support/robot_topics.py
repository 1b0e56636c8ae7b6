"""State and command vectors of a robot, from and to the topics of its profile."""

from __future__ import annotations

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
from rclpy.subscription import Subscription
from sensor_msgs.msg import JointState

from mbarl_ros.control.jump_watch import JumpWatch
from mbarl_ros.control.topic_health import TopicHealth, states_too_sparse
from mbarl_ros.nodes.support.graph_checks import check_graph
from mbarl_ros.nodes.support.qos import (
    RELIABLE,
    RELIABLE_STEPS,
    STATES,
    STATIC_TRANSFORMS,
    TRANSFORMS,
)
from mbarl_ros.nodes.support.robot_requests import Requester, refuse_lockstep, requester
from mbarl_ros.nodes.support.runtime import filled_class, message_class
from mbarl_ros.nodes.support.state_parts import StatePart, StateTransform
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.findings import ERROR, Finding
from mbarl_ros.schema.frames import TF_TYPE
from mbarl_ros.schema.message_fields import TopicCodec, set_stamp, stamp_ns
from mbarl_ros.schema.robot import RobotConfig, RobotTopic
from mbarl_ros.schema.transforms import TransformTree

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
) -> Subscription:
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
    return node.create_subscription(kind, topic, take, qos, raw=True, event_callbacks=events)


class StateListener:
    """Subscribes to all state topics and calls back with the whole state vector.

    In lockstep it calls back when all values have been delivered with the same stamp. In real time
    it calls back for each message once all values have been delivered, and ignores a message that
    was overtaken by a newer one of its kind. Messages of a topic that names its values, such as
    JointState, may hold some of them, and several publishers may share it; each value has its own
    age. That of a transform between two frames is the age of the oldest one on the way, while
    static ones have none. ``since`` is the time (steady clock, s) at which the oldest part of the
    state was received, so that a live topic cannot hide a dead one; a message that repeats a stamp
    does not count as received. ``late`` lists the topics whose part of the state is too old for a
    control step, in real time.
    """

    def __init__(
        self,
        node: Any,
        robot: RobotConfig,
        lockstep: bool,
        callback: Callable[[np.ndarray, int], None],
        jumps: JumpWatch | None = None,
    ) -> None:
        """Subscribe on ``node``; ``callback(state [S], stamp in ns)``.

        :param jumps: gets the values of each message, for the findings; in real time

        :raises ConfigError: lockstep with a topic that has no stamp, or with a transform.
        """
        self._node, self._robot = node, robot
        self._callback = callback
        self._lockstep = lockstep
        self._state = np.full(len(robot.state_names), np.nan)
        kinds = [message_class(topic.type) for topic in robot.state]
        stamped = [hasattr(kind, 'header') for kind in kinds]
        if lockstep and robot.transforms:
            raise ConfigError(
                f"robot '{robot.name}': {robot.transforms[0].source}: a simulation in lockstep "
                'publishes no TF; give mode:=realtime'
            )
        if lockstep and not all(stamped):
            unstamped = robot.state[stamped.index(False)]
            raise ConfigError(
                f"robot '{robot.name}': topic '{unstamped.topic}': a {unstamped.type} has no "
                'header, so that it cannot be assigned to a step; give mode:=realtime'
            )
        self._any_stamped = any(stamped)
        self._topics: list[StatePart] = []
        self._jumps = jumps
        self.late: list[str] = []
        # States: received at (s), stamp (ns).
        self._dated: deque[tuple[float, int]] = deque(maxlen=_STAMPS_KEPT)
        # In lockstep a lost state would stall the run; in real time a late one is of no use.
        qos: QoSProfile = RELIABLE_STEPS if lockstep else STATES
        start = 0
        self._subscriptions: list[Subscription] = []
        self._transforms: list[StateTransform] = []
        self._tree = TransformTree()
        for kind, topic in zip(kinds, robot.state, strict=True):
            where = slice(start, start := start + len(topic.fields))
            if topic.frames:
                self._transforms.append(StateTransform(topic, robot, where, self._tree))
                self._topics.append(self._transforms[-1])
                continue
            self._topics.append(StatePart(topic, robot, where, lockstep))
            receive = partial(self._receive, self._topics[-1])
            self._subscriptions.append(subscribe(node, kind, topic.topic, receive, qos))
        for name, static in robot.tf_topics.items():
            receive = partial(self._receive_transforms, static=static)
            qos = STATIC_TRANSFORMS if static else TRANSFORMS
            kind = message_class(TF_TYPE)
            self._subscriptions.append(subscribe(node, kind, name, receive, qos))

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    @property
    def since(self) -> float:
        """When the oldest part of the state was received."""
        return min(min(topic.received) for topic in self._topics)

    @property
    def health(self) -> list[TopicHealth]:
        """Of each topic or, where its messages hold different values, of each kind of them."""
        return [health for topic in self._topics for health in topic.parts]

    def silent(self) -> list[str]:
        """Topics, and values of them, without a new message for longer than the time-out."""
        before = time.monotonic() - self._robot.state_timeout
        return [topic.label(old) for topic in self._topics if (old := topic.old(before))]

    def _receive(self, topic: StatePart, message: Any) -> None:
        try:
            values = topic.decode(message)
        except ValueError as error:
            self._refuse(topic, error)
            return
        known = topic.known(values)
        if known:
            self._take(topic, values, known, stamp_ns(message), time.monotonic())

    def _receive_transforms(self, message: Any, *, static: bool) -> None:
        changed = self._tree.add(message, time.monotonic(), static=static)
        for topic in self._transforms:
            try:
                reading = topic.read(changed)
            except ValueError as error:
                self._refuse(topic, error)
                continue
            if reading is not None:
                values = reading.values
                known = topic.known(values)
                self._take(topic, values, known, reading.stamp, reading.received)

    def _refuse(self, topic: StatePart, error: ValueError) -> None:
        self._node.get_logger().error(str(error), throttle_duration_sec=5.0)
        topic.parts[0].add_fault(time.monotonic(), str(error))

    def _take(
        self,
        topic: StatePart,
        values: list[float],
        known: tuple[int, ...],
        stamp: int | None,
        received: float,
    ) -> None:
        """Take values [n] of a topic, of which the ``known`` ones have come.

        :param stamp: in ns; None without one
        :param received: when the oldest part of them came, s
        """
        health = topic.health(known)
        self._any_stamped |= stamp is not None
        date = stamp or 0
        if not self._lockstep:
            clock = self._node.get_clock().now().nanoseconds
            mine = [values[i] for i in known]
            if not health.receive(time.monotonic(), clock, stamp, mine):
                return
            if self._jumps is not None:
                entries = topic.where.start + np.array(known)
                self._jumps.receive(time.monotonic(), entries, stamp, np.array(mine))
            if not self._any_stamped:  # else dated by the stamped topics
                date = clock
        new = topic.take(known, values, stamp or 0, date, received)
        self._state[topic.where] = topic.values
        latest = max(one.newest for one in self._topics)
        if new:
            health.date(date or latest, latest)
        oldest = min(one.oldest for one in self._topics)
        if oldest < 0 or (self._lockstep and oldest < latest):
            return
        if not self._lockstep:
            self.late = [one.topic.source for one in self._topics if one.late(latest)]
            self._dated.append((time.monotonic(), latest))
        self._callback(self._state.copy(), latest)

    def findings(self, window: float) -> list[Finding]:
        """Check the robot's topics by the messages of the last ``window`` s; errors come first.

        An error is a reason not to move.
        """
        now, sim_time = time.monotonic(), self._node.get_parameter('use_sim_time').value
        findings = check_graph(self._node, self._robot)
        before = now - self._robot.state_timeout
        for topic in self._topics:
            findings += topic.missing(topic.old(before), window)
        reported = {finding.text.partition(':')[0] for finding in findings}
        for topic in (topic for topic in self._topics if not topic.ageless):
            for health, whole in topic.healths(topic.old(before)):
                # A topic without a publisher is silent, too, which need not be reported twice;
                # and values that come in other messages by now are not missed in these.
                known = health.topic.topic in reported or whole
                if not (health.silent(now) and known):
                    findings += health.findings(now, window, sim_time)
        if self._jumps is not None:
            findings += self._jumps.findings(now, window)
        stamps = [stamp for received, stamp in self._dated if now - received <= window]
        if states_too_sparse(stamps, self._robot):
            text = (
                'states come too seldom for a step in each control period: hardly any would be '
                "recorded; raise the rate of the robot's stamped topics or lower control_rate"
            )
            findings.append(Finding(ERROR, text))
        return sorted(findings, key=lambda finding: finding.level != ERROR)


class CommandPublisher:
    """Sends a command vector: on the robot's command topics, as goals and by service calls."""

    def __init__(self, node: Any, robot: RobotConfig) -> None:
        """Create the publishers and clients on ``node``.

        :raises ConfigError: fields or constants that the type does not have; goals in lockstep.
        """
        refuse_lockstep(node, robot)
        self._node = node
        self._topics = []
        self._requesters: list[tuple[slice, Requester]] = []
        start = 0
        for entry in robot.command:
            limits = {name: robot.limits[name] for name in entry.fields}
            codec = TopicCodec(entry, {n: (one.low + one.high) / 2 for n, one in limits.items()})
            where = slice(start, start := start + len(codec.names))
            kind = filled_class(entry.type)
            _check_writable(codec, kind, robot)
            if isinstance(entry, RobotTopic):
                publisher = node.create_publisher(kind, entry.topic, RELIABLE)
                self._topics.append((codec, where, kind, publisher))
            else:
                holds = any(limit.stop == 'hold' for limit in limits.values())
                self._requesters.append((where, requester(node, entry, codec, holds)))

    def publish(self, values: np.ndarray, stamp: int, stop: bool) -> None:
        """Send ``values`` [C], physical units, in the profile's order.

        Stamped with the ``stamp`` of the state that they answer in lockstep, with the present time
        in real time: MoveIt Servo and others discard stale commands by it. Nothing is sent to a
        topic, action or service with an unknown value (NaN).

        :param stop: they stop the robot
        """
        if not self._node.lockstep:
            stamp = self._node.get_clock().now().nanoseconds
        for codec, where, kind, publisher in self._topics:
            if not np.isfinite(values[where]).all():
                continue
            message = kind()
            set_stamp(message, stamp)
            publisher.publish(codec.encode(message, values[where]))
        for where, one in self._requesters:
            if stop or np.isfinite(values[where]).all():
                one.command(values[where], stop)

    def poll(self) -> None:
        """Request again what failed, and look for servers; call this often."""
        for _, one in self._requesters:
            one.poll()

    @property
    def faults(self) -> dict[str, str]:
        """Action or service -> what is wrong with it, empty for nothing."""
        return {one.entry.label: one.fault for _, one in self._requesters}

    @property
    def failures(self) -> int:
        """Goals and calls that failed."""
        return sum(one.failures for _, one in self._requesters)

    @property
    def has_subscribers(self) -> bool:
        """Whether each of the topics has a subscriber."""
        return all(publisher.get_subscription_count() for *_, publisher in self._topics)

    def flush(self, seconds: float) -> None:
        """Wait until reliable subscribers have received a stop, at most ``seconds``."""
        end = time.monotonic() + seconds
        for *_, publisher in self._topics:
            remaining = max(end - time.monotonic(), 0.0)
            publisher.wait_for_all_acked(Duration(seconds=remaining))
        for _, one in self._requesters:
            one.close()


def _check_writable(codec: TopicCodec, kind: Any, robot: RobotConfig) -> None:
    """Check before anything moves that commands can be written into the message type."""
    try:
        codec.encode(kind(), [0.0] * len(codec.names))
    except (AssertionError, AttributeError, IndexError, TypeError, ValueError) as error:
        raise ConfigError(
            f"robot '{robot.name}': key 'command': {codec.label}: a {codec.type} does not take "
            f'these fields or constants: {error}'
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
