"""Whether the host held this machine up: one who comes before all others here is late, too.

A machine lent from a host stands still now and then, for up to half a second. Nothing that runs
on it can then be in time, and a test of who is in time has found out nothing. The witness sleeps
5 ms at a time on each processor, at the highest real-time priority, so that no load of the tests'
own can make it late; without the right to that priority (limits.conf(5)) it says nothing.
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
HELD_UP = 0.02
HIGHEST = 99  # of SCHED_FIFO


class Witness:
    """A process beside the tests that notes when it was late."""

    def __init__(self) -> None:
        self._notes = tempfile.TemporaryFile('ab+')
        # it ends when its input does: with us
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=self._notes
        )
        self._since = 0.0
        while not self._read() and self._process.poll() is None:
            time.sleep(0.01)

    def _read(self) -> list[list[str]]:
        # With no position: the writing process has the same one. What is half written waits.
        notes = os.pread(self._notes.fileno(), os.fstat(self._notes.fileno()).st_size, 0)
        *whole, _ = notes.decode().split('\n')
        return [note.split() for note in whole]

    def begin(self) -> None:
        """What was before is of no interest any more."""
        self._since = time.monotonic()

    def held_up(self) -> float:
        """Longest time (s) that a processor was held up since; 0 if it never was for long."""
        noted = (float(late) for at, late in self._read() if float(at) >= self._since)
        return max(noted, default=0.0)

    def close(self) -> None:
        self._process.communicate()
        self._notes.close()


def _note(at: float, late: float) -> None:
    # In one piece: all are late at once. print() is not.
    os.write(sys.stdout.fileno(), f'{at} {late}\n'.encode())


def _watch(processor: int) -> None:
    os.sched_setaffinity(0, {processor})
    while True:
        due = time.monotonic() + PERIOD
        time.sleep(PERIOD)
        now = time.monotonic()
        if now - due >= HELD_UP:
            _note(now, now - due)


def main() -> None:
    """Watch each processor in a thread of its own (whose affinity is its own)."""
    processors = os.sched_getaffinity(0) if real_time(HIGHEST) else ()
    for processor in processors:
        threading.Thread(target=_watch, args=(processor,), daemon=True).start()
    _note(0.0, 0.0)  # it has begun
    sys.stdin.read()


if __name__ == '__main__':
    main()
