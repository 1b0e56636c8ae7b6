"""Parts of the robot's state: what its listener knows of each topic, and of each transform."""

from __future__ import annotations

import math
import time

import numpy as np

from mbarl_ros.control.topic_health import TopicHealth
from mbarl_ros.schema.findings import ERROR, Finding
from mbarl_ros.schema.message_fields import TopicCodec
from mbarl_ros.schema.robot import RobotConfig, StateTopic
from mbarl_ros.schema.transforms import (
    NoTransformError,
    Reading,
    TransformCodec,
    TransformTree,
)


class StatePart:
    """One state topic: where its values are in the state vector, and the health of its messages.

    ``parts``: one for each set of values that messages hold; the first stands for the topic until
    a message has come. ``ageless``: its values hold for ever.
    """

    ageless = False

    def __init__(self, topic: StateTopic, robot: RobotConfig, where: slice, lockstep: bool) -> None:
        """Begin without a message; ``where`` its values are in the state vector."""
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

    def check_whole(self, values: np.ndarray) -> None:
        """Refuse a message that does not name all values [n]: a simulation tells all at once.

        :raises ValueError: names them, and the names in the message.
        """
        if self.codec.in_parts and np.isnan(values).any():
            said = self.codec.nothing_named(self._names(np.isnan(values)), self.codec.listed)
            raise ValueError(f"topic '{self.topic.topic}': {said}")

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

    def healths(self, old: np.ndarray) -> list[tuple[TopicHealth, bool]]:
        """Health of each kind of messages, and whether all of its values are fresh.

        :param old: [n], which values are not
        """
        members = self._members or [np.ones(len(old), bool)]
        return [
            (health, not old[known].any())
            for health, known in zip(self.parts, members, strict=True)
        ]

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
        return self.topic.source + ('' if which.all() else f' ({", ".join(self._names(which))})')

    def missing(self, old: np.ndarray, window: float) -> list[Finding]:
        """Values ``old`` [n] that have not come, though other messages have in ``window`` s."""
        when, listed = self._lacking
        if not old.any() or time.monotonic() - when > window:
            return []
        text = self.codec.nothing_named(self._names(old), listed)
        return [Finding(ERROR, f'{self.topic.topic}: {text}')]

    def _names(self, which: np.ndarray) -> list[str]:
        return [name for name, one in zip(self.topic.fields, which, strict=True) if one]


class StateTransform(StatePart):
    """A part of the state that is the transform between two frames."""

    def __init__(
        self, entry: StateTopic, robot: RobotConfig, where: slice, tree: TransformTree
    ) -> None:
        """Begin without a transform; ``tree`` gets all of them."""
        super().__init__(entry, robot, where, lockstep=False)
        self._tree, self._transform = tree, TransformCodec(entry)
        self._last: Reading | None = None

    @property
    def ageless(self) -> bool:
        """Whether all transforms between the frames are static."""
        return self._last is not None and self._last.static

    def read(self, changed: set[str]) -> Reading | None:
        """Values if they are new: one of the ``changed`` frames is on the way.

        Also None while there are none, which ``missing`` explains.

        :raises ValueError: a transform is no rotation.
        """
        try:
            reading = self._transform.read(self._tree)
        except NoTransformError:  # perhaps not yet
            return None
        if not reading.way & changed:
            return None
        self._last = reading
        return reading

    def late(self, latest: int) -> bool:
        """Whether it is too old for a control step at the ``latest`` stamp, in ns."""
        return not self.ageless and super().late(latest)

    def missing(self, old: np.ndarray, window: float) -> list[Finding]:
        """Why there is no transform, or no new one; ``old`` [n]."""
        if not old.any():
            return []
        try:
            self._tree.pose(self.topic.tf.parent, self.topic.tf.child)
        except NoTransformError as error:
            remedy = 'correct the frames in the robot profile, or start what publishes them'
            return [Finding(ERROR, f'{self.topic.topic}: {error}; {remedy}')]
        except ValueError:
            return []  # a fault of its messages
        silence = time.monotonic() - self._last.received
        text = f'{self.topic.source}: no transform {self._last.oldest} for {silence:.1f} s'
        return [Finding(ERROR, f'{text}; is its publisher still running?')]
