"""Verdicts and report of study ``offline``. The figures are in :mod:`~.offline_figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.studies import offline_figures
from mbarl_ros.studies.offline_results import (
    COVERAGE,
    DEMONSTRATIONS,
    MEASURES,
    NARROW,
    Key,
    Table,
    model_results,
)
from mbarl_ros.studies.statistics import sign_flip_p
from mbarl_ros.studies.study import Report, Results, Verdict
from mbarl_ros.task import Task

FEWEST_PAIRS = 5  # with fewer, no sign-flip test can be below 0.05
LEVEL = 0.05
SPREAD_RATIO = 1 / 3
_BOOTSTRAP = 10_000
Fields = Mapping[str, Any]

_INTRODUCTION = """\
A disc drives through a gap in a wall to a goal (task `pointmass`; the way from its corner is about
5 m at 0.1 m a step). It has an imagination: a *model* that predicts the next state from state and
action, fitted to single random steps from all over the room. A policy is then trained **only on
imagined practice**: from a start state the model is asked again and again what happens next, for
20, 35 or 50 steps (the *rollout length*). It is tested in the true room, which it has never seen.

Three things vary: how many random steps the model was fitted to, how long a rollout is, and where
rollouts start: **narrow** (in the corner where the robot is put) or in states of the three
**demonstrations**, which lead from the corner to the goal. The claims are those of the poster that
this package grew from. They are why MBARL starts its imagined practice where demonstrations have
been, and why it lets a rollout be long.

