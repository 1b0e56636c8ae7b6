"""Plot of ``mbarl bench``: success or return over environment steps, beside published curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.studies.summary import LEVELS, AgentResult, Curve, can_succeed, smooth
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
    """Plot deployed return or success with the published curves, and other curves beside, as PNG.

    Where there are returns, success is beside them if there was any; else success from wide starts
    is beside success. Means over seeds within a band of one standard deviation. What is on the left
    is smoothed, and its axis is logarithmic if there are published curves. Agents that do not
    practise are horizontal dashed lines.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    panels = _panels(agents)
    figure, grid = pyplot.subplots(
        1,
        len(panels),
        figsize=(13 if len(panels) > 1 else 8.5, 5.6),
        layout='constrained',
        squeeze=False,
    )
    last_step = max(1, *(int(agent.deployed.steps[-1]) for agent in agents))
    handles: list[Any] = []
    for axes, panel in zip(grid[0], panels, strict=True):
        lines = _draw_agents(axes, panel, last_step)
        handles = handles or lines
        axes.set_title(panel.title.format(task=task), fontsize=10, loc='left')
        axes.set(xlabel='environment steps', ylabel=panel.label, xlim=(0, last_step))
        if panel.is_rate:
            axes.set_ylim(0, 1.02)
        axes.grid(alpha=0.25)
    left = grid[0, 0]
    if panels[0].is_rate:
        left.axhline(_LEVEL, color='#bbbbbb', linewidth=0.8, linestyle=':')
    if published_curves:
        first = min((a.deployed.steps[1] for a in agents if a.practises), default=1000)
        left.set_xscale('log')
        left.set_xlim(first, max(curve.steps[-1] for curve in published_curves.values()))
        handles += _draw_published(left, published_curves)
    figure.legend(
        handles=handles,
        loc='outside lower center',
        ncols=5 if len(panels) > 1 else 3,
        fontsize=8.5,
        frameon=False,
        title=f'agent (seeds): {panels[0].measure}',
        title_fontsize=8.5,
        alignment='left',
    )
    save_figure(figure, path)


@dataclass(frozen=True)
class _Panel:
    """One pair of axes: its texts, and a curve of each agent that has one.

    ``measure`` says what the legend has of each agent; ``is_rate``: success rates.
    """

    title: str
    label: str
    curves: Sequence[tuple[AgentResult, Curve]]
    measure: str = f'steps to {_LEVEL}'
    is_rate: bool = True

    def of(self, agent: AgentResult) -> str:
        """The measure of an agent that practises."""
        if self.is_rate:
            return _thousands(agent.deployed.steps_to(_LEVEL))
        assert agent.returns is not None
        return f'{agent.returns.late[1]:.4g}'


def _panels(agents: Sequence[AgentResult]) -> list[_Panel]:
    deployed = [(agent, _smoothed(agent.deployed)) for agent in agents]
    wide = [(agent, agent.wide) for agent in agents if agent.wide]
    returns = [(agent, _smoothed(agent.returns)) for agent in agents if agent.returns]
    title, rate = 'success of the deployed policy', 'success rate'
    if returns:
        label, measure = 'return (sum of rewards)', 'return in its later half'
        panel = _Panel('{task}: return of the deployed policy', label, returns, measure, False)
        return [panel, _Panel(title, rate, deployed)] if can_succeed(agents) else [panel]
    panels = [_Panel('{task}: ' + title, rate, deployed)]
    return [*panels, _Panel('the same from wide starts', rate, wide)] if wide else panels


def _draw_agents(axes: Any, panel: _Panel, last_step: int) -> list[Any]:
    lines = []
    others = 0
    for agent, curve in panel.curves:
        colour, style = _METHODS.get(agent.name), '-'
        if colour is None:
            colour = _OTHERS[others % len(_OTHERS)]
            style = _STYLES[others // len(_OTHERS) % len(_STYLES)]
            others += agent.practises
        label = f'{agent.name} ({len(agent.seeds)})'
        if agent.practises:
            label += f': {panel.of(agent)}'
        else:
            ends = np.array([1, last_step])  # a logarithmic axis has no 0
            curve = Curve(
                ends, *(np.repeat(v[-1], 2) for v in (curve.mean, curve.std)), curve.seeds
            )
            colour, style = '#555555', '--'
        look = {'color': colour, 'linestyle': style, 'linewidth': 2, 'label': label}
        lines += _draw(axes, curve, is_rate=panel.is_rate, **look)
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


def _draw(axes: Any, curve: Curve, *, is_rate: bool = True, **style: Any) -> list[Any]:
    low, high = (curve.mean + sign * curve.std for sign in (-1, 1))
    if is_rate:
        low, high = low.clip(0, 1), high.clip(0, 1)
    axes.fill_between(curve.steps, low, high, color=style['color'], alpha=0.1, linewidth=0)
    return axes.plot(curve.steps, curve.mean, **style)


def _smoothed(curve: Curve) -> Curve:
    return replace(curve, mean=smooth(curve.mean), std=smooth(curve.std))


def _thousands(steps: int | None) -> str:
    return '-' if steps is None else f'{steps / 1000:,g}k'
