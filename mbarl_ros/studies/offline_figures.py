"""Figures of study ``offline``; each function returns file name and caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from mbarl_ros.studies.cells import cell_folder
from mbarl_ros.studies.offline_results import (
    DEMONSTRATIONS,
    MEASURES,
    NARROW,
    VISITS_FILE,
    Table,
    unpack_visits,
)
from mbarl_ros.studies.study import Results
from mbarl_ros.task import Task
from mbarl_ros.view.plots import save_figure

matplotlib.use('Agg')
from matplotlib import pyplot

_STARTS = {
    NARROW: ('narrow starts', '#c8553d'),
    DEMONSTRATIONS: ('demonstration starts', '#1f5fa8'),
}
_SIZES = ('#9ecae1', '#4292c6', '#08519c')
_WALLS = ((-2.0, 0.7), (1.3, 2.0))  # m, the dividing wall along y = 0


def rollout_length(folder: Path, table: Table) -> tuple[str, str]:
    """Success against rollout length for both kinds of starts; thin lines: model sizes."""
    figure, grid = pyplot.subplots(1, 2, figsize=(11, 4.2), layout='constrained', sharey=True)
    lengths = table.axis('length')
    for axes, (measure, title) in zip(grid, MEASURES.items(), strict=True):
        for starts, (label, colour) in _STARTS.items():
            groups = [table.rates(measure, length=length, starts=starts) for length in lengths]
            _line(axes, lengths, groups, color=colour, label=label)
            for size in table.axis('samples'):
                means = [
                    table.rates(measure, length=length, starts=starts, samples=size).mean()
                    for length in lengths
                ]
                axes.plot(lengths, means, color=colour, linewidth=0.7, alpha=0.5)
        _finish(axes, f'deployed from: {title}', 'rollout length (steps)', lengths)
    grid[0].set_ylabel('success rate in the true room')
    _legend_below(figure, grid[0])
    save_figure(figure, folder / 'rollout_length.png')
    return (
        'rollout_length.png',
        'Success against rollout length: mean and standard error over model sizes and seeds '
        '(thick), mean of each model size (thin). The first of the two figures of the poster.',
    )


def model_size(folder: Path, table: Table) -> tuple[str, str]:
    """Success by size of the model's data for both kinds of starts."""
    figure, grid = pyplot.subplots(1, 2, figsize=(11, 4.2), layout='constrained', sharey=True)
    sizes = table.axis('samples')
    places = np.arange(len(sizes))
    for axes, (measure, title) in zip(grid, MEASURES.items(), strict=True):
        for side, (starts, (label, colour)) in zip((-1, 1), _STARTS.items(), strict=True):
            groups = [table.rates(measure, samples=size, starts=starts) for size in sizes]
            axes.bar(
                places + side * 0.19,
                [group.mean() for group in groups],
                0.36,
                yerr=[_standard_error(group) for group in groups],
                color=colour,
                label=label,
                error_kw={'linewidth': 1, 'capsize': 3, 'ecolor': '#333333'},
            )
        _finish(
            axes, f'deployed from: {title}', 'random steps that the model was fitted to', places
        )
        axes.set_xticklabels([f'{size:,}' for size in sizes])
    grid[0].set_ylabel('success rate in the true room')
    _legend_below(figure, grid[0])
    save_figure(figure, folder / 'model_size.png')
    return (
        'model_size.png',
        'Success by the amount of data behind the model: mean and standard error over rollout '
        'lengths and seeds. The second figure of the poster.',
    )


