"""``mbarl study mpc``: model-predictive control with a learned model, against TRPO.

Nagabandi et al. (2018), "Neural network dynamics for model-based deep reinforcement learning with
model-free fine-tuning", Figures 5 and 6, and the model-based half of Figure 7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.studies import mpc_report
from mbarl_ros.studies.model_predictive import ModelPredictiveControl
from mbarl_ros.studies.study import Cell, Report, Results, Study
from mbarl_ros.studies.trpo import make_trpo, train_trpo

MODEL = {
    'members': 3,
    'elites': 3,
    'hidden': [128, 128],
    'fourier_features': 0,
    'learning_rate': 2e-3,
    'batch_size': 256,
    'holdout_interval': 250,
}
PLANNER = {
    'method': 'cem',
    'horizon': 30,
    'candidates': 90,
    'iterations': 3,
    'elites': 9,
    'noise': 0.5,
    'noise_exponent': 2.0,
    'policy_share': 0.0,
    'terminal_value': False,
}
SWIMMER: dict[str, Any] = {
    'task': 'gymnasium:Swimmer-v5',
    'steps': 20_000,
    'random_steps': 2000,
    'episode': 1000,
    'first_gradient_steps': 1000,
    'gradient_steps': 500,
    'on_policy_share': 0.9,
    'model': MODEL,
    'planner': PLANNER,
}
CHEETAH = SWIMMER | {'task': 'gymnasium:HalfCheetah-v5', 'steps': 40_000, 'random_steps': 5000}
"""Half-cheetah has more to learn."""
TRPO_STEPS = 1_000_000
VARIANT_STEPS = 8000
SEEDS, VARIANT_SEEDS = 3, 2
# Figure 6 of the paper: what is varied -> (key path, values).
VARIANTS: dict[str, tuple[tuple[str, ...], list[Any]]] = {
    'gradient steps per fit': (('gradient_steps',), [100, 500, 1500]),
    'on-policy share': (('on_policy_share',), [0.1, 0.5, 0.9]),
    'horizon': (('planner', 'horizon'), [5, 15, 30]),
    'candidates': (('planner', 'candidates'), [15, 90, 300]),
    'random steps': (('random_steps',), [500, 2000, 4000]),
    'planner': (('planner', 'method'), ['random_shooting', 'cem', 'mppi']),
}
QUICK = {'steps': 900, 'random_steps': 600, 'episode': 150, 'first_gradient_steps': 100}


def variant(settings: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Settings with one value replaced; random shooting gets the same number of rollouts."""
    changed = {key: dict(v) if isinstance(v, Mapping) else v for key, v in settings.items()}
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    planner = changed['planner']
    if planner['method'] == 'random_shooting':
        planner['candidates'] *= planner['iterations']
        planner['iterations'] = 1
    planner['elites'] = min(planner['elites'], planner['candidates'] - 1)
    return changed


class Mpc(Study):
    """Whether planning with a learned model needs few steps, and what it depends on."""

    name = 'mpc'
    title = 'Model-predictive control with a learned model'
    description = 'plan with a model learned from few steps, against TRPO (Nagabandi et al. 2018)'

    def cells(self, quick: bool) -> list[Cell]:
        """TRPO and MPC on two environments; variants of MPC on the swimmer."""
        cells = []
        trpo_steps = 4096 if quick else TRPO_STEPS
        seeds = range(1 if quick else SEEDS)
        for base in (SWIMMER,) if quick else (SWIMMER, CHEETAH):
            env = env_name(base['task'])
            base = base | QUICK if quick else base
            for seed in seeds:
                cells.append(Cell(f'mpc_{env}_{seed}', {'kind': 'mpc', 'seed': seed, **base}))
                trpo = {'kind': 'trpo', 'env': env, 'seed': seed, 'steps': trpo_steps}
                cells.append(Cell(f'trpo_{env}_{seed}', trpo))
        base = SWIMMER | (QUICK if quick else {'steps': VARIANT_STEPS})
        for what, (path, values) in VARIANTS.items():
            for value in values[:1] if quick else values:
                for seed in range(1 if quick else VARIANT_SEEDS):
                    settings = variant(base, path, value)
                    name = f'{what.replace(" ", "-")}_{value}_{seed}'
                    kind = {'kind': 'variant', 'what': what, 'value': value, 'seed': seed}
                    cells.append(Cell(name, kind | settings))
        return cells[:4] if quick else cells

    def run(
        self,
        settings: Mapping[str, Any],
        folder: Path,
        report_progress: Callable[[float], None],
    ) -> dict[str, Any]:
        """One seed of TRPO, or of MPC with its open-loop predictions."""
        seed = settings['seed']
        if settings['kind'] == 'trpo':
            agent = make_trpo(settings['env'], seed)
            returns = train_trpo(agent, settings['steps'], report_progress)
            agent.save(folder / 'policy')
            return {'returns': returns}
        control = ModelPredictiveControl(settings, seed)
        result = control.run(report_progress)
        if settings['kind'] == 'mpc':
            control.save(folder)
            result['open_loop'] = open_loop(control)
        return result

    def report(self, results: Results, folder: Path, quick: bool) -> Report:
        """Figures 5, 6 and 7 of the paper, and the verdicts."""
        return mpc_report.report(results, folder, VARIANTS)


def env_name(task: str) -> str:
    """``Swimmer-v5`` of ``gymnasium:Swimmer-v5``."""
    return task.partition(':')[2]


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
    names = [task.config.observation[i].name for i in shown]
    spread = np.linalg.norm(rows['next_observation'].std(0) / task.scale)
    return {
        'names': names,
        'error': error,
        'truth': truth,
        'predicted': predicted,
        'spread': float(spread),
    }
