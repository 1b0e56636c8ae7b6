"""The safety gate's logic: every command to the robot passes through here.

Pure and clockless: the node passes in the time of a steady clock, so that tests can drive it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mbarl_ros.config import RobotConfig

POLICY_SOURCE, TELEOP_SOURCE, STOP_SOURCE = 'policy', 'teleop', 'stop'


@dataclass(frozen=True)
class Decision:
    """What goes to the robot: values in the profile's order, who asked, and why it differs.

    ``source`` is ``policy``, ``teleop`` or ``stop``; ``reason`` is empty for a command that
    passed unchanged.
    """

    values: np.ndarray
    source: str
    reason: str = ''


class SafetyGate:
    """Limits, stale stops, e-stop and priority of teleop over policy for one robot.

    In lockstep the simulated world stands still between commands, so nothing can go stale.
    """

    def __init__(self, robot: RobotConfig, lockstep: bool, time_factor: float = 1.0) -> None:
        """Start not commanding; the first command is limited against the stop command.

        :param time_factor: robot seconds in a second (simulation faster or slower than life)
        """
        self.robot = robot
        limits = [robot.limits[name] for name in robot.command_names]
        self._low = np.array([limit.low for limit in limits])
        self._high = np.array([limit.high for limit in limits])
        self._rate = np.array([limit.rate or np.inf for limit in limits])
        self._stop = np.array([np.nan if limit.stop == 'hold' else limit.stop for limit in limits])
        self._box = [
            (robot.state_names.index(name), name, low, high)
            for name, (low, high) in robot.workspace.items()
        ]
        self._period = 1.0 / robot.control_rate
        self._lockstep = lockstep
        self._time_factor = time_factor
        self._last = np.where(np.isnan(self._stop), np.clip(0.0, self._low, self._high), self._stop)
        self._last_time: float | None = None
        self._last_teleop = -np.inf
        self._state: np.ndarray | None = None
        self._state_time = -np.inf
        self._moving = False
        self.estop = ''
        self.clipped = 0
        self.refused = 0
        self.state = 'waiting for state'

    def observe(self, state: Sequence[float], now: float) -> None:
        """Take note of a measured state (profile's order) received at ``now`` s."""
        values = np.asarray(state, np.float64)
        if np.isfinite(values).all():
            self._state, self._state_time = values, now
            if self.state in ('waiting for state', 'stale state'):
                self.state = 'ok'

    def fresh(self, now: float) -> bool:
        """Whether a state was measured within the state time-out."""
        return self._state is not None and now - self._state_time <= self.robot.state_timeout

    def request(self, source: str, values: Sequence[float], now: float) -> Decision | None:
        """Decide on a command; None where it is to be ignored: another source has priority.

        A refused command becomes the stop command, so that whatever was wrong, the robot stops.
        In lockstep a command that overtook the first state is ignored, too: the world stands
        still, and whoever asked will ask again.
        """
        if self._lockstep and self._state is None:
            return None
        if source == TELEOP_SOURCE:
            self._last_teleop = now
        elif now - self._last_teleop < self.robot.teleop_timeout:
            return None
        command = np.asarray(values, np.float64)
        reason = self._refusal(source, command, now)
        if reason:
            self.refused += 1
            return self.stop(reason, now)
        self.state = 'ok'
        return self._limited(source, command, now)

    def tick(self, now: float) -> Decision | None:
        """Watchdog, called often: the stop command where one is due now."""
        if self._lockstep:
            return None
        if self.estop:
            return self.stop(self.state, now)
        if not self._moving:
            return None
        if not self.fresh(now):
            return self.stop('stale state', now)
        if self._last_time is not None and now - self._last_time > self.robot.command_timeout:
            return self.stop('stale command', now)
        return None

    def engage_estop(self, reason: str, now: float) -> Decision:
        """Latch the e-stop: only :meth:`release` lets commands through again."""
        self.estop = reason
        return self.stop('e-stop', now)

    def release(self) -> None:
        """Release the e-stop."""
        self.estop = ''
        self.state = 'ok' if self._state is not None else 'waiting for state'

    def stop(self, reason: str, now: float) -> Decision:
        """Stop command: zero or hold, as the profile says for each entry."""
        self.state = reason
        self._moving = False
        values = self.rest
        self._last, self._last_time = values, now
        return Decision(values, STOP_SOURCE, reason)

    @property
    def rest(self) -> np.ndarray:
        """The stop command [C]: what an entry gets for which nobody asks anything."""
        return np.where(np.isnan(self._stop), self._last, self._stop)

    def _refusal(self, source: str, command: np.ndarray, now: float) -> str:
        if self.estop:
            return 'e-stop'
        if command.shape != self._low.shape:
            return f'wrong size: {command.shape}, not {self._low.shape}'
        if not np.isfinite(command).all():
            return 'not finite'
        if self._state is None:
            return 'waiting for state'
        if not self._lockstep and not self.fresh(now):
            return 'stale state'
        if source == POLICY_SOURCE:
            for index, name, low, high in self._box:
                if not low <= self._state[index] <= high:
                    return f'{name} outside the workspace'
        return ''

    def _limited(self, source: str, command: np.ndarray, now: float) -> Decision:
        if self._lockstep or self._last_time is None:
            elapsed = self._period
        else:
            # A pause must not buy a jump: at most two periods' worth of change.
            elapsed = min((now - self._last_time) * self._time_factor, 2 * self._period)
        step = self._rate * elapsed
        low = np.maximum(self._low, self._last - step)
        high = np.maximum(np.minimum(self._high, self._last + step), low)
        values = np.clip(command, low, high)
        clipped = np.flatnonzero(np.abs(values - command) > 1e-9)
        self._last, self._last_time, self._moving = values, now, True
        reason = ''
        if len(clipped):
            self.clipped += 1
            reason = 'clipped ' + ', '.join(self.robot.command_names[i] for i in clipped)
        return Decision(values, source, reason)
