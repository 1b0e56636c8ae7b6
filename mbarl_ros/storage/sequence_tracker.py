"""Which transitions have been received: nothing twice, nothing skipped.

A controller numbers its transitions from 0 in each of its sessions; whoever receives them counts
by session, so that restarts of either side neither lose nor double a transition.
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
    """Counts of received transitions by session, in the order of receipt."""

    def __init__(self) -> None:
        """Nothing received."""
        self.stored: dict[str, int] = {}
        self.total = 0
        self.last_session = ''

    def base(self, session: str) -> int:
        """Environment steps of the run before this session's first transition."""
        return self.total - self.stored.get(session, 0)

    def fresh(self, transitions: Transitions, session: str, first: int) -> Transitions | None:
        """Rows not received before, numbered by the run's environment steps.

        None means a gap: rows before ``first`` are missing and must be sent again.
        """
        self.last_session = session
        expected = self.stored.get(session, 0)
        if first > expected:
            return None
        rows = select(transitions, slice(expected - first, None))
        count = len(rows['sequence'])
        if count:
            rows['sequence'] = self.base(session) + expected + np.arange(count)
        return rows

    def count(self, session: str, rows: int) -> None:
        """Count rows as received, once they are safe."""
        self.stored[session] = self.stored.get(session, 0) + rows
        self.total += rows

    def skip(self, session: str, first: int) -> int:
        """Give up rows before ``first`` that were missed; how many they are."""
        missed = max(first - self.stored.get(session, 0), 0)
        self.count(session, missed)
        return missed

    def rebase(self, session: str, base: int) -> None:
        """Learn from elsewhere how many environment steps lie before a session."""
        self.total = base + self.stored.setdefault(session, 0)

    def replay(self, path: Path, task: Task, spec_hash: str) -> Transitions:
        """All transitions of a log, in order; this tracker then knows them.

        :raises ConfigError: it is of another task, agent or version, damaged, or some are missing.
        """
        dtype, rows = row_dtype(task), []
        try:
            for record in read_records(path):
                part, session, first = unpack_log_record(record, dtype, spec_hash)
                known = self.stored.get(session, 0) - first
                if known < 0:
                    raise wire.WireError('transitions are missing in it')
                fresh = part[known * dtype.itemsize :]
                self.last_session = session
                self.count(session, len(fresh) // dtype.itemsize)
                rows.append(fresh)
            transitions = unpack_log_rows(rows, task)
        except wire.WireError as error:
            raise ConfigError(f'{path}: {error}; use another run_dir') from error
        transitions['sequence'] = np.arange(self.total)
        return transitions
