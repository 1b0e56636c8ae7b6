"""Agents x tasks x seeds in parallel processes of one thread each: the work of ``mbarl bench``.

Light: this process only starts and watches the workers, and needs no torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from mbarl_ros.storage import lifeline
from mbarl_ros.studies import seeds
from mbarl_ros.studies.seeds import Seed

POLL = 0.2  # s


@dataclass
class _Run:
    """A seed on its way: its process, folder, and how many of its lines have been shown."""

    title: str
    job: Seed
    folder: Path
    shown: int = field(default=0, init=False)
    process: subprocess.Popen | None = field(default=None, init=False)


def run_jobs(jobs: Sequence[Seed], seeds_wanted: Sequence[int], processes: int) -> list[str]:
    """Run the seeds of jobs that are not finished yet; a sentence about each that failed.

    :param jobs: one for each agent and task; ``budget`` 0 is the task's own
    :param processes: how many at a time; 0: the number of cores
    :raises ConfigError: a job's folder was made with other settings.
    """
    waiting = [run for job in jobs for run in _unfinished(job, seeds_wanted)]
    # all agents of a seed before the next one: something to compare, soon
    waiting.sort(key=lambda run: run.job.seed)
    failed = _run_all(waiting, processes or len(os.sched_getaffinity(0)))
    return [f'{run.title} failed: {_last_words(run)}' for run in failed]


def _unfinished(job: Seed, seeds_wanted: Sequence[int]) -> list[_Run]:
    """Seeds of an agent that have to be run; their folders are checked."""
    task, agent, demonstrations = job.load()
    budget = job.budget or task.config.evaluation.budget
    runs = []
    for seed in seeds_wanted:
        folder = seeds.seed_folder(job.out, task, agent, seed)
        seeds.check_folder(folder, seeds.configurations(task, agent, demonstrations, seed))
        title = f'{task.name} {agent.name} seed {seed}'
        if seeds.finished(folder, agent, budget):
            print(f'{title}: finished before')
        else:
            runs.append(_Run(title, replace(job, seed=seed, budget=budget), folder))
    return runs


def _run_all(waiting: list[_Run], jobs: int) -> list[_Run]:
    """Run them, so many at a time; those that failed. None outlives this process."""
    read_end, write_end = os.pipe()
    going: list[_Run] = []
    failed = []
    try:
        while waiting or going:
            while waiting and len(going) < jobs:
                run = waiting.pop(0)
                run.process = _start(run, read_end)
                going.append(run)
            time.sleep(POLL)
            for run in going:
                _show(run)
            ended = [run for run in going if run.process.poll() is not None]
            going = [run for run in going if run not in ended]
            failed += [run for run in ended if run.process.returncode]
    finally:
        for run in going:
            run.process.kill()
            run.process.wait()
        os.close(read_end)
        os.close(write_end)
    return failed


def _start(run: _Run, read_end: int) -> subprocess.Popen:
    run.folder.mkdir(parents=True, exist_ok=True)
    run.shown = len(seeds.read_lines(run.folder))
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', lifeline.VARIABLE: str(read_end)}
    with (run.folder / seeds.LOG_FILE).open('w') as log:
        return subprocess.Popen(
            [sys.executable, '-m', 'mbarl_ros.studies.worker', json.dumps(asdict(run.job))],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=(read_end,),
        )


def _show(run: _Run) -> None:
    """Print the evaluations of a seed that are new."""
    lines = seeds.read_lines(run.folder)
    if len(lines) < run.shown:  # it has started over
        run.shown = 0
    for line in lines[run.shown :]:
        wide = line['wide_success']
        print(
            f'{run.title}: {line["environment_steps"]} steps, '
            f'deployed {line["deployed_success"]:.2f}'
            + ('' if wide is None else f', wide {wide:.3f}')
            + f', {line["wall_seconds"]:.0f} s',
            flush=True,
        )
    run.shown = len(lines)


def _last_words(run: _Run) -> str:
    log = run.folder / seeds.LOG_FILE
    words = ''
    with contextlib.suppress(OSError):
        words = log.read_text(errors='replace').strip().rpartition('\n')[2]
    return f'{words or f"exit code {run.process.returncode}"}; see {log}'
