"""The receiver's side of the data path: which transitions have been received.

See :mod:`mbarl_ros.storage` for the whole path. No transition is counted twice, and none is left
out unnoticed, whichever side restarts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage import wire
from mbarl_ros.storage.record_log import read_records
from mbarl_ros.storage.transitions import (
    Transitions,
    row_dtype,
    select,
    unpack_log_record,
    unpack_log_rows,
)
from mbarl_ros.task import Task


class SequenceTracker:
    """Counts received transitions by session; the total is the run's environment steps."""

    def __init__(self) -> None:
        """Start without any transition."""
        self.received: dict[str, int] = {}
        self.total = 0
        self.last_session = ''

    def session_start(self, session: str) -> int:
        """Environment steps of the run before the first transition of this session."""
        return self.total - self.received.get(session, 0)

    def new_rows(self, transitions: Transitions, session: str, first: int) -> Transitions | None:
        """Rows that were not received before; ``sequence`` becomes environment steps of the run.

        :param first: sequence number of the first row in its session
        :returns: None if rows before ``first`` are missing and must be sent again
        """
        self.last_session = session
        expected = self.received.get(session, 0)
        if first > expected:
            return None
        rows = select(transitions, slice(expected - first, None))
        count = len(rows['sequence'])
        if count:
            rows['sequence'] = self.session_start(session) + expected + np.arange(count)
        return rows

    def record_received(self, session: str, rows: int) -> None:
        """Count rows as received; call this once they are safe."""
        self.received[session] = self.received.get(session, 0) + rows
        self.total += rows

    def skip_missing(self, session: str, first: int) -> int:
        """Stop waiting for missing rows before ``first``; how many there are."""
        missing = max(first - self.received.get(session, 0), 0)
        self.record_received(session, missing)
        return missing

    def set_session_start(self, session: str, steps: int) -> None:
        """Set the environment steps of the run before a session, as the learner reports them."""
        self.total = steps + self.received.setdefault(session, 0)

    def load_log(self, path: Path, task: Task, spec_hash: str) -> Transitions:
        """Read all transitions of a transition log, in order, and count them as received.

        :raises ConfigError: the log belongs to another task, agent or version, is damaged, or lacks
            transitions.
        """
        dtype, rows = row_dtype(task), []
        try:
            for record in read_records(path):
                part, session, first = unpack_log_record(record, dtype, spec_hash)
                known = self.received.get(session, 0) - first
                if known < 0:
                    raise wire.WireError('transitions are missing in it')
                new = part[known * dtype.itemsize :]
                self.last_session = session
                self.record_received(session, len(new) // dtype.itemsize)
                rows.append(new)
            transitions = unpack_log_rows(rows, task)
        except wire.WireError as error:
            raise ConfigError(f'{path}: {error}; use another run_dir') from error
        transitions['sequence'] = np.arange(self.total)
        return transitions
