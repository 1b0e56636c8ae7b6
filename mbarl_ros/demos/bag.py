"""Reads the bags of demonstrations, and imports bags of other recorders."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rosbags.rosbag2 import Reader

from mbarl_ros.demos.align import Series
from mbarl_ros.demos.decode import DecodeError, TopicDecoder, typestore
from mbarl_ros.demos.episodes import UNKNOWN
from mbarl_ros.demos.mcap_file import McapFileError, Topic, is_torn, read_mcap
from mbarl_ros.demos.metadata import (
    HEADER,
    LOG,
    METADATA_FILE,
    DemonstrationError,
    Metadata,
    layout,
    profile_hash,
    write_metadata,
)
from mbarl_ros.demos.recording import EXECUTED_TYPE, seal
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
    parted: Sequence[TopicMap] = (),
) -> list[list[Series]]:
    """Topics of a bag, in the order of ``maps``; a topic may be empty.

    :param maps: topics of the robot profile with the fields to read
    :param names: profile topic -> name in the bag
    :param clock: date messages by their ``header``, if they have one, or by the ``log``
    :param parted: topics whose messages may hold some of the values only: what comes together is a
        series of its own
    :raises DemonstrationError: the bag is damaged, or a message does not match the profile.
    """
    wanted = {names[topic.topic]: topic for topic in maps if topic.topic in names}
    decoders: dict[str, TopicDecoder] = {}
    raw: dict[str, tuple[list[int], list[bytes]]] = {name: ([], []) for name in wanted}
    parts: dict[str, list[tuple[np.ndarray, ...]]] = {name: [] for name in wanted}

    def decode(name: str) -> None:
        logs, messages = raw[name]
        if messages:
            log = np.array(logs, np.int64)
            stamps, values = decoders[name].decode(messages)
            parts[name].append((stamps if clock == HEADER else log, log, values))
            logs.clear()
            messages.clear()

    try:
        for topic, log, data in bag_messages(folder, set(wanted)):
            if topic.name not in decoders:
                kind = wanted[topic.name].type
                if topic.type != kind:
                    raise DecodeError(
                        f"topic '{topic.name}' is {topic.type} in the bag, the robot profile says "
                        f'{kind}'
                    )
                store = typestore({topic.type: topic.definition})
                decoders[topic.name] = TopicDecoder(wanted[topic.name], store)
            raw[topic.name][0].append(log)
            raw[topic.name][1].append(data)
            if len(raw[topic.name][0]) == _BATCH:
                decode(topic.name)
        for name in wanted:
            decode(name)
        series = [_series(topic, parts.get(names.get(topic.topic, ''), [])) for topic in maps]
        return [
            _in_parts(one, decoders[names[topic.topic]])
            if topic in parted and len(one.stamps)
            else [one]
            for one, topic in zip(_dated(series), maps, strict=True)
        ]
    except (DecodeError, McapFileError, OSError, OverflowError) as error:
        raise DemonstrationError(
            f'{folder}: {error}; if the bag is torn, `mbarl demos import {folder}` recovers what '
            'can be read; else record it again and remove this folder'
        ) from error


def executed_map(names: tuple[str, ...]) -> TopicMap:
    """Topic map of the executed commands, with the robot's names of the command entries."""
    fields = {name: f'position[{name}]' for name in names}
    return TopicMap(topic=EXECUTED, type=EXECUTED_TYPE, fields=fields)


def bag_messages(
    folder: Path, wanted: set[str] | None = None, *, torn: bool = False
) -> Iterator[tuple[Topic, int, bytes]]:
    """Yield (topic, log time in ns, serialised message) of a rosbag2 folder or one of its files.

    :param wanted: names of the topics; None: all
    :param torn: end at the first torn record instead of raising
    :raises McapFileError: damaged, empty, or not a bag.
    """
    for path in _files(folder):
        if path.suffix == '.mcap':
            keep = (lambda _: True) if wanted is None else (lambda topic: topic.name in wanted)
            yield from read_mcap(path, keep, torn=torn)
        else:
            yield from _sqlite(path.parent, wanted)
            return


