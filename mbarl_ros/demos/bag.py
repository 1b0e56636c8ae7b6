"""One demonstration is one rosbag2 folder: an MCAP file of raw messages and a note beside it.

The messages are stored as the robot sent them, so what a demonstration means can be worked out
anew at any time; ``ros2 bag play`` and plotting tools read the folder as it is.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rosbags.rosbag2 import (
    CompressionFormat,
    CompressionMode,
    Reader,
    StoragePlugin,
    Writer,
)
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from mbarl_ros import __version__
from mbarl_ros.config import RobotConfig
from mbarl_ros.transitions import PHASES

SCHEMA = 1
NOTE = 'demonstration.json'
EXECUTED = 'safety_gate/executed'
EXECUTED_TYPE = 'sensor_msgs/msg/JointState'
SUCCESS, DISCARDED, UNKNOWN = VERDICTS = ('success', 'discarded', 'unknown')


class DemonstrationError(ValueError):
    """A demonstration that cannot be used; the message names the folder and the remedy."""


@dataclass(frozen=True)
class Note:
    """What a demonstration is of: ``demonstration.json`` beside the messages.

    ``spec`` is the layout of the robot's state and command, ``topics`` maps the profile's topics
    to the names in the bag (namespaces and remappings), ``lockstep`` says that each executed
    command made the world take exactly one step.
    """

    task: str
    robot: str
    direction: str
    verdict: str
    operator: str
    lockstep: bool
    spec: dict[str, Any]
    topics: dict[str, str]
    version: str = __version__
    schema: int = SCHEMA


def layout(robot: RobotConfig) -> dict[str, Any]:
    """What a demonstration and the robot profile that reads it must agree on."""
    return {
        'state': list(robot.state_names),
        'command': list(robot.command_names),
        'control_rate': robot.control_rate,
    }


def topic_types(robot: RobotConfig) -> dict[str, str]:
    """Topics of a demonstration and their types: state, command, executed command."""
    topics = {topic.topic: topic.type for topic in (*robot.state, *robot.command)}
    return {**topics, EXECUTED: EXECUTED_TYPE}


class Recording:
    """A demonstration being written; it appears under its name only when finished."""

    def __init__(self, folder: Path, note: Note, types: dict[str, str]) -> None:
        """Open a bag in a hidden folder inside ``folder``.

        :param note: its verdict is filled in by :meth:`finish`
        :param types: message type of each of the note's topics
        :raises DemonstrationError: a message type whose definition is not known.
        :raises OSError: the folder cannot be written.
        """
        self._folder, self._note = folder, note
        folder.mkdir(parents=True, exist_ok=True)
        self.name = _free_name(folder, note.direction)
        self._hidden = folder / f'.recording-{os.getpid()}'
        shutil.rmtree(self._hidden, ignore_errors=True)
        self._path = self._hidden / self.name
        self._writer = Writer(self._path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._writer.open()
        try:
            self._connections = {
                topic: self._writer.add_connection(
                    note.topics[topic], kind, typestore=_knowing(kind)
                )
                for topic, kind in types.items()
            }
        except DemonstrationError:
            self.discard()
            raise
        self.counts = dict.fromkeys(types, 0)

    def write(self, topic: str, stamp: int, data: bytes) -> None:
        """Append a serialised (CDR) message of a topic at ``stamp`` ns."""
        self._writer.write(self._connections[topic], stamp, data)
        self.counts[topic] += 1

    def finish(self, verdict: str) -> Path:
        """Put the demonstration on disk and return its folder."""
        self._writer.close()
        note = {**asdict(self._note), 'verdict': verdict}
        (self._path / NOTE).write_text(json.dumps(note, indent=2) + '\n')
        for path in (*self._path.iterdir(), self._path):
            _sync(path)
        final = self._folder / self.name
        while final.exists():  # somebody else records into the same folder
            final = self._folder / _free_name(self._folder, self._note.direction)
        self._path.rename(final)
        _sync(self._folder)
        self._hidden.rmdir()
        self.name = final.name
        return final

    def discard(self) -> None:
        """Forget the demonstration."""
        self._writer.abort()
        shutil.rmtree(self._hidden, ignore_errors=True)


def folders(folder: Path) -> list[Path]:
    """Finished demonstrations in a folder, by name; hidden folders are unfinished ones."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith('.')
    )


def read_note(folder: Path) -> Note:
    """Parse and check ``demonstration.json``.

    :raises DemonstrationError: it is missing, damaged or of another schema.
    """
    path = folder / NOTE
    remedy = f'record it again with demo_recorder, or remove {folder}'
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError:
        raise DemonstrationError(f'{path}: is missing; {remedy}') from None
    except (OSError, ValueError) as error:
        raise DemonstrationError(f'{path}: cannot be read: {error}; {remedy}') from error
    names = {field.name for field in fields(Note)}
    if not isinstance(raw, dict) or raw.get('schema') != SCHEMA or set(raw) != names:
        raise DemonstrationError(f'{path}: is not a note of schema {SCHEMA}; {remedy}')
    note = Note(**raw)
    if note.direction not in PHASES or note.verdict not in VERDICTS:
        raise DemonstrationError(
            f"{path}: direction '{note.direction}' or verdict '{note.verdict}' is unknown; {remedy}"
        )
    return note


def messages(folder: Path, topics: dict[str, str]) -> Iterator[tuple[str, int, Any]]:
    """Yield (topic, stamp in ns, message) of a demonstration in the order of recording.

    :param topics: the note's; topics that the bag lacks yield nothing
    :raises DemonstrationError: the bag is torn or otherwise unreadable.
    """
    names = {bag_name: topic for topic, bag_name in topics.items()}
    try:
        with Reader(folder) as reader:
            wanted = [entry for entry in reader.connections if entry.topic in names]
            for connection, stamp, data in reader.messages(wanted) if wanted else ():
                yield names[connection.topic], stamp, _deserialised(data, connection.msgtype)
    except DemonstrationError:
        raise
    except Exception as error:  # torn files make rosbags and what it parses with raise anything
        raise DemonstrationError(
            f'{folder}: the bag is torn or damaged ({error!r}); repair its .mcap file with '
            f'`mcap recover` and `ros2 bag reindex`, or remove {folder}'
        ) from error


def _free_name(folder: Path, direction: str) -> str:
    pattern = re.compile(rf'{direction}_(\d+)')
    numbers = [int(m[1]) for path in folder.iterdir() if (m := pattern.fullmatch(path.name))]
    return f'{direction}_{max(numbers, default=-1) + 1:03d}'


def _deserialised(data: bytes, kind: str) -> Any:
    store = _knowing(kind)
    # rclpy.serialize_message leaves slack behind a message, of which rosbags tolerates 3 bytes.
    for slack in (0, 4):
        try:
            return store.deserialize_cdr(data[: len(data) - slack], kind)
        except SerdeError:
            continue
    return store.deserialize_cdr(data[: len(data) - 8], kind)


def _knowing(kind: str) -> Typestore:
    store = _typestore()
    if kind not in store.types:
        raise DemonstrationError(
            f"message type '{kind}' cannot be recorded or read: rosbags knows the common packages "
            'of ROS 2 Jazzy; relay the topic as one of their types'
        )
    return store


@functools.cache
def _typestore() -> Typestore:
    return get_typestore(Stores.ROS2_JAZZY)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
