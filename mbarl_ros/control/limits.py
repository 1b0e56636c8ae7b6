"""Limits of one command entry: what may follow what was commanded last, whatever is asked.

Plain floats: an entry is limited a thousand times a second, and NumPy takes longer for one number.
"""

from __future__ import annotations

import math

from mbarl_ros.schema.robot import Bounds, Limit

_TINY = 1e-9  # rounding, in the unit of the command


class EntryLimiter:
    """One command entry: its last value, how fast that was changing, and its limits.

    A value that is not known yet, because nothing was measured, is NaN.
    """

    def __init__(
        self, limit: Limit, box: Bounds | None, horizon: float, unknown: bool = False
    ) -> None:
        """``box``: bounds of the state entry that the command moves or that measures it.

        :param horizon: s for which a velocity may stay in force when nobody speaks again
        :param unknown: nothing tells where it stands, until somebody has asked for it
        """
        self.unknown = unknown
        self._low, self._high = limit.low, limit.high
        self._rate = limit.rate or math.inf
        self._rate_change = limit.rate_change or math.inf
        self._rest = float(limit.stop) if isinstance(limit.stop, int | float) else None
        self._tracking_error = limit.tracking_error
        self._box = box if limit.moves else None
        self._horizon = horizon
        if limit.measured and box:
            self._low, self._high = max(limit.low, box[0]), min(limit.high, box[1])
        self.value = self._neutral() if limit.measured is None else math.nan
        self._slope = 0.0
        self._position = math.nan  # measured, and reckoned on from there

    def _neutral(self) -> float:
        return min(max(0.0, self._low), self._high) if self._rest is None else self._rest

    def observe(self, position: float) -> None:
        """Take note of the measured position of an entry that has one."""
        self._position = position

    def advance(self, elapsed: float) -> None:
        """``elapsed`` robot seconds have passed with the last command in force."""
        if self._box:
            self._position += self.value * elapsed

    def settle(self, elapsed: float, anew: bool) -> None:
        """A robot that stands still was measured, ``elapsed`` robot seconds after the last time.

        What was commanded last is held, not what is measured again and again: under load an arm
        stands a little below what it is told, and would creep down. Where it is further away than
        the lead, somebody has moved it, or the reading is wrong: the hold goes there no faster
        than ``rate``, so that one wrong reading throws no arm. ``anew``: nothing was measured for
        a while, and it is where it is.
        """
        gap = self._position - self.value
        if self._tracking_error and not abs(gap) <= self._tracking_error:
            reach = math.inf if anew or math.isnan(gap) else self._rate * elapsed
            far = abs(gap) > reach  # nothing is further than infinitely far, and NaN is not
            self.value = self.value + math.copysign(reach, gap) if far else self._position

    def start(self) -> None:
        """A robot that nobody has told anything for a while begins to move: from where it is."""
        if self._tracking_error and abs(self._position - self.value) <= self._tracking_error:
            self.value = self._position

    def stop(self, measured: bool) -> None:
        """Stop; the hold of a position is the ``measured`` one, if it is fresh and can be right."""
        if self._rest is not None:
            self.value = self._rest
        elif measured:
            self.start()
        self._slope = 0.0

    def limit(self, asked: float, elapsed: float, paused: bool) -> float | None:
        """What becomes of a command; None where only a stop can keep the hard limits.

        Hard are ``low`` and ``high``, the box and the lead; ``rate`` and ``rate_change`` hold
        unless the command stops. Near a bound, and near what is asked, it brakes in time.

        :param elapsed: robot seconds of change that are granted
        :param paused: nobody spoke for longer than that, and the command has stood still since
        """
        if self.unknown:
            return min(max(asked, self._low), self._high)
        low, high = self._bounds()
        slope = 0.0 if paused else self._slope
        change = self._rate_change * elapsed if elapsed else 0.0
        down = elapsed * max(slope - change, -self._rate) if elapsed else 0.0
        up = elapsed * min(slope + change, self._rate) if elapsed else 0.0
        down = max(down, -self._reach(self.value - low, elapsed))
        up = min(up, self._reach(high - self.value, elapsed))
        if down > up + _TINY:
            return None
        wanted = asked - self.value
        reach = self._reach(abs(wanted), elapsed)
        step = min(max(math.copysign(reach, wanted), down), up)
        return asked if step == wanted else min(max(self.value + step, low), high)

    def accept(self, value: float, elapsed: float) -> None:
        """``value`` was sent."""
        if elapsed and not self.unknown:
            self._slope = (value - self.value) / elapsed
        self.value, self.unknown = value, False

    def _bounds(self) -> tuple[float, float]:
        """Hard bounds of the next value; from outside of them only the way back is open."""
        low, high = min(self._low, self.value), max(self._high, self.value)
        if self._tracking_error:
            low = max(low, self._position - self._tracking_error)
            high = min(high, self._position + self._tracking_error)
        if self._box:
            low = max(low, -self._speed(self._position - self._box[0]))
            high = min(high, self._speed(self._box[1] - self._position))
        return low, high

    def _speed(self, room: float) -> float:
        """Velocity that is safe before a wall at distance ``room``.

        It may last for the horizon, and the brake at ``rate`` must still fit in:
        v * horizon + v^2 / (2 * rate) = room.
        """
        if room <= 0:
            return 0.0
        if math.isinf(self._rate):
            return room / self._horizon
        return self._rate * (math.sqrt(self._horizon**2 + 2 * room / self._rate) - self._horizon)

    def _reach(self, room: float, elapsed: float) -> float:
        """Largest step towards a bound at distance ``room`` from which one can still brake.

        After the step with slope s, room - s * elapsed >= s^2 / (2 * rate_change) must be left.
        """
        if room <= 0 or math.isinf(self._rate_change):
            return room
        change = self._rate_change
        return elapsed * change * (math.sqrt(elapsed**2 + 2 * room / change) - elapsed)
