"""Report of ``mbarl study mpc``: curves, verdicts, and what the figures show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.studies import mpc_figures
from mbarl_ros.studies.mpc_curves import (
    Curve,
    final,
    mean_curve,
    planned_curve,
    steps_to,
    trpo_curve,
)
from mbarl_ros.studies.study import Report, Results, Verdict

REFERENCE = 0.9  # share of TRPO's final return that is to be reached
METHODS = {
    'value': 'MPC with a learned value',
    'pure': 'MPC',
    'trpo': 'TRPO',
    'trpo_default': 'TRPO, default settings',
    'trpo_slow': 'TRPO, control steps as MPC',
}
Curves = dict[str, dict[str, list[Curve]]]

INTRODUCTION = """\
Model-free reinforcement learning needs very many steps to learn to swim or to run. Nagabandi et al.
(2018) showed that a robot that learns a *model* of its own motion, and plans with it, gets going
with a small part of that. Here the model is the dynamics ensemble that mbarl_ros trains on robots,
and the planner is the one that its policy controller runs. It starts with random actions, fits the
model, plans each action by imagining some hundred action sequences, executes the first action of
the best plan, and adds what happens to its data.

- *MPC* is the method of the paper: a plan is worth the rewards up to its horizon.
- *MPC with a learned value* is preset `mpc` of the robot: a critic, trained on the same data, adds
  what comes after the horizon, and its policy proposes some of the plans.
- *TRPO* (from sb3-contrib) learns the same environment without a model: with the discount of the
  paper and settings that suit MuJoCo, with the default settings of the library, and (swimmer) with
  the control steps that MPC has, four times as long as the environment's own.
