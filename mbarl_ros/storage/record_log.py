"""Append-only log of records; a crash while writing costs only the record being written."""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.files import sync_path, try_lock

_HEADER = struct.Struct('<II')  # length and CRC-32 of the record
_MAX_RECORD = 1 << 26


class RecordLog:
    """A file of records, open for appending; only one process can have it open."""

    def __init__(self, path: Path) -> None:
        """Open or create the file, and cut off a torn tail, of ``torn_bytes`` bytes.

        :raises ConfigError: another process has the file open, or a record in its middle is
            damaged; the file stays as it is.
        :raises OSError: the file cannot be opened.
        """
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: a buffer would keep bytes that a full disk refused, and write them later.
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

    def append(self, *records: bytes, sync: bool = True) -> None:
        """Append records, all or none; they are on disk when this returns.

        :param sync: False only hands them to the operating system, without waiting for the disk:
            they survive a crash of this process, but maybe not a power cut.
        :raises OSError: the disk is full or read-only, the log stays as it was; or it was deleted.
        """
        if not os.fstat(self._file.fileno()).st_nlink:  # what is written would vanish
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
        start = self._file.seek(0, os.SEEK_END)
        unwritten = memoryview(b''.join(map(_framed, records)))
        try:
            while unwritten:
                unwritten = unwritten[self._file.write(unwritten) :]
            if sync:
                os.fsync(self._file.fileno())
            if sync and start == 0:
                sync_path(self.path.parent)
        except OSError:
            os.ftruncate(self._file.fileno(), start)
            raise

    def close(self) -> None:
        """Close the file, so that another process may open it."""
        self._file.close()


def _framed(record: bytes) -> bytes:
    return _HEADER.pack(len(record), zlib.crc32(record)) + record


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a log, up to the first torn or damaged one; none if there is no file."""
    if not Path(path).exists():
        return
    with Path(path).open('rb') as file:
        while len(header := file.read(_HEADER.size)) == _HEADER.size:
            length, checksum = _HEADER.unpack(header)
            # A power cut can leave zeros, so an empty record is no record.
            if not 0 < length <= _MAX_RECORD:
                return
            record = file.read(length)
            if len(record) < length or zlib.crc32(record) != checksum:
                return
            yield record


def _end_of_whole_records(path: Path) -> int:
    """Offset in bytes of the end of the last whole record.

    A crash can only tear the last record. If others follow a bad one, a disk or a person damaged
    it later, and cutting it off would lose whole records too: perhaps days of a robot's work.

    :raises ConfigError: a record that others follow is damaged.
    """
    end = sum(_HEADER.size + len(record) for record in read_records(path))
    with path.open('rb') as file:
        file.seek(end)
        tail = file.read()
    length = _HEADER.unpack(tail[: _HEADER.size])[0] if len(tail) >= _HEADER.size else 0
    torn = _HEADER.size + length >= len(tail) and length <= _MAX_RECORD
    if not torn and any(tail):  # a power cut leaves zeros
        raise ConfigError(
            f'{path}: damaged at byte {end} of {end + len(tail)}; restore the file from a backup, '
            f'cut it there (truncate -s {end} {path}), which loses the records that follow, or '
            'give another run_dir'
        )
    return end
