"""Recording of demonstrations that survives the death of the recorder.

During recording, a demonstration is an uncompressed MCAP file in a hidden folder: each message is
passed to the operating system at once, and the file is synced to disk every second. A finished
recording is written again, compressed and indexed, as a rosbag2 folder, and gets its name.
:func:`recover` finishes the recordings of recorders that died.
"""

from __future__ import annotations

import contextlib
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
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from mbarl_ros.demos.decode import typestore
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
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.definitions import definition
from mbarl_ros.schema.robot import RobotConfig
from mbarl_ros.schema.topics import EXECUTED, RECORDER_PHASE
from mbarl_ros.storage.files import try_lock

EXECUTED_TYPE = 'sensor_msgs/msg/JointState'
PHASE_TYPE = 'std_msgs/msg/String'
RAW = 'raw.mcap'
_HIDDEN = '.recording-'
_LOCK = 'lock'
_SYNC_EVERY = 1.0  # s that a power cut may cost; a killed recorder costs nothing


def topic_types(robot: RobotConfig) -> dict[str, str]:
    """Topics of a demonstration and their types: state, command, executed command, phase."""
    commands = {topic.topic: topic.type for topic in robot.command_topics}
    return {**robot.state_topics, **commands, EXECUTED: EXECUTED_TYPE, RECORDER_PHASE: PHASE_TYPE}


class Recording:
    """A demonstration that is being recorded; it gets its name when it is finished."""

    def __init__(self, folder: Path, metadata: Metadata, types: dict[str, str]) -> None:
        """Begin in a hidden folder inside ``folder``.

        :param metadata: :meth:`finish` fills in its verdict
        :param types: message type of each topic of the metadata
        :raises DemonstrationError: the definition of a message type is unknown.
        :raises OSError: the folder cannot be written.
        """
        topics = {name: topic_of(metadata.topics[name], kind) for name, kind in types.items()}
        self._folder, self._metadata = folder, metadata
        folder.mkdir(parents=True, exist_ok=True)
        self.name = free_name(folder, metadata.direction)  # publish() may have to take another
        self._hidden = Path(tempfile.mkdtemp(prefix=_HIDDEN, dir=folder))
        self._lock = _locked(self._hidden)
        self._file = (self._hidden / RAW).open('wb')
        # Without chunks, each message is complete in the file as soon as it is written.
        self._writer = McapWriter(
            self._file, compression=CompressionType.NONE, use_chunking=False, enable_crcs=False
        )
        self._writer.start(profile='ros2', library='mbarl_ros')
        self._channels = {name: register(self._writer, topic) for name, topic in topics.items()}
        self._file.flush()
        write_metadata(self._hidden, replace(metadata, interrupted=True))
        self.counts = dict.fromkeys(types, 0)
        self._done = threading.Event()
        threading.Thread(target=self._sync, name='sync', daemon=True).start()

    def write(self, topic: str, stamp: int, data: bytes) -> None:
        """Append a serialised (CDR) message of a topic at ``stamp`` ns.

        :raises OSError: the disk is full or gone; earlier messages can be recovered.
        """
        stamp = max(stamp, 0)
        self._writer.add_message(self._channels[topic], stamp, data, stamp, self.counts[topic])
        self._file.flush()
        self.counts[topic] += 1

    def finish(self, verdict: str) -> Path:
        """Seal the demonstration and return its folder.

        :raises OSError: the disk is full; the messages can be recovered.
        """
        self.abandon(keep_lock=True)
        path = _finished(self._hidden, self._folder, replace(self._metadata, verdict=verdict))
        self._lock.close()
        return path

    def discard(self) -> None:
        """Delete the demonstration."""
        self.abandon(keep_lock=True)
        _remove(self._hidden)
        self._lock.close()

    def abandon(self, *, keep_lock: bool = False) -> None:
        """Close the recording unfinished, for :func:`recover`."""
        self._done.set()
        with contextlib.suppress(OSError):  # a full disk; all complete messages are in the file
            self._file.close()
        if not keep_lock:
            self._lock.close()

    def _sync(self) -> None:
        handle = self._file.fileno()
        while not self._done.wait(_SYNC_EVERY):
            with contextlib.suppress(OSError):  # the file was closed meanwhile
                os.fdatasync(handle)


