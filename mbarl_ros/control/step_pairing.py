"""Which command was executed in which state: states and echoes of the safety gate, paired.

Pure and clockless, like the gate's logic. A step is complete, and only then recorded, when its
state, what was executed in it, whoever asked for that, and the state that it led to are known.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from mbarl_ros.control.safety import TELEOP_SOURCE

_SHORTEST, _LONGEST = 0.5, 1.5  # control periods: what is none of these is no step


@dataclass(frozen=True)
class Step:
    """Robot ``state`` [S] at ``stamp`` ns, executed ``command`` [C] by ``source``, next state."""

    state: np.ndarray
    stamp: int
    command: np.ndarray
    source: str
    next_state: np.ndarray


class LockstepPairing:
    """In lockstep every executed command made exactly one step of the world.

    State and echo come from different processes, so either may be heard first; and a person may
    answer a state before or instead of the policy.
    """

    def __init__(self) -> None:
        """Nothing heard."""
        self._states: dict[int, np.ndarray] = {}
        self._executed: dict[int, tuple[np.ndarray, str]] = {}

    def observe(self, state: np.ndarray, stamp: int) -> None:
        """A state was measured."""
        if self._states and stamp < max(self._states):  # the world was started anew
            self._states.clear()
            self._executed.clear()
        self._states[stamp] = state

    def execute(self, command: np.ndarray, source: str, stamp: int) -> None:
        """The gate passed on an answer to the state of ``stamp``."""
        if self._states and stamp >= min(self._states):
            self._executed[stamp] = command, source

    def completed(self) -> list[Step]:
        """Steps that have become complete, in order."""
        steps = []
        stamps = sorted(self._states)
        for stamp, following in itertools.pairwise(stamps):
            if stamp not in self._executed:
                if stamp > max(self._executed, default=-1):
                    break
                # The gate is heard in order: if not by now, what was executed is never known.
                del self._states[stamp]
                continue
            command, source = self._executed.pop(stamp)
            steps.append(
                Step(self._states.pop(stamp), stamp, command, source, self._states[following])
            )
        return steps

    @property
    def waiting(self) -> bool:
        """Whether something about an earlier step is still to come, or the last is answered."""
        return self.incomplete or any(stamp in self._executed for stamp in self._states)

    @property
    def incomplete(self) -> bool:
        """Whether a step was made of which it is not known yet what was executed."""
        return len(self._states) > 1

    def forget(self) -> None:
        """Keep nothing but the latest state."""
        if self._states:
            latest = max(self._states)
            self._states = {latest: self._states[latest]}
            self._executed.clear()


class RealtimePairing:
    """In real time a step is one control period, with the command last executed in it.

    It begins at the state that control acted on. Where control is late, the states that came in
    between divide the time into periods; where none came in time, there was no step.
    """

    def __init__(self, period: float, teleop_timeout: float) -> None:
        """``period``: s; ``teleop_timeout``: s that the gate ignores the policy after a person."""
        self._period = period * 1e9
        self._timeout = teleop_timeout
        self._states: list[tuple[np.ndarray, int]] = []  # that the period began with, and later
        self._begun = False
        self._echoes: list[tuple[int, np.ndarray, str]] = []
        self._by_hand_until = -np.inf

    def observe(self, state: np.ndarray, stamp: int) -> None:
        """A state was measured; with the same stamp once more, it is more complete."""
        if self._states and stamp < self._states[-1][1]:
            self.forget()  # another clock
        if self._states and stamp == self._states[-1][1]:
            if self._begun and len(self._states) == 1:
                return  # control has acted on what was known
            self._states.pop()  # another topic has completed it
        self._states.append((state, stamp))

    def execute(self, command: np.ndarray, source: str, stamp: int, now: float) -> None:
        """The gate passed on a command at ``now`` s; its stamp is of the gate's latest state."""
        if source == TELEOP_SOURCE:
            self._by_hand_until = now + self._timeout
        self._echoes.append((stamp, command, source))

    def tick(self, now: float) -> list[Step]:
        """Control is about to act on the latest state; the steps that end with it, in order."""
        if not self._begun:
            self._states, self._begun = self._states[-1:], bool(self._states)
            return []
        if self._since_begun(self._states[-1]) < _SHORTEST:
            return []  # no new state: the period goes on
        begun, steps = self._states[0][1], []
        for (state, stamp), (following, until) in itertools.pairwise(self._divided()):
            past = [echo for echo in self._echoes if echo[0] < until]
            # The last is kept: while a person drives, the gate ignores us and it stays in force,
            # also where control runs faster than the person's hand.
            self._echoes = [echo for echo in self._echoes if echo[0] >= until or echo is past[-1]]
            # The gate is heard in order: by a later word it said none in between.
            reach = round(_LONGEST * self._period) if len(self._echoes) > 1 else 0
            known = past and (past[-1][0] >= begun - reach or now < self._by_hand_until)
            if known and _SHORTEST <= (until - stamp) / self._period < _LONGEST:
                _, command, source = past[-1]
                steps.append(Step(state, stamp, command, source, following))
        self._states = self._states[-1:]
        return steps

    def _divided(self) -> list[tuple[np.ndarray, int]]:
        """The first state, the last, and in between where periods began, if there is such a way."""
        total = self._since_begun(self._states[-1])
        fewest = math.floor(total + 0.5)
        most = min(math.floor(total / _SHORTEST), len(self._states) - 1)
        for periods in range(fewest, most + 1):
            chosen = self._evenly(periods, total)
            stamps = [stamp for _, stamp in chosen]
            longest = max(after - before for before, after in itertools.pairwise(stamps))
            if longest < _LONGEST * self._period:
                return chosen
        return self._evenly(fewest, total)  # states were lost

    def _evenly(self, periods: int, total: float) -> list[tuple[np.ndarray, int]]:
        """The first state, the last, and the nearest to each whole share of the time."""

        def at(measured: tuple[np.ndarray, int]) -> float:
            return self._since_begun(measured) * periods / total

        def nearest(measured: tuple[np.ndarray, int]) -> int:
            return math.floor(at(measured) + 0.5)

        groups = itertools.groupby(self._states, nearest)
        chosen = [min(group, key=lambda one: abs(at(one) - number)) for number, group in groups]
        return [*chosen[:-1], self._states[-1]]

    def _since_begun(self, measured: tuple[np.ndarray, int]) -> float:
        """Periods since the first state."""
        return (measured[1] - self._states[0][1]) / self._period

    def forget(self) -> None:
        """Begin anew with the next state."""
        self._states.clear()
        self._begun = False
        self._echoes.clear()
