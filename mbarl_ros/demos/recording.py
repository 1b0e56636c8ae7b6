"""Recording a demonstration so that nothing is lost, whenever the recorder dies.

While it is recorded, a demonstration is a plain MCAP file in a hidden folder: each message is
handed to the operating system at once and forced to disk once a second. When finished it is
rewritten, compressed and indexed, as a rosbag2 folder, and appears under its name. What a dead
recorder left behind, :func:`recover` finishes in its place.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import IO

from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from mbarl_ros.demos.decode import DecodeError, typestore
from mbarl_ros.demos.mcap_file import McapFileError, Topic, read_mcap
from mbarl_ros.demos.metadata import (
    METADATA_FILE,
    DemonstrationError,
    Metadata,
    folders,
    free_name,
    publish,
    read_metadata,
    write_metadata,
)
from mbarl_ros.schema.robot import RobotConfig
from mbarl_ros.schema.topics import EXECUTED, RECORDER_PHASE

EXECUTED_TYPE = 'sensor_msgs/msg/JointState'
PHASE_TYPE = 'std_msgs/msg/String'
RAW = 'raw.mcap'
_HIDDEN = '.recording-'
_LOCK = 'lock'
_SYNC_EVERY = 1.0  # s; what a power cut may cost. A killed recorder costs nothing


def topic_types(robot: RobotConfig) -> dict[str, str]:
    """Topics of a demonstration and their types: state, command, executed command, phase."""
    topics = {topic.topic: topic.type for topic in (*robot.state, *robot.command)}
    return {**topics, EXECUTED: EXECUTED_TYPE, RECORDER_PHASE: PHASE_TYPE}


class Recording:
    """A demonstration being written; it appears under its name only when finished."""

    def __init__(self, folder: Path, note: Metadata, types: dict[str, str]) -> None:
        """Begin in a hidden folder inside ``folder``.

        :param note: its verdict is filled in by :meth:`finish`
        :param types: message type of each of the note's topics
        :raises DemonstrationError: a message type whose definition is not known.
        :raises OSError: the folder cannot be written.
        """
        topics = {name: _topic(note.topics[name], kind) for name, kind in types.items()}
        self._folder, self._note = folder, note
        folder.mkdir(parents=True, exist_ok=True)
        self.name = free_name(folder, note.direction)  # as it looks now; see publish()
        self._hidden = Path(tempfile.mkdtemp(prefix=_HIDDEN, dir=folder))
        self._lock = _locked(self._hidden)
        self._file = (self._hidden / RAW).open('wb')
        # Without chunks a message is in the file, whole, as soon as it is written.
        self._writer = McapWriter(
            self._file, compression=CompressionType.NONE, use_chunking=False, enable_crcs=False
        )
        self._writer.start(profile='ros2', library='mbarl_ros')
        self._channels = {name: _register(self._writer, topic) for name, topic in topics.items()}
        self._file.flush()
        write_metadata(self._hidden, replace(note, interrupted=True))
        self.counts = dict.fromkeys(types, 0)
        self._done = threading.Event()
        threading.Thread(target=self._sync, name='sync', daemon=True).start()

    def write(self, topic: str, stamp: int, data: bytes) -> None:
        """Append a serialised (CDR) message of a topic at ``stamp`` ns.

        :raises OSError: the disk is full or gone; what was written before can be recovered.
        """
        stamp = max(stamp, 0)
        self._writer.add_message(self._channels[topic], stamp, data, stamp, self.counts[topic])
        self._file.flush()
        self.counts[topic] += 1

    def finish(self, verdict: str) -> Path:
        """Put the demonstration on disk and return its folder.

        :raises OSError: the disk is full; what was written can be recovered.
        """
        self.abandon(keep_lock=True)
        path = _finished(self._hidden, self._folder, replace(self._note, verdict=verdict))
        self._lock.close()
        return path

    def discard(self) -> None:
        """Forget the demonstration."""
        self.abandon(keep_lock=True)
        _remove(self._hidden)
        self._lock.close()

    def abandon(self, *, keep_lock: bool = False) -> None:
        """Leave it as it is, for :func:`recover`."""
        self._done.set()
        with contextlib.suppress(OSError):  # a full disk; all whole messages are there
            self._file.close()
        if not keep_lock:
            self._lock.close()

    def _sync(self) -> None:
        handle = self._file.fileno()
        while not self._done.wait(_SYNC_EVERY):
            with contextlib.suppress(OSError):  # closed meanwhile
                os.fdatasync(handle)


def recover(folder: Path) -> list[str]:
    """Finish what dead recorders left in a folder; a sentence about each.

    A recording that is still going on is left alone. One that never held an executed command is
    removed: nothing can be learned from it.
    """
    said = []
    for hidden in sorted(folder.glob(f'{_HIDDEN}*')):
        try:
            lock = _locked(hidden)
        except BlockingIOError:
            continue
        with lock:
            said.append(_recovered(hidden, folder))
    return said


def unfinished(folder: Path) -> int:
    """How many recordings in a folder are going on or were interrupted."""
    return len(list(folder.glob(f'{_HIDDEN}*')))


def seal(messages: Iterable[tuple[Topic, int, bytes]], target: Path) -> dict[str, str]:
    """Write messages as a compressed and indexed rosbag2 folder; its topics and their types.

    :raises DecodeError: a message type that is not known.
    """
    connections = {}
    writer = Writer(target, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer:
        for topic, stamp, data in messages:
            if topic.name not in connections:
                connections[topic.name] = writer.add_connection(
                    topic.name, topic.type, typestore=typestore({topic.type: topic.definition})
                )
            writer.write(connections[topic.name], stamp, data)
    return {name: connection.msgtype for name, connection in connections.items()}


def _recovered(hidden: Path, folder: Path) -> str:
    raw = hidden / RAW
    if not (hidden / METADATA_FILE).exists() or not raw.exists():
        _remove(hidden)  # it had not begun, or was being removed
        return f'{hidden}: an interrupted recording without a message; removed'
    try:
        note = read_metadata(hidden)
        if published := _published(folder, note):  # it died between publishing and cleaning up
            _remove(hidden)
            return f'{published}: was finished before the recorder died'
        executed = note.topics.get(EXECUTED)
        stamps = [at for topic, at, _ in read_mcap(raw, torn=True) if topic.name == executed]
        if not stamps:
            _remove(hidden)
            return f'{hidden}: an interrupted recording without an executed command; removed'
        path = _finished(hidden, folder, note)
    except (DemonstrationError, DecodeError, McapFileError) as error:
        return f'{hidden}: an interrupted recording that cannot be recovered: {error}'
    return (
        f'{path}: recovered from an interrupted recording, {len(stamps)} executed commands, '
        f'{(max(stamps) - min(stamps)) * 1e-9:.1f} s; its verdict is {note.verdict}'
    )


def _published(folder: Path, note: Metadata) -> Path | None:
    """The finished demonstration of a recording: no other was begun at that microsecond."""
    for path in folders(folder):
        with contextlib.suppress(DemonstrationError):
            if note.recorded and read_metadata(path).recorded == note.recorded:
                return path
    return None


def _finished(hidden: Path, folder: Path, note: Metadata) -> Path:
    sealed = hidden / 'demonstration'
    shutil.rmtree(sealed, ignore_errors=True)
    seal(read_mcap(hidden / RAW, torn=True), sealed)
    write_metadata(sealed, note)
    path = publish(sealed, folder, note.direction)
    _remove(hidden)
    return path


def _remove(hidden: Path) -> None:
    # The note first: without it, what is left is known to be rubbish.
    (hidden / METADATA_FILE).unlink(missing_ok=True)
    shutil.rmtree(hidden, ignore_errors=True)


def _locked(hidden: Path) -> IO[bytes]:
    """Hold the lock of a recording: the system frees it when we die.

    :raises BlockingIOError: somebody else holds it.
    """
    lock = (hidden / _LOCK).open('wb')
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise
    return lock


def _topic(name: str, kind: str) -> Topic:
    store = typestore()
    if kind not in store.types:
        raise DemonstrationError(
            f"topic '{name}': message type '{kind}' cannot be recorded: rosbags knows the common "
            'packages of ROS 2 Jazzy; relay the topic as one of their types'
        )
    return Topic(name, kind, store.generate_msgdef(kind, ros_version=2)[0])


def _register(writer: McapWriter, topic: Topic) -> int:
    schema = writer.register_schema(topic.type, 'ros2msg', topic.definition.encode())
    return writer.register_channel(topic.name, 'cdr', schema)
