"""What it costs to watch a run: the same run with everything on and off, in turns.

    python benchmarks/watching.py [real_time lockstep] [--pairs 5] [--seconds 60]

In real time, ``mbarl up hardware`` drives a simulated robot that publishes no clock, so that
periods are those of the wall: their 99th percentile, and the largest deviation. In lockstep,
``mbarl up sim``: the learner's updates a second. Each ``--pairs`` times with ``ON`` and without,
the order alternating, all with one seed. With it the markers are recorded, and a client reads the
page as a browser does. Nothing is evaluated before the end, which could come early. All numbers
come from ``history.jsonl`` of the run folders. Writes ``results/watching.json``: each pair, and the
median of the ratios on / off; what is not measured keeps its last result.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
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
# Environment steps: imports, demonstrations, the first model. In lockstep they pass much faster.
WARM_UP, WARM_UP_LOCKSTEP = 300, 1500
DOMAIN = '86'  # ROS domain of the hardware graph and its robot
MBARL = (sys.executable, '-m', 'mbarl_ros.cli')
ENVIRONMENT = {'WANDB_MODE': 'offline', 'OMP_NUM_THREADS': '1', **os.environ}
Numbers = Mapping[str, float]


def real_time(arguments: list[str], folder: Path, seconds: float) -> Numbers:
    """Control periods of a robot on the wall clock, for ``seconds`` after the warm-up."""
    environment = {
        **ENVIRONMENT,
        'ROS_DOMAIN_ID': DOMAIN,
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
    }
    words = (f'task:={TASK}', 'mode:=realtime', 'publish_clock:=false')
    robot = [*MBARL, 'node', 'robot_sim', '--ros-args']
    robot += [word for value in words for word in ('-p', value)]
    graph = [*MBARL, 'up', 'hardware', 'autostart:=true', 'view:=none', *arguments]
    with running(robot, environment), running([*graph, f'run_dir:={folder}'], environment) as run:
        if 'view:=web' in arguments:
            threading.Thread(target=look, args=(folder, run), daemon=True).start()
        while run.poll() is None and not practised(folder):
            time.sleep(1.0)
        time.sleep(seconds)
    values = [sample.status['policy_controller'] for sample in practised(folder)]
    period = 1e3 / load_robot(TASK).control_rate
    # Windows of ten seconds: the first holds some of the warm-up.
    errors = [float(value['period_error_p99_ms']) for value in values][5:]
    return {
        'period_p99_ms': round(period + statistics.median(errors), 3),
        'largest_error_ms': max(float(value['period_error_max_ms']) for value in values),
        'missed_periods': int(values[-1]['missed_periods']) - int(values[0]['missed_periods']),
    }


def lockstep(arguments: list[str], folder: Path, steps: int) -> Numbers:
    """Gradient steps of the learner per second in a simulation of ``steps``."""
    graph = [*MBARL, 'up', 'sim', f'steps:={steps}', 'view:=none', *arguments]
    with subprocess.Popen(
        [*graph, f'run_dir:={folder}'], stdout=subprocess.DEVNULL, env=ENVIRONMENT
    ) as run:
        if 'view:=web' in arguments:
            threading.Thread(target=look, args=(folder, run), daemon=True).start()
    first, *_, last = practised(folder, WARM_UP_LOCKSTEP)
    done = int(last.status['learner']['updates']) - int(first.status['learner']['updates'])
    return {'updates_per_second': round(done / (last.time - first.time), 2)}


@contextlib.contextmanager
def running(command: list[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen]:
    """A process that is interrupted at the end."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)


def practised(folder: Path, warm_up: int = WARM_UP) -> list[Sample]:
    """Samples of a run from the end of the warm-up on."""
    return [
        sample
        for sample in read_history(folder)
        if float(sample.status.get('learner', {}).get('environment_steps', 0)) >= warm_up
    ]


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


def pairs(count: int, measure: Callable[[list[str], Path], Numbers], folder: Path) -> dict:
    """Measured with and without ``ON``, and the median ratio of the first number."""
    task, rows = f'task:={never_evaluated(folder)}', []
    for index in range(count):
        row = {}
        for name in ('on', 'off') if index % 2 else ('off', 'on'):
            arguments = [task, *ON] if name == 'on' else [task]
            row[name] = measure(arguments, folder / f'{index}-{name}')
        rows.append(row)
        print(row, flush=True)
    (key, *_) = rows[0]['on']
    ratios = [row['on'][key] / row['off'][key] for row in rows]
    return {
        'pairs': rows,
        'ratio_of': key,
        'median_ratio': round(statistics.median(ratios), 4),
        'least_and_largest_ratio': [round(min(ratios), 4), round(max(ratios), 4)],
    }


def main() -> None:
    """Run all pairs; print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('measures', nargs='*', metavar='MEASURE', help='real_time, lockstep')
    parser.add_argument('--pairs', type=int, default=5)
    parser.add_argument('--seconds', type=float, default=60.0)
    parser.add_argument('--lockstep-steps', type=int, default=4000)
    parser.add_argument('--output', type=Path, default=OUTPUT)
    options = parser.parse_args()
    if options.lockstep_steps < 2 * WARM_UP_LOCKSTEP:
        parser.error(f'--lockstep-steps: at least {2 * WARM_UP_LOCKSTEP}, half of them to warm up')
    measures: dict[str, Callable[[list[str], Path], Numbers]] = {
        'real_time': lambda words, folder: real_time(words, folder, options.seconds),
        'lockstep': lambda words, folder: lockstep(words, folder, options.lockstep_steps),
    }
    output = options.output
    summary = json.loads(output.read_text()) if output.exists() else {}
    for name in options.measures or measures:
        about = {
            'command': f'python benchmarks/watching.py {" ".join(sys.argv[1:])}'.strip(),
            'on': list(ON),
            'cores': os.cpu_count(),
            'load_average_before': round(os.getloadavg()[1], 1),
        }
        with tempfile.TemporaryDirectory() as folder:
            summary[name] = about | pairs(options.pairs, measures[name], Path(folder))
    print(json.dumps(summary, indent=2))
    output.write_text(json.dumps(summary, indent=2) + '\n')


if __name__ == '__main__':
    main()