def import_bag(source: Path, task: Task, staging: Path, direction: str | None = None) -> Path:
    """Make a demonstration from a bag of another recorder, for example ``ros2 bag record``.

    Topics are found by their names in the robot profile, in any namespace. Without
    ``safety_gate/executed`` in the bag, the robot's command topics count as executed. A torn bag is
    read up to the torn record.

    :param staging: existing folder in which the demonstration is made
    :returns: the folder of the demonstration
    :raises DemonstrationError: a topic is missing, or the bag is damaged.
    """
    target = staging / 'demonstration'
    try:
        types = seal(bag_messages(source, torn=True), target)
        interrupted = any(is_torn(path) for path in _files(source))
    except (McapFileError, DecodeError, OSError) as error:
        raise DemonstrationError(f'{source}: {error}') from error
    if not types:
        raise DemonstrationError(f'{source}: contains no message')
    names = _match(source, task, types)
    old = _old_metadata(source)
    robot = task.robot
    stamped = all(
        'header' in dict(typestore().fielddefs.get(types[name], ([], []))[1])
        for name in names.values()
    )
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
            clock=HEADER if stamped or old else LOG,
            interrupted=interrupted,
            origin=f'imported from {source.name}',
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
        if not _has_header(one):
            before = np.searchsorted(log[order], one.log, side='right') - 1
            one = replace(one, stamps=newest[np.maximum(before, 0)])
        dated.append(one)
    return dated


def _has_header(series: Series) -> bool:
    return bool(len(series.stamps) and series.stamps[0] >= 0)


def _files(folder: Path) -> list[Path]:
    """Files of a bag in the order of recording; only regular files in the folder itself."""
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise McapFileError(f'{folder}: no such bag')
    files = [
        path
        for path in folder.iterdir()
        if path.suffix in ('.mcap', '.db3') and path.is_file() and not path.is_symlink()
    ]
    if not files:
        raise McapFileError(f'{folder}: there is no .mcap file in it')
    return sorted(files, key=lambda path: [int(n) for n in re.findall(r'\d+', path.stem)[-1:]])


def _sqlite(folder: Path, wanted: set[str] | None) -> Iterator[tuple[Topic, int, bytes]]:
    """Messages of an older bag (SQLite), read by rosbags."""
    try:
        with Reader(folder) as reader:
            chosen = [c for c in reader.connections if wanted is None or c.topic in wanted]
            topics = {c.id: Topic(c.topic, c.msgtype, c.msgdef.data) for c in chosen}
            for connection, stamp, data in reader.messages(chosen) if chosen else ():
                yield topics[connection.id], stamp, data
    except Exception as error:  # damaged files make rosbags and SQLite raise any exception
        raise McapFileError(f'{folder}: cannot be read as a bag ({error!r})') from error


def _match(source: Path, task: Task, types: dict[str, str]) -> dict[str, str]:
    """Profile topic -> name in the bag."""
    robot = task.robot
    wanted = {topic.topic: topic.type for topic in robot.state}
    if any(name.endswith(f'/{EXECUTED}') for name in types):
        wanted[EXECUTED] = EXECUTED_TYPE
    else:
        wanted |= {topic.topic: topic.type for topic in robot.command}
    names = {}
    for topic, kind in wanted.items():
        ending = '/' + topic.strip('/')
        found = [name for name in types if name.endswith(ending) and types[name] == kind]
        if len(found) != 1:
            alike = [name for name in types if types[name] == kind and name not in found]
            what = f'{len(found)} topics ({", ".join(found)})' if found else 'no topic'
            raise DemonstrationError(
                f"{source}: {what} of type {kind} for '{topic}' of robot '{robot.name}'; of that "
                f'type the bag has otherwise {", ".join(alike) or "none"}, in all it has '
                f'{", ".join(types)}; name the right one in a robot profile (robot:=)'
            )
        names[topic] = found[0]
    return names


def _old_metadata(source: Path) -> dict[str, object]:
    """Metadata beside the bag, of any version of this package; empty if there is none."""
    with suppress(OSError, ValueError, RecursionError):
        raw = json.loads((source / METADATA_FILE).read_text())
        if isinstance(raw, dict) and raw.get('direction') in DIRECTIONS:
            return raw
    return {}
