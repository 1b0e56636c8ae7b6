"""Picture of ``mbarl bench``: success against environment steps, beside the published record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.plots import save_figure
from mbarl_ros.studies.report import LEVELS, Agent, Curve, smooth

_COLOURS = ('#1f5fa8', '#c8553d', '#3a8f5c', '#8a4fa3', '#c99a2e', '#2f9fa8', '#9c3d63', '#6b6b2f')
_STYLES = ('-', '-.', (0, (4, 1, 1, 1, 1, 1)))
_GREYS = ('#333333', '#555555', '#777777', '#999999')
_DASHES = ((0, (1, 1)), (0, (5, 2)))


def plot_curves(task: str, agents: Sequence[Agent], record: dict[str, Curve], path: Path) -> None:
    """Deployed success on a logarithmic axis with the published curves, wide success beside it.

    Mean over seeds, smoothed, in a band of one standard deviation; agents that do not practise
    are level dashed lines.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    wide = any(agent.wide for agent in agents)
    figure, grid = pyplot.subplots(
        1, 1 + wide, figsize=(13 if wide else 8.5, 5.4), layout='constrained', squeeze=False
    )
    left = grid[0, 0]
    _draw_record(left, record)
    _draw_agents(left, [(agent, agent.deployed) for agent in agents])
    if record:
        left.set_xscale('log')
        first = min((a.deployed.steps[1] for a in agents if a.practises), default=1000)
        left.set_xlim(first, max(curve.steps[-1] for curve in record.values()))
    else:
        left.set_xlim(0, max(1, *(agent.deployed.steps[-1] for agent in agents)))
    level = LEVELS[-1]
    left.axhline(level, color='#bbbbbb', linewidth=0.8, linestyle=':')
    left.set_title(f'{task}: success of the deployed policy', fontsize=10, loc='left')
    if wide:
        right = grid[0, 1]
        shown = [(agent, agent.wide) for agent in agents if agent.wide]
        _draw_agents(right, shown)
        right.set_xlim(0, max(1, *(curve.steps[-1] for _, curve in shown)))
        right.set_title('the same from wide starts', fontsize=10, loc='left')
    for axes in grid.flat:
        axes.set(xlabel='environment steps', ylim=(0, 1.02))
        axes.grid(alpha=0.25)
    left.set_ylabel('success rate, mean over seeds (band: standard deviation)')
    figure.legend(
        *left.get_legend_handles_labels(),
        loc='outside lower center',
        ncols=4,
        fontsize=8.5,
        frameon=False,
        title=f'agent, seeds: steps to {level} (- never); published in grey',
        title_fontsize=8.5,
    )
    save_figure(figure, path)


def _draw_agents(axes: Any, shown: Sequence[tuple[Agent, Curve]]) -> None:
    for number, (agent, curve) in enumerate(shown):
        colour = _COLOURS[number % len(_COLOURS)]
        label = f'{agent.name}, {len(agent.seeds)}'
        if not agent.practises:
            level, spread = curve.mean[-1], curve.std[-1]
            axes.axhspan(level - spread, level + spread, color=colour, alpha=0.1, linewidth=0)
            axes.axhline(level, color=colour, linestyle='--', linewidth=1.5, label=label)
            continue
        label += f': {_thousands(agent.deployed.reach(LEVELS[-1]))}'
        style = _STYLES[number // len(_COLOURS) % len(_STYLES)]
        _band(axes, curve, colour, 0.15)
        mean = smooth(curve.mean)
        axes.plot(curve.steps, mean, color=colour, linestyle=style, linewidth=2, label=label)


def _draw_record(axes: Any, record: dict[str, Curve]) -> None:
    level = LEVELS[-1]
    ranked = sorted(record.items(), key=lambda item: item[1].reach(level) or np.inf)
    for number, (name, curve) in enumerate(ranked):
        colour, dash = _GREYS[number % len(_GREYS)], _DASHES[number // len(_GREYS)]
        label = f'{name}: {_thousands(curve.reach(level))}'
        _band(axes, curve, colour, 0.05)
        axes.plot(
            curve.steps,
            smooth(curve.mean),
            color=colour,
            linestyle=dash,
            linewidth=1.1,
            label=label,
        )


def _band(axes: Any, curve: Curve, colour: str, alpha: float) -> None:
    mean, spread = smooth(curve.mean), smooth(curve.std)
    low, high = np.clip(mean - spread, 0, 1), np.clip(mean + spread, 0, 1)
    axes.fill_between(curve.steps, low, high, color=colour, alpha=alpha, linewidth=0)


def _thousands(steps: int | None) -> str:
    return '-' if steps is None else f'{steps / 1000:,.0f}k'
