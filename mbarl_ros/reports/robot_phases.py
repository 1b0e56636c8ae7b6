"""Puts the transitions of several robots, which arrive mixed, into whole phases of one robot."""

from __future__ import annotations

import numpy as np

from mbarl_ros.storage.transitions import Transitions, concatenate, select, stack
from mbarl_ros.task import Task


class RobotPhases:
    """Keeps the rows of each robot's running phase until it ends or is as long as phases can be.

    So each robot's rows follow one another in the replay, whose chains need that. Rows of a run
    with one robot (number 0) pass at once. What comes out depends on the order of the rows alone,
    not on how they are divided among calls.
    """

    def __init__(self, task: Task) -> None:
        """Start without rows."""
        self._longest = max(task.config.phases.limits)
        self._held = stack([], task)

    @property
    def held(self) -> int:
        """Number of rows that wait for the end of their phase."""
        return len(self._held['robot'])

    def add(self, transitions: Transitions) -> tuple[Transitions, np.ndarray]:
        """Add rows in the order of their arrival; without ``robot`` they are of the only one.

        :returns: the rows that are due, and where among them a phase, or what is known of it, ends:
            bool [rows]
        """
        if not self.held and not np.any(transitions.get('robot', 0)):
            return transitions, _ended(transitions)
        rows = concatenate([self._held, transitions])
        ended = _ended(rows)
        running: dict[int, list[int]] = {}
        due: list[int] = []
        ends: list[int] = []
        for row, (robot, end) in enumerate(
            zip(rows['robot'].tolist(), ended.tolist(), strict=True)
        ):
            phase = running.setdefault(robot, [])
            phase.append(row)
            if end or robot == 0 or len(phase) >= self._longest:
                due += phase
                if end or robot:
                    ends.append(len(due) - 1)
                phase.clear()
        self._held = select(rows, sorted(row for phase in running.values() for row in phase))
        is_end = np.zeros(len(due), bool)
        is_end[ends] = True
        return select(rows, due), is_end

    def rest(self) -> Transitions:
        """The rows that wait, robot by robot."""
        return select(self._held, np.argsort(self._held['robot'], kind='stable'))


def _ended(rows: Transitions) -> np.ndarray:
    return (np.asarray(rows['terminated']) | np.asarray(rows['truncated'])).astype(bool)
