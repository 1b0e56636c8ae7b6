"""Reads the bags of demonstrations, and imports bags of other recorders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mbarl_ros.demos.align import Series
from mbarl_ros.demos.bag_files import any_torn, bag_files, bag_messages
from mbarl_ros.demos.clocks import choose_clock
from mbarl_ros.demos.decode import DecodeError, TopicDecoder, typestore
from mbarl_ros.demos.episodes import UNKNOWN
from mbarl_ros.demos.intake import Intake
from mbarl_ros.demos.matching import match_topics
from mbarl_ros.demos.mcap_file import McapFileError
from mbarl_ros.demos.metadata import (
    CLOCKS,
    HEADER,
    METADATA_FILE,
    DemonstrationError,
    Metadata,
    layout,
    profile_hash,
    write_metadata,
)
from mbarl_ros.demos.recording import EXECUTED_TYPE, seal
from mbarl_ros.demos.transforms import TransformSeries
from mbarl_ros.schema.robot import TopicMap
from mbarl_ros.schema.topics import EXECUTED
from mbarl_ros.storage.transitions import DIRECTIONS
from mbarl_ros.task import Task

_BATCH = 2048  # messages decoded at once: a trade-off of speed and memory


def read_series(
    folder: Path,
    maps: list[TopicMap],
    names: dict[str, str],
    clock: str,
    max_age: float,
    parted: Sequence[TopicMap] = (),
    *,
    lockstep: bool = False,
) -> list[list[Series]]:
    """Topics of a bag, in the order of ``maps``; a topic may be empty.

    :param maps: topics of the robot profile with the fields to read
    :param names: profile topic -> name in the bag
    :param clock: date messages by their ``header``, if they have one, or by the ``log``
    :param max_age: age in s of a transform beyond which it is no value any more
    :param parted: topics whose messages may hold some of the values only: what comes together is a
        series of its own
    :param lockstep: of a simulation whose time begins at 0, so that a stamp of 0 is one
    :raises DemonstrationError: the bag is damaged, or a message does not match the profile.
    """
    transforms = TransformSeries(maps, names, clock, max_age)
    wanted = {
        names[topic.topic]: topic for topic in maps if topic.topic in names and not topic.frames
    }
    decoders: dict[str, TopicDecoder] = {}
    raw: dict[str, tuple[list[int], list[bytes]]] = {name: ([], []) for name in wanted}
    parts: dict[str, list[tuple[np.ndarray, ...]]] = {name: [] for name in wanted}
    others: dict[str, str] = {}  # name -> type of publishers that the profile does not mean

    def decode(name: str) -> None:
        logs, messages = raw[name]
        if messages:
            log = np.array(logs, np.int64)
            stamps, values = decoders[name].decode(messages)
            parts[name].append((stamps if clock == HEADER else log, log, values))
            logs.clear()
            messages.clear()

    try:
        needed = {*wanted, *transforms.topics}
        for topic, log, data in bag_messages(bag_files(folder), lambda one: one.name in needed):
            if topic.name in transforms.topics:
                transforms.add(topic, log, data)
                continue
            kind = wanted[topic.name].type
            if topic.type != kind:
                others[topic.name] = topic.type
                continue
            if topic.name not in decoders:
                store = typestore({topic.type: topic.definition})
                decoders[topic.name] = TopicDecoder(wanted[topic.name], store)
            raw[topic.name][0].append(log)
            raw[topic.name][1].append(data)
            if len(raw[topic.name][0]) == _BATCH:
                decode(topic.name)
        for name in wanted:
            if name in others and name not in decoders:
                raise DecodeError(
                    f"topic '{name}' is {others[name]} in the bag, the robot profile says "
                    f'{wanted[name].type}'
                )
            decode(name)
        series = [
            transforms.series(topic)
            if topic.frames
            else _series(topic, parts.get(names.get(topic.topic, ''), []))
            for topic in maps
        ]
        dated = series if lockstep else _dated(series)
        return [
            _in_parts(one, decoders[names[topic.topic]])
            if topic in parted and not topic.frames and len(one.stamps)
            else [one]
            for one, topic in zip(transforms.held(maps, dated), maps, strict=True)
        ]
    except DecodeError as error:
        raise DemonstrationError(f'{folder}: {error}') from error
    except (McapFileError, OSError, OverflowError) as error:
        raise DemonstrationError(
            f'{folder}: {error}; if the bag is torn, `mbarl demos import {folder}` recovers what '
            'can be read; else record it again and remove this folder'
        ) from error


def executed_map(names: tuple[str, ...]) -> TopicMap:
    """Topic map of the executed commands, with the robot's names of the command entries."""
    fields = {name: f'position[{name}]' for name in names}
    return TopicMap(topic=EXECUTED, type=EXECUTED_TYPE, fields=fields)


