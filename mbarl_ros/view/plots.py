"""Pictures of a run and of demonstrations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

BARS = '▁▂▃▄▅▆▇█'  # also of the terminal panel
_COLOURS = {'forward': '#1f5fa8', 'backward': '#c8553d'}


def plot_success(lines: Sequence[dict[str, Any]], target: float, path: Path) -> None:
    """Deployed success against environment steps, as PNG.

    :param lines: lines of ``evaluations.jsonl``
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
        rate = last['robot_seconds'] / last['environment_steps'] / 60
        minutes = axes.secondary_xaxis(
            'top', functions=(lambda steps: steps * rate, lambda time: time / rate)
        )
        minutes.set_xlabel('robot time (minutes)', fontsize=9)
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
"""Name -> times (s) and values of the same length; NaN breaks the line."""


@dataclass(frozen=True)
class DemonstrationPlot:
    """One demonstration as it is drawn; ``success``: a forward one that ends in success."""

    direction: str
    title: str
    signals: Signals
    success: bool


def plot_demonstrations(task: str, shown: Sequence[DemonstrationPlot], path: Path) -> None:
    """Signals of demonstrations of ``task`` against time, one panel each, as PNG.

    Lines are broken at steps that are left out; a dot ends a forward demonstration in success.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    names = list(shown[0].signals)
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(4.0 * columns, 2.1 * rows), layout='constrained', squeeze=False
    )
    for axes, name in zip(grid.flat, names, strict=False):
        for demonstration in shown:
            times, line = demonstration.signals[name]
            colour = _COLOURS[demonstration.direction]
            axes.plot(times, line, color=colour, linewidth=1.1, alpha=0.7)
            if demonstration.success:
                axes.plot(times[-1], line[-1], 'o', color=colour, markersize=3)
        axes.set_title(name, fontsize=9, loc='left')
        axes.grid(alpha=0.25)
        axes.tick_params(labelsize=8)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel('time (s)', fontsize=8)
    count = {way: sum(one.direction == way for one in shown) for way in _COLOURS}
    for way, colour in _COLOURS.items():
        if count[way]:
            grid[0, 0].plot([], [], color=colour, label=f'{count[way]} {way}')
    grid[0, 0].legend(fontsize=8, frameon=False)
    figure.suptitle(f'Demonstrations of {task}', fontsize=10)
    save_figure(figure, path)


def demonstration_lines(demonstration: DemonstrationPlot, width: int = 60) -> list[str]:
    """The same for a terminal: a line for each signal, with its range."""
    lines = [demonstration.title]
    for name, (_, values) in demonstration.signals.items():
        finite = values[np.isfinite(values)]
        low, high = finite.min(), finite.max()
        at = np.linspace(0, len(values) - 1, min(width, len(values))).round().astype(int)
        level = (values[at] - low) / max(high - low, 1e-9) * (len(BARS) - 1)
        bars = ''.join(BARS[round(x)] if np.isfinite(x) else ' ' for x in level)
        lines.append(f'  {name:20} {low:9.3f} {bars} {high:.3f}')
    return lines


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG, whole or not at all, and close it."""
    from matplotlib import pyplot

    beside = path.with_name(f'.{path.name}.tmp')
    figure.savefig(beside, dpi=120, format='png')
    pyplot.close(figure)
    beside.replace(path)