Model, policy and rollouts are the learner's own (`mbarl_ros.learning`), with the settings of the
robot where nothing else is said."""


def report(results: Results, folder: Path, task: Task) -> Report:
    """Figures, tables and verdicts of the finished cells."""
    table = Table.of(results)
    models = model_results(results)
    figures, tables, verdicts = [], [], []
    if table.values:
        figures += [
            offline_figures.rollout_length(folder, table),
            offline_figures.model_size(folder, table),
        ]
        verdicts = judge(table, models)
        tables.append(_success_table(table))
    if models:
        figures.append(offline_figures.model_error(folder, models))
        tables.append(_model_table(models))
    if coverage := offline_figures.coverage(folder, results, task):
        figures.append(coverage)
    reversed_ = any(each.claim.startswith(_MORE_DATA) and each.holds is False for each in verdicts)
    notes = _WHY_NOT_MORE_DATA + _NOTES if reversed_ else _NOTES
    return Report(_INTRODUCTION, verdicts, figures, tables, notes)


_MORE_DATA = 'From narrow starts more data are better'
_WHY_NOT_MORE_DATA = """\
* **Why more data do not win.** The models differ little in the open room; what few data miss is the
  wall (figure of the model's error). Where it leaks, imagined practice from the corner comes to the
  side of the goal sooner and sees more of the room (table). That misleads the policy little: the
  way through the gap pays more than the one through the wall, and a disc that touches the wall in
  truth slides along it to the gap. Where the wall is closed, a rollout from the corner has to find
  the gap before it ends, and often does not. So it seems that the error of the model acts as
  exploration here. With demonstration starts nothing has to be found, and the data matter less.
"""
_NOTES = f"""\
* **Success** is that of the deployed (deterministic) policy in the true room within the task's 150
  steps: from the starts of the task's evaluation, which are spread over the *whole room*, and from
  the *corner*. A verdict is about the whole room; its evidence has the corner, too.
* **Reward.** The task's own reward is 1 at the goal, else 0. From the corner no rollout of 50 steps
  reaches it, so that nothing could be learned there. Here the reward is dense and known: what a
  step gains on the shortest way through the gap, as a share of 5 m, and 1 at the goal. A gain
  counts up to 0.15 m, the most that the disc can drive in a step, so that a model in which it jumps
  through the wall does not pay off by the jump itself.
* Every policy has the same number of imagined transitions and of gradient steps, whatever the
  rollout length. The last state of a rollout that has not reached the goal is bootstrapped.
* **Statistics.** Pairs differ in one thing only and share seed, data and all else. p is one-sided,
  of a sign-flip permutation test over the pairs, exact for up to 16 pairs; a claim holds where p <
  {LEVEL}. With fewer than {FEWEST_PAIRS} pairs (`--quick`) it stays open.
* Seeds 0 to 4 were not used to choose any setting."""


def judge(table: Table, models: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[Verdict]:
    """A verdict on each claim of the poster.

    :param models: results of the model cells by the size of their data
    """
    lengths, sizes = table.axis('length'), table.axis('samples')
    short, long, small, large = lengths[0], lengths[-1], sizes[0], sizes[-1]
    return [
        *(
            _better(
                table,
                f'Demonstration starts beat narrow ones at rollout length {length}',
                {'starts': DEMONSTRATIONS, 'length': length},
                {'starts': NARROW},
            )
            for length in lengths
        ),
        _better(
            table,
            f'From narrow starts longer rollouts are better ({long} against {short})',
            {'starts': NARROW, 'length': long},
            {'length': short},
        ),
        _better(
            table,
            f'{_MORE_DATA} ({large:,} against {small:,})',
            {'starts': NARROW, 'samples': large},
            {'samples': small},
            _size_evidence(table, models, large, small),
        ),
        _spread_verdict(table),
    ]


def _size_evidence(
    table: Table, models: Mapping[int, Sequence[Mapping[str, Any]]], large: int, small: int
) -> str:
    """What practice from narrow starts has seen in two models, and what their wall lets through."""
    seen = [table.rates(COVERAGE, samples=size, starts=NARROW).mean() for size in (large, small)]
    text = f'; imagined practice has seen {seen[0]:.0%} against {seen[1]:.0%} of the room'
    if {large, small} <= models.keys():
        leaks = [np.mean([each['wall_leak'] for each in models[size]]) for size in (large, small)]
        text += f'; pushes that pass through the wall: {leaks[0]:.0%} against {leaks[1]:.0%}'
    return text


def _better(
    table: Table, claim: str, first: Fields, second: Fields, more_evidence: str = ''
) -> Verdict:
    """Cells with fields ``first`` have more success than their partners with ``second``."""
    sentences, p_values = [], []
    for measure, words in MEASURES.items():
        one, other = table.pairs(measure, first, second)
        if len(one) < FEWEST_PAIRS:
            return Verdict(claim, None, f'{len(one)} pairs of cells; {FEWEST_PAIRS} are needed')
        p_values.append(sign_flip_p(one - other))
        sentences.append(
            f'{words}: {one.mean():.2f} against {other.mean():.2f} '
            f'({len(one)} pairs, p = {p_values[-1]:.2g})'
        )
    return Verdict(claim, p_values[0] < LEVEL, '; '.join(sentences) + more_evidence)


def _spread_verdict(table: Table) -> Verdict:
    claim = 'With demonstration starts the spread over model sizes is less than a third'
    if len(table.axis('seed')) < FEWEST_PAIRS or not _complete(table):
        return Verdict(claim, None, f'all cells of at least {FEWEST_PAIRS} seeds are needed')
    sentences, holds = [], []
    for measure, words in MEASURES.items():
        # [seeds, model sizes]
        narrow, demonstrated = (
            table.size_means(measure, starts) for starts in (NARROW, DEMONSTRATIONS)
        )
        draws = np.random.default_rng(0).integers(len(narrow), size=(_BOOTSTRAP, len(narrow)))
        below = spread(demonstrated[draws]) < SPREAD_RATIO * spread(narrow[draws])
        holds.append(bool(spread(demonstrated) < SPREAD_RATIO * spread(narrow)))
        sentences.append(
            f'{words}: largest minus smallest mean over sizes is {spread(demonstrated):.3f} with '
            f'demonstration starts, {spread(narrow):.3f} with narrow ones (less than a third in '
            f'{below.mean():.0%} of the bootstrap samples of seeds)'
        )
    return Verdict(claim, holds[0], '; '.join(sentences))


def spread(success: np.ndarray) -> np.ndarray:
    """Largest minus smallest mean over seeds [...], of success rates [..., seeds, sizes]."""
    return np.ptp(success.mean(-2), axis=-1)


def _complete(table: Table) -> bool:
    axes = (table.axis(name) for name in Key._fields)
    return len(table.values) == np.prod([len(axis) for axis in axes])


def _success_table(table: Table) -> tuple[str, list[str], list[list[Any]]]:
    words = {**MEASURES, COVERAGE: 'room seen'}
    columns = list(product((NARROW, DEMONSTRATIONS), words))
    header = ['model data', 'rollout length']
    header += [f'{starts}: {words[measure]}' for starts, measure in columns]
    rows = [
        [
            f'{size:,}',
            length,
            *(
                _mean(table.rates(measure, samples=size, length=length, starts=starts))
                for starts, measure in columns
            ),
        ]
        for size, length in product(table.axis('samples'), table.axis('length'))
    ]
    title = (
        'Success rate from the whole room and from the corner, and share of the room that imagined '
        'practice has seen, by the starts of its rollouts; means over seeds'
    )
    return title, header, rows


def _mean(rates: np.ndarray) -> str:
    return f'{rates.mean():.2f}' if len(rates) else '-'


def _model_table(models: dict[int, list[dict[str, Any]]]) -> tuple[str, list[str], list[list[Any]]]:
    def mean(size: int, name: str) -> float:
        return float(np.mean([np.mean(each[name]) for each in models[size]]))

    rows = [
        [
            f'{size:,}',
            f'{1000 * mean(size, "one_step_error"):.1f}',
            f'{1000 * mean(size, "one_step_error_at_wall"):.1f}',
            f'{1000 * np.mean([each["open_loop_error"][-1] for each in results]):.0f}',
            f'{mean(size, "wall_leak"):.1%}',
        ]
        for size, results in models.items()
    ]
    header = [
        'model data',
        'error of one step, mm',
        'the same at the wall, mm',
        'error after 50 steps along the demonstrations, mm',
        'pushes that pass through the wall',
    ]
    return 'Error of the model on data that it has not seen, means over seeds', header, rows
