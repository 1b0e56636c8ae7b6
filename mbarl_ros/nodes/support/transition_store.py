"""The learner's side of the data path: puts what robots send on disk, each transition once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.record_log import RecordLog
from mbarl_ros.storage.robot_numbers import RobotNumbers
from mbarl_ros.storage.run_files import ROBOTS_FILE, TRANSITIONS_FILE
from mbarl_ros.storage.sequence_tracker import SequenceTracker
from mbarl_ros.storage.transitions import (
    Transitions,
    pack_acknowledgement,
    pack_log_record,
)
from mbarl_ros.task import Task


class Arrival(NamedTuple):
    """A message of transitions; ``first`` is the sequence number of its first in the session."""

    robot: str
    rows: Transitions
    session: str
    first: int


class TransitionStore:
    """The transition log of a run, and what it holds of each robot.

    ``problem`` says what could not be written; controllers keep what is not acknowledged.
    ``duplicates`` counts transitions that came again. Without a run folder nothing is written.
    """

    def __init__(self, run_dir: Path | None, task: Task, spec_hash: str, logger: Any) -> None:
        """Open the log in the run folder; ``logger`` is that of a node.

        :raises ConfigError: another process writes to it, or it is damaged.
        :raises OSError: it cannot be opened.
        """
        self._run_dir, self._task, self._spec, self._logger = run_dir, task, spec_hash, logger
        self._tracker = SequenceTracker()
        self._sessions: dict[str, str] = {}  # the latest of each robot
        self._steps: Counter[str] = Counter()
        self.problem, self.duplicates = '', 0
        self._log: RecordLog | None = None
        self._numbers = RobotNumbers(run_dir / ROBOTS_FILE if run_dir else None)
        if run_dir is not None:
            self._log = RecordLog(run_dir / TRANSITIONS_FILE)

    def load(self) -> Transitions | None:
        """What the log holds, in the order of its arrival; None without a run folder.

        :raises ConfigError: it is of another task, agent or version, lacks transitions, or has some
            of a robot without a name.
        """
        if self._log is None:
            return None
        path = self._log.path
        if torn := self._log.torn_bytes:
            self._logger.warning(f'{path}: cut a torn tail of {torn} bytes')
        rows = self._tracker.load_log(path, self._task, self._spec)
        numbers, counts = np.unique(rows['robot'], return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            robot = self._numbers.name(number)
            if number and not robot:
                raise ConfigError(
                    f'{self._run_dir}/{ROBOTS_FILE}: lacks a robot whose transitions are in '
                    f'{path.name}; restore it from a backup, or use another run_dir'
                )
            self._steps[robot] = count
        self._sessions[''] = self._tracker.last_session
        return rows

    @property
    def total(self) -> int:
        """Environment steps of the run."""
        return self._tracker.total

    def steps_of(self, robot: str) -> int:
        """Steps that are stored of a robot."""
        return self._steps[robot]

    def store(self, arrived: list[Arrival]) -> list[Transitions]:
        """Write what is new, all of it with one wait for the disk; returns it, in order.

        Nothing is returned where it could not be written: controllers will send it again.
        """
        new = [part for arrival in arrived if (part := self._new_part(arrival)) is not None]
        records = [
            pack_log_record(rows, self._task, self._spec, session, first)
            for _, rows, session, first in new
        ]
        log = self._log
        if not new or (
            log is not None and not self.written(TRANSITIONS_FILE, lambda: log.append(*records))
        ):
            for _, rows, session, _ in new:
                self._tracker.record_received(session, -len(rows['sequence']))
            return []
        for robot, rows, *_ in new:
            self._steps[robot] += len(rows['sequence'])
        return [rows for _, rows, *_ in new]

    def _new_part(self, arrival: Arrival) -> Arrival | None:
        """What was not received before, counted as received, with the number of its robot."""
        robot, rows, session, first = arrival
        self._sessions[robot] = session
        new = self._tracker.new_rows(rows, session, first)
        if new is None:
            return None
        count = len(new['sequence'])
        self.duplicates += len(rows['sequence']) - count
        if not count or not self.written(ROBOTS_FILE, partial(self._numbers.number, robot)):
            return None
        new['robot'][:] = self._numbers.number(robot)
        first = self._tracker.received.get(session, 0)
        self._tracker.record_received(session, count)
        return Arrival(robot, new, session, first)

    def written(self, what: str, write: Callable[[], object]) -> bool:
        """Write; False: not possible now, since a full disk may have room again later."""
        try:
            write()
        except OSError as error:
            self.problem = f'{self._run_dir}: {what} not written: {error.strerror or error}'
            self._logger.error(self.problem, throttle_duration_sec=10.0)
            return False
        if f' {what} ' in self.problem:
            self.problem = ''
        return True

    def acknowledgement(self, robot: str) -> bytes:
        """Message to a robot: how many transitions of its latest session are on disk."""
        session = self._sessions.get(robot, '')
        stored = self._tracker.received.get(session, 0)
        return pack_acknowledgement(session, stored, self._tracker.total)

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.close()
