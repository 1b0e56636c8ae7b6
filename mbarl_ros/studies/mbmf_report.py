"""Report of ``mbarl study mbmf``: Figure 7 of Nagabandi et al. (2018), and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.studies.mpc_curves import (
    Curve,
    final,
    mean_curve,
    planned_curve,
    steps_to,
    trpo_curve,
)
from mbarl_ros.studies.mpc_figures import draw_curves
from mbarl_ros.studies.mpc_report import spread
from mbarl_ros.studies.study import Report, Results, Verdict
from mbarl_ros.view.plots import save_figure

INTRODUCTION = """\
Planning with a learned model gets a robot going after few steps, but the errors of the model limit
how good it becomes. Model-free learning has no such limit, but needs very many steps to get going.
Nagabandi et al. (2018) put one after the other (Mb-Mf): a policy network *imitates* the planner by
behaviour cloning; it then acts itself, the planner labels the states that it comes to (DAgger), and
the network is fitted again. From this policy TRPO starts, where it would else start from nothing.
The steps that the planner and DAgger took are counted.
"""
COLOURS = {
    'MPC with a learned value': '#1f5fa8',
    'TRPO after the warm start': '#3a8f5c',
    'TRPO from scratch': '#c8553d',
    'SAC after the warm start': '#2f9fa8',
    'SAC from scratch': '#c99a2e',
}
Cells = dict[int, Any]


def report(results: Results, folder: Path) -> Report:
    """Draw the figure and judge the claim from the cells that are finished."""
    kinds: dict[str, Cells] = {}
    for cell in results.values():
        kinds.setdefault(cell['settings']['kind'], {})[cell['settings']['seed']] = cell
    curves = collect(kinds)
    clones = kinds.get('clone', {})
    _draw(curves, folder / 'fine_tuning.png')
    caption = (
        'Return against environment steps, those of planner and DAgger included. Thin lines are '
        'seeds.'
    )
    verdicts = [
        sooner(curves[f'{name} after the warm start'], curves[f'{name} from scratch'], name)
        for name in ('TRPO', 'SAC')
        if f'{name} after the warm start' in curves and f'{name} from scratch' in curves
    ]
    if clones:
        verdicts.append(
            _imitation(list(clones.values()), curves.get('MPC with a learned value', []))
        )
    rows = [
        [name, len(seeds), f'{int(seeds[0][0][-1]):,}', spread([final(curve) for curve in seeds])]
        for name, seeds in curves.items()
    ]
    header = ('method', 'seeds', 'steps', 'final return (mean ± std over seeds)')
    tables = [('Final returns', header, rows), _rounds(list(clones.values()))]
    return Report(INTRODUCTION, verdicts, [('fine_tuning.png', caption)], tables)


def collect(kinds: dict[str, Cells]) -> dict[str, list[Curve]]:
    """Curves of the seeds of each method, by its name in the figure."""
    experts, clones = kinds.get('value', {}), kinds.get('clone', {})

    def planned(kind: str) -> list[Curve]:
        return [planned_curve(cell['result']['returns']) for cell in kinds.get(kind, {}).values()]

    warm = [
        _later(cell, spent(experts[seed], clones[seed]))
        for seed, cell in kinds.get('warm', {}).items()
        if seed in experts and seed in clones
    ]
    scratch = [
        trpo_curve(cell['result']['returns'], cell['settings']['steps'])
        for cell in kinds.get('trpo', {}).values()
    ]
    curves = dict(
        zip(
            COLOURS,
            (planned('value'), warm, scratch, planned('sac_warm'), planned('sac')),
            strict=True,
        )
    )
    return {name: seeds for name, seeds in curves.items() if seeds}


def spent(expert: Any, clone: Any) -> int:
    """Environment steps before TRPO begins."""
    return int(expert['result']['returns'][-1][0] + clone['result']['dagger_steps'])


def _later(cell: Any, before: int) -> Curve:
    steps, returns = trpo_curve(cell['result']['returns'], cell['settings']['steps'])
    return steps + before, returns


def sooner(warm: Sequence[Curve], scratch: Sequence[Curve], name: str) -> Verdict:
    """How many times sooner the best mean return from scratch is reached."""
    steps, returns = mean_curve(scratch)
    best, at = float(returns.max()), float(steps[returns.argmax()])
    needed = steps_to(mean_curve(warm), best)
    each = ['never' if np.isinf(n := steps_to(curve, best)) else f'{n:,.0f}' for curve in warm]
    reached = 'never' if np.isinf(needed) else f'after {needed:,.0f}'
    evidence = (
        f'{name} from scratch has its best mean return, {best:.0f}, after {at:,.0f} steps; after '
        f'the warm start it is reached {reached}: {at / needed:.1f} times sooner '
        f'(seed by seed: {", ".join(each)})'
    )
    claim = f'After the warm start {name} has its best from scratch at least 2 times sooner'
    return Verdict(claim, bool(at / needed >= 2), evidence)


def _imitation(clones: Sequence[Any], experts: Sequence[Curve]) -> Verdict:
    cloned = [cell['result']['round_returns'][0] for cell in clones]
    dagger = [cell['result']['round_returns'][-1] for cell in clones]
    planner = [float(curve[1][-1]) for curve in experts]
    evidence = (
        f'return of the clone {spread(cloned)}, after DAgger {spread(dagger)}, of the planner '
        f'{spread(planner)}'
    )
    claim = 'DAgger improves on behaviour cloning'
    return Verdict(claim, bool(np.mean(dagger) > np.mean(cloned)), evidence)


def _rounds(clones: Sequence[Any]) -> tuple[str, list[str], list[list[Any]]]:
    rounds = max((len(cell['result']['round_returns']) for cell in clones), default=0)
    header = ['seed', 'cloned', *(f'DAgger {n}' for n in range(1, rounds))]
    rows = [
        [cell['settings']['seed'], *(f'{value:.0f}' for value in cell['result']['round_returns'])]
        for cell in clones
    ]
    return 'Return of the imitating policy, round by round', header, rows


def _draw(curves: dict[str, list[Curve]], path: Path) -> None:
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.6), layout='constrained')
    draw_curves(axes, 'Swimmer-v5', curves, COLOURS)
    save_figure(figure, path)
