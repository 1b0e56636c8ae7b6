"""``mbarl bench``: agents x tasks x seeds in a pool of processes of one thread each.

This process only starts and monitors the workers; it does not load torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mbarl_ros.studies import seeds
from mbarl_ros.studies.pool import Job, Pool
from mbarl_ros.studies.seeds import SeedRun


@dataclass(eq=False, kw_only=True)
class _Seed(Job):
    """The process of one seed, its folder, and how many of its evaluations have been printed."""

    number: int
    folder: Path
    printed: int


def run_seeds(
    runs: Sequence[SeedRun], seed_numbers: Sequence[int], processes: int, evaluators: int
) -> list[str]:
    """Run all seeds that are not finished yet; returns a sentence about each that failed.

    :param runs: one for each agent and task; its ``seed`` is not used, ``budget`` 0 is the task's
    :param processes: how many seeds at a time; 0: the number of cores
    :param evaluators: processes beside that of each seed, which evaluate its policies
    :raises ConfigError: the folder of a seed was made with other settings.
    """
    waiting = [seed for run in runs for seed in _unfinished(run, seed_numbers, evaluators)]
    # All agents with one seed before the next seed, so that there is something to compare early.
    waiting.sort(key=lambda seed: seed.number)
    failed, _ = Pool(waiting, processes).run(_print_evaluations)
    return [f'{seed.title} failed: {seed.failure}' for seed in failed]


def _unfinished(run: SeedRun, seed_numbers: Sequence[int], evaluators: int) -> list[_Seed]:
    """The seeds of an agent that are not finished; checks their folders."""
    task, agent, demonstrations = run.load()
    if not len(demonstrations['phase']) and not seeds.pseudo_agent(agent):
        print(f'{task.name}: no demonstrations; {agent.name} practises without them')
    budget, _ = task.config.run_end(run.budget)
    unfinished = []
    for number in seed_numbers:
        folder = seeds.seed_folder(run.out, task, agent, number)
        seeds.check_folder(folder, seeds.configurations(task, agent, demonstrations, number))
        title = f'{task.name} {agent.name} seed {number}'
        if seeds.is_finished(folder, agent, budget):
            print(f'{title}: already finished')
            continue
        seed = _Seed(
            title=title,
            module='mbarl_ros.studies.worker',
            argument=asdict(replace(run, seed=number, budget=budget)) | {'evaluators': evaluators},
            log=folder / seeds.LOG_FILE,
            number=number,
            folder=folder,
            printed=len(seeds.read_evaluations(folder)),
        )
        unfinished.append(seed)
    return unfinished


def _print_evaluations(running: Sequence[_Seed], _ended: Sequence[_Seed]) -> None:
    """Print the new evaluations of the seeds that run."""
    for seed in running:
        evaluations = seeds.read_evaluations(seed.folder)
        if len(evaluations) < seed.printed:  # the seed has started over
            seed.printed = 0
        for line in evaluations[seed.printed :]:
            wide, total = line['wide_success'], line['deployed_return']
            print(
                f'{seed.title}: {line["environment_steps"]} steps, '
                f'deployed {line["deployed_success"]:.2f}'
                + ('' if total is None else f', return {total:.2f}')
                + ('' if wide is None else f', wide {wide:.3f}')
                + f', {line["wall_seconds"]:.0f} s',
                flush=True,
            )
        seed.printed = len(evaluations)
