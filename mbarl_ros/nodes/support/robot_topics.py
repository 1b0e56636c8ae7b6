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

from mbarl_ros.control.jump_watch import JumpWatch
from mbarl_ros.control.topic_health import TopicHealth, states_too_sparse
from mbarl_ros.nodes.support.graph_checks import check_graph
from mbarl_ros.nodes.support.qos import RELIABLE, RELIABLE_STEPS, STATES
from mbarl_ros.nodes.support.runtime import message_class
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.findings import ERROR, Finding
from mbarl_ros.schema.message_fields import TopicCodec, set_stamp, stamp_ns
from mbarl_ros.schema.robot import RobotConfig, TopicMap

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

    In lockstep it calls back when all values have been delivered with the same stamp. In real time
    it calls back for each message once all values have been delivered, and ignores a message that
    was overtaken by a newer one of its kind. Messages of a topic that names its values, such as
    JointState, may hold some of them, and several publishers may share it; each value has its own
    age. ``since`` is the time (steady clock, s) at which the oldest part of the state was received,
    so that a live topic cannot hide a dead one; a message that repeats a stamp does not count as
    received. ``late`` lists the topics whose part of the state is too old for a control step, in
    real time.
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
        entries = len(robot.state_names)
        self._state = np.full(entries, np.nan)
        self._stamps = np.full(entries, -1, np.int64)  # ns
        self._received = np.full(entries, -math.inf)  # s
        kinds = [message_class(topic.type) for topic in robot.state]
        stamped = [hasattr(kind, 'header') for kind in kinds]
        if lockstep and not all(stamped):
            unstamped = robot.state[stamped.index(False)]
            raise ConfigError(
                f"robot '{robot.name}': topic '{unstamped.topic}': a {unstamped.type} has no "
                'header, so that it cannot be assigned to a step; give mode:=realtime'
            )
        self._any_stamped = any(stamped)
        self._topics: list[_StateTopic] = []
        self._jumps = JumpWatch(robot)
        self.late: list[str] = []
        # States: received at (s), stamp (ns).
        self._dated: deque[tuple[float, int]] = deque(maxlen=_STAMPS_KEPT)
        # In lockstep a lost state would stall the run; in real time a late one is of no use.
        qos: QoSProfile = RELIABLE_STEPS if lockstep else STATES
        start = 0
        for kind, topic in zip(kinds, robot.state, strict=True):
            where = slice(start, start := start + len(topic.fields))
            self._topics.append(_StateTopic(topic, robot, where, lockstep))
            receive = partial(self._receive, self._topics[-1])
            subscribe(node, kind, topic.topic, receive, qos)

    @property
    def since(self) -> float:
        """When the oldest part of the state was received."""
        return float(self._received.min())

    @property
    def health(self) -> list[TopicHealth]:
        """Of each topic or, where its messages hold different values, of each kind of them."""
        return [health for topic in self._topics for health in topic.parts]

    def silent(self) -> list[str]:
        """Topics, and values of them, without a new message for longer than the time-out."""
        old = self._received < time.monotonic() - self._robot.state_timeout
        return [topic.label(old[topic.where]) for topic in self._topics if old[topic.where].any()]

    def _receive(self, topic: _StateTopic, message: Any) -> None:
        try:
            values = np.array(topic.codec.decode(message))
        except ValueError as error:
            self._node.get_logger().error(str(error), throttle_duration_sec=5.0)
            topic.parts[0].add_fault(time.monotonic(), str(error))
            return
        known = topic.known(values)
        if not known.any():
            return
        health = topic.health(known)
        stamp = stamp_ns(message)
        if not self._lockstep:
            clock = self._node.get_clock().now().nanoseconds
            if not health.receive(time.monotonic(), clock, stamp, values[known]):
                return
        mine = np.arange(topic.where.start, topic.where.stop)[known]
        if not self._lockstep:
            self._jumps.receive(time.monotonic(), mine, stamp, values[known])
        self._state[mine] = values[known]
        new = not stamp or (self._stamps[mine] != stamp).any()
        if new:
            self._received[mine] = time.monotonic()
        if stamp is None:  # dated by the stamped topics, else by its time of arrival
            stamp = 0 if self._any_stamped else self._node.get_clock().now().nanoseconds
        self._stamps[mine] = stamp
        latest = int(self._stamps.max())
        if new:
            health.date(stamp or latest, latest)
        if self._stamps.min() < 0:
            return
        if self._lockstep and self._stamps.min() < latest:
            return
        if not self._lockstep:
            self.late = [topic.topic.topic for topic in self._topics if topic.late(latest)]
            self._dated.append((time.monotonic(), latest))
        self._callback(self._state.copy(), latest)

    def findings(self, window: float) -> list[Finding]:
        """Check the robot's topics by the messages of the last ``window`` s; errors come first.

        An error is a reason not to move.
        """
        now, sim_time = time.monotonic(), self._node.get_parameter('use_sim_time').value
        findings = check_graph(self._node, self._robot)
        old = self._received < now - self._robot.state_timeout
        for topic in self._topics:
            findings += topic.missing(old[topic.where], window)
        reported = {finding.text.partition(':')[0] for finding in findings}
        for health in self.health:
            # A topic without a publisher is silent, too, which need not be reported twice.
            if not (health.silent(now) and health.topic.topic in reported):
                findings += health.findings(now, window, sim_time)
        findings += self._jumps.findings(now, window)
        stamps = [stamp for received, stamp in self._dated if now - received <= window]
        if states_too_sparse(stamps, self._robot):
            text = (
                'states come too seldom for a step in each control period: hardly any would be '
                "recorded; raise the rate of the robot's stamped topics or lower control_rate"
            )
            findings.append(Finding(ERROR, text))
        return sorted(findings, key=lambda finding: finding.level != ERROR)


