"""Transforms between frames from the bags of demonstrations, by the same code as in the graph."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from mbarl_ros.demos.align import Series
from mbarl_ros.demos.decode import DecodeError, typestore
from mbarl_ros.demos.mcap_file import Topic
from mbarl_ros.demos.metadata import HEADER
from mbarl_ros.schema.frames import TF_TYPE
from mbarl_ros.schema.robot import TopicMap
from mbarl_ros.schema.transforms import NoTransformError, Reading, TransformCodec, TransformTree


class TransformSeries:
    """Gathers the values of a profile's transforms while the messages of a bag pass by.

    A value has one row for each message that changes it, as in the running graph.
    """

    def __init__(
        self, maps: Sequence[TopicMap], names: dict[str, str], clock: str, max_age: float
    ) -> None:
        """Prepare for the transforms among ``maps``.

        :param names: profile topic -> name in the bag
        :param clock: date values by their ``header`` or by the ``log``
        :param max_age: age in s beyond which the gate would have stopped the robot: no values
        """
        entries = [topic for topic in maps if topic.frames]
        self._static = {
            names[topic]: static
            for entry in entries
            for topic, static in entry.frames.topics.items()
            if topic in names
        }
        self._clock, self._max_age = clock, max_age
        self._tree = TransformTree()
        self._entries = {tuple(topic.fields): _Entry(topic) for topic in entries}

    @property
    def topics(self) -> Collection[str]:
        """Names in the bag of the topics to take."""
        return self._static

    def add(self, topic: Topic, log: int, data: bytes) -> None:
        """Take a message of one of the ``topics``, received at ``log`` ns.

        :raises DecodeError: it is no TFMessage.
        """
        if topic.type != TF_TYPE:
            raise DecodeError(f"topic '{topic.name}' is {topic.type} in the bag, not {TF_TYPE}")
        try:
            message = typestore().deserialize_cdr(data, TF_TYPE)
        except Exception as error:  # rosbags raises many kinds for bytes that are no message
            raise DecodeError(f"topic '{topic.name}': no {TF_TYPE}: {error!r}") from error
        received = log * 1e-9
        changed = self._tree.add(message, received, static=self._static[topic.name])
        for entry in self._entries.values():
            reading = entry.read(self._tree)
            if reading is None or not reading.way & changed:
                continue
            if received - reading.received <= self._max_age:
                stamp = log if self._clock != HEADER else reading.stamp
                entry.add(-1 if stamp is None else stamp, log, reading)

    def series(self, topic: TopicMap) -> Series:
        """The values of a transform.

        :raises DecodeError: there are none; says which frames came.
        """
        entry = self._entries[tuple(topic.fields)]
        if not entry.rows:
            try:
                reading = entry.codec.read(self._tree)
            except NoTransformError as error:
                raise DecodeError(
                    f'{topic.topic}: {error}; correct the frames in the robot profile'
                ) from None
            raise DecodeError(
                f'{topic.source}: the transform {reading.oldest} comes less often than each '
                f'{self._max_age:g} s (state_timeout), at which the robot would have been stopped'
            )
        stamps, logs, values = zip(*entry.rows, strict=True)
        names = tuple(topic.fields)
        columns = np.array(stamps), np.array(logs), np.array(values)
        return Series(topic.source, names, *columns, ignored=entry.refused)

    def held(self, maps: Sequence[TopicMap], series: list[Series]) -> list[Series]:
        """Series in which static transforms hold whenever something else was received.

        :param series: of ``maps``, dated
        """
        moving = [s for topic, s in zip(maps, series, strict=True) if not self._is_static(topic)]
        reference = max(moving, key=lambda one: len(one.stamps), default=None)
        if reference is None:
            return series
        return [
            _hold(one, reference) if self._is_static(topic) else one
            for topic, one in zip(maps, series, strict=True)
        ]

    def _is_static(self, topic: TopicMap) -> bool:
        return bool(topic.frames) and self._entries[tuple(topic.fields)].static


class _Entry:
    """A transform of the profile; ``rows`` are stamp, time of receipt (ns) and values.

    ``refused``: messages after which a transform was no rotation.
    """

    def __init__(self, topic: TopicMap) -> None:
        self.codec = TransformCodec(topic)
        self.rows: list[tuple[int, int, list[float]]] = []
        self.static = False
        self.refused = 0

    def read(self, tree: TransformTree) -> Reading | None:
        try:
            return self.codec.read(tree)
        except NoTransformError:  # perhaps not yet
            return None
        except ValueError:
            self.refused += 1
            return None

    def add(self, stamp: int, log: int, reading: Reading) -> None:
        """Add a row; the last one of each stamp counts."""
        if stamp > 0 and self.rows and self.rows[-1][0] == stamp:
            self.rows.pop()
        self.rows.append((stamp, log, reading.values))
        self.static = reading.static


def _hold(static: Series, reference: Series) -> Series:
    rows = np.searchsorted(static.log, reference.log, side='right') - 1
    values = static.values[np.maximum(rows, 0)]
    return replace(static, stamps=reference.stamps, log=reference.log, values=values)
