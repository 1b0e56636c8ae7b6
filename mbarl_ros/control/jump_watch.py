"""Watches a running robot's state for jumps, of which a second publisher is the usual cause."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from mbarl_ros.schema.findings import WARNING, Finding
from mbarl_ros.schema.plausible import (
    jump_fact,
    jump_question,
    jumps,
    measured_unit_question,
    speeds,
)
from mbarl_ros.schema.robot import RobotConfig

_HISTORY = 5000  # jumps kept


class JumpWatch:
    """Compares each value of the state with the last one, whoever published it."""

    def __init__(self, robot: RobotConfig) -> None:
        """Start without any value."""
        self._robot, self._period = robot, 1 / robot.control_rate
        self._topics = [topic.topic for topic in robot.state for _ in topic.fields]
        known, names = speeds(robot), robot.state_names
        self._speeds = np.array([known.get(name, math.inf) for name in names])
        self._values = np.full(len(names), np.nan)
        self._times = np.full((len(names), 2), np.nan)  # s: by stamp, by the steady clock
        # Received at (s), index of the entry, value before and after.
        self._jumps: deque[tuple[float, int, float, float]] = deque(maxlen=_HISTORY)

    def receive(
        self, now: float, entries: np.ndarray, stamp: int | None, values: np.ndarray
    ) -> None:
        """Receive values [n] of ``entries`` (indices of the state vector) of one message.

        :param now: steady clock, s
        :param stamp: header stamp in ns; 0 or None for a message without
        """
        times = np.array([stamp * 1e-9 if stamp else np.nan, now])
        by_stamp, by_clock = (times - self._times[entries]).T
        elapsed = np.where(np.isnan(by_stamp), by_clock, by_stamp)
        before = self._values[entries]
        bad = jumps(values - before, elapsed, self._speeds[entries], self._period)
        for i in np.flatnonzero(bad):
            self._jumps.append((now, int(entries[i]), before[i], values[i]))
        self._values[entries], self._times[entries] = values, times

    def findings(self, now: float, window: float) -> list[Finding]:
        """A warning for each entry that jumped in the last ``window`` s."""
        findings = []
        recent = [jump for jump in self._jumps if now - jump[0] <= window]
        for index, name in enumerate(self._robot.state_names):
            found = [(before, after) for _, entry, before, after in recent if entry == index]
            if not found:
                continue
            before, after = np.array(found).T
            topic = self._topics[index]
            unit = measured_unit_question(self._robot, name, after)
            fact = jump_fact(before, after, self._speeds[index], self._period)
            text = f'{topic}: {name} {fact}; {unit or jump_question(topic)}'
            findings.append(Finding(WARNING, text))
        return findings