class _StateTopic:
    """One state topic: where its values are in the state vector, and the health of its messages.

    ``parts``: one for each set of values that messages hold; the first stands for the topic until
    a message has come.
    """

    def __init__(self, topic: TopicMap, robot: RobotConfig, where: slice, lockstep: bool) -> None:
        self.topic, self.where, self._robot, self._lockstep = topic, where, robot, lockstep
        self.codec = TopicCodec(topic)
        self.parts = [TopicHealth(topic, robot)]
        self._sets: dict[bytes, TopicHealth] = {}
        self._members: list[np.ndarray] = []  # values [n, bool] of each part
        # The last message that lacked values: when it came, and the names in it.
        self._lacking: tuple[float, list[str]] = (-math.inf, [])

    def known(self, values: np.ndarray) -> np.ndarray:
        """Which of the values [n] the last message had.

        One that is looked up by name may be missing or NaN. Elsewhere NaN is a fault, and in
        lockstep, where a simulation tells all of each instant.
        """
        if self._lockstep or not self.codec.in_parts:
            return np.ones(len(values), bool)
        known = ~np.isnan(values)
        if not known.all():
            self._lacking = time.monotonic(), self.codec.listed
        return known

    def health(self, known: np.ndarray) -> TopicHealth:
        """Health of the messages that hold these values."""
        key = known.tobytes()
        if key not in self._sets:
            if self._sets:
                self.parts.append(TopicHealth(self.topic, self._robot))
            self._sets[key] = self.parts[-1]
            self._sets[key].names = self._names(known)
            self._members.append(known)
        return self._sets[key]

    def late(self, latest: int) -> bool:
        """Whether a value is too old for a control step at the ``latest`` stamp, in ns."""
        fresh = [
            known
            for known, health in zip(self._members, self.parts, strict=True)
            if not health.late(latest)
        ]
        return not np.any(fresh, axis=0).all()

    def label(self, which: np.ndarray) -> str:
        """The topic, and its values ``which`` [n] if they are not all."""
        return self.topic.topic + ('' if which.all() else f' ({", ".join(self._names(which))})')

    def missing(self, old: np.ndarray, window: float) -> list[Finding]:
        """Values ``old`` [n] that have not come, though other messages have in ``window`` s."""
        when, listed = self._lacking
        if not old.any() or time.monotonic() - when > window:
            return []
        names = self._names(old)
        paths = ', '.join(self.topic.fields[name] for name in names)
        text = (
            f'{self.topic.topic}: no message has {paths} ({", ".join(names)}); the names in the '
            f'last are {", ".join(listed) or "none"}; correct the robot profile, or the driver'
        )
        return [Finding(ERROR, text)]

    def _names(self, which: np.ndarray) -> list[str]:
        return [name for name, one in zip(self.topic.fields, which, strict=True) if one]


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
            middle = {n: (robot.limits[n].low + robot.limits[n].high) / 2 for n in topic.fields}
            codec = TopicCodec(topic, middle)
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