def import_bag(
    source: Path,
    task: Task,
    staging: Path,
    direction: str | None = None,
    topics: Mapping[str, str] | None = None,
    clock: str = '',
) -> Path:
    """Make a demonstration from a bag of another recorder, for example ``ros2 bag record``.

    Topics are found as :func:`~mbarl_ros.demos.matching.match_topics` says. A torn bag is read up
    to the torn record.

    :param staging: existing folder in which the demonstration is made
    :param topics: profile topic -> name in the bag, where the names do not tell
    :param clock: date messages by their ``header`` or by the ``log``; empty: choose
    :returns: the folder of the demonstration
    :raises DemonstrationError: a topic is missing, or the bag is damaged.
    """
    target = staging / 'demonstration'
    robot = task.robot
    intake = Intake(
        {topic.type for topic in (*robot.state, *robot.command_topics)} | {EXECUTED_TYPE}
    )
    try:
        with TemporaryDirectory(prefix='.unpacked-', dir=staging) as scratch:
            files = bag_files(source, Path(scratch))
            seal(intake.take(bag_messages(files, torn=True)), target)
            interrupted = any_torn(files)
    except (McapFileError, DecodeError, OSError, OverflowError) as error:
        raise DemonstrationError(f'{source}: {error}') from error
    if not intake.topics:
        torn = '; it is torn before the end of the first chunk' if interrupted else ''
        raise DemonstrationError(f'{source}: contains no message{torn}')
    names = match_topics(source, robot, intake.topics, topics or {})
    old = _old_metadata(source)
    clock, remarks = clock or str(old.get('clock')), intake.remarks()
    if clock not in CLOCKS:
        clock, why = choose_clock(intake.stamps_of(names, robot))
        remarks += [why] if why else []
    write_metadata(
        target,
        Metadata(
            task=task.name,
            robot=robot.name,
            direction=direction or old.get('direction') or DIRECTIONS[0],
            verdict=old.get('verdict') or UNKNOWN,
            operator=old.get('operator') or 'unknown',
            lockstep=old.get('lockstep') is True,
            spec=layout(robot),
            profile=profile_hash(robot),
            topics=names,
            recorded=datetime.now(UTC).isoformat(timespec='seconds'),
            clock=clock,
            interrupted=interrupted,
            origin=f'imported from {source.name}',
            remarks=remarks,
        ),
    )
    return target


def _series(topic: TopicMap, parts: list[tuple[np.ndarray, ...]]) -> Series:
    names = tuple(topic.fields)
    if not parts:
        empty = np.empty(0, np.int64)
        return Series(topic.topic, names, empty, empty, np.empty((0, len(names))))
    stamps, log, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Series(topic.topic, names, stamps, log, values)


def _in_parts(series: Series, decoder: TopicDecoder) -> list[Series]:
    """A series for the values that come together; NaN is none where values have names.

    :raises DecodeError: no message names a value.
    """
    known = ~np.isnan(series.values)
    if known.all() or not decoder.in_parts:
        return [series]
    groups: dict[bytes, list[int]] = {}
    for column in range(known.shape[1]):
        groups.setdefault(known[:, column].tobytes(), []).append(column)
    parts = []
    for columns in groups.values():
        names = tuple(series.names[column] for column in columns)
        part = series.take(known[:, columns[0]])
        if not len(part.stamps):
            raise DecodeError(decoder.nothing_named(names))
        parts.append(replace(part, names=names, values=part.values[:, columns]))
    ignored = int((~known.any(1)).sum())
    return [replace(parts[0], ignored=ignored), *parts[1:]]


def _dated(series: list[Series]) -> list[Series]:
    """Date messages without header by the newest header before them, as the running graph does.

    Where no topic has a header, date all by the log: a mixture of two clocks would be wrong.
    """
    stamped = [one for one in series if _has_header(one)]
    if not stamped:
        return [replace(one, stamps=one.log) for one in series]
    log = np.concatenate([one.log for one in stamped])
    order = np.argsort(log, kind='stable')
    newest = np.maximum.accumulate(np.concatenate([one.stamps for one in stamped])[order])
    dated = []
    for one in series:
        undated = one.stamps <= 0  # one publisher of a topic may stamp, and another not
        if undated.any():
            before = np.searchsorted(log[order], one.log, side='right') - 1
            one = replace(one, stamps=np.where(undated, newest[np.maximum(before, 0)], one.stamps))
        dated.append(one)
    return dated


def _has_header(series: Series) -> bool:
    """Whether messages have stamps; 0 means none, as for the running graph."""
    return bool((series.stamps > 0).any())


def _old_metadata(source: Path) -> dict[str, object]:
    """Metadata beside the bag, of any version of this package; empty if there is none."""
    with suppress(OSError, ValueError, RecursionError):
        raw = json.loads((source / METADATA_FILE).read_text())
        if isinstance(raw, dict) and raw.get('direction') in DIRECTIONS:
            return raw
    return {}
