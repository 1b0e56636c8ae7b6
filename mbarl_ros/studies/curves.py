"""Plot of ``mbarl bench``: success against environment steps, beside the published curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.studies.summary import LEVELS, AgentResult, Curve, smooth
from mbarl_ros.view.plots import save_figure

# A method has the same colour in the bench (thick lines) and in the literature (thin lines).
_METHODS = {
    'mbarl': '#1f5fa8',
    'medal': '#c8553d',
    'mbarl-explore': '#5fa0dc',
    'mbpo': '#2f9fa8',
    'risc': '#3a8f5c',
    'vaprl': '#8a4fa3',
    'fbrl': '#c99a2e',
    'r3l': '#9c3d63',
    'sac': '#6b6b2f',
    'oracle': '#7d5a3c',
}
_PUBLISHED_AS = {'naive SAC': 'sac'}
_OTHERS = ('#e07b39', '#12806a', '#b0499b', '#5b6ee1', '#a3a02c', '#c2274b', '#3f7f93', '#8c8c8c')
_STYLES = ('-', (0, (3, 1)), (0, (4, 1, 1, 1)))
_LEVEL = LEVELS[-1]


def plot_curves(
    task: str, agents: Sequence[AgentResult], published_curves: dict[str, Curve], path: Path
) -> None:
    """Plot deployed success with the published curves, and wide success beside it, as PNG.

    Means over seeds within a band of one standard deviation. Deployed success is smoothed, and its
    axis is logarithmic if there are published curves. Agents that do not practise are horizontal
    dashed lines.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    wide = any(agent.wide for agent in agents)
    figure, grid = pyplot.subplots(
        1, 1 + wide, figsize=(13 if wide else 8.5, 5.6), layout='constrained', squeeze=False
    )
    left = grid[0, 0]
    deployed = [(agent, _smoothed(agent.deployed)) for agent in agents]
    handles = _draw_agents(left, deployed)
    left.set_title(f'{task}: success of the deployed policy', fontsize=10, loc='left')
    left.axhline(_LEVEL, color='#bbbbbb', linewidth=0.8, linestyle=':')
    if published_curves:
        first = min((a.deployed.steps[1] for a in agents if a.practises), default=1000)
        left.set_xscale('log')
        left.set_xlim(first, max(curve.steps[-1] for curve in published_curves.values()))
        handles += _draw_published(left, published_curves)
    if wide:
        right = grid[0, 1]
        _draw_agents(right, [(agent, agent.wide) for agent in agents if agent.wide])
        right.set_title('the same from wide starts', fontsize=10, loc='left')
    for axes in grid[0, bool(published_curves) :]:
        axes.set_xlim(0, _last_step(deployed))
    for axes in grid.flat:
        axes.set(xlabel='environment steps', ylabel='success rate', ylim=(0, 1.02))
        axes.grid(alpha=0.25)
    figure.legend(
        handles=handles,
        loc='outside lower center',
        ncols=5 if wide else 3,
        fontsize=8.5,
        frameon=False,
        title=f'agent (seeds): steps to {_LEVEL}',
        title_fontsize=8.5,
        alignment='left',
    )
    save_figure(figure, path)


def _draw_agents(axes: Any, curves: Sequence[tuple[AgentResult, Curve]]) -> list[Any]:
    lines = []
    others = 0
    for agent, curve in curves:
        colour, style = _METHODS.get(agent.name), '-'
        if colour is None:
            colour = _OTHERS[others % len(_OTHERS)]
            style = _STYLES[others // len(_OTHERS) % len(_STYLES)]
            others += agent.practises
        label = f'{agent.name} ({len(agent.seeds)})'
        if agent.practises:
            label += f': {_thousands(agent.deployed.steps_to(_LEVEL))}'
        else:
            ends = np.array([1, _last_step(curves)])  # a logarithmic axis has no 0
            curve = Curve(
                ends, *(np.repeat(v[-1], 2) for v in (curve.mean, curve.std)), curve.seeds
            )
            colour, style = '#555555', '--'
        lines += _draw(axes, curve, color=colour, linestyle=style, linewidth=2, label=label)
    return lines


def _draw_published(axes: Any, published_curves: dict[str, Curve]) -> list[Any]:
    lines = []
    ranked = sorted(published_curves.items(), key=lambda item: item[1].steps_to(_LEVEL) or np.inf)
    for number, (name, curve) in enumerate(ranked):
        label = f'{name}, published ({curve.seeds}): {_thousands(curve.steps_to(_LEVEL))}'
        method = _PUBLISHED_AS.get(name, name.lower())
        colour = _METHODS.get(method, _OTHERS[number % len(_OTHERS)])
        lines += _draw(axes, _smoothed(curve), color=colour, linewidth=0.9, label=label)
    return lines


def _draw(axes: Any, curve: Curve, **style: Any) -> list[Any]:
    low, high = (np.clip(curve.mean + sign * curve.std, 0, 1) for sign in (-1, 1))
    axes.fill_between(curve.steps, low, high, color=style['color'], alpha=0.1, linewidth=0)
    return axes.plot(curve.steps, curve.mean, **style)


def _smoothed(curve: Curve) -> Curve:
    return replace(curve, mean=smooth(curve.mean), std=smooth(curve.std))


def _last_step(curves: Sequence[tuple[AgentResult, Curve]]) -> int:
    return max(1, *(int(curve.steps[-1]) for _, curve in curves))


def _thousands(steps: int | None) -> str:
    return '-' if steps is None else f'{steps / 1000:,g}k'
