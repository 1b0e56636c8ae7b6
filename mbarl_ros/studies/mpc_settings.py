"""Settings of the studies ``mpc`` and ``mbmf``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# A control step is four of the swimmer's own: at 0.04 s a plan of ten steps sees no whole stroke.
REPEAT = 4
SWIMMER, CHEETAH = 'Swimmer-v5', 'HalfCheetah-v5'
TASKS = {
    SWIMMER: 'gymnasium:Swimmer-v5?frame_skip=16,max_episode_steps=250',
    CHEETAH: 'gymnasium:HalfCheetah-v5',
}
# Pure model-predictive control, as in the paper but for the planner.
PURE: dict[str, Any] = {
    'task': TASKS[SWIMMER],
    'repeat': REPEAT,
    'steps': 4000,
    'random_steps': 500,
    'episode': 250,
    'first_gradient_steps': 1500,
    'gradient_steps': 750,
    'on_policy_share': 0.9,
    'model': {
        'members': 3,
        'elites': 3,
        'hidden': [200, 200],
        'fourier_features': 0,
        'learning_rate': 3e-3,
        'batch_size': 256,
        'holdout_interval': 250,
    },
    'planner': {
        'method': 'cem',
        'horizon': 10,
        'candidates': 60,
        'iterations': 3,
        'elites': 8,
        'policy_share': 0.0,
        'terminal_value': False,
    },
}
# Preset `mpc` without demonstrations and without a backward phase: rewards come at each step.
VALUE_CHANGES: dict[str, Any] = {
    'backward': 'none',
    'resets': True,
    'demonstration_fraction': 0.0,
    'sac.discount': 0.98,
    'sac.fourier_features': 0,
    'model.hidden': [200, 200],
    'model.fourier_features': 0,
    'model.fraction': 0.3,
    'model.rollouts': 20,
    'model.rollout_length': 5,
    'model.max_gradient_steps': 600,
    'model.start_weights': {'replay': 1.0},
    'planner.horizon': 8,
}
VALUE: dict[str, dict[str, Any]] = {
    SWIMMER: {'decisions': 12_000, 'repeat': REPEAT},
    CHEETAH: {'decisions': 12_000, 'repeat': 1},
}
TRPO: dict[str, dict[str, Any]] = {
    SWIMMER: {'steps': 600_000},
    CHEETAH: {'steps': 25 * 12_000},
}
SEEDS, VARIANT_SEEDS = {SWIMMER: 3, CHEETAH: 2}, 2
VARIANT_BASE = PURE | {'steps': 2000}
# Figure 6 of the paper: what is varied -> (key path, values); PURE has one of the values.
VARIANTS: dict[str, tuple[tuple[str, ...], list[Any]]] = {
    'gradient steps per fit': (('gradient_steps',), [100, 750, 2000]),
    'on-policy share': (('on_policy_share',), [0.1, 0.5, 0.9]),
    'horizon': (('planner', 'horizon'), [4, 10, 20]),
    'candidates': (('planner', 'candidates'), [15, 60, 240]),
    'random steps': (('random_steps',), [250, 500, 1000]),
    'planner': (('planner', 'method'), ['random_shooting', 'cem', 'mppi']),
}
QUICK_PURE = {'steps': 300, 'random_steps': 150, 'episode': 75, 'first_gradient_steps': 100}


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
