"""Control steps a second of the worlds with the Panda, beside bare PyBullet.

    python benchmarks/worlds.py [--rounds 12] [--steps 200] [--json FILE]

Bare PyBullet repeats in the same client what our world has told the drives, from the same start:
the same bodies, the same physics steps, the same motion, which is checked; but no kinematics,
limits, states or task. Both take turns in one process, and each ratio is of two neighbours, since
the speed of a shared machine varies.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pybullet

from mbarl_ros.schema.load import load_world
from mbarl_ros.task import Task

RESULTS = Path(__file__).parent / 'results'
TASKS = ('push', 'door', 'pick_place', 'peg')
WRITES = (
    'applyExternalForce',
    'setJointMotorControlArray',
    'stepSimulation',
    'resetBasePositionAndOrientation',
    'resetBaseVelocity',
)
Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
HOLD = 5  # control steps for which a random command stays


def random_commands(task: Task, steps: int) -> np.ndarray:
    """Commands [steps, A] that move the arm about."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (-(-steps // HOLD), task.action_dim))
    return task.command(np.repeat(actions, HOLD, axis=0)[:steps])


def record(world: Any, commands: np.ndarray) -> list[Call]:
    """What our world does to the client: to drives, to physics, to an object that it puts right."""
    calls: list[Call] = []

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            calls.append((function, arguments, keywords))
            return function(*arguments, **keywords)

        return call

    world.reset_to_start(0)
    with contextlib.ExitStack() as stack:
        for name in WRITES:
            patch = mock.patch.object(pybullet, name, noting(getattr(pybullet, name)))
            stack.enter_context(patch)
        for command in commands:
            world.step(command)
    return calls


def ours(world: Any, commands: np.ndarray) -> float:
    """Seconds that our world needs for the commands."""
    world.reset_to_start(0)
    start = time.perf_counter()
    for command in commands:
        world.step(command)
    return time.perf_counter() - start


def bare(world: Any, calls: list[Call]) -> float:
    """Seconds that PyBullet needs for the same."""
    world.reset_to_start(0)
    start = time.perf_counter()
    for function, arguments, keywords in calls:
        function(*arguments, **keywords)
    return time.perf_counter() - start


def compare(name: str, rounds: int, steps: int) -> dict[str, Any]:
    """Speeds of both, and the median ratio of neighbours."""
    task = Task.load(name)
    world = load_world(task.config, seed=0)
    commands = random_commands(task, steps)
    calls = record(world, commands)
    speeds, bare_speeds, ratios = [], [], []
    for _ in range(rounds):
        mine = ours(world, commands)
        joints = world.arm.joints
        other = bare(world, calls)
        world.arm.read()
        if not np.array_equal(joints, world.arm.joints):
            raise RuntimeError(f'{name}: bare PyBullet has moved the arm elsewhere')
        speeds.append(steps / mine)
        bare_speeds.append(steps / other)
        ratios.append(other / mine)
    world.close()
    return {
        'steps_per_second': round(statistics.median(speeds)),
        'bare_steps_per_second': round(statistics.median(bare_speeds)),
        'ratio': round(statistics.median(ratios), 3),
        'ratio_range': [round(min(ratios), 3), round(max(ratios), 3)],
    }


def main() -> None:
    """Measure all tasks, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=12)
    parser.add_argument('--steps', type=int, default=200)
    parser.add_argument('--json', type=Path, default=RESULTS / 'worlds.json')
    arguments = parser.parse_args()
    report: dict[str, Any] = {
        'command': f'python benchmarks/worlds.py --rounds {arguments.rounds} '
        f'--steps {arguments.steps}',
        'cores': os.cpu_count(),
        'machine': platform.machine(),
    }
    for name in TASKS:
        report[name] = compare(name, arguments.rounds, arguments.steps)
        print(name, report[name])
    arguments.json.write_text(json.dumps(report, indent=1) + '\n')


if __name__ == '__main__':
    main()
