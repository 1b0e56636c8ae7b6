"""Parts of the robot's state: what its listener knows of each topic, and of each transform."""

from __future__ import annotations

import math
import time
from typing import Any

from mbarl_ros.control.topic_health import TopicHealth
from mbarl_ros.schema.findings import ERROR, Finding
from mbarl_ros.schema.message_fields import TopicCodec
from mbarl_ros.schema.robot import MAX_REORDERING, RobotConfig, StateTopic
from mbarl_ros.schema.transforms import (
    NoTransformError,
    Reading,
    TransformCodec,
    TransformTree,
)


class StatePart:
    """One state topic: its values, and the health of its messages.

    ``values``, ``stamps`` (ns, -1 before the first) and ``received`` (s, steady clock) [n] are
    those of each value; ``oldest`` and ``newest`` of the stamps. ``ageless``: the values hold for
    ever. Plain lists: there are few values, and a state may come a thousand times a second.
    """

    ageless = False

    def __init__(self, topic: StateTopic, robot: RobotConfig, where: slice, lockstep: bool) -> None:
        """Begin without a message; ``where`` its values are in the state vector."""
        self.topic, self.where, self._robot, self._lockstep = topic, where, robot, lockstep
        self.codec = TopicCodec(topic)
        entries = len(topic.fields)
        self._whole = tuple(range(entries))
        self.values = [math.nan] * entries
        self.stamps, self.oldest, self.newest = [-1] * entries, -1, -1
        self.received = [-math.inf] * entries
        self._first = TopicHealth(topic, robot)  # of the first kind of messages, or of none yet
        self._kinds: dict[tuple[int, ...], TopicHealth] = {}  # by the values that they hold
        # The last message that lacked values: when it came, and the names in it.
        self._lacking: tuple[float, list[str]] = (-math.inf, [])

    @property
    def parts(self) -> list[TopicHealth]:
        """Health of each kind of messages, by the values that they hold."""
        return list(self._kinds.values()) or [self._first]

    def decode(self, message: Any) -> list[float]:
        """Values [n] of a message; NaN where it does not name one.

        In lockstep a simulation tells all of each instant.

        :raises ValueError: it is not what the profile says.
        """
        return (self.codec.decode_all if self._lockstep else self.codec.decode)(message)

    def known(self, values: list[float]) -> tuple[int, ...]:
        """Which of the values [n] the last message had.

        One that is looked up by name may be missing or NaN; elsewhere NaN is a fault.
        """
        if self._lockstep or not self.codec.in_parts:
            return self._whole
        known = tuple(i for i, value in enumerate(values) if not math.isnan(value))
        if len(known) < len(self._whole):
            self._lacking = time.monotonic(), self.codec.listed
        return known

    def health(self, known: tuple[int, ...]) -> TopicHealth:
        """Health of the messages that hold these values."""
        if known not in self._kinds:
            kind = TopicHealth(self.topic, self._robot) if self._kinds else self._first
            kind.names = self._names(known)
            self._kinds[known] = kind
        return self._kinds[known]

    def take(
        self, known: tuple[int, ...], values: list[float], stamp: int, date: int, received: float
    ) -> bool:
        """Take the ``known`` ones of the values [n] of a message; whether any is new.

        Publishers that share a topic may hold the same value, each with its own order: of a value
        a repeated stamp tells nothing new, and one that another has overtaken nothing at all.

        :param stamp: in ns; 0 without one
        :param date: the stamp, or what stands for it
        :param received: when it came, s
        """
        new = False
        for i in known:
            behind = self.stamps[i] - stamp if stamp else -1
            if not self._lockstep and 0 < behind < MAX_REORDERING * 1e9:
                continue
            self.values[i] = values[i]
            if behind:
                self.stamps[i], self.received[i], new = date, received, True
        self.oldest, self.newest = min(self.stamps), max(self.stamps)
        return new

    def old(self, before: float) -> tuple[int, ...]:
        """Values that have not been received since ``before`` (s)."""
        return tuple(i for i, received in enumerate(self.received) if received < before)

    def healths(self, old: tuple[int, ...]) -> list[tuple[TopicHealth, bool]]:
        """Health of each kind of messages, and whether none of its values is ``old``."""
        kinds = self._kinds or {self._whole: self._first}
        return [(health, not set(old) & set(known)) for known, health in kinds.items()]

    def late(self, latest: int) -> bool:
        """Whether a value is too old for a control step at the ``latest`` stamp, in ns."""
        fresh: set[int] = set()
        for known, health in self._kinds.items():
            if not health.late(latest):
                fresh.update(known)
        return len(fresh) < len(self._whole)

    def label(self, which: tuple[int, ...]) -> str:
        """The topic, and its values ``which`` if they are not all."""
        names = '' if which == self._whole else f' ({", ".join(self._names(which))})'
        return self.topic.source + names

    def missing(self, old: tuple[int, ...], window: float) -> list[Finding]:
        """Values ``old`` that have not come, though other messages have in ``window`` s."""
        when, listed = self._lacking
        if not old or time.monotonic() - when > window:
            return []
        text = self.codec.nothing_named(self._names(old), listed)
        return [Finding(ERROR, f'{self.topic.topic}: {text}')]

    def _names(self, which: tuple[int, ...]) -> list[str]:
        names = list(self.topic.fields)
        return [names[i] for i in which]


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

    def missing(self, old: tuple[int, ...], window: float) -> list[Finding]:
        """Why there is no transform, or no new one; ``old`` values."""
        if not old:
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
