"""Keeps the last policy on the robot's disk, for a controller that starts while the line is cut."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from mbarl_ros.storage.files import unwritable, write_file

KEEP_PERIOD = 10.0  # s


class PolicySource(Protocol):
    """Where policies come from; ``policy_message``: the last one, empty before the first."""

    policy_message: bytes


class PolicyKeeper:
    """Writes a policy to a file, in a thread of its own: control must not wait for a disk."""

    def __init__(self, path: Path, report: Callable[[str], object]) -> None:
        """:param report: gets a sentence when the file cannot be written"""
        self._path, self._report = path, report
        self._kept = b''
        self._thread: threading.Thread | None = None

    def keep(self, source: PolicySource) -> None:
        """Write the last policy, unless it is on disk or a write is still going on."""
        message = source.policy_message
        busy = self._thread is not None and self._thread.is_alive()
        if message is self._kept or not message or busy:
            return
        self._thread = threading.Thread(target=self._write, args=(message,), daemon=True)
        self._thread.start()

    def _write(self, message: bytes) -> None:
        try:
            write_file(self._path, message)
        except OSError as error:  # a disk that is full now may have room again
            self._report(str(unwritable(self._path, error)))
        else:
            self._kept = message
