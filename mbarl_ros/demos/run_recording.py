"""Recording of a whole run into numbered MCAP files that ``ros2 bag`` and Foxglove open.

Messages are compressed in chunks, and the chunk at hand goes to the file with each
:meth:`RunRecording.flush`. A recorder that is killed loses what came since then; the file that it
leaves lacks its end, and :func:`finish_torn` writes it again. A full disk ends the file at hand;
recording goes on in a new one as soon as there is room.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from mcap.writer import Writer

from mbarl_ros.demos.decode import typestore
from mbarl_ros.demos.mcap_file import (
    McapFileError,
    Topic,
    is_torn,
    read_mcap,
    read_metadata,
)
from mbarl_ros.demos.recording import EXECUTED_TYPE, register

FILE_NAME = 'recording_{}.mcap'
SPLIT_BYTES = 64 << 20
"""Size at which the next file begins."""
KEEP_FREE = 500 << 20
"""Bytes of the disk that are left to the run itself."""
RETRY_PERIOD = 10.0
"""s (steady clock) after which a recording that stopped is tried again."""
_METADATA = 'mbarl_ros'
_NUMBER = re.compile(FILE_NAME.replace('.', r'\.').format(r'(\d+)'))


class RunRecording:
    """Writes the messages of a run. No method raises an OSError: ``problem`` tells it.

    ``problem``: why nothing is recorded now; empty while recording. ``counts``: topic -> messages
    taken. ``lost``: messages of which at most those were not written. ``path``: file at hand.
    """

    def __init__(
        self,
        folder: Path,
        topics: Mapping[str, Topic],
        latched: Mapping[str, int],
        about: Mapping[str, str],
        *,
        keep_free: int = KEEP_FREE,
        split_bytes: int = SPLIT_BYTES,
    ) -> None:
        """Begin with a new file.

        :param topics: key -> topic; a key is what :meth:`write` gets
        :param latched: key of a latched topic -> number of its last messages with which each file
            begins
        :param about: metadata of each file
        :param keep_free: bytes of the disk to leave free
        :param split_bytes: size at which the next file begins
        """
        self._folder, self._topics, self._about = folder, topics, about
        self._keep_free, self._split_bytes = keep_free, split_bytes
        self._latched = {key: deque[bytes](maxlen=depth) for key, depth in latched.items()}
        self.counts = dict.fromkeys(topics, 0)
        self.lost = 0
        self.problem = ''
        self.path: Path | None = None
        self._unwritten = 0  # messages that wait for the next flush
        self._bytes = 0  # of finished files
        self._newest = 0  # log time, ns
        self._file: IO[bytes] | None = None
        self._retry_at = -math.inf
        self._open(0)

    @property
    def bytes_written(self) -> int:
        """Bytes of all files of this recorder."""
        return self._bytes + (self._file.tell() if self._file else 0)

    def write(self, key: str, stamp: int, data: bytes) -> None:
        """Append a serialised (CDR) message that is logged at ``stamp`` ns."""
        stamp = self._newest = max(stamp, 0)
        is_open = self._file is not None or self._may_retry(stamp)
        if is_open and self._added(key, stamp, data):
            self.counts[key] += 1
            self._unwritten += 1
        else:
            self.lost += 1
        if key in self._latched:
            self._latched[key].append(data)

    def flush(self) -> None:
        """Pass everything to the disk; begin the next file where this one is large.

        To be called every second: what came since then is lost when the recorder is killed.
        """
        if self._file is None:
            return
        try:
            self._writer.flush()
            os.fdatasync(self._file.fileno())
            self._unwritten = 0
            if self._lacks_room():
                return
        except OSError as error:
            self._stop(str(error.strerror))
            return
        if self._file.tell() > self._split_bytes:
            self.close()
            self._open(self._newest)

    def close(self) -> None:
        """Finish the file at hand."""
        if self._file is None:
            return
        try:
            self._writer.finish()
            self._file.flush()
            self._bytes += self._file.tell()
            self._file.close()
            self._file, self._unwritten = None, 0
        except OSError as error:
            self._stop(str(error.strerror))

    def _added(self, key: str, stamp: int, data: bytes) -> bool:
        try:
            self._writer.add_message(
                self._channels[key], stamp, data, stamp, self.counts[key] & 0xFFFFFFFF
            )
        except OSError as error:
            self._stop(str(error.strerror))
            return False
        return True

    def _may_retry(self, stamp: int) -> bool:
        """Open a new file if it is time to; whether there is one."""
        return time.monotonic() >= self._retry_at and self._open(stamp)

    def _open(self, stamp: int) -> bool:
        """Begin the next file, with the messages that were latched before ``stamp`` ns."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._lacks_room():
                return False
            self.path = self._folder / FILE_NAME.format(_next_number(self._folder))
            self._file = self.path.open('xb')
            self._writer, channels = _begin(self._file, self._topics.values(), self._about)
            self._file.flush()
        except OSError as error:
            self._stop(str(error.strerror))
            return False
        self._channels = {key: channels[topic.name] for key, topic in self._topics.items()}
        self.problem = ''
        return all(
            self._added(key, stamp, data)
            for key, messages in self._latched.items()
            for data in messages
        )

    def _lacks_room(self) -> bool:
        """Whether the disk is nearly full; the file at hand is finished then."""
        if shutil.disk_usage(self._folder).free >= self._keep_free:
            return False
        self.close()
        self._stop(f'less than {self._keep_free >> 20} MiB free on the disk')
        return True

    def _stop(self, reason: str) -> None:
        """Give up the file at hand, which then lacks its end."""
        self.problem = f'{self._folder}: recording stopped: {reason}; it goes on when there is room'
        self._retry_at = time.monotonic() + RETRY_PERIOD
        self.lost, self._unwritten = self.lost + self._unwritten, 0
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._bytes += self._file.tell()
            with contextlib.suppress(OSError):  # what its buffer holds cannot be written
                self._file.close()
            self._file = None