def recover(folder: Path) -> list[str]:
    """Finish the interrupted recordings in a folder; returns a sentence about each.

    A recording in progress is left alone. One without an executed command is removed, because
    nothing can be learned from it.
    """
    sentences = []
    for hidden in sorted(folder.glob(f'{_HIDDEN}*')):
        lock = _locked(hidden)
        if lock is not None:
            with lock:
                sentences.append(_recovered(hidden, folder))
    return sentences


def unfinished(folder: Path) -> int:
    """Number of recordings in a folder that are in progress or were interrupted."""
    return len(list(folder.glob(f'{_HIDDEN}*')))


def seal(messages: Iterable[tuple[Topic, int, bytes]], target: Path) -> None:
    """Write messages as a compressed and indexed rosbag2 folder.

    Definitions of types that are not of the common packages are copied, not parsed.
    """
    connections: dict[tuple[str, str], Connection] = {}
    writer = Writer(target, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer:
        for topic, stamp, data in messages:
            key = topic.name, topic.type
            if key not in connections:
                connections[key] = _connection(writer, topic)
            writer.write(connections[key], stamp, data)


def _connection(writer: Writer, topic: Topic) -> Connection:
    if topic.type in typestore().types:
        return writer.add_connection(topic.name, topic.type, typestore=typestore())
    # rosbags wants a hash of the definition, which nobody knows without parsing it.
    made = writer.add_connection(
        topic.name, topic.type, msgdef=topic.definition, rihs01='unknown'
    )._replace(digest='')
    writer.connections[-1] = made
    return made


def _recovered(hidden: Path, folder: Path) -> str:
    raw = hidden / RAW
    if not (hidden / METADATA_FILE).exists() or not raw.exists():
        _remove(hidden)  # its recorder died at the beginning, or while removing it
        return f'{hidden}: an interrupted recording without a message; removed'
    try:
        metadata = read_metadata(hidden)
        if published := _published(folder, metadata):
            _remove(hidden)
            return f'{published}: was finished before the recorder died'
        executed = metadata.topics.get(EXECUTED)
        stamps = [at for topic, at, _ in read_mcap(raw, torn=True) if topic.name == executed]
        if not stamps:
            _remove(hidden)
            return f'{hidden}: an interrupted recording without an executed command; removed'
        path = _finished(hidden, folder, metadata)
    except (DemonstrationError, McapFileError) as error:
        return f'{hidden}: an interrupted recording that cannot be recovered: {error}'
    return (
        f'{path}: recovered from an interrupted recording, {len(stamps)} executed commands, '
        f'{(max(stamps) - min(stamps)) * 1e-9:.1f} s; its verdict is {metadata.verdict}'
    )


def _published(folder: Path, metadata: Metadata) -> Path | None:
    """The finished demonstration of a recording, found by its start time in microseconds."""
    for path in folders(folder):
        with contextlib.suppress(DemonstrationError):
            if metadata.recorded and read_metadata(path).recorded == metadata.recorded:
                return path
    return None


def _finished(hidden: Path, folder: Path, metadata: Metadata) -> Path:
    sealed = hidden / 'demonstration'
    shutil.rmtree(sealed, ignore_errors=True)
    seal(read_mcap(hidden / RAW, torn=True), sealed)
    write_metadata(sealed, metadata)
    path = publish(sealed, folder, metadata.direction)
    _remove(hidden)
    return path


def _remove(hidden: Path) -> None:
    # The metadata first: recover() removes a folder without it.
    (hidden / METADATA_FILE).unlink(missing_ok=True)
    shutil.rmtree(hidden, ignore_errors=True)


def _locked(hidden: Path) -> IO[bytes] | None:
    """Take the lock of a recording; None while its recorder lives."""
    lock = (hidden / _LOCK).open('wb')
    if try_lock(lock):
        return lock
    lock.close()
    return None


def topic_of(name: str, kind: str) -> Topic:
    """A topic with the definition of its message type.

    :raises DemonstrationError: the definition is unknown; names the topic.
    """
    store = typestore()
    if kind in store.types:
        return Topic(name, kind, store.generate_msgdef(kind, ros_version=2)[0])
    try:
        return Topic(name, kind, definition(kind))
    except ConfigError as error:
        raise DemonstrationError(f"topic '{name}': {error}") from error


def register(writer: McapWriter, topic: Topic) -> int:
    """Declare a topic in an MCAP file; the number of its channel."""
    schema = writer.register_schema(topic.type, 'ros2msg', topic.definition.encode())
    return writer.register_channel(topic.name, 'cdr', schema)
