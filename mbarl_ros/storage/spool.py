"""The controller's side of the data path: transitions that the learner has not acknowledged.

See :mod:`mbarl_ros.storage` for the whole path. The spool keeps each transition in memory and on
disk. The control loop never waits for the disk: a crash of the process loses no transition, and a
power cut loses what Linux had not written yet, by default those of the last half minute.
"""

from __future__ import annotations

import contextlib
import errno
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
"""Name of the folder in a run folder."""
_IN_MEMORY = 'transitions are in memory only'
_MAX_WRITE_ROWS = 1000  # rows written at once after a disk was full; takes about 3 ms
_VERSION = 2  # of a spool file
_ANEW = '+'
_SEGMENT_ROWS = 1000  # rows per file; a file is deleted once all its rows are acknowledged


class Session:
    """The unacknowledged rows of one run of a controller, and the files that hold them.

    Sequence numbers count the rows of a session from 0. Rows below ``acknowledged`` are on the
    learner's disk; rows below ``sent`` were published, and are published again if ``sent`` is set
    back; ``max_sent`` is the highest value that ``sent`` has had.
    """

    def __init__(self, name: str, first: int = 0) -> None:
        """Start without rows; the next row gets sequence number ``first``."""
        self.name = name
        self.rows: deque[bytes] = deque()
        self.acknowledged = self.sent = self.max_sent = first
        self.files: deque[tuple[int, Path]] = deque()  # number after the last row, path

    @property
    def end(self) -> int:
        """Sequence number of the next row."""
        return self.acknowledged + len(self.rows)

    def acknowledge(self, end: int) -> None:
        """Drop rows below sequence number ``end``, and files that hold only such rows."""
        for _ in range(end - self.acknowledged):
            self.rows.popleft()
        self.acknowledged, self.sent = end, max(end, self.sent)
        with contextlib.suppress(OSError):  # the folder is read-only now; the next call tries again
            while self.files and self.files[0][0] <= end:
                self.files[0][1].unlink(missing_ok=True)
                self.files.popleft()


