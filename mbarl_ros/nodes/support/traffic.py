"""What a node sends and receives over the line between robot and learner."""

from __future__ import annotations

import time
from collections import deque

_WINDOW = 10.0  # s
SENT, RECEIVED = 'sent', 'received'


class Traffic:
    """Counts the bytes of messages, without what the middleware adds to them.

    The rates are those of the last ten seconds.
    """

    def __init__(self) -> None:
        """Start to count."""
        self._totals = {SENT: 0, RECEIVED: 0}
        self._samples = deque([(time.monotonic(), dict(self._totals))])

    def count(self, direction: str, size: int) -> None:
        """A message of ``size`` bytes was SENT or RECEIVED."""
        self._totals[direction] += size

    def values(self) -> dict[str, str]:
        """Values for /diagnostics: bytes per second in both directions; to be asked regularly."""
        now = time.monotonic()
        while len(self._samples) > 1 and now - self._samples[1][0] >= _WINDOW:
            self._samples.popleft()
        since, before = self._samples[0]
        self._samples.append((now, dict(self._totals)))
        seconds = max(now - since, 1e-3)
        return {
            f'{direction}_bytes_per_second': f'{(total - before[direction]) / seconds:.0f}'
            for direction, total in self._totals.items()
        }


class RoundTrip:
    """From the first publication of transitions to their acknowledgement, on one clock.

    That includes the time until they are on the learner's disk.
    """

    def __init__(self) -> None:
        """Start without a measurement."""
        self._sent: deque[tuple[int, float]] = deque()  # number after the last row, steady s
        self._measured: deque[tuple[float, float]] = deque()  # steady s, seconds

    def sent(self, end: int) -> None:
        """Rows below ``end`` were published; counts unless they had been before."""
        if not self._sent or end > self._sent[-1][0]:
            self._sent.append((end, time.monotonic()))

    def acknowledged(self, end: int) -> None:
        """Rows below ``end`` are on the learner's disk."""
        now = time.monotonic()
        while self._sent and self._sent[0][0] <= end:
            self._measured.append((now, now - self._sent.popleft()[1]))

    def reset(self) -> None:
        """Numbers begin anew, or the line was cut."""
        self._sent.clear()

    def values(self) -> dict[str, str]:
        """Values for /diagnostics: median and maximum (ms) of the last ten seconds."""
        now = time.monotonic()
        while self._measured and now - self._measured[0][0] > _WINDOW:
            self._measured.popleft()
        if not self._measured:
            return {}
        times = sorted(seconds for _, seconds in self._measured)
        return {
            'round_trip_ms': f'{1e3 * times[len(times) // 2]:.1f}',
            'round_trip_max_ms': f'{1e3 * times[-1]:.1f}',
        }
