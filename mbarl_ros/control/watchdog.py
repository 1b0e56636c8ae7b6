"""Tells when a controller in real time should give up: no state comes, or no command passes."""

from __future__ import annotations

import math

GIVE_UP_AFTER = 5.0  # s without a state, or of nothing but refusals by the safety gate
_COMMAND_AGE = 1.0  # s; a controller that has sent no command for so long was not refused


class ControlWatchdog:
    """Tracks for how long no state has come, or the safety gate has refused all commands.

    Times are those of a steady clock, in s.
    """

    def __init__(self) -> None:
        """Start without any state or command."""
        self.last_command = self._last_state = -math.inf
        self.reset()

    def reset(self) -> None:
        """Start again, as after an activation: forget refusals, and wait for a first state."""
        self._refused_since: float | None = None
        self._expects_states = False

    def receive_state(self, now: float) -> None:
        """Receive a new state."""
        self._last_state, self._expects_states = now, True

    def receive_executed(self, now: float, refused: bool) -> None:
        """Receive what the gate sent to the robot; ``refused``: a stop instead of a command."""
        if not refused:
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = now

    def verdict(self, now: float, gate_state: str) -> str:
        """Why the controller should give up now; empty: go on."""
        if self._expects_states and now - self._last_state > GIVE_UP_AFTER:
            return f'no state for {GIVE_UP_AFTER:g} s'
        # An e-stop is no refusal: a person engages it, and it ends when a person releases it.
        if gate_state.startswith('e-stop') or now - self.last_command > _COMMAND_AGE:
            self._refused_since = None
        if self._refused_since is not None and now - self._refused_since > GIVE_UP_AFTER:
            return f'the gate refused all commands for {GIVE_UP_AFTER:g} s'
        return ''
