"""A pool of jobs of one thread each, on any engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from mbarl_ros.studies.jobs import Engine, Job

_POLL_PERIOD = 0.2  # s

AnyJob = TypeVar('AnyJob', bound=Job)


class Pool(Generic[AnyJob]):
    """Runs jobs in their order, as far as ``after`` allows."""

    def __init__(self, jobs: Iterable[AnyJob], engine: Engine) -> None:
        """Nothing starts before :meth:`run`.

        :param engine: where their processes run; not entered yet
        """
        self._waiting = list(jobs)
        self._engine = engine
        self._running: list[AnyJob] = []
        self._failed: list[AnyJob] = []

    def add(self, jobs: Iterable[AnyJob]) -> None:
        """Run these jobs as well, after those that wait; ``poll`` of :meth:`run` may call it."""
        self._waiting += jobs

    def stop(self, jobs: Iterable[AnyJob]) -> None:
        """End these jobs, or do not start them; they have not failed. ``poll`` may call it."""
        for job in jobs:
            if job in self._running:
                job.run.stop()
                self._running.remove(job)
            elif job in self._waiting:
                self._waiting.remove(job)

    @property
    def unfinished(self) -> int:
        """Number of jobs that run or wait."""
        return len(self._running) + len(self._waiting)

    def run(
        self, poll: Callable[[Sequence[AnyJob], Sequence[AnyJob]], None]
    ) -> tuple[list[AnyJob], list[AnyJob]]:
        """Run all jobs; returns those that failed, and those left out because one of them failed.

        No process outlives this call.

        :param poll: called several times a second with the jobs that run, and those of them that
            have just ended
        """
        if not self._waiting:
            return [], []
        with self._engine:
            while self._start_ready() or self._running:
                time.sleep(_POLL_PERIOD)
                # Exit codes first: output that is read after an exit is complete.
                running, ended = list(self._running), [job for job in self._running if job.ended]
                self._running = [job for job in running if job not in ended]
                poll(running, ended)
                self._failed += [job for job in ended if job.failed]
        return self._failed, self._waiting

    def _start_ready(self) -> bool:
        """Start as many jobs as there is room for; whether one was started."""
        unfinished = {job.title for job in (*self._waiting, *self._running, *self._failed)}
        ready = [job for job in self._waiting if not unfinished.intersection(job.after)]
        starting = ready[: max(0, self._engine.slots - len(self._running))] if ready else []
        for job in starting:
            job.run = self._engine.start(job)
            self._running.append(job)
        self._waiting = [job for job in self._waiting if job not in starting]
        return bool(starting)
