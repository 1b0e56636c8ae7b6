"""Measures how steadily a control loop runs."""

from __future__ import annotations

from collections import deque

import numpy as np

_WINDOW = 10.0  # s


class LoopTiming:
    """Rate and jitter of a periodic loop over its last ten seconds."""

    def __init__(self, period: float) -> None:
        """``period``: nominal s from one cycle to the next."""
        self._period = period
        self._periods: deque[float] = deque(maxlen=max(round(_WINDOW / period), 2))
        self._last: float | None = None
        self.missed = 0

    def tick(self, now: float) -> None:
        """A cycle starts at ``now`` s."""
        if self._last is not None:
            elapsed = now - self._last
            self._periods.append(elapsed)
            self.missed += max(round(elapsed / self._period) - 1, 0)
        self._last = now

    def pause(self) -> None:
        """Do not count the time until the next cycle."""
        self._last = None

    def values(self) -> dict[str, str]:
        """Values for /diagnostics, empty before the second cycle.

        Rate in Hz, 99th percentile and maximum of the deviation from the period in ms, and the
        number of periods missed since the start.
        """
        if not self._periods:
            return {}
        periods = np.array(self._periods)
        error = 1e3 * np.abs(periods - self._period)
        return {
            'control_rate': f'{1.0 / max(periods.mean(), 1e-9):.2f}',
            'period_error_p99_ms': f'{np.percentile(error, 99):.2f}',
            'period_error_max_ms': f'{error.max():.2f}',
            'missed_periods': str(self.missed),
        }