def joint_state(names: Sequence[str], values: np.ndarray, stamp: int) -> bytes:
    """A JointState in CDR: positions [n] by name at ``stamp`` ns.

    rclpy's ``serialize_message`` would leave bytes of other memory at its end.
    """
    store = typestore()
    time_, header, kind = (
        store.types[name]
        for name in ('builtin_interfaces/msg/Time', 'std_msgs/msg/Header', EXECUTED_TYPE)
    )
    seconds, nanoseconds = divmod(stamp, 1_000_000_000)
    none = np.empty(0)
    message = kind(
        header=header(stamp=time_(sec=seconds, nanosec=nanoseconds), frame_id=''),
        name=list(names),
        position=np.asarray(values, np.float64),
        velocity=none,
        effort=none,
    )
    return bytes(store.serialize_cdr(message, EXECUTED_TYPE))


def recordings(folder: Path) -> list[Path]:
    """Files of a recording in the order of their numbers."""
    numbers = {int(m[1]): path for path in folder.glob('*') if (m := _NUMBER.fullmatch(path.name))}
    return [numbers[number] for number in sorted(numbers)]


def finish_torn(folder: Path, *, besides: Path | None = None) -> list[str]:
    """Write files again that lack their end; returns a sentence about each.

    :param besides: the file that is being written
    :raises OSError: the disk is full; the torn file stays.
    """
    sentences = []
    for path in recordings(folder):
        if path != besides and is_torn(path):
            sentences.append(_finish(path))
    return sentences


def _finish(path: Path) -> str:
    temporary = path.with_name(f'.{path.name}.tmp')
    topics: dict[Topic, int] = {}
    count = 0
    try:
        with temporary.open('wb') as file:
            writer, _ = _begin(file, (), read_metadata(path, _METADATA))
            for topic, stamp, data in read_mcap(path, torn=True):
                if topic not in topics:
                    topics[topic] = register(writer, topic)
                writer.add_message(topics[topic], stamp, data, stamp)
                count += 1
            writer.finish()
    except McapFileError as error:
        temporary.unlink()
        return f'{path}: lacks its end and cannot be finished: {error}'
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if not count:
        temporary.unlink()
        path.unlink()
        return f'{path}: held no message; removed'
    os.replace(temporary, path)
    return f'{path}: lacked its end, because its recorder died; finished with {count} messages'


def _begin(
    file: IO[bytes], topics: Iterable[Topic], about: Mapping[str, str]
) -> tuple[Writer, dict[str, int]]:
    """A writer at the beginning of a file, and the channel of each topic name."""
    writer = Writer(file)
    writer.start(profile='ros2', library='mbarl_ros')
    writer.add_metadata(_METADATA, dict(about))
    return writer, {topic.name: register(writer, topic) for topic in topics}


def _next_number(folder: Path) -> int:
    found = recordings(folder)
    return int(_NUMBER.fullmatch(found[-1].name)[1]) + 1 if found else 0
