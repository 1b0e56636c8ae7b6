"""Which command was executed in which state: states and echoes of the safety gate, paired.

Pure and clockless, like the gate's logic. A step is complete, and only then recorded, when its
state, what was executed in it, whoever asked for that, and the state that it led to are known.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from mbarl_ros.control.safety import TELEOP_SOURCE


@dataclass(frozen=True)
class Step:
    """Robot ``state`` [S] at ``stamp`` ns, executed ``command`` [C] by ``source``, next state."""

    state: np.ndarray
    stamp: int
    command: np.ndarray
    source: str
    next_state: np.ndarray


class LockstepSteps:
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
                break
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


class RealtimeSteps:
    """In real time a step is one control period, with the command last executed in it."""

    def __init__(self, teleop_timeout: float) -> None:
        """``teleop_timeout``: s for which the gate ignores the policy after a person's command."""
        self._timeout = teleop_timeout
        self._start: tuple[np.ndarray, int] | None = None
        self._echoes: list[tuple[int, np.ndarray, str]] = []
        self._by_hand_until = -np.inf

    def execute(self, command: np.ndarray, source: str, stamp: int, now: float) -> None:
        """The gate passed on a command at ``now`` s; its stamp is of the state it answers."""
        if source == TELEOP_SOURCE:
            self._by_hand_until = now + self._timeout
        self._echoes.append((stamp, command, source))

    def tick(self, state: np.ndarray, stamp: int, now: float) -> Step | None:
        """A control period ends and the next begins; the step, if it is complete."""
        start = self._start
        if start is not None and start[1] == stamp:
            return None  # no new state: the period goes on
        self._start = state, stamp
        past = [echo for echo in self._echoes if echo[0] < stamp]
        # The last is kept: while a person drives, the gate ignores us and it stays in force, also
        # where control runs faster than the person's hand.
        self._echoes = [*past[-1:], *(echo for echo in self._echoes if echo[0] >= stamp)]
        if start is None or not past:
            return None
        answered, command, source = past[-1]
        if answered < start[1] and now >= self._by_hand_until:
            return None  # what was executed is not known
        return Step(*start, command, source, state)

    def forget(self) -> None:
        """Begin anew with the next period."""
        self._start = None
        self._echoes.clear()
