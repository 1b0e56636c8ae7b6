"""Append-only log of records that survives a torn tail."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

_HEADER = struct.Struct('<II')  # length, crc32 of the payload
_MAX_RECORD = 1 << 30


class RecordLog:
    """Records on disk in the order of appending; each append is fsynced before it returns."""

    def __init__(self, path: Path) -> None:
        """Open or create; a torn tail (a crash while writing) is cut off, ``torn`` tells bytes."""
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        end = sum(_HEADER.size + len(record) for record in read_records(self.path))
        self._file = self.path.open('ab')
        self.torn = self._file.tell() - end
        if self.torn:
            self._file.truncate(end)

    def append(self, record: bytes) -> None:
        """Append one record; it is on disk when this returns.

        :raises OSError: disk full or read-only; the log stays as it was.
        """
        start = self._file.tell()
        try:
            self._file.write(_HEADER.pack(len(record), zlib.crc32(record)) + record)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError:
            os.ftruncate(self._file.fileno(), start)
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_records(path: Path) -> Iterator[bytes]:
    """Whole records of a log up to a torn or corrupt one; nothing if the file is missing."""
    if not Path(path).exists():
        return
    with Path(path).open('rb') as file:
        while len(header := file.read(_HEADER.size)) == _HEADER.size:
            length, checksum = _HEADER.unpack(header)
            if length > _MAX_RECORD:
                return
            record = file.read(length)
            if len(record) < length or zlib.crc32(record) != checksum:
                return
            yield record
