"""``mbarl study mpc``: model-predictive control with a learned model, against TRPO.

Nagabandi et al. (2018), "Neural network dynamics for model-based deep reinforcement learning with
model-free fine-tuning", Figures 5 and 6, and the model-based half of Figure 7. Beside their method,
in which a plan is worth its rewards, stands preset ``mpc`` of the robot: a learned value adds what
comes after the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.studies import mpc_report
from mbarl_ros.studies.agent_run import practise
from mbarl_ros.studies.model_predictive import ModelPredictiveControl
from mbarl_ros.studies.mpc_settings import (
    PURE,
    QUICK_PURE,
    REPEAT,
    SEEDS,
    SWIMMER,
    TASKS,
    TRPO,
    VALUE,
    VALUE_CHANGES,
    VARIANT_BASE,
    VARIANT_SEEDS,
    VARIANTS,
    variant,
)
from mbarl_ros.studies.study import Cell, Report, Results, Study
from mbarl_ros.studies.trpo import make_trpo, train_trpo


class Mpc(Study):
    """Whether planning with a learned model needs few steps, and what it depends on."""

    name = 'mpc'
    title = 'Model-predictive control with a learned model'
    description = 'plan with a model learned from few steps, against TRPO (Nagabandi et al. 2018)'

    def cells(self, quick: bool) -> list[Cell]:
        """TRPO and planning on two environments; variants of pure planning on the swimmer."""
        seeds = {SWIMMER: 1} if quick else SEEDS
        cells = [
            cell
            for env, count in seeds.items()
            for seed in range(count)
            for cell in self._compared(env, seed, quick)
        ]
        pure = PURE | (QUICK_PURE if quick else {})
        cells += [
            Cell(f'pure_{seed}', {'kind': 'pure', 'env': SWIMMER, 'seed': seed, **pure})
            for seed in range(seeds[SWIMMER])
        ]
        return cells if quick else cells + self._variants()

    def _compared(self, env: str, seed: int, quick: bool) -> list[Cell]:
        shared = {'env': env, 'seed': seed}
        value = shared | {'kind': 'value', 'task': TASKS[env], 'preset': 'mpc', **VALUE[env]}
        value['changes'] = VALUE_CHANGES
        trpo = shared | {'kind': 'trpo', 'frame_skip': None, **TRPO[env]}
        if quick:
            value['decisions'], trpo['steps'] = 300, 4096
        cells = [Cell(f'value_{env}_{seed}', value), Cell(f'trpo_{env}_{seed}', trpo)]
        if env == SWIMMER:
            default = trpo | {'kind': 'trpo_default'}
            cells.append(Cell(f'trpo_default_{env}_{seed}', default))
            slow = trpo | {'kind': 'trpo_slow', 'frame_skip': 4 * REPEAT}
            cells.append(Cell(f'trpo_slow_{env}_{seed}', slow))
        return cells

    def _variants(self) -> list[Cell]:
        """Each value of Figure 6; those of PURE itself are one cell for each seed."""
        cells = {}
        for what, (path, values) in VARIANTS.items():
            for value in values:
                settings = variant(VARIANT_BASE, path, value)
                name = 'base' if settings == VARIANT_BASE else f'{what.replace(" ", "-")}_{value}'
                for seed in range(VARIANT_SEEDS):
                    key = f'variant_{name}_{seed}'
                    cells[key] = Cell(key, {'kind': 'variant', 'seed': seed, **settings})
        return list(cells.values())

    def run(
        self,
        settings: Mapping[str, Any],
        folder: Path,
        report_progress: Callable[[float], None],
    ) -> dict[str, Any]:
        """One seed of one method."""
        if settings['kind'].startswith('trpo'):
            return run_trpo(settings, folder, report_progress)
        if settings['kind'] == 'value':
            return practise(settings, folder, report_progress)
        control = ModelPredictiveControl(settings, settings['seed'])
        result = control.run(report_progress)
        if settings['kind'] == 'pure':
            result['open_loop'] = open_loop(control)
        return result

    def report(self, results: Results, folder: Path, quick: bool) -> Report:
        """Figures 5, 6 and 7 of the paper, and the verdicts."""
        return mpc_report.report(results, folder, VARIANTS)


def run_trpo(
    settings: Mapping[str, Any], folder: Path, report_progress: Callable[[float], None]
) -> dict[str, Any]:
    """TRPO for ``settings['steps']`` of the environment's own steps, whatever the control step."""
    frame_skip = settings['frame_skip']
    repeat = REPEAT if frame_skip else 1
    agent = make_trpo(
        settings['env'],
        settings['seed'],
        frame_skip,
        default_settings=settings['kind'] == 'trpo_default',
    )
    returns = train_trpo(agent, settings['steps'] // repeat, report_progress)
    return {'returns': [(steps * repeat, total * repeat) for steps, total in returns]}


def open_loop(control: ModelPredictiveControl, steps: int = 100) -> dict[str, Any]:
    """Multi-step predictions against what happened (Figure 5).

    The executed actions of the latest episode are replayed in the model from several of its
    states. ``error`` [steps]: mean distance in scaled units; ``truth``, ``predicted``
    [steps, shown] of the first of them.
    """
    model, task = control.model(), control.task
    length = min(control.settings['episode'], len(control.rows))
    rows = control.rows.rows(np.arange(len(control.rows) - length, len(control.rows)))
    steps = min(steps, length // 2)
    starts = np.linspace(0, length - steps - 1, 10).astype(int)
    state = np.repeat(rows['observation'][starts][None], model.elites, 0)
    shown = list(range(min(6, task.state_dim)))
    error, truth, predicted = [], [], []
    for step in range(steps):
        action = np.repeat(rows['action'][starts + step][None], model.elites, 0)
        state, _ = model.step(state, action)
        real = rows['next_observation'][starts + step]
        distance = np.linalg.norm((state - real) / task.scale, axis=-1)
        error.append(float(distance.mean()))
        truth.append(real[0, shown].tolist())
        predicted.append(state[:, 0, shown].mean(0).tolist())
    names = [task.config.columns[i].name for i in shown]
    spread = np.linalg.norm(rows['next_observation'].std(0) / task.scale)
    return {
        'names': names,
        'error': error,
        'truth': truth,
        'predicted': predicted,
        'spread': float(spread),
    }
