"""History of a run: what its nodes reported on /diagnostics, sampled into a file of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, NamedTuple

from mbarl_ros.storage.run_files import HISTORY_FILE, read_json_lines

PERIOD = 2.0  # s between two samples at the start of a run
_SHARE = 0.002  # of the time since then, between two samples: a run of a day has about 2,000


class Sample(NamedTuple):
    """One line: Unix time in s, and node -> key -> text as in :data:`GraphStatus`."""

    time: float
    status: dict[str, dict[str, str]]


class Schedule:
    """Tells when a sample is due: ever more rarely, so that a long run has a short history."""

    def __init__(self, now: float) -> None:
        """``now``: s of a steady clock, as in :meth:`due`."""
        self._started, self._due = now, now

    def due(self, now: float) -> bool:
        """Whether a sample is due; if so, the next one is due later."""
        if now < self._due:
            return False
        self._due = now + max(PERIOD, _SHARE * (now - self._started))
        return True


class HistoryWriter:
    """Appends samples to the history of a run."""

    def __init__(self, run_dir: Path, now: float) -> None:
        """``now``: s of a steady clock, as in :meth:`add`."""
        self.path = run_dir / HISTORY_FILE
        self._schedule = Schedule(now)

    def add(
        self,
        now: float,
        time: float,
        status: Mapping[str, Mapping[str, str]],
        *,
        last: bool = False,
    ) -> None:
        """Write a line if one is due.

        :param time: Unix time in s
        :param last: the line is due in any case
        :raises OSError: the disk is full or read-only; what was written stays.
        """
        if not status or not (self._schedule.due(now) or last):
            return
        line = json.dumps({'time': round(time, 3), 'status': status})
        with self.path.open('a+b') as file:
            if file.tell() and not _ends_line(file):  # torn by a crash or a full disk
                file.write(b'\n')
            file.write(f'{line}\n'.encode())


def _ends_line(file: IO[bytes]) -> bool:
    file.seek(-1, 2)
    return file.read(1) == b'\n'


def _is_status(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(each, dict) for each in value.values())


def read_history(run_dir: Path) -> list[Sample]:
    """Samples of a run in their order; none where no monitor ran. Damaged lines are left out."""
    lines = read_json_lines(run_dir / HISTORY_FILE, skip_damaged=True)
    return [
        Sample(float(line['time']), line['status'])
        for line in lines
        if isinstance(line.get('time'), int | float) and _is_status(line.get('status'))
    ]
