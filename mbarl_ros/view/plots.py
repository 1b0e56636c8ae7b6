"""Plots of a run and of demonstrations."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.storage.files import write_file

BARS = '▁▂▃▄▅▆▇█'
_COLOURS = {'forward': '#1f5fa8', 'backward': '#c8553d'}


def plot_success(lines: Sequence[dict[str, Any]], target: float, path: Path) -> None:
    """Success rate of the deployed policy against environment steps, as PNG.

    :param lines: lines of ``evaluations.jsonl``, at least one
    :param target: success rate at which the run ends
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    steps = [line['environment_steps'] for line in lines]
    success = [line['deployed_success'] for line in lines]
    last = lines[-1]
    figure, axes = pyplot.subplots(figsize=(7.5, 4.2), layout='constrained')
    axes.plot(
        steps,
        success,
        marker='o',
        markersize=3.5,
        linewidth=1.8,
        color='#1f5fa8',
        label=f'{last["agent"]}, deployed',
        zorder=3,
        clip_on=False,
    )
    axes.axhline(target, color='#888888', linewidth=1, linestyle=':', label=f'target {target:g}')
    clone = last.get('clone_success')
    if clone is not None:
        axes.axhline(
            clone,
            color='#c8553d',
            linewidth=1.4,
            linestyle='--',
            label=f'behaviour clone of the demonstrations ({clone:.2f})',
        )
    if last['environment_steps']:
        minutes_per_step = last['robot_seconds'] / last['environment_steps'] / 60
        top = axes.secondary_xaxis(
            'top',
            functions=(
                lambda steps: steps * minutes_per_step,
                lambda minutes: minutes / minutes_per_step,
            ),
        )
        top.set_xlabel('robot time (minutes)', fontsize=9)
    axes.set(
        xlabel='environment steps',
        ylabel='success rate',
        ylim=(0, 1.02),
        xlim=(0, max(steps[-1], 1)),
    )
    axes.set_title(
        f'{last["task"]}, seed {last["seed"]}: success of the deployed policy, '
        f'{last["training_resets"]} resets in training',
        fontsize=10,
    )
    axes.grid(alpha=0.25)
    axes.legend(loc='lower right', fontsize=9, frameon=False)
    save_figure(figure, path)


Signals = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Name -> times (s) [n] and values [n]; NaN interrupts the line."""


@dataclass(frozen=True)
class DemonstrationPlot:
    """One demonstration to draw; ``success``: it is a forward one and ends in success."""

    direction: str
    title: str
    signals: Signals
    success: bool


def plot_demonstrations(task: str, demonstrations: Sequence[DemonstrationPlot], path: Path) -> None:
    """Signals of demonstrations of ``task`` against time, one panel per signal, as PNG.

    A line is interrupted where steps are left out. A dot marks the success of a forward
    demonstration.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    names = list(demonstrations[0].signals)
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(4.0 * columns, 2.1 * rows), layout='constrained', squeeze=False
    )
    for axes, name in zip(grid.flat, names, strict=False):
        for demonstration in demonstrations:
            times, values = demonstration.signals[name]
            colour = _COLOURS[demonstration.direction]
            axes.plot(times, values, color=colour, linewidth=1.1, alpha=0.7)
            if demonstration.success:
                axes.plot(times[-1], values[-1], 'o', color=colour, markersize=3)
        axes.set_title(name, fontsize=9, loc='left')
        axes.grid(alpha=0.25)
        axes.tick_params(labelsize=8)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel('time (s)', fontsize=8)
    for direction, colour in _COLOURS.items():
        count = sum(each.direction == direction for each in demonstrations)
        if count:
            grid[0, 0].plot([], [], color=colour, label=f'{count} {direction}')
    grid[0, 0].legend(fontsize=8, frameon=False)
    figure.suptitle(f'Demonstrations of {task}', fontsize=10)
    save_figure(figure, path)


def demonstration_lines(demonstration: DemonstrationPlot, width: int = 60) -> list[str]:
    """A demonstration for a terminal: one line per signal, with its range."""
    lines = [demonstration.title]
    for name, (_, values) in demonstration.signals.items():
        finite = values[np.isfinite(values)]
        low, high = finite.min(), finite.max()
        columns = np.linspace(0, len(values) - 1, min(width, len(values))).round().astype(int)
        levels = (values[columns] - low) / max(high - low, 1e-9) * (len(BARS) - 1)
        bars = ''.join(BARS[round(x)] if np.isfinite(x) else ' ' for x in levels)
        lines.append(f'  {name:20} {low:9.3f} {bars} {high:.3f}')
    return lines


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG, atomically, and close it.

    :raises OSError: the disk is full or read-only.
    """
    from matplotlib import pyplot

    png = io.BytesIO()
    figure.savefig(png, dpi=120, format='png')
    pyplot.close(figure)
    write_file(path, png.getvalue())
