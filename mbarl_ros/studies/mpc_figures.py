"""Figures of ``mbarl study mpc``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.studies.mpc_curves import Curve, mean_curve
from mbarl_ros.studies.mpc_settings import VARIANT_BASE, variant
from mbarl_ros.studies.study import Results
from mbarl_ros.view.plots import save_figure

COLOURS = {
    'value': '#1f5fa8',
    'pure': '#5fa0dc',
    'trpo': '#c8553d',
    'trpo_default': '#c99a2e',
    'trpo_slow': '#8a4fa3',
}


def late_return(returns: Sequence[Sequence[float]]) -> float:
    """Mean return of the planned episodes of the second half."""
    planned = [row for row in returns if row[2]]
    last = planned[-1][0]
    return float(np.mean([row[1] for row in planned if row[0] > last / 2]))


def draw_returns(
    curves: Mapping[str, Mapping[str, Sequence[Curve]]], labels: Mapping[str, str], path: Path
) -> None:
    """Returns against steps, one panel for each environment."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(
        1, len(curves), figsize=(6.2 * len(curves), 4.4), layout='constrained', squeeze=False
    )
    for axes, (env, methods) in zip(grid[0], curves.items(), strict=True):
        named = {labels[kind]: seeds for kind, seeds in methods.items()}
        draw_curves(axes, env, named, {labels[kind]: COLOURS[kind] for kind in methods})
        axes.set_xlim(1000, None)
    save_figure(figure, path)


def draw_curves(
    axes: Any, title: str, curves: Mapping[str, Sequence[Curve]], colours: Mapping[str, str]
) -> None:
    """Returns against steps in one panel: the mean of each method, and its seeds as thin lines."""
    for name, seeds in curves.items():
        for steps, returns in seeds:
            axes.plot(steps, returns, color=colours[name], linewidth=0.7, alpha=0.4)
        axes.plot(*mean_curve(seeds), color=colours[name], linewidth=2.2, label=name)
    axes.set(xscale='log', xlabel='environment steps', ylabel='return of an episode')
    axes.set_title(title, loc='left', fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9, loc='upper left')


def draw_open_loop(
    open_loops: Mapping[str, Mapping[str, Any]], path: Path
) -> tuple[float, float, int]:
    """Error of open-loop predictions, and one of them; error after 5 steps, after all, steps."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(1, 2, figsize=(12.5, 4.4), layout='constrained')
    early, late = [], []
    for name, data in open_loops.items():
        share = np.array(data['error']) / data['spread']
        grid[0].plot(np.arange(1, len(share) + 1), share, label=f'seed {name[-1]}')
        early.append(share[4])
        late.append(share[-1])
    steps = len(share)
    grid[0].axhline(1.0, color='#777777', linewidth=0.9, linestyle=':')
    grid[0].set(xlabel='predicted steps', ylabel='error / spread of the states')
    grid[0].legend(frameon=False, fontsize=8)
    grid[0].set_title('error of open-loop predictions', loc='left', fontsize=10)
    first = next(iter(open_loops.values()))
    truth, predicted = np.array(first['truth']), np.array(first['predicted'])
    for entry, name in enumerate(first['names']):
        offset = 2.5 * entry
        scale = max(np.ptp(truth[:, entry]), 1e-6) / 2
        middle = truth[:, entry].mean()
        lines = grid[1].plot((truth[:, entry] - middle) / scale + offset, linewidth=1.3)
        shown = np.clip((predicted[:, entry] - middle) / scale, -1.25, 1.25) + offset
        grid[1].plot(shown, '--', color=lines[0].get_color(), linewidth=1.1)
        grid[1].annotate(
            name, (1.01, offset), xycoords=('axes fraction', 'data'), fontsize=8, va='center'
        )
    grid[1].set(xlabel='predicted steps', yticks=[])
    grid[1].set_title('true (solid) and predicted (dashed)', loc='left', fontsize=10)
    for axes in grid:
        axes.grid(alpha=0.25)
    save_figure(figure, path)
    return float(np.mean(early)), float(np.mean(late)), steps


def draw_variants(
    results: Results, variants: Mapping[str, tuple[tuple[str, ...], list[Any]]], path: Path
) -> bool:
    """Return of MPC against each setting of Figure 6; whether there is anything to draw."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    cells = [cell for cell in results.values() if cell['settings']['kind'] == 'variant']
    if not cells:
        return False
    figure, grid = pyplot.subplots(2, 3, figsize=(11, 6), layout='constrained', sharey=True)
    for axes, (what, (_, values)) in zip(grid.flat, variants.items(), strict=True):
        means = []
        for position, value in enumerate(values):
            wanted = variant(VARIANT_BASE, variants[what][0], value)
            chosen = [
                late_return(cell['result']['returns'])
                for cell in cells
                if all(cell['settings'][key] == wanted[key] for key in wanted)
            ]
            axes.plot([position] * len(chosen), chosen, 'o', color='#1f5fa8', markersize=4)
            means.append(np.mean(chosen) if chosen else np.nan)
        axes.bar(range(len(values)), means, color='#1f5fa8', alpha=0.25, width=0.6)
        axes.set_xticks(range(len(values)), [str(value).replace('_', '\n') for value in values])
        axes.set_title(what, loc='left', fontsize=10)
        axes.grid(alpha=0.25, axis='y')
    for axes in grid[:, 0]:
        axes.set_ylabel('return')
    save_figure(figure, path)
    return True
