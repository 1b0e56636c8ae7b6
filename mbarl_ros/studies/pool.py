"""A pool of processes of one thread each, which do not outlive the process that started them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from mbarl_ros.storage import lifeline

_POLL_PERIOD = 0.2  # s


@dataclass(eq=False, kw_only=True)
class Job:
    """A Python module to run as a process: ``python -m module ARGUMENT``.

    ``argument`` reaches it as JSON, its output goes to file ``log``, and it starts when the jobs
    ``after`` (titles) have succeeded.
    """

    title: str
    module: str
    argument: dict[str, Any]
    log: Path
    after: tuple[str, ...] = ()
    process: subprocess.Popen | None = field(default=None, init=False)

    @property
    def ended(self) -> bool:
        """Whether the process has run and ended."""
        return self.process is not None and self.process.poll() is not None

    @property
    def failed(self) -> bool:
        """Whether the process has ended with an error."""
        return self.ended and self.process.returncode != 0

    @property
    def failure(self) -> str:
        """Why it failed: last line of its log, or its exit code."""
        last_line = ''
        with contextlib.suppress(OSError):
            last_line = self.log.read_text(errors='replace').strip().rpartition('\n')[2]
        return f'{last_line or f"exit code {self.process.returncode}"}; see {self.log}'


AnyJob = TypeVar('AnyJob', bound=Job)


class Pool(Generic[AnyJob]):
    """Runs jobs in their order, as far as ``after`` allows."""

    def __init__(self, jobs: Sequence[AnyJob], processes: int) -> None:
        """Nothing starts before :meth:`run`.

        :param processes: how many at a time; 0: the number of cores
        """
        self._waiting = list(jobs)
        self._processes = processes or len(os.sched_getaffinity(0))
        self._running: list[AnyJob] = []
        self._failed: list[AnyJob] = []

    def run(
        self, poll: Callable[[Sequence[AnyJob], Sequence[AnyJob]], None]
    ) -> tuple[list[AnyJob], list[AnyJob]]:
        """Run all jobs; returns those that failed, and those left out because one of them failed.

        No process outlives this call.

        :param poll: called several times a second with the jobs that run, and those of them that
            have just ended
        """
        read_end, write_end = os.pipe()
        try:
            while self._start_ready(read_end) or self._running:
                time.sleep(_POLL_PERIOD)
                # Exit codes first: output that is read after an exit is complete.
                ended = [job for job in self._running if job.ended]
                poll(self._running, ended)
                self._running = [job for job in self._running if job not in ended]
                self._failed += [job for job in ended if job.failed]
        finally:
            for job in self._running:
                job.process.kill()
                job.process.wait()
            os.close(read_end)
            os.close(write_end)
        return self._failed, self._waiting

    def _start_ready(self, lifeline_end: int) -> bool:
        """Start as many jobs as there is room for; whether one was started."""
        unfinished = {job.title for job in (*self._waiting, *self._running, *self._failed)}
        ready = [job for job in self._waiting if not unfinished.intersection(job.after)]
        starting = ready[: self._processes - len(self._running)]
        for job in starting:
            job.process = _start(job, lifeline_end)
            self._running.append(job)
        self._waiting = [job for job in self._waiting if job not in starting]
        return bool(starting)


def _start(job: Job, lifeline_end: int) -> subprocess.Popen:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', lifeline.VARIABLE: str(lifeline_end)}
    with job.log.open('w') as log:
        return subprocess.Popen(
            [sys.executable, '-m', job.module, json.dumps(job.argument)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=(lifeline_end,),
        )
