"""How often the scripted operators succeed, through the teleop topics and the safety gate.

    python benchmarks/operators.py [--tasks push door pick_place peg] [--starts 100] [--json FILE]

For each task ``mbarl up record`` drives from random starts, forward and backward in turns, and
records; what was recorded is judged here. Twice: from *wide* starts, each placed by the world, and
*in turns* without resets, where each direction starts where the other has ended, as in practice.

A forward attempt succeeds if the task's own measure says so of its last state. A backward attempt
succeeds if it ends with the object at rest within 1 cm of where the world begins episodes. Each
must keep to the step limit of the task's phases, and an object that the world put back is a
failure.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.demos.metadata import folders
from mbarl_ros.demos.reader import Demonstration, read_demonstration
from mbarl_ros.schema.exit_codes import EXIT_FAILURE, EXIT_SUCCESS
from mbarl_ros.storage.transitions import DIRECTIONS
from mbarl_ros.task import Task

RESULTS = Path(__file__).parent / 'results'
TASKS = ('push', 'door', 'pick_place', 'peg')
FORWARD = DIRECTIONS[0]
NEAR = 0.01  # m, from the box of training starts
AT_REST = 0.001  # m, in a control step
LARGEST_STEP = 0.1  # m; no hand moves an object so far in a control step
SAMPLES = 200  # training starts whose box is taken


def record(task: str, starts: int, folder: Path, wide: bool) -> float:
    """Let the operator drive from so many starts in each direction; returns seconds."""
    words = {
        'task': task,
        'episodes': 2 * starts,
        'demos': folder / 'demos',
        'run_dir': folder / 'run',
        'wide_starts': str(wide).lower(),
        'view': 'none',
    }
    arguments = [f'{name}:={value}' for name, value in words.items()]
    command = [sys.executable, '-m', 'mbarl_ros.cli', 'up', 'record', *arguments]
    began = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode not in (EXIT_SUCCESS, EXIT_FAILURE) or not (folder / 'demos').is_dir():
        raise SystemExit(
            f'{" ".join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}'
        )
    return time.monotonic() - began


class Judge:
    """Tells whether a recorded attempt has succeeded."""

    def __init__(self, task: Task) -> None:
        """Find out where the task's world begins episodes."""
        self.task = task
        names = task.robot.state_names
        self._object = [names.index(f'object_{axis}') for axis in 'xyz']
        world = task.load_world(seed=0)
        starts = np.array([world.reset()[self._object] for _ in range(SAMPLES)])
        world.close()
        self._low, self._high = starts.min(0) - NEAR, starts.max(0) + NEAR

    def failure(self, attempt: Demonstration) -> str:
        """Why it has failed; empty: it has not."""
        places, direction = attempt.states[:, self._object], attempt.metadata.direction
        steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
        if not attempt.whole.all():
            return 'not wholly recorded'
        if len(attempt.commands) > getattr(self.task.config.phases, f'{direction}_limit'):
            return 'step limit'
        if steps.max() > LARGEST_STEP:
            return 'object put back by the world'
        if direction == FORWARD:
            return '' if attempt.episode(self.task).reached(self.task) else 'not at the goal'
        if steps[-1] > AT_REST:
            return 'object not at rest'
        inside = (places[-1] >= self._low) & (places[-1] <= self._high)
        return '' if inside.all() else 'object not where episodes begin'


def measure(name: str, starts: int, wide: bool) -> dict[str, Any]:
    """Successes of both directions of a task."""
    task = Task.load(name)
    judge = Judge(task)
    result: dict[str, Any] = {
        direction: {'starts': starts, 'successes': 0, 'failures': {}, 'steps': []}
        for direction in DIRECTIONS
    }
    with tempfile.TemporaryDirectory() as folder:
        seconds = record(name, starts, Path(folder), wide)
        for path in folders(Path(folder) / 'demos'):
            attempt = read_demonstration(path, task)
            counts = result[attempt.metadata.direction]
            counts['steps'].append(len(attempt.commands))
            if failure := judge.failure(attempt):
                counts['failures'][failure] = counts['failures'].get(failure, 0) + 1
            else:
                counts['successes'] += 1
    for counts in result.values():
        steps = counts.pop('steps')
        counts['median_steps'] = float(np.median(steps))
        if gave_up := starts - len(steps):
            counts['failures']['gave up'] = gave_up
    return {**result, 'seconds': round(seconds)}


def main() -> None:
    """Measure all tasks, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--tasks', nargs='+', default=TASKS)
    parser.add_argument('--starts', type=int, default=100, help='in each direction')
    parser.add_argument('--json', type=Path, default=RESULTS / 'operators.json')
    arguments = parser.parse_args()
    tasks = ' '.join(arguments.tasks)
    report: dict[str, Any] = {
        'command': f'python benchmarks/operators.py --tasks {tasks} --starts {arguments.starts}',
        'cores': os.cpu_count(),
    }
    for name in arguments.tasks:
        report[name] = {}
        for kind, wide in (('wide', True), ('in turns', False)):
            report[name][kind] = measure(name, arguments.starts, wide)
            print(name, kind, report[name][kind], flush=True)
        arguments.json.write_text(json.dumps(report, indent=1) + '\n')


if __name__ == '__main__':
    main()
