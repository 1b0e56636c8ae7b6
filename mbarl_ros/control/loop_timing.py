"""How steadily a control loop runs."""

from __future__ import annotations

from collections import deque

import numpy as np

_WINDOW = 10.0  # seconds


class LoopTiming:
    """Rate and jitter of a periodic loop over its last ten seconds."""

    def __init__(self, period: float) -> None:
        """``period``: s from one turn to the next, as it should be."""
        self._period = period
        self._periods: deque[float] = deque(maxlen=max(round(_WINDOW / period), 2))
        self._last: float | None = None
        self.turns = 0
        self.missed = 0

    def tick(self, now: float) -> None:
        """A turn begins at ``now`` s."""
        if self._last is not None:
            elapsed = now - self._last
            self._periods.append(elapsed)
            self.missed += max(round(elapsed / self._period) - 1, 0)
        self._last = now
        self.turns += 1

    def pause(self) -> None:
        """The time until the next turn is none of the loop's."""
        self._last = None

    def values(self) -> dict[str, str]:
        """Rate in Hz, periods missed since the start, and 99th percentile and greatest deviation
        from the period in ms.
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
