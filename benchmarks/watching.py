"""What it costs to watch a run: the same run with everything on and off, in turns.

    python benchmarks/watching.py [--pairs 5] [--realtime-steps 900] [--lockstep-steps 2000]

Runs ``mbarl up sim`` in real time (99th percentile of the control period) and in lockstep (the
learner's updates a second), each ``--pairs`` times with ``ON`` and without, the order alternating,
all with one seed. With it the markers are recorded, and a client reads the page as a browser does.
Without evaluations, which would end a run early. Both numbers come from ``history.jsonl`` of the
run folders. Writes ``results/watching.json``: each pair, and the median of the ratios on / off.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import load_robot, load_task
from mbarl_ros.storage.history import Sample, read_history
from mbarl_ros.storage.run_files import write_config
from mbarl_ros.storage.web_address import read_address

OUTPUT = Path(__file__).parent / 'results' / 'watching.json'
# What subscribes to markers and numbers, so that they are computed, is the recorder.
ON = ('visualizer:=true', 'record_run:=true', 'tracker:=wandb', 'view:=web')
TASK = 'pointmass'
WARM_UP = 300  # environment steps: imports, demonstrations, the first model


def samples(arguments: list[str], folder: Path) -> list[Sample]:
    """History of one run, from the end of the warm-up on."""
    command = [sys.executable, '-m', 'mbarl_ros.cli', 'up', 'sim', 'view:=none', *arguments]
    environment = {'WANDB_MODE': 'offline', 'OMP_NUM_THREADS': '1', **os.environ}
    with subprocess.Popen(
        [*command, f'run_dir:={folder}'], stdout=subprocess.DEVNULL, env=environment
    ) as run:
        if 'view:=web' in arguments:
            threading.Thread(target=look, args=(folder, run), daemon=True).start()
    practised = [
        sample
        for sample in read_history(folder)
        if float(sample.status.get('learner', {}).get('environment_steps', 0)) >= WARM_UP
    ]
    if len(practised) < 2:
        raise SystemExit(f'{folder}: the run made too few steps; see its log')
    return practised


def look(folder: Path, run: subprocess.Popen) -> None:
    """Read the events of the page until the run ends."""
    while run.poll() is None:
        with contextlib.suppress(OSError, ConfigError):
            with urllib.request.urlopen(f'{read_address(folder).url}events') as events:
                while events.readline():
                    pass
        time.sleep(0.5)


def never_evaluated(folder: Path) -> Path:
    """The task, evaluated at the end of a run only."""
    task = load_task(TASK)
    evaluation = task.evaluation.model_copy(update={'every': 10**9, 'episodes': 1})
    path = folder / 'task.yaml'
    write_config(path, task.model_copy(update={'evaluation': evaluation}).model_dump(mode='json'))
    return path


def control_period_p99(history: list[Sample]) -> float:
    """99th percentile of the control period in ms: median over the run of windows of 10 s."""
    errors = [
        float(sample.status['policy_controller']['period_error_p99_ms']) for sample in history
    ]
    return 1e3 / load_robot(TASK).control_rate + statistics.median(errors)


def updates_per_second(history: list[Sample]) -> float:
    """Gradient steps of the learner per second."""
    first, last = history[0], history[-1]
    done = int(last.status['learner']['updates']) - int(first.status['learner']['updates'])
    return done / (last.time - first.time)


def pairs(
    count: int, arguments: list[str], measure: Callable[[list[Sample]], float], folder: Path
) -> dict:
    """Measured with and without ``ON``, and the median ratio."""
    rows = []
    for index in range(count):
        row = {}
        for name in ('on', 'off') if index % 2 else ('off', 'on'):
            extra = list(ON) if name == 'on' else []
            path = folder / f'{measure.__name__}-{index}-{name}'
            row[name] = round(measure(samples([*arguments, *extra], path)), 3)
        rows.append(row)
        print(measure.__name__, row, flush=True)
    ratios = [row['on'] / row['off'] for row in rows]
    return {
        'pairs': rows,
        'median_ratio': round(statistics.median(ratios), 3),
        'least_and_largest_ratio': [round(min(ratios), 3), round(max(ratios), 3)],
    }


def main() -> None:
    """Run all pairs; print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--pairs', type=int, default=5)
    parser.add_argument('--realtime-steps', type=int, default=900)
    parser.add_argument('--lockstep-steps', type=int, default=2000)
    parser.add_argument('--output', type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        task = f'task:={never_evaluated(folder)}'
        realtime = [task, 'mode:=realtime', f'steps:={arguments.realtime_steps}']
        lockstep = [task, 'mode:=lockstep', f'steps:={arguments.lockstep_steps}']
        summary = {
            'command': f'python benchmarks/watching.py {" ".join(sys.argv[1:])}'.strip(),
            'on': list(ON),
            'cores': os.cpu_count(),
            'load_average_before': round(os.getloadavg()[1], 1),
            'control_period_p99_ms': pairs(arguments.pairs, realtime, control_period_p99, folder),
            'updates_per_second': pairs(arguments.pairs, lockstep, updates_per_second, folder),
        }
    print(json.dumps(summary, indent=2))
    arguments.output.write_text(json.dumps(summary, indent=2) + '\n')


if __name__ == '__main__':
    main()