"""


def report(
    results: Results,
    folder: Path,
    variants: Mapping[str, tuple[tuple[str, ...], list[Any]]],
) -> Report:
    """Draw the figures and judge the claims from the cells that are finished."""
    curves = collect(results)
    figures, verdicts = [], []
    if curves:
        mpc_figures.draw_returns(curves, METHODS, folder / 'returns.png')
        caption = (
            "Return per episode against the environment's own steps (logarithmic); thin lines are "
            'seeds. MPC: mean of the last three episodes. TRPO: mean of the training episodes in '
            '20,000 steps.'
        )
        figures.append(('returns.png', caption))
    for env, methods in curves.items():
        verdicts += [
            efficiency(env, methods['value'], methods[reference], METHODS[reference])
            for reference in ('trpo', 'trpo_default', 'trpo_slow')
            if 'value' in methods and reference in methods
        ]
        if 'HalfCheetah' in env and 'value' in methods:
            verdicts.append(_gait(methods))
    open_loops = {
        name: cell['result']['open_loop']
        for name, cell in results.items()
        if 'open_loop' in cell['result']
    }
    if open_loops:
        early, late, steps = mpc_figures.draw_open_loop(open_loops, folder / 'open_loop.png')
        evidence = (
            f'error after 5 steps {early:.2f}, after {steps} steps {late:.2f} of the spread of the '
            f'states (mean over {len(open_loops)} runs)'
        )
        claim = 'Open-loop predictions follow the truth for some steps and then diverge'
        verdicts.append(Verdict(claim, bool(late > 2 * early), evidence))
        caption = (
            'Open-loop prediction (Figure 5 of the paper), MPC on the swimmer: the model predicts '
            'from one state and the actions that were executed; it sees nothing of what happens. '
            'Left: the mean error over ten starts, as a share of the spread of the states. Right: '
            'entries of one rollout, predicted (dashed) and true.'
        )
        figures.append(('open_loop.png', caption))
    if mpc_figures.draw_variants(results, variants, folder / 'variants.png'):
        caption = (
            'What the return of MPC depends on (Figure 6 of the paper), swimmer, 8,000 steps: '
            'mean of the planned episodes of the second half; dots are seeds.'
        )
        figures.append(('variants.png', caption))
    return Report(INTRODUCTION, verdicts, figures, [_table(curves)], _notes(results))


def collect(results: Results) -> Curves:
    """Environment -> method -> curves of its seeds."""
    curves: Curves = {}
    for cell in results.values():
        settings, returns = cell['settings'], cell['result'].get('returns')
        kind = settings['kind']
        if kind in METHODS:
            is_trpo = kind.startswith('trpo')
            curve = trpo_curve(returns, settings['steps']) if is_trpo else planned_curve(returns)
            curves.setdefault(settings['env'], {}).setdefault(kind, []).append(curve)
    return {
        env: {kind: methods[kind] for kind in METHODS if kind in methods}
        for env, methods in curves.items()
    }


def efficiency(env: str, ours: Sequence[Curve], trpo: Sequence[Curve], name: str) -> Verdict:
    """How many times fewer steps MPC needs for most of what TRPO ends with."""
    end = float(np.mean([final(curve) for curve in trpo]))
    target = REFERENCE * end
    needed, reference = steps_to(mean_curve(ours), target), steps_to(mean_curve(trpo), target)
    each = ['never' if np.isinf(n := steps_to(c, target)) else f'{n:,.0f}' for c in ours]
    best = float(mean_curve(ours)[1].max())
    evidence = f'{name} ends with {end:.0f} after {trpo[0][0][-1]:,.0f} steps; it reaches 90 % '
    evidence += f'({target:.0f}) after {reference:,.0f}. MPC with a learned value '
    if np.isinf(needed):
        evidence += (
            f'does not: its best mean over seeds is {best:.0f} in {ours[0][0][-1]:,.0f} steps'
        )
    else:
        evidence += f'after {needed:,.0f}, {reference / needed:.0f} times fewer'
    evidence += f' (seed by seed: {", ".join(each)})'
    claim = f'{env}: 90 % of the final return of {name} with at least 10 times fewer steps'
    return Verdict(claim, bool(reference / needed >= 10), evidence)


def _gait(methods: Mapping[str, Sequence[Curve]]) -> Verdict:
    """Half-cheetah: whether it runs, and what 25 times the steps buy TRPO."""
    finals = [final(curve) for curve in methods['value']]
    steps = int(methods['value'][0][0][-1])
    evidence = f'return {spread(finals)} after {steps:,} steps'
    if trpo := methods.get('trpo'):
        early = max(steps, int(trpo[0][0][0]))
        same = [float(np.interp(early, *curve)) for curve in trpo]
        ends = [final(curve) for curve in trpo]
        evidence += (
            f'; {METHODS["trpo"]}: {spread(same)} after {early:,}, {spread(ends)} after '
            f'{int(trpo[0][0][-1]):,}'
        )
    return Verdict('HalfCheetah-v5: a moving gait', bool(min(finals) > 500), evidence)


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f'{np.mean(values):.0f} ± {deviation:.0f}'


def _table(curves: Curves) -> tuple[str, Sequence[str], list[list[Any]]]:
    rows = [
        [env, METHODS[kind], len(seeds), f'{int(seeds[0][0][-1]):,}', spread([*map(final, seeds)])]
        for env, methods in curves.items()
        for kind, seeds in methods.items()
    ]
    header = ('environment', 'method', 'seeds', 'steps', 'final return (mean ± std over seeds)')
    return 'Final returns', header, rows


def _notes(results: Results) -> str:
    minutes: dict[str, list[float]] = {}
    for cell in results.values():
        if cell['settings']['kind'] in ('value', 'pure'):
            kind = f'{METHODS[cell["settings"]["kind"]]} on {cell["settings"]["env"]}'
            minutes.setdefault(kind, []).append(cell['result']['processor_seconds'] / 60)
    costs = '; '.join(f'{kind} {np.mean(each):.0f}' for kind, each in minutes.items())
    return (
        f'Minutes of one core for a run: {costs}. The planner knows the reward of the environment '
        'only through the model, which learns it as one more entry. Returns are those of the '
        'episodes of practice; those of TRPO are of its stochastic policy, as in the paper. A '
        "control step of MPC on the swimmer is four of the environment's own (0.16 s); all steps "
        "are counted in the environment's own."
    )
