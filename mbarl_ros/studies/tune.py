"""``mbarl tune``: searches settings of a preset over tasks and seeds, prunes, and checks the best.

Optuna proposes and prunes; each trial is a preset variant that runs as seeds of a bench do. Those
that look best run again on fresh seeds, beside the preset as it is: that they did well on the seeds
of the search is partly luck.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import load_task, override, without_demonstrations
from mbarl_ros.storage.files import lock_file
from mbarl_ros.storage.run_files import LOCK_FILE, check_same, write_config
from mbarl_ros.studies.jobs import Engine
from mbarl_ros.studies.pool import Pool
from mbarl_ros.studies.search_space import Dimension, variant
from mbarl_ros.studies.seed_jobs import SeedJob, seed_jobs
from mbarl_ros.studies.seeds import (
    CLONE,
    SeedRun,
    load_variant,
    read_evaluations,
    read_result,
)
from mbarl_ros.studies.tune_scores import Scores, seed_score, total_score
from mbarl_ros.studies.tune_trials import Trials
from mbarl_ros.task import Task

DEFAULT = 'default'
SEARCH_FOLDER, FRESH_FOLDER = 'search', 'fresh'
CONFIG_FILE = 'tune.yaml'
_RUNGS = 10  # looks at each seed


@dataclass(frozen=True)
class Plan:
    """What to search, where and how long.

    ``budget`` and ``every``: environment steps; 0: those of each task. ``fresh``: number of fresh
    seeds, which follow the highest of ``seeds``.
    """

    out: Path
    tasks: Sequence[str]
    preset: str
    space: dict[str, Dimension]
    trials: int
    seeds: Sequence[int]
    fresh: int
    finalists: int
    budget: int = 0
    every: int = 0
    evaluators: int = 1

    @property
    def fresh_seeds(self) -> list[int]:
        """Seeds that the search has not seen."""
        return [max(self.seeds) + 1 + number for number in range(self.fresh)]

    def check(self) -> None:
        """Refuse what cannot be run, before a folder is made for it.

        :raises ConfigError: a task, or the preset on it, cannot be loaded; two tasks have one name.
        :raises DemonstrationError: a demonstration cannot be used.
        """
        named: dict[str, str] = {}
        for text in self.tasks:
            task, _, _ = self.run('', text, variant(self.preset, DEFAULT, {})).load()
            if named.setdefault(task.name, text) != text:
                raise ConfigError(
                    f"--task: {named[task.name]} and {text} are both called '{task.name}', so they "
                    "would share a folder; give one of them another 'name'"
                )

    def check_preset(self, changes: Mapping[str, Any]) -> None:
        """Refuse settings that the preset does not take together, or not on all tasks.

        :param changes: dotted key -> value
        :raises ConfigError: says why not.
        """
        agent = override(load_variant(self.preset), changes, 'settings')
        for task in map(Task.load, self.tasks):
            task.check_agent(agent)
            if task.config.demonstrations is None:
                without_demonstrations(agent, task.config)

    def run(self, folder: str, task: str, agent: str) -> SeedRun:
        """An agent on a task, in a folder below ``out``."""
        return SeedRun(
            out=str(self.out / folder),
            task=task,
            agent=agent,
            seed=0,
            budget=self.budget,
            every=self.every,
        )

    def config(self) -> dict[str, Any]:
        """What must be the same where a search goes on."""
        return {
            'tasks': list(self.tasks),
            'agent': self.preset,
            'search': {key: repr(dimension) for key, dimension in self.space.items()},
            'seeds': list(self.seeds),
            'budget': self.budget,
            'every': self.every,
        }


class Candidate:
    """Settings on all tasks and some seeds: their folders, jobs and scores."""

    def __init__(self, plan: Plan, folder: str, name: str, agent: str, numbers: Sequence[int]):
        """Check and prepare the folders; nothing runs yet.

        :param folder: of the search or of the fresh seeds
        :param agent: as ``mbarl bench`` takes it
        :raises ConfigError: a folder was made with other settings.
        """
        self.name, self.numbers = name, list(numbers)
        self._folders: dict[str, dict[int, Path]] = {}
        self._budgets: dict[str, int] = {}
        self.jobs: list[SeedJob] = []
        for task in plan.tasks:
            found = seed_jobs(plan.run(folder, task, agent), numbers, plan.evaluators)
            self._folders[task] = found.folders
            self._budgets[task] = load_task(task).run_end(plan.budget)[0]
            self.jobs += found.jobs
        self.jobs.sort(key=lambda job: job.number)

    def done(self, task: str, number: int) -> bool:
        """Whether a seed is finished."""
        return read_result(self._folders[task][number]) is not None

    @property
    def finished(self) -> bool:
        """Whether all seeds on all tasks are finished."""
        return all(self.done(task, n) for task in self._folders for n in self.numbers)

    def success(self, task: str, number: int) -> float:
        """Deployed success of a finished seed at its end."""
        return read_result(self._folders[task][number])['deployed_success']

    def scores(self, clone: Clones) -> Scores:
        """Scores of all seeds, which must be finished."""
        return {
            task: [
                seed_score(read_evaluations(folder), clone.success(task, number))
                for number, folder in folders.items()
            ]
            for task, folders in self._folders.items()
        }

    def rungs(self, clone: Clones) -> list[float]:
        """Scores after each tenth of the budget of the first seed, then of the second with it, ...

        Each is over all tasks; the list ends where a task has not come that far.
        """
        before: dict[str, list[float]] = {task: [] for task in self._folders}
        values: list[float] = []
        for number in self.numbers:
            lines = {task: read_evaluations(of[number]) for task, of in self._folders.items()}
            for rung in range(1, _RUNGS + 1):
                now = {}
                for task, budget in self._budgets.items():
                    until = budget * rung / _RUNGS
                    if not lines[task] or lines[task][-1]['environment_steps'] < until:
                        return values
                    now[task] = seed_score(lines[task], clone.success(task, number), until)
                values.append(total_score({t: [*before[t], now[t]] for t in now}))
            for task, score in now.items():
                before[task].append(score)
        return values


class Clones:
    """Success of the behaviour clones of the same tasks and seeds, which scores are relative to."""

    def __init__(self, plan: Plan, folder: str, numbers: Sequence[int]) -> None:
        """Check and prepare the folders; tasks without demonstrations have no clone."""
        tasks = [task for task in plan.tasks if load_task(task).demonstrations]
        kept = {**vars(plan), 'tasks': tasks}
        self._tasks = tasks
        self._candidate = Candidate(Plan(**kept), folder, CLONE, CLONE, numbers)
        self.jobs = self._candidate.jobs

    @property
    def finished(self) -> bool:
        """Whether all clones have been evaluated."""
        return self._candidate.finished

    def success(self, task: str, number: int) -> float:
        """Success of a clone; 0 where there is none."""
        return self._candidate.success(task, number) if task in self._tasks else 0.0


@dataclass(frozen=True)
class Final:
    """Scores of settings on the seeds of the search and on fresh ones."""

    name: str
    changes: dict[str, Any]
    search: Scores
    fresh: Scores


@dataclass(frozen=True)
class Finals:
    """The best settings on fresh seeds.

    ``finished``: those of which all fresh seeds, and those of the clone, finished, the best first.
    ``failures``: a sentence about each fresh seed that failed.
    """

    finished: list[Final]
    failures: list[str]


class Tune:
    """A search in its folder. The same plan goes on where it was interrupted."""

    def __init__(self, plan: Plan) -> None:
        """Open the folder.

        :raises ConfigError: the plan cannot be run, or the folder was made with another one.
        """
        self.plan = plan
        plan.check()
        plan.out.mkdir(parents=True, exist_ok=True)
        remedy = 'give the same arguments or another --out'
        check_same(plan.out / CONFIG_FILE, plan.config(), str(plan.out), remedy, may_differ=())
        write_config(plan.out / CONFIG_FILE, plan.config())

    def run(self, engine: Engine) -> tuple[Trials, Finals]:
        """Search, then run the best on fresh seeds, beside the preset as it is (:data:`DEFAULT`).

        :raises ConfigError: another process uses the folder, or no trial could be finished.
        """
        with lock_file(self.plan.out / LOCK_FILE, f'{self.plan.out}: another process uses it'):
            trials = Trials(self.plan.out, self.plan.space)
            search = _Search(self.plan, trials, engine)
            search.run()
            return trials, self._finals(trials, search, engine)

    def _finals(self, trials: Trials, search: _Search, engine: Engine) -> Finals:
        plan, numbers = self.plan, self.plan.fresh_seeds
        best = trials.best(plan.finalists)
        if not best:
            raise ConfigError(
                f'{plan.out}: none of {trials.count} trials was finished; the logs in '
                f'{plan.out / SEARCH_FOLDER} say why; correct that and give another --out'
            )
        chosen = [(DEFAULT, {}), *((trials.name(n), trials.changes(n)) for n in best)]
        clones = Clones(plan, FRESH_FOLDER, numbers)
        candidates = [
            Candidate(plan, FRESH_FOLDER, name, variant(plan.preset, name, changes), numbers)
            for name, changes in chosen
        ]
        jobs = [job for each in (clones, *candidates) for job in each.jobs]
        jobs.sort(key=lambda job: job.number)
        print(f'{len(chosen)} settings on fresh seeds {numbers[0]} to {numbers[-1]}', flush=True)
        failed, _ = Pool(jobs, engine).run(lambda _running, ended: _say_ended(ended))
        finished = [
            Final(name, changes, search.scores(name), candidate.scores(clones))
            for (name, changes), candidate in zip(chosen, candidates, strict=True)
            if clones.finished and candidate.finished
        ]
        finished.sort(key=lambda final: -total_score(final.fresh))
        return Finals(finished, [f'{job.title} failed: {job.failure}' for job in failed])


class _Search:
    """Trials side by side, until there are as many as planned."""

    def __init__(self, plan: Plan, trials: Trials, engine: Engine) -> None:
        self._plan, self._trials, self._engine = plan, trials, engine
        self._clones = Clones(plan, SEARCH_FOLDER, plan.seeds)
        self._default = self._candidate(DEFAULT, {})
        self._open: dict[int, Candidate] = {}
        self._pool = Pool([*self._clones.jobs, *self._default.jobs], engine)

    def run(self) -> None:
        """Run all trials.

        :raises ConfigError: the preset as it is, or a clone, fails.
        """
        for number in self._trials.running():
            self._begin(number)
        self._judge()  # the seeds of these may have ended before the search was interrupted
        while not self._pool.unfinished and self._trials.count < self._plan.trials:
            self._begin(self._trials.ask())
            self._judge()
        self._pool.run(self._poll)

    def scores(self, name: str) -> Scores:
        """Scores on the seeds of the search."""
        changes = {} if name == DEFAULT else self._trials.changes(self._trials.number(name))
        return self._candidate(name, changes).scores(self._clones)

    def _candidate(self, name: str, changes: dict[str, Any]) -> Candidate:
        plan = self._plan
        agent = variant(plan.preset, name, changes)
        return Candidate(plan, SEARCH_FOLDER, name, agent, plan.seeds)

    def _begin(self, number: int) -> None:
        name, changes = self._trials.name(number), self._trials.changes(number)
        try:
            self._plan.check_preset(changes)
        except ConfigError as error:  # each value may be, and not all of them together
            self._trials.fail(number)
            print(f'trial {number}: failed: {error}', flush=True)
            return
        candidate = self._candidate(name, changes)
        self._open[number] = candidate
        self._pool.add(candidate.jobs)

    def _poll(self, _running: Sequence[SeedJob], ended: Sequence[SeedJob]) -> None:
        _say_ended(ended)
        for job in ended:
            if job.failed and job in (*self._clones.jobs, *self._default.jobs):
                raise ConfigError(f'{job.title} failed: {job.failure}')
        for number, candidate in list(self._open.items()):
            if broken := [job for job in candidate.jobs if job in ended and job.failed]:
                self._close(number)
                self._trials.fail(number)
                print(f'{broken[0].title} failed: {broken[0].failure}', flush=True)
        self._judge()
        while (
            self._trials.count < self._plan.trials and self._pool.unfinished < self._engine.capacity
        ):
            self._begin(self._trials.ask())
            self._judge()

    def _judge(self) -> None:
        """Report what the open trials have reached; end those that are finished or pruned."""
        if not self._clones.finished:
            return
        for number, candidate in list(self._open.items()):
            values = candidate.rungs(self._clones)
            # First, so that how often we look does not decide between pruned and finished.
            last = _RUNGS * len(self._plan.seeds) - 1
            if self._trials.is_hopeless(number, values, range(_RUNGS // 3, last)):
                self._close(number)
                self._trials.prune(number)
            elif candidate.finished:
                self._close(number)
                self._trials.finish(number, total_score(candidate.scores(self._clones)), values)

    def _close(self, number: int) -> None:
        self._pool.stop(self._open.pop(number).jobs)


def _say_ended(ended: Iterable[SeedJob]) -> None:
    for job in ended:
        if not job.failed and (lines := read_evaluations(job.folder)):
            print(
                f'{job.title}: finished, deployed {lines[-1]["deployed_success"]:.2f}', flush=True
            )
