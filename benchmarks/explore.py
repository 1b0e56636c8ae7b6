"""Decoupled exploration on the point mass: coverage of the room, and its cost.

mbarl-explore and mbarl practise for the same number of environment steps. Coverage is the share of
the room's free cells of 0.2 m in which the robot has been, whatever the phase; success is the
deployed protocol's. Entropy, KL and dual variable are those of the exploration phase.

    python benchmarks/explore.py [--seeds 5] [--steps 6000] [--output FOLDER]
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.demos.reader import load_demonstrations
from mbarl_ros.schema.load import load_agent
from mbarl_ros.storage.transitions import EXPLORE
from mbarl_ros.task import Task

TASK = 'pointmass'
AGENTS = ('mbarl', 'mbarl-explore')
CELL = 0.2  # m
EVERY = 500  # steps between evaluations
EPISODES = 50
RESULTS = Path(__file__).parent / 'results'


def cells() -> set[tuple[int, int]]:
    """Cells of the room in whose centre the disc does not touch a wall."""
    from mbarl_sim.pointmass import HALF, free

    middles = np.arange(-HALF + CELL / 2, HALF, CELL)
    return {cell(np.array([x, y])) for x in middles for y in middles if free(x, y)}


def cell(place: np.ndarray) -> tuple[int, int]:
    """Column and row of the cell that contains a position (m)."""
    return int(np.floor(place[0] / CELL)), int(np.floor(place[1] / CELL))


def practise(agent_name: str, seed: int, steps: int) -> list[dict[str, Any]]:
    """One seed: a record of every chunk."""
    import torch

    from mbarl_ros.control.policy import DEPLOYED, Policy
    from mbarl_ros.learning.evaluation import evaluate
    from mbarl_ros.studies.direct import DirectRun

    torch.set_num_threads(1)
    np.seterr(over='ignore')
    task = Task.load(TASK)
    demonstrations = load_demonstrations(task.config.demonstrations, task)
    run = DirectRun(task, load_agent(agent_name), demonstrations, seed)
    world = task.load_world(seed=seed)
    room, visited = cells(), set()
    records = []
    while run.practice.steps < steps:
        rows = run.collect()
        metrics = run.train(rows)
        visited |= {cell(state) for state in rows['next_observation'][:, :2]} & room
        record = {
            'environment_steps': run.practice.steps,
            'coverage': len(visited) / len(room),
            'exploring': float((rows['phase'] == EXPLORE).mean()),
        }
        record |= {name: value for name, value in metrics.items() if name.startswith('explore/')}
        if run.practice.steps % EVERY == 0:
            policy = Policy(run.learner.policy_arrays(), DEPLOYED)
            record['success'] = evaluate(task, world, policy, EPISODES).success
        records.append(record)
    return records


def first_reached(records: list[dict[str, Any]], target: float) -> int | None:
    """Steps after which deployed success was first at the target."""
    for record in records:
        if record.get('success', 0.0) >= target:
            return record['environment_steps']
    return None


def summary(records: list[dict[str, Any]], epsilon: float) -> dict[str, Any]:
    """Figures of one seed."""
    half = records[len(records) // 2]
    figures = {
        'coverage_half': round(half['coverage'], 3),
        'coverage': round(records[-1]['coverage'], 3),
        'steps_to_0.9': first_reached(records, 0.9),
        'success': [record['success'] for record in records if 'success' in record],
    }
    divergences = [record['explore/kl'] for record in records if 'explore/kl' in record]
    if divergences:
        figures['kl_mean'] = round(float(np.mean(divergences)), 3)
        figures['kl_most'] = round(float(np.max(divergences)), 3)
        figures['kl_share_under_epsilon'] = round(
            float(np.mean(np.array(divergences) < epsilon)), 3
        )
    return figures


def draw(path: Path, runs: dict[str, list[list[dict[str, Any]]]], epsilon: float) -> None:
    """Coverage and success of both; entropy, KL and dual variable of the exploration."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(13, 7))
    axes[1, 2].axis('off')
    panels = [
        ('coverage', 'share of the room visited'),
        ('success', 'deployed success'),
        ('explore/entropy', 'state entropy (nats)'),
        ('explore/kl', 'KL(exploration || demonstrations) (nats)'),
        ('explore/dual', 'dual variable'),
    ]
    for axis, (name, title) in zip(axes.flat, panels, strict=False):
        for colour, (agent, seeds) in zip(('C0', 'C1'), runs.items(), strict=True):
            curves = [[(r['environment_steps'], r[name]) for r in s if name in r] for s in seeds]
            for number, curve in enumerate(curve for curve in curves if curve):
                label = agent if number == 0 else None
                axis.plot(*zip(*curve, strict=True), color=colour, alpha=0.7, lw=1, label=label)
        if name == 'explore/kl':
            axis.axhline(epsilon, color='black', lw=1, ls='--', label='epsilon')
        axis.set(title=title, xlabel='environment steps')
        axis.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    """Run all seeds, two at a time, and write figures and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, default=5)
    parser.add_argument('--steps', type=int, default=6000)
    parser.add_argument('--jobs', type=int, default=2)
    parser.add_argument('--output', type=Path, default=RESULTS)
    options = parser.parse_args()
    epsilon = load_agent('mbarl-explore').exploration.epsilon
    with ProcessPoolExecutor(options.jobs, get_context('spawn')) as pool:
        waiting = {
            agent: [
                pool.submit(practise, agent, seed, options.steps) for seed in range(options.seeds)
            ]
            for agent in AGENTS
        }
        runs = {
            agent: [future.result() for future in futures] for agent, futures in waiting.items()
        }
    report = {
        'command': f'python benchmarks/explore.py --seeds {options.seeds} --steps {options.steps}',
        'task': TASK,
        'epsilon': epsilon,
        'seeds': {
            agent: [summary(records, epsilon) for records in seeds] for agent, seeds in runs.items()
        },
    }
    for agent, seeds in report['seeds'].items():
        mean = np.mean([seed['coverage'] for seed in seeds])
        print(f'{agent}: coverage {mean:.2f}, {[seed["steps_to_0.9"] for seed in seeds]}')
    (options.output / 'explore.json').write_text(json.dumps(report, indent=2) + '\n')
    draw(options.output / 'explore.png', runs, epsilon)


if __name__ == '__main__':
    main()
