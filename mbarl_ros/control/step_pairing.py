"""Pairs each measured state with the command that was executed in it, and with the next state.

States come from the robot, executed commands from the safety gate; they may arrive in any order.
A step is complete, and only then recorded, when its state, the executed command with its source,
and the next state are known. No ROS and no clock, like the gate's logic.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from mbarl_ros.control.safety import TELEOP_SOURCE
from mbarl_ros.schema.robot import LONGEST_STEP, SHORTEST_STEP

StampedState = tuple[np.ndarray, int]  # state [S], stamp in ns


@dataclass(frozen=True)
class Step:
    """Robot ``state`` [S] at ``stamp`` ns, executed ``command`` [C] from ``source``, next state."""

    state: np.ndarray
    stamp: int
    command: np.ndarray
    source: str
    next_state: np.ndarray


class LockstepPairing:
    """Pairing in lockstep, where every executed command makes exactly one step of the world.

    State and executed command come from different processes, so either may arrive first. A person
    may answer a state before the policy does, or instead of it. Where the world went on by itself,
    because a sensor had failed, there was no step; ``left_out`` counts that.
    """

    def __init__(self, period: float) -> None:
        """Start without any state or command; ``period``: s."""
        self._longest = LONGEST_STEP * period * 1e9
        self.left_out = 0
        self._states: dict[int, np.ndarray] = {}
        self._executed: dict[int, tuple[np.ndarray, str]] = {}

    def receive_state(self, state: np.ndarray, stamp: int) -> None:
        """Receive a measured state."""
        if self._states and stamp < max(self._states):  # the world was restarted
            self._states.clear()
            self._executed.clear()
        self._states[stamp] = state

    def receive_executed(self, command: np.ndarray, source: str, stamp: int) -> None:
        """Receive the command that the gate sent in answer to the state of ``stamp``."""
        if self._states and stamp >= min(self._states):
            self._executed[stamp] = command, source

    def completed(self) -> list[Step]:
        """Take the steps that have become complete, in order."""
        steps = []
        stamps = sorted(self._states)
        for stamp, next_stamp in itertools.pairwise(stamps):
            if next_stamp - stamp > self._longest:
                self.left_out += 1
                del self._states[stamp]
                self._executed.pop(stamp, None)
                continue
            if stamp not in self._executed:
                if stamp > max(self._executed, default=-1):
                    break
                # Messages of the gate arrive in order: a later one is here, so this one is lost.
                del self._states[stamp]
                continue
            command, source = self._executed.pop(stamp)
            state, next_state = self._states.pop(stamp), self._states[next_stamp]
            steps.append(Step(state, stamp, command, source, next_state))
        return steps

    @property
    def waiting(self) -> bool:
        """Whether a step is incomplete, or the last state has been answered already."""
        return self.incomplete or any(stamp in self._executed for stamp in self._states)

    @property
    def incomplete(self) -> bool:
        """Whether the world made a step whose executed command has not arrived yet."""
        return len(self._states) > 1

    def reset(self) -> None:
        """Forget all but the latest state."""
        if self._states:
            latest = max(self._states)
            self._states = {latest: self._states[latest]}
            self._executed.clear()


class RealtimePairing:
    """Pairing in real time, where a step is one control period with the last command in it.

    A step begins at the state that control acted on. If control is late, the states that arrived
    meanwhile divide the time into periods. If none arrived in time, there was no step.
    """

    def __init__(self, period: float, teleop_timeout: float) -> None:
        """``period``: s; ``teleop_timeout``: s for which a person has priority over the policy."""
        self._period = period * 1e9
        self._timeout = teleop_timeout
        self._states: list[StampedState] = []  # the start of the period, and all states since
        self._started = False
        self._executed: list[tuple[int, np.ndarray, str]] = []
        self._teleop_until = -np.inf

    def receive_state(self, state: np.ndarray, stamp: int) -> None:
        """Receive a measured state; one with the same stamp again is more complete."""
        if self._states and stamp < self._states[-1][1]:
            self.reset()  # another clock
        if self._states and stamp == self._states[-1][1]:
            if self._started and len(self._states) == 1:
                return  # control has already acted on the state as it was
            self._states.pop()  # another topic has completed it
        self._states.append((state, stamp))

    def receive_executed(self, command: np.ndarray, source: str, stamp: int, now: float) -> None:
        """Receive at ``now`` s an executed command, stamped with the gate's latest state."""
        if source == TELEOP_SOURCE:
            self._teleop_until = now + self._timeout
        self._executed.append((stamp, command, source))

    def tick(self, now: float) -> list[Step]:
        """Control is about to act on the latest state; the steps that end there, in order."""
        if not self._started:
            self._states, self._started = self._states[-1:], bool(self._states)
            return []
        if self._periods_since_start(self._states[-1]) < SHORTEST_STEP:
            return []  # no new state: the period goes on
        start, steps = self._states[0][1], []
        for (state, stamp), (next_state, end) in itertools.pairwise(self._divided()):
            past = [executed for executed in self._executed if executed[0] < end]
            # The last one is kept. It stays in force while a person drives and the gate ignores
            # the policy, also if control runs faster than the person's commands come.
            self._executed = [
                executed
                for executed in self._executed
                if executed[0] >= end or executed is past[-1]
            ]
            # Messages of the gate arrive in order: a later one shows that none came in between.
            reach = round(LONGEST_STEP * self._period) if len(self._executed) > 1 else 0
            known = past and (past[-1][0] >= start - reach or now < self._teleop_until)
            if known and SHORTEST_STEP <= (end - stamp) / self._period < LONGEST_STEP:
                _, command, source = past[-1]
                steps.append(Step(state, stamp, command, source, next_state))
        self._states = self._states[-1:]
        return steps

    def _divided(self) -> list[StampedState]:
        """The first and the last state, and between them the states that begin control periods."""
        total = self._periods_since_start(self._states[-1])
        fewest = math.floor(total + 0.5)
        most = min(math.floor(total / SHORTEST_STEP), len(self._states) - 1)
        for periods in range(fewest, most + 1):
            chosen = self._evenly_divided(periods, total)
            stamps = [stamp for _, stamp in chosen]
            longest = max(after - before for before, after in itertools.pairwise(stamps))
            if longest < LONGEST_STEP * self._period:
                return chosen
        return self._evenly_divided(fewest, total)  # states were lost

    def _evenly_divided(self, periods: int, total: float) -> list[StampedState]:
        """The first and the last state, and between them those nearest to an even division."""

        def position(measured: StampedState) -> float:
            return self._periods_since_start(measured) * periods / total

        def nearest(measured: StampedState) -> int:
            return math.floor(position(measured) + 0.5)

        groups = itertools.groupby(self._states, nearest)
        chosen = [min(group, key=lambda one: abs(position(one) - n)) for n, group in groups]
        return [*chosen[:-1], self._states[-1]]

    def _periods_since_start(self, measured: StampedState) -> float:
        return (measured[1] - self._states[0][1]) / self._period

    def reset(self) -> None:
        """Forget everything; the next state starts a period."""
        self._states.clear()
        self._started = False
        self._executed.clear()