def model_error(folder: Path, models: Mapping[int, Sequence[Mapping[str, Any]]]) -> tuple[str, str]:
    """Error of one step, error along the demonstrations, and what leaks through the wall."""
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(12, 3.8), layout='constrained')
    places = np.arange(len(models))
    names = {'one_step_error': 'elsewhere', 'one_step_error_at_wall': 'at the dividing wall'}
    for side, (name, label), colour in zip(
        (-1, 1), names.items(), ('#8aa0b8', '#566073'), strict=True
    ):
        values = [1000 * np.mean([each[name] for each in found]) for found in models.values()]
        left.bar(places + side * 0.19, values, 0.36, color=colour, label=label)
    left.set(ylabel='error of one step (mm)')
    left.legend(fontsize=8, frameon=False)
    for (size, found), colour in zip(models.items(), _SIZES, strict=False):
        error = np.mean([each['open_loop_error'] for each in found], axis=0)
        steps = np.arange(1, len(error) + 1)
        middle.plot(steps, error, color=colour, linewidth=1.8, label=f'{size:,}')
    middle.set(xlabel='steps', ylabel='distance from the demonstration (m)', ylim=(0, None))
    middle.legend(fontsize=8, frameon=False, title='model data', title_fontsize=8)
    leaks = [[each['wall_leak'] for each in found] for found in models.values()]
    right.bar(places, [100 * np.mean(each) for each in leaks], 0.5, color='#8aa0b8')
    for place, each in zip(places, leaks, strict=True):
        right.plot(
            np.full(len(each), place), 100 * np.array(each), 'o', color='#333333', markersize=3
        )
    right.set(ylabel='pushes that pass through the wall (%)', ylim=(0, 102))
    for axes in (left, right):
        axes.set_xticks(places, [f'{size:,}' for size in models])
        axes.set_xlabel('model data')
    titles = (
        'unseen random steps',
        'demonstrated actions replayed',
        'two seconds against the wall',
    )
    for axes, title in zip((left, middle, right), titles, strict=True):
        axes.set_title(title, fontsize=10, loc='left')
        axes.grid(alpha=0.25)
    save_figure(figure, folder / 'model_error.png')
    return (
        'model_error.png',
        'Why the data matter: error of the models on data that they have not seen, means over '
        'seeds. Right: discs that push against the closed wall for two seconds and pass through it '
        'in the model; in truth none does (dots: seeds).',
    )


def coverage(folder: Path, results: Results, task: Task) -> tuple[str, str] | None:
    """Where imagined practice has been, for each kind of starts and rollout length."""
    cells = {}
    for name, each in results.items():
        settings = each['settings']
        path = cell_folder(folder, name) / VISITS_FILE
        if 'rollout_length' in settings and path.exists():
            key = (settings['starts'], settings['rollout_length'])
            cells.setdefault(key, []).append((unpack_visits(path.read_bytes()), each['result']))
    lengths = sorted({length for _, length in cells})
    if len(cells) < len(_STARTS) * len(lengths) or not cells:
        return None
    figure, grid = pyplot.subplots(
        len(_STARTS),
        len(lengths),
        figsize=(3.4 * len(lengths), 7),
        layout='constrained',
        squeeze=False,
    )
    for axes, (starts, length) in zip(grid.flat, product(_STARTS, lengths), strict=True):
        found = cells[starts, length]
        share = np.mean([result['coverage'] for _, result in found])
        counts = np.sum([counts for counts, _ in found], axis=0)
        _draw_room(axes, task, np.log10(1 + counts))
        axes.set_title(f'{starts}, {length} steps: {share:.0%}', fontsize=9, loc='left')
    save_figure(figure, folder / 'coverage.png')
    return (
        'coverage.png',
        'Where imagined practice has been (darker: more often, all models and seeds), and the '
        'share of the squares that one policy has seen in training. Green: the goal; black: the '
        'wall. A policy can only be right where its practice has been.',
    )


def _draw_room(axes: Any, task: Task, picture: np.ndarray) -> None:
    (left, bottom), (right, top) = task.state_low[:2], task.state_high[:2]
    axes.imshow(
        picture.T,
        origin='lower',
        extent=(left, right, bottom, top),
        cmap='Blues',
        interpolation='nearest',
    )
    for wall in _WALLS:
        axes.plot(wall, (0, 0), color='black', linewidth=3, solid_capstyle='butt')
    success = task.config.success
    axes.add_patch(
        pyplot.Circle(
            success.target, success.tolerance, fill=False, edgecolor='#2e8b3d', linewidth=2
        )
    )
    axes.set(xticks=[], yticks=[])


def _line(axes: Any, places: Sequence[float], groups: Sequence[np.ndarray], **style: Any) -> None:
    axes.errorbar(
        places,
        [group.mean() for group in groups],
        yerr=[_standard_error(group) for group in groups],
        marker='o',
        markersize=5,
        linewidth=2.2,
        capsize=3,
        **style,
    )


def _legend_below(figure: Any, axes: Any) -> None:
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc='outside lower center', ncols=2, fontsize=9, frameon=False)


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


def _finish(axes: Any, title: str, label: str, ticks: Sequence[float]) -> None:
    axes.set_title(title, fontsize=10, loc='left')
    axes.set(xlabel=label, ylim=(0, 1.03), xticks=ticks)
    axes.grid(alpha=0.25)
