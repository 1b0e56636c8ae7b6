"""Sections of a report about what was learned: success, practice, model, classifier."""

from __future__ import annotations

from typing import Any

import numpy as np

from mbarl_ros.reports import classifier_check, drawing, history_data
from mbarl_ros.reports.attempts import Phases, phases, practised
from mbarl_ros.reports.evaluations import evaluations, rate_text
from mbarl_ros.reports.intervals import separation, wilson
from mbarl_ros.reports.open_loop import ModelCheck, check_model
from mbarl_ros.reports.page import Content, Html, figure, join, paragraph, table, tag
from mbarl_ros.reports.run_data import RunData
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.transitions import BACKWARD, FORWARD, HUMAN, PHASES, SAFETY

WINDOW = 10  # attempts of the moving success rate
_MODEL_ERROR = 'model/error/'
_MOST_ENTRIES = 12  # with a panel of their own
_SCORE_COLOURS = {
    classifier_check.DEMONSTRATED: drawing.SERIES[2],
    classifier_check.FORWARD_STATES: drawing.FORWARD,
    classifier_check.EARLY: drawing.BACKWARD,
    classifier_check.LATE: drawing.BACKWARD,
}


def success_section(run: RunData) -> Html:
    """Success of the deployed policy, evaluation by evaluation.

    :raises ConfigError: there was no evaluation.
    """
    found = evaluations(run.evaluations)
    low, high = found.interval()
    target = target_of(run)

    def draw(grid: np.ndarray) -> None:
        axes = grid[0, 0]
        look = {'color': drawing.FORWARD, 'label': 'deployed policy, 95 % interval'}
        drawing.band(axes, found.steps, found.success, low, high, marker='o', markersize=4, **look)
        axes.axhline(target, color=drawing.GREY, linestyle=':', label=f'target {target:g}')
        if found.clone is not None:
            label = f'clone of the demonstrations {found.clone:.2f}'
            axes.axhline(found.clone, color=drawing.BACKWARD, linestyle='--', label=label)
        drawing.rate_axis(axes, 'success rate')
        axes.set_xlabel('environment steps')
        axes.set_xlim(0, max(found.steps[-1], 1))
        drawing.legend(axes)

    reached = found.steps_to(target)
    when = 'not reached' if reached is None else f'first reached after {reached:,} steps'
    last = rate_text(found.success[-1], low[-1], high[-1])
    text = (
        f'Last evaluation, after {found.steps[-1]:,.0f} steps: success {last} over '
        f'{found.episodes[-1]:.0f} episodes. The target {target:g} was {when}.'
    )
    if found.last_return is not None:
        text += f' The return (sum of rewards) was {found.last_return:.4g} per episode.'
    caption = (
        'Share of evaluation episodes in which the deployed policy succeeds; the band is the '
        "Wilson 95 % interval of each evaluation's episodes."
    )
    return join(paragraph(text), figure(drawing.svg(draw), caption))


def target_of(run: RunData) -> float:
    """Success rate at which the run was to end."""
    given = run.arguments.get('target', 0.0)
    return run.task.config.run_end(0, given if isinstance(given, float) else 0.0)[1]


def practice_section(run: RunData) -> Html:
    """Attempts and phases along the steps.

    :raises ConfigError: there are no transitions, or no phase has ended.
    """
    found = phases(run.task, practised(run))
    if not len(found.phase):
        raise ConfigError('No phase has ended yet.')
    rate = run.task.robot.control_rate
    caption = (
        'Above: who drove in which phase; the dots are phases by how long they took, full where '
        'they succeeded (backward: reached the state that they were sent to), half-tone where they '
        f'ended before their limit. Below: success of the last {WINDOW} attempts in practice, with '
        'the exploration that practice has, and its Wilson 95 % interval.'
    )
    picture = drawing.svg(
        lambda grid: _draw_practice(grid, run, found, rate),
        rows=3,
        height=5.6,
        ratios=[0.45, 2.4, 2.0],
        share_x=True,
    )
    return join(_practice_table(run, found, rate), figure(picture, caption))


def _practice_table(run: RunData, found: Phases, rate: float) -> Html:
    rows = []
    for number, name in enumerate(PHASES):
        which = found.phase == number
        if not which.any():
            continue
        count, successes = int(which.sum()), int(found.success[which].sum())
        steps = found.steps[which]
        # Without a state to reach there is no success, and 0 would look like failure.
        aimed = number == FORWARD or (number == BACKWARD and run.agent.reaches)
        share = rate_text(successes / count, *map(float, wilson(successes, count)))
        rows.append(
            [
                name,
                f'{count:,}',
                f'{successes:,}' if aimed else '-',
                share if aimed else '-',
                f'{int(found.early[which].sum()):,}',
                f'{np.median(steps):.0f} ({np.median(steps) / rate:.1f} s)',
                f'{steps.sum():,}',
            ]
        )
    head = ['phase', 'ended', 'successes', 'share (95 %)', 'before limit', 'median length', 'steps']
    return table(head, rows)


