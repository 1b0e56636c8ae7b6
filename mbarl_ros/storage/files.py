"""Atomic writes, fsync, and locks that end with their process."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from mbarl_ros.schema.base import ConfigError


def write_file(path: Path, data: bytes, before: Callable[[], None] = lambda: None) -> None:
    """Write a file atomically: write a temporary file, fsync, rename, fsync the folder.

    :param before: called before the rename, once the data are on disk
    :raises OSError: disk full or read-only; the old file stays, the temporary one is removed.
    """
    path = Path(path)
    # Always the same name: the next write replaces what a killed process left.
    temporary = path.with_name(f'.{path.name}.tmp')
    try:
        with temporary.open('wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    before()
    os.replace(temporary, path)
    sync_path(path.parent)


def sync_path(path: Path) -> None:
    """Wait until a file, or the list of files in a folder, is on disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(path: Path | str, error: OSError) -> ConfigError:
    """The error for a file that cannot be written: it names the file, the cause and the remedy."""
    return ConfigError(
        f'{path}: cannot be written: {error.strerror}; make it writable or make room on its disk'
    )


def try_lock(file: IO) -> bool:
    """Take an exclusive lock on an open file, without waiting; False if another process has it.

    The lock ends when the file is closed, at the latest with its process.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_file(path: Path, message: str) -> IO[str]:
    """Open a lock file, lock it until the returned file is closed, and write our process id in it.

    :raises ConfigError: another process holds the lock; says ``message`` and its process id.
    :raises OSError: the file cannot be opened.
    """
    file = path.open('a+')
    if not try_lock(file):
        file.seek(0)
        holder = file.readline().strip() or 'unknown'
        file.close()
        raise ConfigError(f'{message} (process {holder})')
    with contextlib.suppress(OSError):  # a full disk: the lock holds without our process id, too
        file.truncate(0)
        os.write(file.fileno(), f'{os.getpid()}\n'.encode())
    return file
