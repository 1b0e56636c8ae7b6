"""Report of ``mbarl study mpc``: Figures 5 and 6 of Nagabandi et al. (2018), returns, verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.studies.study import Report, Results, Verdict
from mbarl_ros.view.plots import save_figure

WINDOW = 3  # episodes of MPC that its curve averages over
TRPO_BIN = 20_000  # steps that a point of TRPO's curve averages over
REFERENCE = 0.9  # share of TRPO's final return that is to be reached
FINAL = 0.9  # a final return is the mean over the last tenth of the steps
_COLOURS = {'mpc': '#1f5fa8', 'trpo': '#c8553d'}

INTRODUCTION = """\
Model-free reinforcement learning needs millions of steps to learn to swim or run. Nagabandi et al.
(2018) showed that a robot that learns a *model* of its own motion, and plans with it, gets there
with a small part of that. Here the model is the dynamics ensemble that mbarl_ros trains on robots,
and the planner is the one that its policy controller runs. It starts with random actions, fits the
model, plans each action by imagining some hundred action sequences over the next second, executes
the first action of the best plan, and adds what happens to its data. TRPO (from sb3-contrib) learns
the same environment without a model.
"""


def trpo_curve(returns: Sequence[Sequence[float]], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps and mean return of training episodes in bins of ``TRPO_BIN`` steps."""
    table = np.array(returns)
    edges = np.arange(0, steps + 1, min(TRPO_BIN, steps))
    bins = np.digitize(table[:, 0], edges, right=True)
    means = [table[bins == b, 1].mean() for b in range(1, len(edges)) if (bins == b).any()]
    return edges[1 : 1 + len(means)], np.array(means)


def mpc_curve(returns: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Steps and return of planned episodes, the mean of the last ``WINDOW`` (trailing)."""
    table = np.array([row[:2] for row in returns if not row[2]])
    smooth = [table[max(0, i + 1 - WINDOW) : i + 1, 1].mean() for i in range(len(table))]
    return table[:, 0], np.array(smooth)


def final(curve: tuple[np.ndarray, np.ndarray]) -> float:
    """Mean return over the last tenth of the steps."""
    steps, returns = curve
    return float(returns[steps >= FINAL * steps[-1]].mean())


def steps_to(curve: tuple[np.ndarray, np.ndarray], level: float) -> float:
    """First steps at which a curve reaches a level; infinite if it never does."""
    reached = np.flatnonzero(curve[1] >= level)
    return float(curve[0][reached[0]]) if len(reached) else np.inf


def mean_curve(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean over seeds, at the steps that all have."""
    count = min(len(steps) for steps, _ in curves)
    return curves[0][0][:count], np.mean([returns[:count] for _, returns in curves], 0)


def report(
    results: Results,
    folder: Path,
    variants: Mapping[str, tuple[tuple[str, ...], list[Any]]],
) -> Report:
    """Draw the figures and judge the claims from the cells that are finished."""
    curves = collect(results)
    figures, verdicts, rows = [], [], []
    if curves:
        _draw_returns(curves, folder / 'returns.png')
        caption = (
            'Return per episode against environment steps (logarithmic); thin lines are seeds. '
            'MPC: mean of the last three episodes. TRPO: mean of the training episodes in 20,000 '
            'steps.'
        )
        figures.append(('returns.png', caption))
    for env, methods in curves.items():
        if 'mpc' in methods and 'trpo' in methods:
            verdicts.append(_efficiency(env, methods['mpc'], methods['trpo']))
        for name, seeds in methods.items():
            finals = [final(curve) for curve in seeds]
            spread = np.std(finals, ddof=1) if len(finals) > 1 else 0.0
            last = int(seeds[0][0][-1])
            row = [env, name, len(seeds), f'{last:,}', f'{np.mean(finals):.0f} ± {spread:.0f}']
            rows.append(row)
    open_loops = {n: r['result']['open_loop'] for n, r in results.items() if _has_open_loop(r)}
    if open_loops:
        verdicts.append(_draw_open_loop(open_loops, folder / 'open_loop.png'))
        caption = (
            'Open-loop prediction (Figure 5 of the paper): the model predicts 100 steps from one '
            'state and the actions that were executed; it sees nothing of what happens. Left: the '
            'mean error over ten starts, as a share of the spread of the states. Right: entries of '
            'one rollout, predicted (dashed) and true.'
        )
        figures.append(('open_loop.png', caption))
    if _draw_variants(results, variants, folder / 'variants.png'):
        caption = (
            'What the return depends on (Figure 6 of the paper), swimmer: mean return of the last '
            'three episodes; dots are seeds. The same budget of steps in all.'
        )
        figures.append(('variants.png', caption))
    header = ('environment', 'method', 'seeds', 'steps', 'final return (mean ± std over seeds)')
    tables = [('Final returns', header, rows)]
    return Report(INTRODUCTION, verdicts, figures, tables, _notes(results))


def collect(results: Results) -> dict[str, dict[str, list[tuple[np.ndarray, np.ndarray]]]]:
    """Environment -> method -> curves of its seeds."""
    curves: dict[str, dict[str, list]] = {}
    for cell in results.values():
        settings, returns = cell['settings'], cell['result'].get('returns')
        if settings['kind'] == 'trpo':
            curve = trpo_curve(returns, settings['steps'])
            curves.setdefault(settings['env'], {}).setdefault('trpo', []).append(curve)
        elif settings['kind'] == 'mpc':
            env = settings['task'].partition(':')[2]
            curves.setdefault(env, {}).setdefault('mpc', []).append(mpc_curve(returns))
    return curves


def _efficiency(env: str, mpc: Sequence[Any], trpo: Sequence[Any]) -> Verdict:
    """How many times fewer steps MPC needs for most of what TRPO ends with."""
    target = REFERENCE * float(np.mean([final(curve) for curve in trpo]))
    needed = [steps_to(curve, target) for curve in mpc]
    reference = steps_to(mean_curve(trpo), target)
    mean_needed = steps_to(mean_curve(mpc), target)
    budget = float(trpo[0][0][-1])
    ratio = reference / mean_needed
    claim = f'{env}: 90 % of the final return of TRPO with at least 10 times fewer steps'
    each = ', '.join('never' if np.isinf(n) else f'{n:,.0f}' for n in needed)
    evidence = (
        f'target {target:.0f} (TRPO ends with {target / REFERENCE:.0f} after {budget:,.0f} steps). '
        f'Mean over seeds: MPC '
        + ('never reaches it' if np.isinf(mean_needed) else f'after {mean_needed:,.0f} steps')
        + f', TRPO after {reference:,.0f}: a factor of {ratio:.0f} '
        f'({budget / mean_needed:.0f} of all steps of TRPO). MPC, seed by seed: {each}. '
        f'MPC ends with {np.mean([final(curve) for curve in mpc]):.0f}'
    )
    return Verdict(claim, bool(ratio >= 10), evidence)


def _has_open_loop(cell: Mapping[str, Any]) -> bool:
    return 'open_loop' in cell['result']


def _draw_returns(curves: Mapping[str, Mapping[str, Sequence[Any]]], path: Path) -> None:
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(
        1, len(curves), figsize=(6.2 * len(curves), 4.4), layout='constrained', squeeze=False
    )
    labels = {'mpc': 'MPC, learned model', 'trpo': 'TRPO'}
    for axes, (env, methods) in zip(grid[0], curves.items(), strict=True):
        for name, seeds in sorted(methods.items()):
            for steps, returns in seeds:
                axes.plot(steps, returns, color=_COLOURS[name], linewidth=0.7, alpha=0.5)
            axes.plot(*mean_curve(seeds), color=_COLOURS[name], linewidth=2.2, label=labels[name])
        if 'trpo' in methods:
            level = REFERENCE * float(np.mean([final(curve) for curve in methods['trpo']]))
            axes.axhline(level, color='#777777', linewidth=0.9, linestyle=':')
            where = {'xy': (0.02, level), 'xycoords': ('axes fraction', 'data')}
            text = '90 % of the final return of TRPO'
            axes.annotate(text, **where, fontsize=8, color='#555555', va='bottom')
        axes.set(xscale='log', xlabel='environment steps', ylabel='return of an episode')
        axes.set_title(env, loc='left', fontsize=10)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=9, loc='upper left')
    save_figure(figure, path)


