"""Seeds of a bench as jobs, and what their evaluations say while they run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from mbarl_ros.studies import seeds
from mbarl_ros.studies.jobs import Job, Luggage
from mbarl_ros.studies.luggage import seed_luggage
from mbarl_ros.studies.seeds import SeedRun


@dataclass(eq=False, kw_only=True)
class SeedJob(Job):
    """The process of one seed, and how many of its evaluations have been printed.

    ``stacked``: further seeds that the same process trains with this one.
    """

    number: int
    printed: int
    stacked: list[SeedJob] = field(default_factory=list)


@dataclass(frozen=True)
class SeedJobs:
    """The seeds of an agent on a task: folder of each, and jobs for those that are not finished."""

    folders: dict[int, Path]
    jobs: list[SeedJob]


def seed_jobs(run: SeedRun, numbers: Sequence[int], evaluators: int) -> SeedJobs:
    """Jobs of the seeds of an agent that are not finished; checks and prepares their folders.

    :param run: its ``seed`` is not used, ``budget`` 0 is the task's
    :param evaluators: processes beside that of each seed, which evaluate its policies
    :raises ConfigError: the folder of a seed was made with other settings.
    """
    task, agent, demonstrations = run.load()
    budget, _ = task.config.run_end(run.budget)
    folders, jobs = {}, []
    for number in numbers:
        folder = folders[number] = seeds.seed_folder(run.out, task, agent, number)
        configs = seeds.configurations(task, agent, demonstrations, number)
        seeds.check_folder(folder, configs)
        if seeds.is_finished(folder, agent, budget):
            continue
        seed = replace(run, seed=number, budget=budget)
        argument = asdict(seed) | {'evaluators': evaluators}
        jobs.append(
            SeedJob(
                title=f'{task.name} {agent.name} seed {number}',
                module='mbarl_ros.studies.worker',
                argument=argument,
                folder=folder,
                log=folder / seeds.LOG_FILE,
                pack=partial(_pack, seed, argument, folder, configs),
                number=number,
                printed=len(seeds.read_evaluations(folder)),
            )
        )
    return SeedJobs(folders, jobs)


def _pack(
    run: SeedRun, argument: Mapping[str, Any], folder: Path, configs: dict[str, dict[str, Any]]
) -> Luggage:
    """Luggage of a seed; its configuration is written here, with the paths as they are here."""
    seeds.prepare_folder(folder, configs)
    return seed_luggage(run, argument, folder)


def stack_jobs(jobs: Sequence[SeedJob], size: int) -> list[SeedJob]:
    """Jobs of one agent and task, up to ``size`` of them in one process."""
    stacks = []
    for first in range(0, len(jobs), size):
        job, *others = jobs[first : first + size]
        job.stacked = others
        job.argument = {**job.argument, 'stack': [other.number for other in others]}
        stacks.append(job)
    return stacks


def evaluation_text(line: Mapping[str, Any]) -> str:
    """What an evaluation says, for a person."""
    wide, total = line['wide_success'], line['deployed_return']
    return (
        f'{line["environment_steps"]} steps, deployed {line["deployed_success"]:.2f}'
        + ('' if total is None else f', return {total:.2f}')
        + ('' if wide is None else f', wide {wide:.3f}')
        + f', {line["wall_seconds"]:.0f} s'
    )
