"""Append-only log of records that survives a torn tail."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.files import sync_path, try_lock

_HEADER = struct.Struct('<II')  # length, crc32 of the payload
_MAX_RECORD = 1 << 26


class RecordLog:
    """Records on disk in the order of appending, written by one process at a time."""

    def __init__(self, path: Path) -> None:
        """Open or create; a torn tail (a crash while writing) is cut off, ``torn`` tells bytes.

        :raises ConfigError: another process has it open, or a record in its middle is damaged;
            the file stays as it is.
        :raises OSError: it cannot be opened.
        """
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: a buffer would keep what a full disk refused, and write it later after all.
        self._file = self.path.open('ab', buffering=0)
        try:
            if not try_lock(self._file):
                raise ConfigError(
                    f'{self.path}: another process writes to it; stop that process or give another '
                    'run_dir'
                )
            end = _end_of_whole_records(self.path)
        except ConfigError:
            self._file.close()
            raise
        self.torn_bytes = self._file.tell() - end
        if self.torn_bytes:
            self._file.truncate(end)

    def append(self, record: bytes, sync: bool = True) -> None:
        """Append one record; it is on disk when this returns.

        :param sync: False hands it to the operating system only: it outlives this process, though
            perhaps not a power cut, and nobody waits for a disk.
        :raises OSError: disk full or read-only; the log stays as it was.
        """
        start = self._file.seek(0, os.SEEK_END)
        left = memoryview(_HEADER.pack(len(record), zlib.crc32(record)) + record)
        try:
            while left:
                left = left[self._file.write(left) :]
            if sync:
                os.fsync(self._file.fileno())
            if sync and start == 0:
                sync_path(self.path.parent)
        except OSError:
            os.ftruncate(self._file.fileno(), start)
            raise

    def close(self) -> None:
        """Close the file, which lets others write to it."""
        self._file.close()


def read_records(path: Path) -> Iterator[bytes]:
    """Whole records of a log up to a torn or corrupt one; nothing if the file is missing."""
    if not Path(path).exists():
        return
    with Path(path).open('rb') as file:
        while len(header := file.read(_HEADER.size)) == _HEADER.size:
            length, checksum = _HEADER.unpack(header)
            # A power cut can leave zeros: a record without content is none.
            if not 0 < length <= _MAX_RECORD:
                return
            record = file.read(length)
            if len(record) < length or zlib.crc32(record) != checksum:
                return
            yield record


def _end_of_whole_records(path: Path) -> int:
    """Bytes of whole records at the beginning.

    A crash can only tear the last record, so one that others follow was damaged later, by a disk
    or a person. To cut off there would throw away what is whole: days of a robot's work, perhaps.

    :raises ConfigError: that is so.
    """
    end = sum(_HEADER.size + len(record) for record in read_records(path))
    with path.open('rb') as file:
        file.seek(end)
        tail = file.read()
    length = _HEADER.unpack(tail[: _HEADER.size])[0] if len(tail) >= _HEADER.size else 0
    torn = _HEADER.size + length >= len(tail) and length <= _MAX_RECORD
    if not torn and any(tail):  # zeros are what a power cut leaves
        raise ConfigError(
            f'{path}: damaged at byte {end} of {end + len(tail)}; put back a copy of it, cut it '
            f'there (truncate -s {end} {path}), which loses what follows, or give another run_dir'
        )
    return end