def _draw_practice(grid: np.ndarray, run: RunData, found: Phases, rate: float) -> None:
    strip, dots, moving = grid[:, 0]
    rows = run.transitions
    for number, colour in enumerate(drawing.PHASE_COLOURS):
        _draw_stretches(strip, rows['phase'] == number, colour, 0.5)
    _draw_stretches(strip, rows['source'] == HUMAN, drawing.SERIES[2], 0.0, height=0.42)
    _draw_stretches(strip, rows['source'] == SAFETY, '#c22d2d', 0.0, height=0.42)
    strip.set(ylim=(0, 1), yticks=[0.2, 0.75], yticklabels=['person', 'phase'])
    strip.grid(visible=False)
    for number, colour in enumerate(drawing.PHASE_COLOURS):
        which = found.phase == number
        if which.any():
            _draw_dots(dots, found, which, rate, colour, PHASES[number])
    dots.set(ylabel='duration (s)', ylim=(0, None))
    drawing.legend(dots)
    for number, colour in ((FORWARD, drawing.FORWARD), (BACKWARD, drawing.BACKWARD)):
        which = np.flatnonzero(found.phase == number)
        success = found.success[which]
        if not len(which) or (number == BACKWARD and not success.any()):
            continue
        sums = np.cumsum(np.append(0, success))
        count = np.minimum(np.arange(1, len(which) + 1), WINDOW)
        wins = sums[1:] - sums[np.arange(1, len(which) + 1) - count]
        steps = found.first[which] + found.steps[which]
        drawing.band(
            moving, steps, wins / count, *wilson(wins, count), color=colour, label=PHASES[number]
        )
    drawing.rate_axis(moving, 'success rate')
    drawing.legend(moving)
    moving.set(xlabel='environment steps', xlim=(0, max(len(rows['phase']), 1)))


def _draw_stretches(
    axes: Any, where: np.ndarray, colour: str, bottom: float, height: float = 0.5
) -> None:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], where.astype(int), [0]])))
    spans = [(begin, end - begin) for begin, end in zip(edges[::2], edges[1::2], strict=True)]
    axes.broken_barh(spans, (bottom, height), color=colour, linewidth=0, rasterized=True)


def _draw_dots(
    axes: Any, found: Phases, which: np.ndarray, rate: float, colour: str, label: str
) -> None:
    """Full dots: success; half-tone: ended early; hollow: at the limit."""
    kinds = (
        (which & found.success, {'facecolor': colour}),
        (which & ~found.success & found.early, {'facecolor': colour, 'alpha': 0.45}),
        (which & ~found.success & ~found.early, {'facecolor': 'none'}),
    )
    for rows, look in kinds:
        x, y = found.first[rows], found.steps[rows] / rate
        axes.scatter(x, y, s=18, edgecolor=colour, linewidth=1.1, rasterized=len(x) > 500, **look)
    axes.scatter([], [], s=18, color=colour, label=label)


def model_section(run: RunData) -> Html:
    """Error of the dynamics model over time, and open-loop over the horizon.

    :raises ConfigError: the agent has no model.
    """
    if run.agent.model is None:
        raise ConfigError(f"Agent '{run.agent.name}' has no dynamics model.")
    parts: list[Html] = [tag('h3', 'One step ahead, while it learned')]
    parts += _attempted(lambda: _error_figure(run))
    parts.append(tag('h3', 'Open loop, against what then happened'))
    parts += _attempted(lambda: _open_loop(run, check_model(run)))
    return join(parts)


def _attempted(make: Any) -> list[Html]:
    try:
        return [make()]
    except ConfigError as error:
        return [paragraph(str(error), 'note')]


