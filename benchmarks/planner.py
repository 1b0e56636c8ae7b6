"""Model steps per second of our planner, beside the CEM of mbrl-lib with a model of the same size.

    python -m pip install --no-deps mbrl hydra-core omegaconf antlr4-python3-runtime==4.9.3 tqdm
    python benchmarks/planner.py [--rounds 20] [--json FILE]

Both plan on one thread with the cross-entropy method for the same task: 17 observed entries and 6
actions (half-cheetah), an ensemble of 7 members with 5 elites of 4 x 200 units, 350 candidates, 5
iterations, horizon 15. They take turns in one process, and each ratio is of two neighbours, since
the speed of a shared machine varies.

mbrl-lib draws each next state from the predicted Gaussian, and by default evaluates a candidate
with 20 particles; ours follows the mean, once. Both ways are counted: with one particle, a model
step of each side is one row through one network; with 20, what is counted is candidates x horizon.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbarl_ros.control.model import LearnedModel
from mbarl_ros.control.planning import PLANNERS, Rollouts
from mbarl_ros.learning.dynamics import Ensemble
from mbarl_ros.schema.model import ModelConfig, PlannerConfig
from mbarl_ros.schema.robot import RobotConfig
from mbarl_ros.schema.task import TaskConfig
from mbarl_ros.task import Task

OBSERVATION, ACTION = 17, 6
MEMBERS, ELITES, LAYERS, UNITS = 7, 5, 4, 200
CANDIDATES, ITERATIONS, HORIZON, BEST = 350, 5, 15, 35
PARTICLES = 20
STEPS = CANDIDATES * ITERATIONS * HORIZON  # candidates x horizon of one plan


def make_task() -> Task:
    """A task with the layout of half-cheetah, whose reward is measured."""
    names = [f's{i}' for i in range(OBSERVATION)]
    actions = [f'a{i}' for i in range(ACTION)]

    def topic(name: str, fields: list[str]) -> dict[str, Any]:
        paths = {field: f'data[{i}]' for i, field in enumerate(fields)}
        return {'topic': name, 'type': 'std_msgs/msg/Float64MultiArray', 'fields': paths}

    robot = RobotConfig.model_validate(
        {
            'name': 'benchmark',
            'control_rate': 20,
            'state': [topic('state', names), topic('reward', ['reward'])],
            'command': [topic('command', actions)],
            'limits': {name: {'low': -1, 'high': 1, 'stop': 0.0} for name in actions},
        }
    )
    entries = [{'name': name, 'low': -5, 'high': 5, 'limited': False} for name in names]
    entries.append({'name': 'reward', 'low': -5, 'high': 5, 'limited': False})
    task = TaskConfig.model_validate(
        {
            'name': 'benchmark',
            'robot': 'benchmark',
            'observation': entries,
            'action': [{'name': name, 'low': -1, 'high': 1} for name in actions],
            'success': {'entries': ['reward'], 'target': [1e6], 'tolerance': 1.0},
            'reward': 'topic:reward',
            'phases': {'forward_limit': 1000, 'backward_limit': 1000},
            'evaluation': {'horizon': 1000, 'every': 1000, 'budget': 1000},
        }
    )
    return Task(task, robot)


def our_planner(observation: np.ndarray) -> Callable[[], Any]:
    """A function that makes one plan with ours."""
    task = make_task()
    model_config = ModelConfig(
        members=MEMBERS, elites=ELITES, hidden=[UNITS] * LAYERS, fourier_features=0
    )
    config = PlannerConfig(
        method='cem',
        horizon=HORIZON,
        candidates=CANDIDATES,
        iterations=ITERATIONS,
        elites=BEST,
        policy_share=0.0,
        terminal_value=False,
    )
    ensemble = Ensemble(task, model_config, seed=0)
    model = LearnedModel(ensemble.policy_arrays(), task, model_config)
    planner = PLANNERS['cem'](config, task.action_dim, seed=0)
    planner.rollouts = Rollouts(task, config, model, discount=1.0)
    rows = np.append(observation, np.float32(0.0))[None]
    return lambda: planner.plan(rows)


def mbrl_lib_planner(observation: np.ndarray, particles: int) -> Callable[[], Any]:
    """A function that makes one plan with mbrl-lib, as its PETS example does."""
    import omegaconf
    from mbrl.models import GaussianMLP, ModelEnv, OneDTransitionRewardModel
    from mbrl.planning import TrajectoryOptimizerAgent

    network = GaussianMLP(
        OBSERVATION + ACTION,
        OBSERVATION + 1,
        'cpu',
        num_layers=LAYERS,
        ensemble_size=MEMBERS,
        hid_size=UNITS,
        propagation_method='random_model',
        activation_fn_cfg={'_target_': 'torch.nn.SiLU'},
    )
    network.set_elite(list(range(ELITES)))
    model = OneDTransitionRewardModel(network, target_is_delta=True, normalize=True)
    env = ModelEnv(_Spaces(), model, _never_ends, None, generator=torch.Generator())
    optimiser = omegaconf.OmegaConf.create(
        {
            '_target_': 'mbrl.planning.CEMOptimizer',
            'num_iterations': ITERATIONS,
            'elite_ratio': BEST / CANDIDATES,
            'population_size': CANDIDATES,
            'alpha': 0.1,
            'device': 'cpu',
            'lower_bound': '???',
            'upper_bound': '???',
            'return_mean_elites': True,
            'clipped_normal': False,
        }
    )
    agent = TrajectoryOptimizerAgent(optimiser, [-1] * ACTION, [1] * ACTION, HORIZON)

    def evaluate(sequences: torch.Tensor) -> torch.Tensor:
        return env.evaluate_action_sequences(sequences, observation, particles)

    return lambda: agent.optimizer.optimize(evaluate)


class _Spaces:
    """What mbrl-lib's ModelEnv asks of an environment."""

    observation_space = None
    action_space = None


def _never_ends(_action: torch.Tensor, observation: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(observation), 1, dtype=torch.bool)


def seconds(plan: Callable[[], Any]) -> float:
    """Processor time of one plan."""
    start = time.process_time()
    plan()
    return time.process_time() - start


def main() -> None:
    """Measure, print, and write a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--rounds', type=int, default=20)
    parser.add_argument('--json', type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    observation = np.zeros(OBSERVATION, np.float32)
    sides = {'ours': our_planner(observation)}
    if find_spec('mbrl') is not None:
        sides['mbrl_lib'] = mbrl_lib_planner(observation, 1)
        sides[f'mbrl_lib_{PARTICLES}_particles'] = mbrl_lib_planner(observation, PARTICLES)
    times = {name: [] for name in sides}
    for number in range(options.rounds + 1):
        for name, plan in sides.items():
            duration = seconds(plan)
            if number:  # the first round warms up
                times[name].append(duration)
    result: dict[str, Any] = {
        'command': f'python benchmarks/planner.py --rounds {options.rounds}',
        'machine': platform.processor() or platform.machine(),
    }
    for name, values in times.items():
        rate = STEPS / np.array(values)
        low, median, high = np.percentile(rate, [10, 50, 90])
        result[name] = {'model_steps_per_second': [round(v) for v in (low, median, high)]}
        text = f'{name}: {median:,.0f} candidates x horizon per second ({low:,.0f} to {high:,.0f})'
        if name != 'ours':
            ratio = np.array(values) / np.array(times['ours'])
            result[name]['ours_is_faster_by'] = [
                round(float(v), 2) for v in np.percentile(ratio, [10, 50, 90])
            ]
            text += f'; ours is {np.median(ratio):.2f} times as fast'
        print(text)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
    main()
