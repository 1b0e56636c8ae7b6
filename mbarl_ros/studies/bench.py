"""``mbarl bench``: agents x tasks x seeds as processes of one thread each, on any engine.

This process only starts and monitors the workers; it does not load torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.studies import seeds
from mbarl_ros.studies.jobs import Engine
from mbarl_ros.studies.pool import Pool
from mbarl_ros.studies.seed_jobs import SeedJob, evaluation_text, seed_jobs, stack_jobs
from mbarl_ros.studies.seeds import SeedRun


def run_seeds(
    runs: Sequence[SeedRun],
    seed_numbers: Sequence[int],
    engine: Engine,
    evaluators: int,
    stack: int = 1,
) -> list[str]:
    """Run all seeds that are not finished yet; returns a sentence about each that failed.

    :param runs: one for each agent and task; its ``seed`` is not used, ``budget`` 0 is the task's
    :param engine: where they run
    :param evaluators: processes beside that of each seed, which evaluate its policies
    :param stack: seeds of an agent and task that one process trains as one stack
    :raises ConfigError: the folder of a seed was made with other settings, the engine cannot run
        it, two seeds have one folder, or a preset cannot be stacked.
    """
    waiting = [seed for run in runs for seed in _unfinished(run, seed_numbers, evaluators, stack)]
    _check_folders(waiting)
    # All agents with one seed before the next seed, so that there is something to compare early.
    waiting.sort(key=lambda seed: seed.number)
    failed, _ = Pool(waiting, engine).run(_print_evaluations)
    return [
        ', '.join([job.title, *(f'seed {other.number}' for other in job.stacked)])
        + f' failed: {job.failure}'
        for job in failed
    ]


def _unfinished(
    run: SeedRun, seed_numbers: Sequence[int], evaluators: int, stack: int
) -> list[SeedJob]:
    """Jobs of the seeds of an agent that are not finished; says which are."""
    task, agent, demonstrations = run.load()
    if not len(demonstrations['phase']) and not seeds.pseudo_agent(agent):
        print(f'{task.name}: no demonstrations; {agent.name} practises without them')
    found = seed_jobs(run, seed_numbers, evaluators)
    for number in found.folders.keys() - {job.number for job in found.jobs}:
        print(f'{task.name} {agent.name} seed {number}: already finished')
    if stack == 1 or seeds.pseudo_agent(agent):
        return found.jobs
    if agent.planner is not None:
        raise ConfigError(f"--stack: agent '{agent.name}' plans, each seed by itself; leave it out")
    return stack_jobs(found.jobs, stack)


def _check_folders(waiting: Sequence[SeedJob]) -> None:
    """Refuse two seeds with one folder."""
    taken: set[Path] = set()
    for seed in (each for job in waiting for each in (job, *job.stacked)):
        if seed.folder in taken:
            raise ConfigError(
                f'{seed.folder}: two agents, or two tasks, have this folder; give one of them '
                "another 'name'"
            )
        taken.add(seed.folder)


def _print_evaluations(running: Sequence[SeedJob], _ended: Sequence[SeedJob]) -> None:
    """Print the new evaluations of the seeds that run."""
    for seed in (each for job in running for each in (job, *job.stacked)):
        evaluations = seeds.read_evaluations(seed.folder)
        if len(evaluations) < seed.printed:  # the seed has started over
            seed.printed = 0
        for line in evaluations[seed.printed :]:
            print(f'{seed.title}: {evaluation_text(line)}', flush=True)
        seed.printed = len(evaluations)
