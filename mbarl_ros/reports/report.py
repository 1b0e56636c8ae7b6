"""The report of one run or of several, as one page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from mbarl_ros import __version__
from mbarl_ros.demos.metadata import DemonstrationError
from mbarl_ros.reports import learning_sections, robot_sections
from mbarl_ros.reports.comparison import (
    ScoredRun,
    bench_seeds,
    comparison,
    scored_run,
    scored_seed,
    unscored,
)
from mbarl_ros.reports.evaluations import Evaluations, evaluations, rate_text
from mbarl_ros.reports.facts import Cause
from mbarl_ros.reports.films import MOST_BYTES, film_section
from mbarl_ros.reports.page import Html, document, folded, join, paragraph, tag
from mbarl_ros.reports.run_data import RunData, read_run
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.run_files import ARGUMENTS_FILE, TRANSITIONS_FILE
from mbarl_ros.view.status import duration

_ENDS = {
    'target_reached': 'reached its target',
    'budget': 'used up its step budget',
    'interrupted': 'was interrupted',
}


Explain = Callable[[RunData], Sequence[Cause]]
Section = Callable[[RunData], Html]


def write_report(folders: Sequence[Path], explain: Explain, *, films: bool) -> str:
    """HTML of a report about run folders and folders of ``mbarl bench``.

    :param explain: finds out why a run does not learn
    :param films: film policies where the task has a world
    :raises ConfigError: a folder is neither, or its configuration is damaged.
    """
    runs, seeds = _read(folders)
    most_bytes = MOST_BYTES // max(len(runs), 1) if films else 0
    if len(runs) == 1 and not seeds:
        (run,) = runs
        title = f'{run.task.name}, {run.agent.name}, seed {run.arguments.get("seed", "-")}'
        return document(f'Report: {title}', _title(title), *_run(run, explain, most_bytes))
    scored, left_out = _scored(runs, seeds)
    parts = [_title(f'{len(runs) + len(seeds)} runs')]
    parts += [comparison(scored)] if scored else []
    parts += left_out
    if runs:
        parts.append(tag('h2', 'Single runs'))
    for run in runs:
        title = f'{run.folder.name}: {run.task.name}, {run.agent.name}'
        parts.append(folded(title, *_run(run, explain, most_bytes), kind='run'))
    return document('Report: comparison', *parts)


def _title(text: str) -> Html:
    made = time.strftime('%Y-%m-%d %H:%M')
    return join(
        tag('h1', text), paragraph(f'Report of mbarl_ros {__version__}, made {made}.', 'note')
    )


def _read(folders: Sequence[Path]) -> tuple[list[RunData], list[Path]]:
    runs: list[RunData] = []
    seeds: list[Path] = []
    for folder in folders:
        found = [] if (folder / ARGUMENTS_FILE).is_file() else bench_seeds(folder)
        seeds += found
        if not found:
            runs.append(read_run(folder, tolerant=True))
    return runs, seeds


def _scored(runs: Sequence[RunData], seeds: Sequence[Path]) -> tuple[list[ScoredRun], list[Html]]:
    scored: list[ScoredRun] = []
    left_out: list[Html] = []
    readers: list[tuple[Path, Callable[[], ScoredRun]]] = [
        *((run.folder, partial(scored_run, run)) for run in runs),
        *((folder, partial(scored_seed, folder)) for folder in seeds),
    ]
    for folder, read in readers:
        try:
            scored.append(read())
        except ConfigError as error:
            left_out.append(unscored(error, folder))
    return scored, left_out


def _run(run: RunData, explain: Explain, most_bytes: int) -> Iterator[Html]:
    """The sections of a run; one that cannot be made is a sentence and spoils no other."""
    yield first_box(run, explain(run))
    sections: list[tuple[str, Section]] = [
        ('What was learned from what', robot_sections.source_section),
        ('Success', learning_sections.success_section),
        ('Practice', learning_sections.practice_section),
        ('The learned model', learning_sections.model_section),
        ('The state classifier', learning_sections.classifier_section),
        ('Safety gate', robot_sections.gate_section),
        ('Interventions', robot_sections.human_section),
        ('Time and speed', robot_sections.speed_section),
    ]
    if most_bytes:
        sections.append(('Films', partial(film_section, most_bytes=most_bytes)))
    sections.append(('Configuration as used', robot_sections.configuration_section))
    for title, section in sections:
        yield tag('h2', title)
        try:
            yield section(run)
        except (ConfigError, DemonstrationError) as error:
            yield paragraph(str(error))


def first_box(run: RunData, causes: Sequence[Cause]) -> Html:
    """How a run ended, and why it may not have learned."""
    parts = [paragraph(_end(run), 'big')]
    for part, sentence in run.damaged.items():
        parts.append(paragraph(f'Left out, {part}: {sentence}', 'bad'))
    if text := cut_log(run):
        parts.append(paragraph(text, 'bad'))
    if not causes:
        parts.append(paragraph('Nothing unusual found.'))
    for cause in causes:
        evidence = tag('ul', [tag('li', sentence) for sentence in cause.evidence])
        remedy = join(tag('b', 'Try: '), cause.remedy)
        parts.append(join(tag('h3', cause.title), evidence, tag('p', remedy)))
    return tag('div', *parts, kind='box')


def cut_log(run: RunData) -> str:
    """A sentence about a log that is shorter than the run; empty: it is not."""
    steps = len(run.transitions['phase'])
    found = _evaluated(run)
    if 'transitions' in run.damaged or found is None or steps >= found.steps.max():
        return ''
    return (
        f'{run.folder / TRANSITIONS_FILE}: ends after {steps:,} of {found.steps.max():,.0f} steps; '
        'it is missing, or a record in it is damaged and what follows is left out.'
    )


def _evaluated(run: RunData) -> Evaluations | None:
    try:
        return evaluations(run.evaluations)
    except ConfigError:
        return None


def _end(run: RunData) -> str:
    reason = _ENDS.get(str(run.result.get('reason', '')))
    steps = len(run.transitions['phase'])
    about = f' after {steps:,} steps, {duration(steps / run.task.robot.control_rate)} of robot time'
    if reason:
        text = f'The run {reason}{about}.'
    elif run.result.get('error'):
        text = f'The run failed{about}: {run.result["error"]}'
    else:
        text = f'The run has written no result{about}: it still goes on, was killed, or has no end.'
    found = _evaluated(run)
    if found is None:
        return text
    low, high = (float(limit[-1]) for limit in found.interval())
    return f'{text} Success {rate_text(found.success[-1], low, high)}, 95 % interval.'