class Spool:
    """Sessions in order of time: those that earlier processes left behind, then our own."""

    def __init__(self, task: Task, spec_hash: str, folder: Path | None) -> None:
        """Load what earlier sessions left in ``folder``; None keeps everything in memory.

        :raises ConfigError: another controller uses the folder, or its files belong to another task
            or agent.
        """
        self._dtype: np.dtype = row_dtype(task)
        self._spec_hash = spec_hash
        self._folder = folder
        # Names sort by time, so that sessions are sent in order.
        name = f'{time.strftime("%Y%m%dT%H%M%S", time.gmtime())}-{uuid.uuid4().hex[:12]}'
        self.own = Session(name)
        self._log: RecordLog | None = None
        self._written = 0  # rows of our own session that are in files
        self._segment_start = 0
        self._fault = ''
        self._sessions: deque[Session] = deque()
        try:
            self._sessions.extend(self._load_sessions())
            self.retry()
        except OSError as error:
            self._set_fault(error)
        self.recovered = self.unacknowledged
        self._sessions.append(self.own)

    @property
    def head(self) -> Session:
        """The session that is being sent; the next one follows when all of it is acknowledged."""
        return self._sessions[0]

    @property
    def unacknowledged(self) -> int:
        """Number of unacknowledged rows in all sessions."""
        return sum(len(session.rows) for session in self._sessions)

    @property
    def problem(self) -> str:
        """Why some rows are in memory only and would die with this process; empty: none are."""
        on_disk = max(self._written, self.own.acknowledged)
        behind = self._folder is not None and on_disk < self.own.end
        return self._fault or (f'{self._folder}: catching up: {_IN_MEMORY}' if behind else '')

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a transition; its ``sequence`` becomes its sequence number in our session."""
        self.own.rows.append(row_bytes({**row, 'sequence': self.own.end}, self._dtype))
        if self._folder is not None and not self._fault:
            self._write()

    def retry(self) -> None:
        """Write rows that could not be written; not in the control loop: a bad disk may be slow."""
        self._fault = ''
        if self._folder is not None:
            self._write()

    def next_rows(self) -> tuple[Transitions, int]:
        """Take the next rows of the head to send, at most one message of them.

        :returns: the rows and the sequence number of the first
        """
        head = self.head
        first = head.sent
        start = first - head.acknowledged
        rows = from_rows(itertools.islice(head.rows, start, start + MAX_ROWS), self._dtype)
        head.sent = first + len(rows['sequence'])
        head.max_sent = max(head.max_sent, head.sent)
        return rows, first

    def acknowledge(self, end: int) -> None:
        """The learner has all rows of the head below sequence number ``end`` on disk.

        A learner that lacks what was acknowledged to an earlier process gets the rest, and what is
        still in the files, as a session of another name.

        :raises ValueError: that is impossible.
        """
        head = self.head
        if end < head.acknowledged and head is not self.own and _begins_anew(head):
            return
        # An earlier process may have sent more rows than a power cut left here.
        if head is self.own and end > head.max_sent:
            raise ValueError(
                f'{end} transitions acknowledged, but only {head.max_sent} were ever sent'
            )
        if end < head.acknowledged:
            raise ValueError(
                f'{end} transitions acknowledged, after {head.acknowledged} of session '
                f'{head.name}: is it another learner, or does it use a new run folder? Restart the '
                f'controller; {head.files[0][1] if head.files else "its memory"} holds the '
                'transitions that wait for acknowledgement'
            )
        head.acknowledge(min(end, head.end))
        if head is not self.own and not head.rows:
            self._sessions.popleft()

    def close(self) -> None:
        """Close the files, and keep only those that hold unacknowledged rows."""
        self._end_segment()
        self.own.acknowledge(self.own.acknowledged)

    # --- files -------------------------------------------------------------------------------

    def _write(self) -> None:
        own = self.own
        try:
            full = self._written - self._segment_start >= _SEGMENT_ROWS
            log = self._log
            if log is None or full or self._written < own.acknowledged:
                log = self._begin_segment()
            if self._written == own.end - 1:  # the usual case, fast also for a long deque
                rows = [own.rows[-1]]
            else:
                start = self._written - own.acknowledged
                rows = list(itertools.islice(own.rows, start, start + _MAX_WRITE_ROWS))
            for row in rows:
                log.append(row, sync=False)
                self._written += 1
        except OSError as error:
            self._end_segment()
            self._set_fault(error)

    def _set_fault(self, error: OSError) -> None:
        if error.errno == errno.ENOENT:  # somebody has deleted the folder
            self._written = self.own.acknowledged
            self.own.files.clear()
        self._fault = f'{self._folder}: {error.strerror}: {_IN_MEMORY}'

    def _begin_segment(self) -> RecordLog:
        assert self._folder is not None
        self._end_segment()
        self._written = self._segment_start = max(self._written, self.own.acknowledged)
        log = RecordLog(self._folder / f'{self.own.name}-{self._written:012d}.log')
        header = {
            'version': _VERSION,
            'session': self.own.name,
            'first': self._written,
            'spec_hash': self._spec_hash,
        }
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

    def _load_sessions(self) -> list[Session]:
        sessions: list[Session] = []
        if self._folder is None or not self._folder.is_dir():
            return sessions
        for path in sorted(self._folder.glob('*.log')):
            RecordLog(path).close()  # raises if a running controller has the file open
            header, *rows = list(read_records(path)) or [b'']
            if not rows:
                path.unlink()
                continue
            try:
                meta = json.loads(header)
                name, first, spec_hash = meta['session'], meta['first'], meta['spec_hash']
                version = meta['version']
                # A session that began anew: its old name, and the old number of its first row.
                base = path.stem.partition(_ANEW)[2]
                if base:
                    name, first = f'{name}{_ANEW}{int(base)}', first - int(base)
            except (ValueError, KeyError, TypeError):
                version = None
            if version != _VERSION:
                raise ConfigError(f'{path}: is not a spool file of this version; move it away')
            if spec_hash != self._spec_hash:
                raise ConfigError(
                    f"{path}: transitions of '{spec_hash}' are waiting here, this run is "
                    f"'{self._spec_hash}'; use the task and agent that made them, or move it away"
                )
            last = sessions[-1] if sessions else None
            if last is None or last.name != name or last.end != first:
                sessions.append(last := Session(name, first))
            last.rows.extend(rows)
            last.files.append((last.end, path))
        return sessions


def _begins_anew(session: Session) -> bool:
    """Number the rows of a recovered session from 0, under a name that the learner does not know.

    Its files get other names: after a restart it is the same session. False: they cannot.
    """
    path = session.files[0][1]
    rows = list(read_records(path))[1:]  # also those that were acknowledged
    first = min(session.files[0][0] - len(rows), session.acknowledged)
    name, _, before = session.name.partition(_ANEW)
    base = int(before or 0) + first
    files: deque[tuple[int, Path]] = deque()
    try:
        for end, file in session.files:
            stem = file.stem.partition(_ANEW)[0]
            files.append((end - first, file.rename(file.with_name(f'{stem}{_ANEW}{base}.log'))))
    except OSError:
        return False
    session.rows.extendleft(reversed(rows[: session.acknowledged - first]))
    session.name, session.files = f'{name}{_ANEW}{base}', files
    session.acknowledged = session.sent = session.max_sent = 0
    return True
