"""Detects stalls of the host: moments in which this whole machine stood still.

A virtual machine stands still now and then, for up to half a second, while its host runs others.
No process on it can meet a deadline then, so a failed timing test proves nothing. The monitor
sleeps 5 ms at a time on each processor at the highest real-time priority: no load of the tests
can delay it, only the host can. Without the right to that priority (limits.conf(5)) it reports
nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time

from mbarl_ros.nodes.support.scheduling import real_time

PERIOD = 0.005  # s
# s late; a stop that is due within 0.1 s takes 0.08 s
STALL = 0.02
HIGHEST_PRIORITY = 99  # of SCHED_FIFO


class HostStallMonitor:
    """A process beside the tests that writes a line for each stall."""

    def __init__(self) -> None:
        self._log = tempfile.TemporaryFile('ab+')
        # it ends when its input is closed: with this process
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=self._log
        )
        self._since = 0.0
        while not self._read() and self._process.poll() is None:
            time.sleep(0.01)

    def _read(self) -> list[list[str]]:
        # pread, because the writing process shares the file position. Drops an unfinished line.
        text = os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0)
        *lines, _ = text.decode().split('\n')
        return [line.split() for line in lines]

    def restart(self) -> None:
        """Forget the stalls up to now."""
        self._since = time.monotonic()

    def longest_stall(self) -> float:
        """Longest stall (s) of a processor since the restart; 0 if there was none."""
        stalls = (float(late) for at, late in self._read() if float(at) >= self._since)
        return max(stalls, default=0.0)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
        self._log.close()


def _report(at: float, late: float) -> None:
    # One write per line: all threads report the same stall at once. print() may split lines.
    os.write(sys.stdout.fileno(), f'{at} {late}\n'.encode())


def _watch(processor: int) -> None:
    os.sched_setaffinity(0, {processor})
    while True:
        due = time.monotonic() + PERIOD
        time.sleep(PERIOD)
        now = time.monotonic()
        if now - due >= STALL:
            _report(now, now - due)


def main() -> None:
    """Watch each processor from a thread of its own, pinned to it."""
    processors = os.sched_getaffinity(0) if real_time(HIGHEST_PRIORITY) else ()
    for processor in processors:
        threading.Thread(target=_watch, args=(processor,), daemon=True).start()
    _report(0.0, 0.0)  # started
    sys.stdin.read()


if __name__ == '__main__':
    main()