def _error_figure(run: RunData) -> Html:
    history = run.history
    names = [k for k in history_data.keys(history, 'learner') if k.startswith(_MODEL_ERROR)]
    steps = history_data.series(history, 'learner', 'environment_steps')
    curves = {name: history_data.series(history, 'learner', name) for name in names}
    # Most samples fall between two fits and repeat the last one.
    curves = {name: values for name, values in curves.items() if np.isfinite(values).any()}
    if not curves:
        raise ConfigError('The history of the run has no error of the model.')

    def draw(grid: np.ndarray) -> None:
        axes = grid[0, 0]
        for number, (name, values) in enumerate(curves.items()):
            known = np.isfinite(values)
            colour = drawing.SERIES[number % len(drawing.SERIES)]
            style = ('-', '--', ':')[number // len(drawing.SERIES) % 3]
            label = name.removeprefix(_MODEL_ERROR)
            look = {'color': colour, 'linestyle': style, 'linewidth': 1.7, 'label': label}
            axes.step(steps[known], values[known], where='post', **look)
        axes.axhline(1.0, color=drawing.GREY, linewidth=1)
        axes.set(
            xlabel='environment steps', ylabel='unexplained share', ylim=(0, None), xlim=(0, None)
        )
        drawing.legend(axes)

    caption = (
        'Share of the change of each entry in one step that the model does not predict, on '
        'transitions that it was not trained on: 0 is perfect, 1 is as bad as predicting the mean.'
    )
    return figure(drawing.svg(draw), caption)


def _open_loop(run: RunData, check: ModelCheck) -> Html:
    found, rate = check.prediction, run.task.robot.control_rate
    share = found.errors / found.ranges
    low, middle, high = np.quantile(share, [0.05, 0.5, 0.95], axis=0)
    still = np.median(found.still / found.ranges, axis=0)
    shown = min(len(found.names), _MOST_ENTRIES)
    seconds = np.arange(1, found.horizon + 1) / rate
    columns = shown if shown < 4 else min((4, 3), key=lambda count: -shown % count)

    def draw(grid: np.ndarray) -> None:
        for number, axes in enumerate(grid.flat[:shown]):
            columns_of = (100 * each[:, number] for each in (middle, low, high))
            drawing.band(axes, seconds, *columns_of, color=drawing.FORWARD, label='model')
            at_rest = 100 * still[:, number]
            axes.plot(seconds, at_rest, color=drawing.GREY, linestyle='--', label='nothing moves')
            axes.set_title(found.names[number])
            axes.set(ylim=(0, None), xlim=(0, seconds[-1]))
        drawing.hide_unused(grid, shown)
        for axes in grid[:, 0]:
            axes.set_ylabel('error (% of range)')
        for axes in grid[-1]:
            axes.set_xlabel('seconds ahead')
        grid[0, 0].legend(loc='upper left')

    rows = -(-shown // columns)
    picture = drawing.svg(draw, rows=rows, columns=columns, height=1.0 + 2.0 * rows)
    moments = sorted({1, max(found.horizon // 2, 1), found.horizon})
    text = (
        f'The model of the last checkpoint was fitted after {check.trained_steps:,} steps of the '
        f'run. It never trains on every tenth phase ({check.held_out:,} steps up to then) nor, so '
        f'far, on the {len(run.transitions["phase"]) - check.trained_steps:,} steps that followed. '
        f'From these, {check.windows} windows of {found.horizon} steps '
        f'({found.horizon / rate:.1f} s), the first after {check.first:,} steps of the run, were '
        'rolled out: the model was told the first state and the actions that were executed, '
        'nothing else.'
    )
    caption = (
        'Median error and the band that holds 90 % of the windows and elites, as share of the '
        'range that the task gives. The dashed line is the median error of the prediction that '
        'nothing moves; it is 0 where most windows leave an entry at rest.'
    )
    head = ['entry', *(f'after {step / rate:.1f} s' for step in moments), '% of range at the end']
    lines: list[list[Content]] = []
    for number, name in enumerate(found.names):
        of_entry = [np.quantile(found.errors[:, s - 1, number], [0.5, 0.95]) for s in moments]
        cells = [f'{median:.3g} (95 %: {worst:.3g})' for median, worst in of_entry]
        lines.append([name, *cells, f'{100 * middle[-1, number]:.1f}'])
    unit = paragraph(
        'Median error in the unit of the entry as in the task file (angles: rad; a binary entry is '
        'wrong, 1, or right, 0), and what 95 % of the predictions stay below.',
        'note',
    )
    return join(paragraph(text), figure(picture, caption), table(head, lines), unit)


def classifier_section(run: RunData) -> Html:
    """Score distributions, and the area under the ROC curve.

    :raises ConfigError: there is no classifier.
    """
    scores = classifier_check.scores(run)
    demonstrated = scores.get(classifier_check.DEMONSTRATED, np.array([]))

    def draw(grid: np.ndarray) -> None:
        edges = np.linspace(0, 1, 41)
        for axes, (name, values) in zip(grid.flat, scores.items(), strict=False):
            colour = _SCORE_COLOURS[name]
            share = np.histogram(values, edges)[0] / len(values)
            axes.stairs(100 * share, edges, color=colour, fill=True, alpha=0.55)
            axes.axvline(np.median(values), color=colour, linewidth=1.6)
            axes.set_title(name)
            axes.set(xlabel='score', xlim=(0, 1))
        drawing.hide_unused(grid, len(scores))
        grid[0, 0].set_ylabel('states (%)')

    rows = []
    for name, values in scores.items():
        own = name == classifier_check.DEMONSTRATED
        area = '' if own else f'{separation(demonstrated, values):.3f}'
        rows.append([name, f'{len(values):,}', f'{np.median(values):.2f}', area])
    head = ['states of', 'states', 'median score', 'AUC against demonstrations']
    caption = (
        'Score of the last classifier: 1 where it takes a state for a demonstrated one; the line '
        'is the median. An area under the ROC curve (AUC) of 1 tells the states apart for certain, '
        '0.5 not at all: as the backward policy learns to return, that of its late states falls.'
    )
    return join(table(head, rows), figure(drawing.svg(draw, columns=4, height=2.5), caption))
