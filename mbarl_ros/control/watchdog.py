"""When a controller gives up in real time: where nothing that it asks for can be right."""

from __future__ import annotations

import math

GIVE_UP_AFTER = 5.0  # seconds without a state, or of nothing but refusals by the gate
_ASKED = 1.0  # s; what nobody has asked for since then was not refused


class ControlWatchdog:
    """How long states have stayed away, or the safety gate has refused all commands.

    Times are those of a steady clock, in s.
    """

    def __init__(self) -> None:
        """Nothing has happened."""
        self.commanded = self.state_heard = -math.inf
        self.renew()

    def renew(self) -> None:
        """Begin anew, as after an activation: nothing was refused, no state was missed."""
        self._refused_since: float | None = None
        self._waits_for_state = False

    def hear_state(self, now: float) -> None:
        """A new state has come."""
        self.state_heard, self._waits_for_state = now, True

    def hear_executed(self, now: float, refused: bool) -> None:
        """The gate has said what it sent to the robot; ``refused``: a stop instead of a command."""
        if not refused:
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = now

    def verdict(self, now: float, gate_state: str) -> str:
        """Why to give up now; empty: go on."""
        if self._waits_for_state and now - self.state_heard > GIVE_UP_AFTER:
            return f'no state for {GIVE_UP_AFTER:g} s'
        # An e-stop is a person's, and ends when it is released.
        if gate_state.startswith('e-stop') or now - self.commanded > _ASKED:
            self._refused_since = None
        if self._refused_since is not None and now - self._refused_since > GIVE_UP_AFTER:
            return f'the gate refused all commands for {GIVE_UP_AFTER:g} s'
        return ''
