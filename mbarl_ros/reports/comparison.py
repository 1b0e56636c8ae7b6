"""Several runs side by side: interval estimates over seeds, one block for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.reports import drawing
from mbarl_ros.reports.evaluations import Evaluations, evaluations, rate_text
from mbarl_ros.reports.intervals import bootstrap, interquartile_mean
from mbarl_ros.reports.learning_sections import target_of
from mbarl_ros.reports.page import Content, Html, figure, join, paragraph, table, tag
from mbarl_ros.reports.run_data import RunData
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import load_agent
from mbarl_ros.storage.run_files import EVALUATIONS_FILE, read_json_lines
from mbarl_ros.studies.seeds import SEED_FILE
from mbarl_ros.task import Task
from mbarl_ros.view.status import duration

_ARGUMENTS = ('mode', 'real_time_factor', 'robot', 'demos')
"""Of a run, that make it another experiment; others name it, or tell when it ends."""

_NOTE = (
    'IQM: interquartile mean over seeds of the success of the last evaluation; the interval is the '
    '95 % percentile bootstrap over seeds (Agarwal et al. 2021), which tells nothing of one seed. '
    'The median of steps to the target counts runs that never reached it as later than all others.'
)


@dataclass(frozen=True)
class ScoredRun:
    """A run with its evaluations; ``settings``: dotted key -> value, by which runs may differ."""

    folder: Path
    task: str
    agent: str
    seed: int
    target: float
    settings: Mapping[str, Any]
    found: Evaluations


def scored_run(run: RunData) -> ScoredRun:
    """What a comparison needs of a run.

    :raises ConfigError: it has no evaluation.
    """
    arguments = {key: run.arguments[key] for key in _ARGUMENTS if key in run.arguments}
    seed = run.arguments.get('seed')
    return ScoredRun(
        run.folder,
        run.task.name,
        run.agent.name,
        seed if isinstance(seed, int) else 0,
        target_of(run),
        {**arguments, **_flat(run.agent.model_dump(mode='json'))},
        evaluations(run.evaluations),
    )


def bench_seeds(folder: Path) -> list[Path]:
    """Folders of seeds in a folder of ``mbarl bench``: OUT, OUT/TASK, OUT/TASK/AGENT or the seed's.

    None where it is none.
    """
    patterns = (SEED_FILE, *('*/' * depth + SEED_FILE for depth in (1, 2, 3)))
    return sorted({path.parent for pattern in patterns for path in folder.glob(pattern)})


def scored_seed(folder: Path) -> ScoredRun:
    """What a comparison needs of a seed of ``mbarl bench``.

    :raises ConfigError: it has no evaluation yet, or a file in it is damaged.
    """
    task = Task.load(str(folder / 'task.yaml'), str(folder / 'robot.yaml'))
    agent = load_agent(str(folder / 'agent.yaml'))
    lines = read_json_lines(folder / EVALUATIONS_FILE, skip_damaged=True)
    number = folder.name.removeprefix('seed_')
    return ScoredRun(
        folder,
        task.name,
        agent.name,
        int(number) if number.isdecimal() else 0,
        task.config.evaluation.target,
        _flat(agent.model_dump(mode='json')),
        evaluations(lines),
    )


def _flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f'{prefix}{key}.')
        else:
            flat[f'{prefix}{key}'] = value
    return flat


def groups(runs: Sequence[ScoredRun]) -> dict[str, list[ScoredRun]]:
    """Runs of one task by agent and, where runs of an agent differ in settings, those of them."""
    found: dict[str, list[ScoredRun]] = {}
    for run in runs:
        same = [other.settings for other in runs if other.agent == run.agent]
        keys = sorted(set().union(*same) - {'name', 'description'})
        absent = object()
        differ = [
            key
            for key in keys
            if any(other.get(key, absent) != run.settings.get(key, absent) for other in same)
        ]
        told = ', '.join(f'{key}={run.settings[key]}' for key in differ if key in run.settings)
        found.setdefault(f'{run.agent} ({told})' if told else run.agent, []).append(run)
    return found


def comparison(runs: Sequence[ScoredRun]) -> Html:
    """A block for each task and, of agents that ran on all tasks, one over the tasks."""
    tasks = list(dict.fromkeys(run.task for run in runs))
    of_task = {task: groups([run for run in runs if run.task == task]) for task in tasks}
    parts = [_block(task, found) for task, found in of_task.items()]
    everywhere = [
        name for name in of_task[tasks[0]] if all(name in found for found in of_task.values())
    ]
    if len(tasks) > 1 and everywhere:
        parts.append(_over_tasks(of_task, everywhere))
    return join(*parts, paragraph(_NOTE, 'note'))


def _block(task: str, found: Mapping[str, Sequence[ScoredRun]]) -> Html:
    rows: list[list[Content]] = []
    for name, runs in found.items():
        rows.append([name, *_summary(runs)])
    head = ['agent', 'seeds', 'final success, IQM (95 %)', 'clone, mean', 'reached target']
    head += ['steps to target, median', 'robot time, median']
    caption = (
        'Mean success of the deployed policy over seeds and its 95 % bootstrap interval. A run '
        'that has ended keeps its last value.'
    )
    return join(
        tag('h2', f'Comparison: task {task}'),
        table(head, rows),
        figure(drawing.svg(lambda grid: _draw_curves(grid[0, 0], found), height=3.8), caption),
        tag('h3', 'Each run'),
        _each(found),
    )


def _summary(runs: Sequence[ScoredRun]) -> list[str]:
    final = np.array([run.found.success[-1] for run in runs])
    low, high = bootstrap([final], interquartile_mean)
    clones = [run.found.clone for run in runs if run.found.clone is not None]
    steps = np.array([_reached(run) for run in runs])
    middle = float(np.median(steps)) if np.isfinite(steps).any() else np.inf
    seconds = np.median([run.found.robot_seconds for run in runs])
    return [
        ', '.join(str(run.seed) for run in sorted(runs, key=lambda run: run.seed)),
        rate_text(float(interquartile_mean(final)), float(low), float(high)),
        f'{np.mean(clones):.2f}' if clones else '-',
        f'{np.isfinite(steps).sum()} of {len(runs)}',
        f'{middle:,.0f}' if np.isfinite(middle) else 'never',
        duration(float(seconds)),
    ]


def _reached(run: ScoredRun) -> float:
    steps = run.found.steps_to(run.target)
    return np.inf if steps is None else float(steps)


def curves(runs: Sequence[ScoredRun]) -> tuple[np.ndarray, np.ndarray]:
    """Steps [n] at which any run was evaluated, and the success of each, [n, runs].

    Between two evaluations, and after its end, a run has the success of the last one: runs end
    when they reach their target, and the mean must not lose the best of them.
    """
    steps = np.unique(np.concatenate([run.found.steps for run in runs]))
    steps = steps[steps >= max(run.found.steps[0] for run in runs)]
    values = [
        run.found.success[np.searchsorted(run.found.steps, steps, 'right') - 1] for run in runs
    ]
    return steps, np.stack(values, -1)


def _draw_curves(axes: Any, found: Mapping[str, Sequence[ScoredRun]]) -> None:
    for number, (name, runs) in enumerate(found.items()):
        colour = drawing.SERIES[number % len(drawing.SERIES)]
        steps, success = curves(runs)
        interval = bootstrap([success], lambda values: values.mean(-1))
        label = f'{name} ({len(runs)})'
        look = {'color': colour, 'label': label, 'marker': 'o', 'markersize': 3.5}
        drawing.band(axes, steps, success.mean(-1), *interval, **look)
        for run in runs:
            axes.plot(run.found.steps, run.found.success, color=colour, alpha=0.35, linewidth=0.8)
        clones = [run.found.clone for run in runs if run.found.clone is not None]
        if clones:
            axes.axhline(np.mean(clones), color=colour, linestyle='--', linewidth=1, alpha=0.8)
    targets = {run.target for runs in found.values() for run in runs}
    for target in sorted(targets):
        axes.axhline(target, color=drawing.GREY, linestyle=':')
    drawing.rate_axis(axes, 'success rate')
    axes.set_xlabel('environment steps (thin: single runs; dashed: clone; dotted: target)')
    axes.set_xlim(0, None)
    drawing.legend(axes)


def _each(found: Mapping[str, Sequence[ScoredRun]]) -> Html:
    rows: list[list[Content]] = []
    for name, runs in found.items():
        for run in sorted(runs, key=lambda run: run.seed):
            low, high = (float(limit[-1]) for limit in run.found.interval())
            steps = run.found.steps_to(run.target)
            clone = run.found.clone
            rows.append(
                [
                    name,
                    str(run.folder),
                    f'{run.seed}',
                    rate_text(run.found.success[-1], low, high),
                    '-' if clone is None else f'{clone:.2f}',
                    'never' if steps is None else f'{steps:,}',
                    f'{run.found.steps[-1]:,.0f}',
                    duration(run.found.robot_seconds),
                ]
            )
    head = ['agent', 'run', 'seed', 'final success (Wilson 95 %)', 'clone', 'steps to target']
    return table([*head, 'steps', 'robot time'], rows, texts=2)


def _over_tasks(
    of_task: Mapping[str, Mapping[str, Sequence[ScoredRun]]], names: Sequence[str]
) -> Html:
    rows = []
    for name in names:
        strata = [
            np.array([run.found.success[-1] for run in found[name]]) for found in of_task.values()
        ]
        low, high = bootstrap(strata, interquartile_mean)
        middle = interquartile_mean(np.concatenate(strata))
        seeds = ', '.join(f'{task} {len(found[name])}' for task, found in of_task.items())
        rows.append([name, seeds, rate_text(float(middle), float(low), float(high))])
    note = (
        'Success of the last evaluations of all tasks together; the bootstrap draws the runs of '
        'each task for itself (strata).'
    )
    head = ['agent', 'runs', 'final success, IQM (95 %)']
    return join(tag('h2', 'Over all tasks'), table(head, rows, texts=2), paragraph(note, 'note'))


def unscored(error: ConfigError, folder: Path) -> Html:
    """A sentence about a run that a comparison leaves out."""
    return paragraph(f'{folder} is not compared: {error}', 'note')
