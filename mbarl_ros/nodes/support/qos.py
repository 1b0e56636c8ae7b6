"""QoS profiles of the graph's topics, by the name of their use."""

from __future__ import annotations

from rclpy.duration import Duration
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    LivelinessPolicy,
    QoSProfile,
    ReliabilityPolicy,
)

RELIABLE = QoSProfile(depth=10)
SENSOR = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
# Deep: states and executed commands make up the record, so after a stall all of them are read.
STATES = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE_STEPS = QoSProfile(depth=100)
# Best effort loses half of the larger pictures, since they do not fit into a socket's buffer. A
# subscriber may still ask for best effort.
PICTURES = QoSProfile(depth=5)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
KEEP_ALL = QoSProfile(history=HistoryPolicy.KEEP_ALL)
# The classifier's transitions are not sent again, so it also needs those from before its discovery.
TRANSITIONS_HISTORY = QoSProfile(depth=200, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# For the classifier: what comes while it is busy waits here, however much that is.
ALL_TRANSITIONS = QoSProfile(
    history=HistoryPolicy.KEEP_ALL, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


def latched(depth: int) -> QoSProfile:
    """Latched, for a subscriber that must not miss one of ``depth`` messages in a row."""
    return QoSProfile(depth=depth, durability=DurabilityPolicy.TRANSIENT_LOCAL)


# Each publisher of /tf tells some of the frames, so that many messages come at once.
TRANSFORMS, STATIC_TRANSFORMS = STATES, latched(100)


def _liveliness(kind: LivelinessPolicy, milliseconds: int) -> QoSProfile:
    return QoSProfile(
        depth=1,
        liveliness=kind,
        liveliness_lease_duration=Duration(nanoseconds=milliseconds * 1_000_000),
    )


# Nothing is published with these. A subscriber that asks for `AUTOMATIC` takes both kinds.
ALIVE = _liveliness(LivelinessPolicy.MANUAL_BY_TOPIC, 80)
REQUESTED_ALIVE = _liveliness(LivelinessPolicy.AUTOMATIC, 80)
