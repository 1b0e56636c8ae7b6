"""Executed transitions, kept in memory and on disk until the learner has them on its disk.

A killed process loses nothing that was added, since the operating system has it. Nobody waits for
the disk, so a power cut may cost what Linux had not yet written: by default its last half minute.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
import uuid
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.record_log import RecordLog, read_records
from mbarl_ros.storage.transitions import MAX_ROWS, Transitions, from_rows, row_bytes, row_dtype
from mbarl_ros.task import Task

SPOOL_FOLDER = 'spool'
"""Folder in a run folder."""
_IN_MEMORY = 'transitions are in memory only'
_CATCH_UP = 1000  # rows written at once, after a disk was full: about 3 ms
_SEGMENT_ROWS = 1000  # rows of a file, which is deleted once all of them are acknowledged


class Session:
    """Rows of a controller session that are not acknowledged, and the files that hold them."""

    def __init__(self, name: str, first: int = 0) -> None:
        """No rows yet; the next one is number ``first``."""
        self.name = name
        self.rows: deque[bytes] = deque()
        self.stored = self.sent = first  # rows below are on the learner's disk; on their way
        self.most_sent = first
        self.files: deque[tuple[int, Path]] = deque()  # number after the last row in it, path

    @property
    def end(self) -> int:
        """Number of the next row."""
        return self.stored + len(self.rows)

    def acknowledge(self, stored: int) -> None:
        """Forget rows below ``stored``, and files that have no others."""
        for _ in range(stored - self.stored):
            self.rows.popleft()
        self.stored, self.sent = stored, max(stored, self.sent)
        with contextlib.suppress(OSError):  # a folder that is read-only by now: try again next time
            while self.files and self.files[0][0] <= stored:
                self.files[0][1].unlink(missing_ok=True)
                self.files.popleft()


class Spool:
    """Sessions in their order: what earlier processes left behind, then this one's own."""

    def __init__(self, task: Task, spec_hash: str, folder: Path | None) -> None:
        """Take over what lies in ``folder``; None keeps all in memory.

        :raises ConfigError: another controller uses the folder, or what lies there is of another
            task or agent.
        """
        self._dtype: np.dtype = row_dtype(task)
        self._spec_hash = spec_hash
        self._folder = folder
        # Names sort by time, so that sessions are counted in their order.
        name = f'{time.strftime("%Y%m%dT%H%M%S", time.gmtime())}-{uuid.uuid4().hex[:12]}'
        self.own = Session(name)
        self._log: RecordLog | None = None
        self._written = 0  # rows of the own session that are in files
        self._opened_at = 0
        self._fault = ''
        self._sessions: deque[Session] = deque()
        try:
            self._sessions.extend(self._left_behind())
            self.retry()
        except OSError as error:
            self._say(error)
        self.recovered = self.waiting
        self._sessions.append(self.own)

    @property
    def head(self) -> Session:
        """The session that is to be sent now: the next begins when this one is acknowledged."""
        return self._sessions[0]

    @property
    def waiting(self) -> int:
        """Rows that are not acknowledged."""
        return sum(len(session.rows) for session in self._sessions)

    @property
    def problem(self) -> str:
        """Why rows are in memory alone, as safe as this process; empty: they are on disk, too."""
        behind = self._folder is not None and max(self._written, self.own.stored) < self.own.end
        return self._fault or (f'{self._folder}: catching up: {_IN_MEMORY}' if behind else '')

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a transition; its ``sequence`` becomes its number in this session."""
        self.own.rows.append(row_bytes({**row, 'sequence': self.own.end}, self._dtype))
        if self._folder is not None and not self._fault:
            self._write()

    def retry(self) -> None:
        """Write what could not be written; not for the control loop: a bad disk may be slow."""
        self._fault = ''
        if self._folder is not None:
            self._write()

    def next_rows(self) -> tuple[Transitions, int]:
        """At most a message of the head's rows that were not sent, and the number of the first."""
        head = self.head
        first = head.sent
        start = first - head.stored
        rows = from_rows(itertools.islice(head.rows, start, start + MAX_ROWS), self._dtype)
        head.sent = first + len(rows['sequence'])
        head.most_sent = max(head.most_sent, head.sent)
        return rows, first

    def acknowledge(self, stored: int) -> None:
        """The learner has rows below ``stored`` of the head on disk.

        :raises ValueError: it cannot.
        """
        head = self.head
        # An earlier process may have sent more than a power cut left of it here.
        if head is self.own and stored > head.most_sent:
            raise ValueError(
                f'{stored} transitions acknowledged, but only {head.most_sent} were ever sent'
            )
        if stored < head.stored:
            raise ValueError(
                f'{stored} transitions acknowledged, after {head.stored} of session {head.name}: '
                'is it another learner, or its run folder a new one? Restart the controller; '
                f'{head.files[0][1] if head.files else "memory"} has what is waiting'
            )
        head.acknowledge(min(stored, head.end))
        if head is not self.own and not head.rows:
            self._sessions.popleft()

    def close(self) -> None:
        """Leave on disk only what is not acknowledged."""
        self._end_segment()
        self.own.acknowledge(self.own.stored)

    # --- files -------------------------------------------------------------------------------

    def _write(self) -> None:
        own = self.own
        try:
            full = self._written - self._opened_at >= _SEGMENT_ROWS
            log = self._log
            if log is None or full or self._written < own.stored:
                log = self._begin_segment()
            if self._written == own.end - 1:  # the usual case must not walk along a long deque
                rows = [own.rows[-1]]
            else:
                start = self._written - own.stored
                rows = list(itertools.islice(own.rows, start, start + _CATCH_UP))
            for row in rows:
                log.append(row, sync=False)
                self._written += 1
        except OSError as error:
            self._say(error)
            self._end_segment()

    def _say(self, error: OSError) -> None:
        self._fault = f'{self._folder}: {error.strerror}: {_IN_MEMORY}'

    def _begin_segment(self) -> RecordLog:
        assert self._folder is not None
        self._end_segment()
        self._written = self._opened_at = max(self._written, self.own.stored)
        log = RecordLog(self._folder / f'{self.own.name}-{self._written:012d}.log')
        header = {'session': self.own.name, 'first': self._written, 'spec_hash': self._spec_hash}
        try:
            log.append(json.dumps(header).encode(), sync=False)
        except OSError:
            log.close()
            log.path.unlink(missing_ok=True)
            raise
        self._log = log
        return log

    def _end_segment(self) -> None:
        if self._log is not None:
            self._log.close()
            self.own.files.append((self._written, self._log.path))
            self._log = None

    def _left_behind(self) -> list[Session]:
        sessions: list[Session] = []
        if self._folder is None or not self._folder.is_dir():
            return sessions
        for path in sorted(self._folder.glob('*.log')):
            RecordLog(path).close()  # refuses a file that a living controller holds
            header, *rows = list(read_records(path)) or [b'']
            if not rows:
                path.unlink()
                continue
            try:
                meta = json.loads(header)
                name, first, spec_hash = meta['session'], meta['first'], meta['spec_hash']
            except (ValueError, KeyError, TypeError):
                raise ConfigError(f'{path}: is no spool of this package; move it away') from None
            if spec_hash != self._spec_hash:
                raise ConfigError(
                    f"{path}: transitions of '{spec_hash}' are waiting here, this run is "
                    f"'{self._spec_hash}'; give the settings they were made with, or move it away"
                )
            last = sessions[-1] if sessions else None
            if last is None or last.name != name or last.end != first:
                sessions.append(last := Session(name, first))
            last.rows.extend(rows)
            last.files.append((last.end, path))
        return sessions
