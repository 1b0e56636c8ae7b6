"""Jobs as processes of this machine, which do not outlive the process that started them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Self

from mbarl_ros.storage import lifeline
from mbarl_ros.studies.jobs import THREADS, Engine, Job, Run, cores


class LocalEngine(Engine):
    """Runs jobs on this machine, as many at a time as it has cores or as are wanted."""

    def __init__(self, processes: int = 0) -> None:
        """Nothing starts yet.

        :param processes: how many at a time; 0: the number of cores
        """
        self._processes = processes or cores()
        self._runs: list[_Process] = []
        self._lifeline: tuple[int, int] = (-1, -1)

    @property
    def slots(self) -> int:
        """How many jobs run at a time."""
        return self._processes

    def __enter__(self) -> Self:
        self._lifeline = os.pipe()
        return self

    def __exit__(self, *_: object) -> None:
        for run in self._runs:
            run.stop()
        self._runs.clear()
        for end in self._lifeline:
            os.close(end)

    def start(self, job: Job) -> Run:
        """Start the process of a job."""
        job.log.parent.mkdir(parents=True, exist_ok=True)
        self._runs = [run for run in self._runs if run.code() is None]
        with job.log.open('w') as log:
            run = _Process(start_process(job.module, job.argument, self._lifeline[0], stdout=log))
        self._runs.append(run)
        return run


class _Process(Run):
    def __init__(self, process: subprocess.Popen) -> None:
        self._process = process

    def code(self) -> int | None:
        return self._process.poll()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def start_process(
    module: str, argument: object, lifeline_end: int, **options: object
) -> subprocess.Popen:
    """Start ``python -m module ARGUMENT``; it ends when the other end of the lifeline closes.

    :param lifeline_end: descriptor of the reading end of a pipe
    :param options: of Popen: its output, its folder
    """
    return subprocess.Popen(
        [sys.executable, '-m', module, json.dumps(argument)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        env={**os.environ, **THREADS, lifeline.VARIABLE: str(lifeline_end)},
        pass_fds=(lifeline_end,),
        **options,
    )