def _draw_open_loop(open_loops: Mapping[str, Mapping[str, Any]], path: Path) -> Verdict:
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(1, 2, figsize=(12.5, 4.4), layout='constrained')
    early, late = [], []
    for name, data in open_loops.items():
        share = np.array(data['error']) / data['spread']
        colour = '#1f5fa8' if 'Swimmer' in name else '#c8553d'
        grid[0].plot(np.arange(1, len(share) + 1), share, color=colour, label=name[4:])
        early.append(share[min(9, len(share) - 1)])
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
    title = f'{next(iter(open_loops))[4:]}: true (solid) and predicted (dashed)'
    grid[1].set_title(title, loc='left', fontsize=10)
    for axes in grid:
        axes.grid(alpha=0.25)
    save_figure(figure, path)
    evidence = (
        f'error after 10 steps {np.mean(early):.2f}, after {steps} steps {np.mean(late):.2f} of '
        f'the spread of the states (mean over {len(early)} runs)'
    )
    claim = 'Open-loop predictions follow the truth for some steps and then diverge'
    return Verdict(claim, bool(np.mean(late) > 2 * np.mean(early)), evidence)


def _draw_variants(
    results: Results, variants: Mapping[str, tuple[tuple[str, ...], list[Any]]], path: Path
) -> bool:
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
            chosen = [
                mpc_curve(cell['result']['returns'])[1][-1]
                for cell in cells
                if cell['settings']['what'] == what and cell['settings']['value'] == value
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


def _notes(results: Results) -> str:
    seconds = [
        cell['result']['processor_seconds'] / 60
        for cell in results.values()
        if cell['settings']['kind'] == 'mpc'
    ]
    if not seconds:
        return ''
    return (
        f'MPC took {np.mean(seconds):.0f} minutes of one core per run. The planner sees the reward '
        'of the environment only through the model, which learns it as one more entry. Returns of '
        'TRPO are those of its stochastic policy while it learns, as in the paper.'
    )
