"""Learning curves of the graph `sim` over seeds: deployed success against environment steps.

    python benchmarks/sim.py pointmass --seeds 0 1 2

Runs ``mbarl up sim`` once per seed, one after the other, and writes ``results/sim_TASK.json`` (all
evaluations and results) and ``results/sim_TASK.png``. ``--runs DIR ...`` collects finished run
folders instead of starting new ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / 'results'


def run(task: str, seed: int, folder: Path) -> Path:
    """Run one seed to its end; returns the run folder."""
    path = folder / f'{task}-{seed}'
    command = [sys.executable, '-m', 'mbarl_ros.cli', 'up', 'sim', f'task:={task}', f'seed:={seed}']
    subprocess.run([*command, f'run_dir:={path}', 'view:=lines'], check=False)
    return path


def collect(path: Path) -> dict[str, Any]:
    """Result and evaluations of a run folder."""
    lines = (path / 'evaluations.jsonl').read_text().splitlines()
    return {
        'result': json.loads((path / 'result.json').read_text()),
        'evaluations': [json.loads(line) for line in lines],
    }


def plot(task: str, runs: list[dict[str, Any]], path: Path) -> None:
    """Plot the curve of each seed, and its behaviour clone as a dashed line in the same colour."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 4.2), layout='constrained')
    for index, item in enumerate(runs):
        colour = f'C{index}'
        steps = [line['environment_steps'] for line in item['evaluations']]
        success = [line['deployed_success'] for line in item['evaluations']]
        result = item['result']
        minutes = result['wall_seconds'] / 60
        axes.plot(
            steps,
            success,
            color=colour,
            marker='o',
            markersize=3.5,
            label=f'seed {result["seed"]}: {minutes:.1f} min on 2 cores',
        )
        axes.axhline(result['clone_success'], color=colour, linewidth=1, linestyle='--')
    axes.plot(
        [], [], color='grey', linewidth=1, linestyle='--', label='clone of the demonstrations'
    )
    axes.set(xlabel='environment steps', ylabel='success rate', ylim=(0, 1.02), xlim=(0, None))
    axes.set_title(f'{task}: success of the deployed policy, no resets in training', fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9, frameon=False, loc='lower right')
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run or collect, write JSON and PNG, print a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('task')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--runs', type=Path, nargs='+', help='finished run folders')
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = arguments.runs or [
            run(arguments.task, seed, Path(folder)) for seed in arguments.seeds
        ]
        runs = [collect(path) for path in paths]
    seeds = ' '.join(str(item['result']['seed']) for item in runs)
    command = f'python benchmarks/sim.py {arguments.task} --seeds {seeds}'
    report = {'command': command, 'runs': runs}
    RESULTS.joinpath(f'sim_{arguments.task}.json').write_text(json.dumps(report, indent=1) + '\n')
    plot(arguments.task, runs, RESULTS / f'sim_{arguments.task}.png')
    for key in ('environment_steps', 'wall_seconds', 'deployed_success', 'clone_success'):
        values = [item['result'][key] for item in runs]
        print(f'{key}: {values}, mean {statistics.mean(values):.3g}')


if __name__ == '__main__':
    main()
