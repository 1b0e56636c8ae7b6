"""Limits on one entry of the command vector: range, rate, rate of change of the rate, workspace.

Plain floats: a limiter runs about a thousand times a second, and NumPy is slower on single numbers.
"""

from __future__ import annotations

import math

from mbarl_ros.schema.robot import Bounds, Limit

_TINY = 1e-9  # rounding, in the unit of the command


class EntryLimiter:
    """The last command of one entry, its slope (change per second), and the limits on the next one.

    The value is NaN while a position is to be held that has not been measured yet.
    """

    def __init__(
        self, limit: Limit, box: Bounds | None, horizon: float, unknown: bool = False
    ) -> None:
        """``box``: workspace bounds of the state entry that the command moves or that measures it.

        :param horizon: s for which a velocity may stay in force if no further command comes
        :param unknown: nothing measures this entry, and no command has set it yet
        """
        self.unknown = unknown
        self._low, self._high = limit.low, limit.high
        self._rate = limit.rate or math.inf
        self._rate_change = limit.rate_change or math.inf
        self._stop_value = float(limit.stop) if isinstance(limit.stop, int | float) else None
        self._tracking_error = limit.tracking_error
        self._middle = (limit.low + limit.high) / 2 if limit.wraps else None
        self._box = box if limit.moves else None
        self._horizon = horizon
        if limit.measured and box:
            self._low, self._high = max(limit.low, box[0]), min(limit.high, box[1])
        self.value = self._initial_value() if limit.measured is None else math.nan
        self._slope = 0.0
        self._position = math.nan  # last measurement
        self._lowest = self._highest = math.nan  # position that it may have reached since

    def _initial_value(self) -> float:
        if self._stop_value is not None:
            return self._stop_value
        return min(max(0.0, self._low), self._high)

    def receive_position(self, position: float) -> None:
        """Store the measured position of an entry that has one.

        An angle that wraps counts in the turn of the limits, and never in that of a command: a
        hold that follows an arm which is moved by hand would else leave them.
        """
        if self._middle is not None and math.isfinite(position):
            position = self._middle + math.remainder(position - self._middle, 2.0 * math.pi)
        self._position = self._lowest = self._highest = position

    def extrapolate(self, elapsed: float) -> None:
        """Move on by ``elapsed`` robot seconds with the velocity in force, towards a bound only.

        Motion away from it counts when it is measured: a robot that samples its commands may never
        execute one that was soon replaced.
        """
        if self._box:
            self._lowest += min(self.value * elapsed, 0.0)
            self._highest += max(self.value * elapsed, 0.0)

    def follow_measured(self, elapsed: float, after_gap: bool) -> None:
        """Update the held position of a stopped robot from a new measurement.

        The hold keeps the last command and ignores a gap within the tracking error: a loaded arm
        settles a little below its command, so holding the measurement would let it creep down.
        A larger gap means that the arm was moved by hand or the reading is wrong. The hold then
        follows the measurement at most at ``rate``, so that one wrong reading throws no arm.

        :param elapsed: robot seconds since the last measurement
        :param after_gap: there was no recent measurement; the hold goes to this one at once
        """
        gap = self._position - self.value
        if self._tracking_error and not abs(gap) <= self._tracking_error:
            reach = math.inf if after_gap or math.isnan(gap) else self._rate * elapsed
            limited = abs(gap) > reach  # False for NaN: the first measurement is taken as it is
            self.value = self.value + math.copysign(reach, gap) if limited else self._position

    def start_from_measured(self) -> None:
        """Start the next motion where the arm is measured, if within the tracking error."""
        if self._tracking_error and abs(self._position - self.value) <= self._tracking_error:
            self.value = self._position

    def stop(self, measured: bool) -> None:
        """Set the stop command.

        :param measured: the measurement is fresh; a position is held there, if it is within the
            tracking error
        """
        if self._stop_value is not None:
            self.value = self._stop_value
        elif measured:
            self.start_from_measured()
        self._slope = 0.0

    def limit(self, requested: float, elapsed: float, paused: bool) -> float | None:
        """The requested value within all limits; None if only a stop keeps the hard limits.

        ``low`` and ``high``, the workspace and the tracking error are hard limits. ``rate`` and
        ``rate_change`` hold for every command but a stop. The command brakes in time before a
        bound and before the requested value.

        :param elapsed: robot seconds over which the value may change
        :param paused: the last command is older than that, and its slope counts as 0
        """
        if self.unknown:
            return min(max(requested, self._low), self._high)
        low, high = self._bounds()
        slope = 0.0 if paused else self._slope
        change = self._rate_change * elapsed if elapsed else 0.0
        down = elapsed * max(slope - change, -self._rate) if elapsed else 0.0
        up = elapsed * min(slope + change, self._rate) if elapsed else 0.0
        down = max(down, -self._max_step(self.value - low, elapsed))
        up = min(up, self._max_step(high - self.value, elapsed))
        if down > up + _TINY:
            return None
        difference = requested - self.value
        reach = self._max_step(abs(difference), elapsed)
        step = min(max(math.copysign(reach, difference), down), up)
        return requested if step == difference else min(max(self.value + step, low), high)

    def accept(self, value: float, elapsed: float) -> None:
        """Store ``value`` as the command in force."""
        if elapsed and not self.unknown:
            self._slope = (value - self.value) / elapsed
        self.value, self.unknown = value, False

    def _bounds(self) -> tuple[float, float]:
        """Hard bounds of the next value; outside of them only the way back is open."""
        low, high = min(self._low, self.value), max(self._high, self.value)
        if self._tracking_error:
            low = max(low, self._position - self._tracking_error)
            high = min(high, self._position + self._tracking_error)
        if self._box:
            low = max(low, -self._max_speed(self._lowest - self._box[0]))
            high = min(high, self._max_speed(self._box[1] - self._highest))
        return low, high

    def _max_speed(self, distance: float) -> float:
        """Highest velocity towards a workspace bound at ``distance``.

        It may stay in force for the horizon, and the braking distance at ``rate`` must still fit:
        v * horizon + v^2 / (2 * rate) = distance.
        """
        if distance <= 0:
            return 0.0
        if math.isinf(self._rate):
            return distance / self._horizon
        return self._rate * (
            math.sqrt(self._horizon**2 + 2 * distance / self._rate) - self._horizon
        )

    def _max_step(self, distance: float, elapsed: float) -> float:
        """Largest step towards a bound at ``distance`` that leaves room to brake.

        After a step with slope s, distance - s * elapsed >= s^2 / (2 * rate_change) must hold.
        """
        if distance <= 0 or math.isinf(self._rate_change):
            return distance
        change = self._rate_change
        return elapsed * change * (math.sqrt(elapsed**2 + 2 * distance / change) - elapsed)
