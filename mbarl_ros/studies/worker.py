"""The process of one seed of ``mbarl bench``: practises, evaluates, and fills the seed's folder."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbarl_ros.control.policy import DEPLOYED, Policy, pack_policy
from mbarl_ros.learning.evaluation import WideStarts, evaluate, evaluation_line
from mbarl_ros.learning.imitation import clone
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.storage import lifeline
from mbarl_ros.storage.files import lock_file, write_file
from mbarl_ros.storage.run_files import (
    EVALUATIONS_FILE,
    KEPT_POLICY_FILE,
    LOCK_FILE,
    POLICY_FILE,
    keeps_policy,
)
from mbarl_ros.storage.transitions import PHASES, Transitions
from mbarl_ros.studies import seeds
from mbarl_ros.studies.direct import DirectRun, run, run_stacked
from mbarl_ros.studies.evaluators import Evaluators
from mbarl_ros.task import Task

Arrays = dict[str, np.ndarray]


def run_seed(
    task: Task,
    agent: AgentConfig,
    demonstrations: Transitions,
    seed: int,
    budget: int,
    folder: Path,
    evaluators: int = 1,
) -> list[dict[str, Any]]:
    """As :func:`run_seeds`, of one seed; returns the lines of ``evaluations.jsonl``."""
    run_seeds(task, agent, demonstrations, {seed: folder}, budget, evaluators)
    return seeds.read_evaluations(folder)


def run_seeds(
    task: Task,
    agent: AgentConfig,
    demonstrations: Transitions,
    folders: Mapping[int, Path],
    budget: int,
    evaluators: int = 1,
) -> None:
    """Practise for ``budget`` environment steps in each seed; several are trained as one stack.

    The same arguments give the same lines of ``evaluations.jsonl``, except for wall-clock and
    processor times. A finished seed is not run again; an interrupted one starts over.

    :param folders: of the seeds; created where they do not exist. Each has the layout of a ROS
        run's folder, so its policy can be deployed on a robot
    :param evaluators: processes that evaluate while this one practises
    :raises ConfigError: a folder was made with other settings, or another process uses it.
    """
    torch.set_num_threads(1)
    np.seterr(over='ignore')
    with contextlib.ExitStack() as stack:
        for seed, folder in folders.items():
            folder.mkdir(parents=True, exist_ok=True)
            lock = lock_file(folder / LOCK_FILE, f'{folder}: another process uses it')
            stack.enter_context(lock)
            configs = seeds.configurations(task, agent, demonstrations, seed)
            seeds.check_folder(folder, configs)
            if not seeds.is_finished(folder, agent, budget):
                seeds.prepare_folder(folder, configs)
        todo = [seed for seed in folders if not seeds.is_finished(folders[seed], agent, budget)]
        if not todo:
            return
        start = time.monotonic()
        for seed, (record, arrays) in _records(
            task, agent, demonstrations, todo, budget, evaluators, stack
        ):
            _save(folders[seed], task, agent, seed, record, arrays, time.monotonic() - start)
        for seed in todo:
            seeds.write_result(folders[seed])


def _records(
    task: Task,
    agent: AgentConfig,
    demonstrations: Transitions,
    numbers: Sequence[int],
    budget: int,
    evaluators: int,
    stack: contextlib.ExitStack,
) -> Iterator[tuple[int, tuple[dict[str, Any], Arrays | None]]]:
    """Seed, and record and policy of each of its evaluations, in order."""
    kind = seeds.pseudo_agent(agent)
    if kind is not None:
        for seed in numbers:
            records = _clone(task, demonstrations, seed) if kind == seeds.CLONE else None
            yield from ((seed, record) for record in records or _random(task, seed))
        return
    processes = Evaluators(task, agent, evaluators)
    stack.callback(processes.close)
    runs = [DirectRun(task, agent, demonstrations, seed) for seed in numbers]
    if len(runs) == 1:
        yield from ((numbers[0], evaluated) for evaluated in run(runs[0], budget, processes))
        return
    for number, evaluated in run_stacked(runs, budget, processes):
        yield numbers[number], evaluated


def _clone(
    task: Task, demonstrations: Transitions, seed: int
) -> Iterator[tuple[dict[str, Any], Arrays]]:
    """The only record of ``bc``.

    The deployed policy is also the forward policy, since the policy message needs one.
    """
    start = time.process_time()
    arrays = clone(task, demonstrations, seed)
    seconds = time.process_time() - start
    forward = {
        name.replace(DEPLOYED, PHASES[0]): array
        for name, array in arrays.items()
        if name.startswith(DEPLOYED)
    }
    record = _evaluated(task, Policy(arrays, DEPLOYED), seed)
    yield (
        {**record, 'seconds': seconds, 'clone_success': record['outcome'].success},
        arrays | forward,
    )


class _RandomPolicy:
    """Uniformly random actions; has the interface of :class:`~mbarl_ros.control.policy.Policy`."""

    def __init__(self, task: Task, seed: int) -> None:
        self._rng, self._action_dim = np.random.default_rng([seed, 6]), task.action_dim

    def begin(self, problems: int, *, reseed: bool = False) -> None:
        pass

    def keep(self, mask: np.ndarray) -> None:
        pass

    def mean_action(self, observation: np.ndarray) -> np.ndarray:
        return self._rng.uniform(-1, 1, (len(observation), self._action_dim))


def _random(task: Task, seed: int) -> Iterator[tuple[dict[str, Any], None]]:
    """The only record of ``random``, which has no policy that could be deployed."""
    yield {**_evaluated(task, _RandomPolicy(task, seed), seed), 'seconds': 0.0}, None


def _evaluated(task: Task, policy: Any, seed: int) -> dict[str, Any]:
    """Record of a policy that did not practise."""
    config = task.config.evaluation
    return {
        'step': 0,
        'outcome': evaluate(task, task.load_world(seed=seed), policy, config.episodes),
        'wide': WideStarts(task).evaluate(policy) if config.wide else None,
        'metrics': {},
    }


def _save(
    folder: Path,
    task: Task,
    agent: AgentConfig,
    seed: int,
    record: dict[str, Any],
    arrays: Arrays | None,
    wall_seconds: float,
) -> None:
    """Write the policy, if there is one, then the line of its evaluation; keep some policies."""
    record = dict(record)
    step, metrics = record.pop('step'), record.pop('metrics')
    if arrays is not None:
        data = pack_policy(arrays, task, agent, step, applies_from=0)
        write_file(folder / POLICY_FILE, data)
        practises = seeds.pseudo_agent(agent) is None
        if practises and keeps_policy(len(seeds.read_evaluations(folder))):
            write_file(folder / KEPT_POLICY_FILE.format(step), data)
    seeds.append_line(folder / seeds.METRICS_FILE, {'environment_steps': step, **metrics})
    line = evaluation_line(
        task,
        agent.name,
        seed,
        step,
        record.pop('outcome'),
        wide_success=record.pop('wide'),
        practice_seconds=round(record.pop('seconds'), 1),
        wall_seconds=round(wall_seconds, 1),
        **record,
    )
    seeds.append_line(folder / EVALUATIONS_FILE, line)


def main() -> None:
    """Run what the command line gives as JSON: a :class:`seeds.SeedRun` and more.

    ``evaluators``; and ``stack``: further seeds to train with its own as one stack.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    lifeline.hold()
    argument = json.loads(sys.argv[1])
    evaluators, further = argument.pop('evaluators'), argument.pop('stack', [])
    seed_run = seeds.SeedRun(**argument)
    task, agent, demonstrations = seed_run.load()
    folders = {
        seed: seeds.seed_folder(seed_run.out, task, agent, seed)
        for seed in (seed_run.seed, *further)
    }
    run_seeds(task, agent, demonstrations, folders, seed_run.budget, evaluators)


if __name__ == '__main__':
    main()
