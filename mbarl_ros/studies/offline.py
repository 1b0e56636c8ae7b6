"""Study ``offline``: what makes practice in a learned model useful, on the point mass.

A policy is trained on imagined transitions only. The cells vary how much data the model was fitted
to, how long a rollout is and where it starts. The parts are in
:mod:`mbarl_ros.studies.offline_training`, the judgement in :mod:`mbarl_ros.studies.offline_report`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.demos.reader import load_demonstrations
from mbarl_ros.learning.dynamics import Ensemble
from mbarl_ros.learning.evaluation import evaluate
from mbarl_ros.learning.objective import demonstrated_states
from mbarl_ros.learning.torch_setup import set_up_torch
from mbarl_ros.schema.agent import SacConfig
from mbarl_ros.schema.model import ModelConfig
from mbarl_ros.storage.files import write_file
from mbarl_ros.storage.wire import pack, unpack
from mbarl_ros.studies import offline_report
from mbarl_ros.studies import offline_training as training
from mbarl_ros.studies.offline_results import DEMONSTRATIONS, NARROW, VISITS_FILE, pack_visits
from mbarl_ros.studies.study import Cell, Report, Results, Study
from mbarl_ros.task import Task

TASK = 'pointmass'
SIZES, LENGTHS, SEEDS = (1_000, 20_000, 50_000), (20, 35, 50), range(5)
NARROW_STATES = 256
MODEL_FILE = 'model.safetensors'
OPEN_LOOP_STEPS = 50
TEST_ROWS = 3_000  # fresh uniform transitions that the model's error is measured on
_FIT = {'max_gradient_steps': 4000, 'holdout_interval': 200}
_TRAINING = {
    'discount': 0.99,
    'iterations': 50,
    'transitions': 2100,
    'updates': 100,
    'kept_iterations': 20,
    'corner_episodes': 25,
}


class Offline(Study):
    """The offline study of the poster that this package grew from."""

    name = 'offline'
    title = 'Practice in a learned model: rollout length, start states and data'
    description = 'A policy from imagined practice only: rollout length, start states, model data'

    def cells(self, quick: bool) -> list[Cell]:
        """A model for each data set, then the policies that are trained in it."""
        sizes, lengths, seeds = (SIZES, LENGTHS, SEEDS)
        fit, policy = dict(_FIT), dict(_TRAINING)
        if quick:
            sizes, lengths, seeds = (1_000, 5_000), (20, 50), (100,)
            fit['max_gradient_steps'] = 600
            policy |= {'iterations': 8, 'corner_episodes': 5}
        models, policies = [], []
        for seed in seeds:
            for size in sizes:
                model = Cell(f'model_{size}_seed{seed}', {'samples': size, 'seed': seed, **fit})
                models.append(model)
                for length in lengths:
                    for starts in (NARROW, DEMONSTRATIONS):
                        settings = {
                            'model': model.name,
                            'samples': size,
                            'rollout_length': length,
                            'starts': starts,
                            'seed': seed,
                            **policy,
                        }
                        name = f'policy_{size}_length{length}_{starts}_seed{seed}'
                        policies.append(Cell(name, settings, after=(model.name,)))
        return models + policies

    def run(
        self,
        settings: Mapping[str, Any],
        folder: Path,
        report_progress: Callable[[float], None],
    ) -> dict[str, Any]:
        """Fit a model and measure its error, or train a policy in one and evaluate it."""
        set_up_torch()
        task = Task.load(TASK)
        part = _run_policy if 'model' in settings else _run_model
        return part(task, settings, folder, report_progress)

    def report(self, results: Results, folder: Path, quick: bool) -> Report:
        """The poster's two figures, why, and a verdict on each of its claims."""
        return offline_report.report(results, folder, Task.load(TASK))


def _run_model(
    task: Task,
    settings: Mapping[str, Any],
    folder: Path,
    report_progress: Callable[[float], None],
) -> dict[str, Any]:
    seed = settings['seed']
    rng = np.random.default_rng([seed, 1])
    world = task.load_world(seed=seed)
    rows = training.uniform_transitions(task, world, settings['samples'], rng)
    report_progress(0.4)
    ensemble = training.fit_model(task, _model_config(settings), rows, seed)
    report_progress(0.9)
    write_file(folder / MODEL_FILE, pack(ensemble.state_arrays(), {}, 'model'))
    test = training.uniform_transitions(task, world, TEST_ROWS, np.random.default_rng([seed, 2]))
    one_step = training.one_step_error(task, ensemble, test)
    wall = training.at_the_wall(test['observation'][: len(one_step)])
    demonstrations = load_demonstrations(task.config.demonstrations, task)
    open_loop = training.open_loop_error(task, ensemble, demonstrations, OPEN_LOOP_STEPS)
    return {
        'one_step_error': float(one_step[~wall].mean()),
        'one_step_error_at_wall': float(one_step[wall].mean()),
        'open_loop_error': [round(float(error), 5) for error in open_loop],
        'wall_leak': training.wall_leak(task, ensemble, np.random.default_rng([seed, 4])),
    }


def _model_config(settings: Mapping[str, Any]) -> ModelConfig:
    return ModelConfig(**{name: settings[name] for name in _FIT if name in settings})


def _run_policy(
    task: Task,
    settings: Mapping[str, Any],
    folder: Path,
    report_progress: Callable[[float], None],
) -> dict[str, Any]:
    seed = settings['seed']
    ensemble = Ensemble(task, _model_config(settings), seed)
    model_file = folder.parent / settings['model'] / MODEL_FILE
    ensemble.load_state_arrays(unpack(model_file.read_bytes(), 'model')[0])
    ensemble.generator.manual_seed(seed)
    policy, visited = training.train_policy(
        task,
        ensemble,
        start_states(task, settings['starts'], seed),
        training.Training(
            sac=SacConfig(cloning_weight=0.0),
            discount=settings['discount'],
            rollout_length=settings['rollout_length'],
            iterations=settings['iterations'],
            transitions=settings['transitions'],
            updates=settings['updates'],
            kept_iterations=settings['kept_iterations'],
        ),
        seed,
        report_progress,
    )
    data, coverage = pack_visits(task, visited)
    write_file(folder / VISITS_FILE, data)
    world, episodes = task.load_world(seed=seed), task.config.evaluation.episodes
    return {
        'corner_success': training.success_from_corner(
            task, world, policy, settings['corner_episodes']
        ),
        'room_success': evaluate(task, world, policy, episodes).success,
        'coverage': coverage,
    }


def start_states(task: Task, kind: str, seed: int) -> np.ndarray:
    """States [n, state_dim] that rollouts start from: the corner, or forward demonstrations."""
    if kind == DEMONSTRATIONS:
        demonstrations = load_demonstrations(task.config.demonstrations, task)
        return demonstrated_states(task, demonstrations)
    world = task.load_world(seed=seed)
    return np.array([task.state(world.reset()) for _ in range(NARROW_STATES)])
