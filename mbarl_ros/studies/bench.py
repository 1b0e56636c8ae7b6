"""``mbarl bench``: agents x tasks x seeds in a pool of processes of one thread each.

This process only starts and monitors the workers; it does not load torch.
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
from mbarl_ros.studies.seeds import SeedRun

_POLL_PERIOD = 0.2  # s


@dataclass
class _Worker:
    """The process of one seed, its folder, and how many of its evaluations have been printed."""

    title: str
    run: SeedRun
    folder: Path
    printed: int = field(default=0, init=False)
    process: subprocess.Popen | None = field(default=None, init=False)


def run_seeds(runs: Sequence[SeedRun], seed_numbers: Sequence[int], processes: int) -> list[str]:
    """Run all seeds that are not finished yet; returns a sentence about each that failed.

    :param runs: one for each agent and task; its ``seed`` is not used, ``budget`` 0 is the task's
    :param processes: how many at a time; 0: the number of cores
    :raises ConfigError: the folder of a seed was made with other settings.
    """
    waiting = [worker for run in runs for worker in _unfinished(run, seed_numbers)]
    # All agents with one seed before the next seed, so that there is something to compare early.
    waiting.sort(key=lambda worker: worker.run.seed)
    failed = _run_all(waiting, processes or len(os.sched_getaffinity(0)))
    return [f'{worker.title} failed: {_failure(worker)}' for worker in failed]


def _unfinished(run: SeedRun, seed_numbers: Sequence[int]) -> list[_Worker]:
    """Workers for the seeds of an agent that are not finished; checks their folders."""
    task, agent, demonstrations = run.load()
    if not len(demonstrations['phase']) and not seeds.pseudo_agent(agent):
        print(f'{task.name}: no demonstrations; {agent.name} practises without them')
    budget, _ = task.config.run_end(run.budget)
    workers = []
    for seed in seed_numbers:
        folder = seeds.seed_folder(run.out, task, agent, seed)
        seeds.check_folder(folder, seeds.configurations(task, agent, demonstrations, seed))
        title = f'{task.name} {agent.name} seed {seed}'
        if seeds.is_finished(folder, agent, budget):
            print(f'{title}: already finished')
        else:
            workers.append(_Worker(title, replace(run, seed=seed, budget=budget), folder))
    return workers


def _run_all(waiting: list[_Worker], processes: int) -> list[_Worker]:
    """Run the workers, ``processes`` at a time; returns those that failed.

    None outlives this process.
    """
    read_end, write_end = os.pipe()
    running: list[_Worker] = []
    failed = []
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                worker = waiting.pop(0)
                worker.process = _start(worker, read_end)
                running.append(worker)
            time.sleep(_POLL_PERIOD)
            # Exit codes first: output that is read after an exit is complete.
            ended = [worker for worker in running if worker.process.poll() is not None]
            for worker in running:
                _print_evaluations(worker)
            running = [worker for worker in running if worker not in ended]
            failed += [worker for worker in ended if worker.process.returncode]
    finally:
        for worker in running:
            worker.process.kill()
            worker.process.wait()
        os.close(read_end)
        os.close(write_end)
    return failed


def _start(worker: _Worker, lifeline_end: int) -> subprocess.Popen:
    worker.folder.mkdir(parents=True, exist_ok=True)
    worker.printed = len(seeds.read_evaluations(worker.folder))
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', lifeline.VARIABLE: str(lifeline_end)}
    with (worker.folder / seeds.LOG_FILE).open('w') as log:
        return subprocess.Popen(
            [sys.executable, '-m', 'mbarl_ros.studies.worker', json.dumps(asdict(worker.run))],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=(lifeline_end,),
        )


def _print_evaluations(worker: _Worker) -> None:
    """Print the new evaluations of a seed."""
    evaluations = seeds.read_evaluations(worker.folder)
    if len(evaluations) < worker.printed:  # the seed has started over
        worker.printed = 0
    for line in evaluations[worker.printed :]:
        wide, total = line['wide_success'], line['deployed_return']
        print(
            f'{worker.title}: {line["environment_steps"]} steps, '
            f'deployed {line["deployed_success"]:.2f}'
            + ('' if total is None else f', return {total:.2f}')
            + ('' if wide is None else f', wide {wide:.3f}')
            + f', {line["wall_seconds"]:.0f} s',
            flush=True,
        )
    worker.printed = len(evaluations)


def _failure(worker: _Worker) -> str:
    """Last line of a worker's log, or its exit code."""
    log = worker.folder / seeds.LOG_FILE
    last_line = ''
    with contextlib.suppress(OSError):
        last_line = log.read_text(errors='replace').strip().rpartition('\n')[2]
    return f'{last_line or f"exit code {worker.process.returncode}"}; see {log}'
