"""Poses of frames from TF messages: one code for the running graph and for recordings.

Works on any object with the attributes of a ``tf2_msgs/msg/TFMessage``.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from mbarl_ros.schema.frames import frame_name
from mbarl_ros.schema.message_fields import stamp_ns
from mbarl_ros.schema.robot import MAX_REORDERING, StateTopic

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
"""x, y, z, w, as in messages."""

_MAX_NAMED = 30  # frames in a message
_OFTEN = 0.8  # of the updates of the most frequent transform
_MAX_DEVIATION = 0.01  # of the length of a quaternion from 1; drivers send single precision


class NoTransformError(ValueError):
    """Two frames that no transforms connect; names them and the frames that came."""


class Pose(NamedTuple):
    """Pose of a frame in another: ``position`` in m, ``rotation`` a unit quaternion x, y, z, w."""

    position: Vector
    rotation: Quaternion

    def then(self, inner: Pose) -> Pose:
        """Pose in the outer frame of what has the pose ``inner`` in this one."""
        x, y, z = rotate(self.rotation, inner.position)
        px, py, pz = self.position
        return Pose((px + x, py + y, pz + z), multiply(self.rotation, inner.rotation))

    def inverse(self) -> Pose:
        """Pose of the outer frame in this one."""
        x, y, z, w = self.rotation
        back = (-x, -y, -z, w)
        x, y, z = rotate(back, self.position)
        return Pose((-x, -y, -z), back)

    def components(self) -> dict[str, float]:
        """Values by the names of :data:`~mbarl_ros.schema.frames.COMPONENTS`.

        The quaternion is the one of two with w >= 0, so that equal poses have equal numbers.
        """
        x, y, z, w = self.rotation
        decisive = next((part for part in (w, z, y, x) if abs(part) > 1e-9), 1.0)
        sign = math.copysign(1.0, decisive)
        return {
            **dict(zip('xyz', self.position, strict=True)),
            'qx': sign * x,
            'qy': sign * y,
            'qz': sign * z,
            'qw': sign * w,
            **dict(zip(('roll', 'pitch', 'yaw'), roll_pitch_yaw(self.rotation), strict=True)),
        }


def multiply(first: Quaternion, second: Quaternion) -> Quaternion:
    """Hamilton product: the rotation ``second``, then ``first``, about fixed axes."""
    ax, ay, az, aw = first
    bx, by, bz, bw = second
    return (
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )


def rotate(rotation: Quaternion, vector: Vector) -> Vector:
    """A vector turned by a unit quaternion."""
    x, y, z, w = rotation
    turned = multiply(multiply(rotation, (*vector, 0.0)), (-x, -y, -z, w))
    return turned[:3]


def roll_pitch_yaw(rotation: Quaternion) -> Vector:
    """Angles (rad) about the fixed axes x, y, z, in this order, as in URDF (REP 103).

    Roll and yaw from -pi to pi, pitch from -pi/2 to pi/2. Where x points straight up or down, only
    the sum or difference of roll and yaw is defined; the angles still make up the rotation.
    """
    (xx, yx, zx), (xy, yy, _), (xz, yz, _) = (
        rotate(rotation, axis) for axis in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    )
    yaw = math.atan2(yx, xx)
    sine, cosine = math.sin(yaw), math.cos(yaw)
    pitch = math.atan2(-zx, math.hypot(xx, yx))
    roll = math.atan2(sine * xz - cosine * yz, cosine * yy - sine * xy)
    return roll, pitch, yaw


@dataclass
class _Edge:
    """The last transform of a child frame; ``updates``: how many came."""

    parent: str
    child: str
    message: Any  # TransformStamped
    static: bool
    stamp: int  # ns
    received: float
    updates: int

    def pose(self) -> Pose:
        """Pose of the child in the parent.

        :raises ValueError: the quaternion is no rotation.
        """
        shift, turn = self.message.transform.translation, self.message.transform.rotation
        parts = (turn.x, turn.y, turn.z, turn.w)
        length = math.hypot(*parts)
        if not abs(length - 1) < _MAX_DEVIATION:
            raise ValueError(
                f'transform from {self.parent} to {self.child}: its quaternion has length '
                f'{length:.3g}, not 1'
            )
        x, y, z, w = (float(part) / length for part in parts)
        return Pose((float(shift.x), float(shift.y), float(shift.z)), (x, y, z, w))


class Reading(NamedTuple):
    """Values of an entry, and their age.

    ``stamp`` (ns) is that of the transform on the way that comes most often: a slow one, such as
    of a localisation, or one that is stamped ahead, must not date the others. None without a stamp.
    ``received`` is when the ``oldest`` transform on the way came; static ones have no age, so that
    it is infinite if all are static. ``way``: the child frames of the transforms on the way.
    """

    values: list[float]
    stamp: int | None
    received: float
    oldest: str
    way: frozenset[str]

    @property
    def static(self) -> bool:
        """Whether all transforms on the way are static."""
        return self.received == math.inf


class TransformTree:
    """The latest transform of each frame, from messages in the order of their receipt."""

    def __init__(self) -> None:
        """Begin without any."""
        self._edges: dict[str, _Edge] = {}

    def add(self, message: Any, received: float, *, static: bool) -> set[str]:
        """Take a message.

        A transform that was overtaken by a newer one is ignored; one that repeats a stamp counts as
        received when it first came.

        :param received: time of receipt in s, by any clock that is always the same
        :param static: it came on /tf_static
        :returns: child frames of its transforms
        """
        changed = set()
        for transform in message.transforms:
            parent = frame_name(transform.header.frame_id)
            child = frame_name(transform.child_frame_id)
            stamp, since, updates = stamp_ns(transform) or 0, received, 1
            old = self._edges.get(child)
            if old is not None and not (static or old.static):
                if stamp and 0 < old.stamp - stamp < MAX_REORDERING * 1e9:
                    continue
                repeated = bool(stamp) and stamp == old.stamp
                since = old.received if repeated else received
                updates = old.updates + (not repeated)
            self._edges[child] = _Edge(parent, child, transform, static, stamp, since, updates)
            changed.add(child)
        return changed

    def transforms(self, *, static: bool) -> list[Any]:
        """The latest messages (TransformStamped) of all frames."""
        return [edge.message for edge in self._edges.values() if edge.static == static]

    def pose(self, parent: str, child: str) -> tuple[Pose, list[_Edge]]:
        """Pose of a frame in another, and the transforms on the way, in either direction.

        :raises NoTransformError: nothing connects them.
        :raises ValueError: a transform on the way is no rotation.
        """
        down, up = self._to_root(child), self._to_root(parent)
        common = next((frame for frame in down if frame in up), None)
        if common is None:
            raise NoTransformError(self._refusal(parent, child))
        child_edges = [self._edges[frame] for frame in down[: down.index(common)]]
        parent_edges = [self._edges[frame] for frame in up[: up.index(common)]]
        of_parent, of_child = _chained(parent_edges), _chained(child_edges)
        return of_parent.inverse().then(of_child), child_edges + parent_edges

    def _to_root(self, frame: str) -> list[str]:
        """The frame, its parent, and so on; it ends where the frames go in a circle."""
        frames = [frame]
        while (edge := self._edges.get(frames[-1])) is not None and edge.parent not in frames:
            frames.append(edge.parent)
        return frames

    def _refusal(self, parent: str, child: str) -> str:
        came = sorted({*self._edges, *(edge.parent for edge in self._edges.values())})
        more = f' and {len(came) - _MAX_NAMED} more' if len(came) > _MAX_NAMED else ''
        apart = ', which nothing connects' if {parent, child} <= set(came) else ''
        return (
            f'no transform from {parent} to {child}{apart}; frames that came: '
            f'{", ".join(came[:_MAX_NAMED]) or "none"}{more}'
        )


def _chained(edges: Collection[_Edge]) -> Pose:
    pose = Pose((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))
    for edge in edges:
        pose = edge.pose().then(pose)
    return pose


class TransformCodec:
    """Reads the values of a profile's entry that is the transform between two frames."""

    def __init__(self, entry: StateTopic) -> None:
        """Prepare for an entry with the key ``tf``."""
        assert entry.tf is not None, entry.topic
        self._entry, self._frames = entry, (entry.tf.parent, entry.tf.child)

    def read(self, tree: TransformTree) -> Reading:
        """Values in the order of the entry's fields.

        :raises NoTransformError: nothing connects the frames.
        :raises ValueError: a transform on the way is no rotation.
        """
        pose, edges = tree.pose(*self._frames)
        components, entry = pose.components(), self._entry
        values = [
            components[path] * entry.factor(name) + entry.zero(name)
            for name, path in entry.fields.items()
        ]
        moving = [edge for edge in edges if not edge.static]
        way = frozenset(edge.child for edge in edges)
        if not moving:
            return Reading(values, None, math.inf, '', way)
        oldest = min(moving, key=lambda edge: edge.received)
        # By the edge nearest to the child of those that come about as often as any: one that a
        # message more or less does not change, else states would zigzag between two clocks.
        most = max(edge.updates for edge in moving)
        often = [edge for edge in moving if edge.updates >= _OFTEN * most]
        stamp = often[0].stamp or None
        name = f'{oldest.parent} to {oldest.child}'
        return Reading(values, stamp, oldest.received, name, way)
