"""Lockstep speed: environment steps per second through robot_sim, safety_gate, policy_controller.

Two references are measured in turns with it: a bare rclpy ping-pong between two processes, whose
exchange takes two messages, and the world alone. A control step of the point mass takes three
messages in sequence, and two more in parallel; one of the Panda has four topics of states and two
of commands.

    python benchmarks/lockstep.py [--tasks pointmass push] [--seconds 10] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from mbarl_ros.task import Task

RESULTS = Path(__file__).parent / 'results'
NODES = {
    'robot_sim': 'mbarl_sim.robot_sim',
    'safety_gate': 'mbarl_ros.nodes.safety_gate',
    'policy_controller': 'mbarl_ros.nodes.policy_controller',
}


def lockstep_rate(
    task: str,
    seconds: float,
    warm_up: int = 500,
    simulation: Mapping[str, str] | None = None,
    watch: Callable[[Node], object] = lambda node: None,
) -> float:
    """Environment steps per second, with random actions and without a learner.

    :param warm_up: steps that do not count
    :param simulation: parameters of robot_sim
    :param watch: gets a node, to subscribe to something
    """
    own = {
        'policy_controller': ['-p', 'policy:=random'],
        'robot_sim': [
            word
            for name, value in (simulation or {}).items()
            for word in ('-p', f'{name}:={value}')
        ],
    }
    processes = [
        subprocess.Popen(
            [sys.executable, '-m', module, '--ros-args', '-p', f'task:={task}', *own.get(name, [])],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for name, module in NODES.items()
    ]
    node = Node('lockstep_benchmark')
    watch(node)
    samples: list[tuple[float, int]] = []

    def receive(message: DiagnosticArray) -> None:
        status = message.status[0]
        if status.name == 'robot_sim':
            steps = next(int(item.value) for item in status.values if item.key == 'steps')
            if steps > warm_up:
                samples.append((time.perf_counter(), steps))

    node.create_subscription(DiagnosticArray, '/diagnostics', receive, 10)
    deadline = time.monotonic() + 30 + seconds
    try:
        while len(samples) < 2 or samples[-1][0] - samples[0][0] < seconds:
            rclpy.spin_once(node, timeout_sec=0.5)
            if time.monotonic() > deadline:
                raise SystemExit(
                    'lockstep: the graph makes no steps; start the nodes by hand to see why'
                )
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(10)
        node.destroy_node()
    (start, first), (end, last) = samples[0], samples[-1]
    return (last - first) / (end - start)


def echo() -> None:
    """Answer each ping with a pong."""
    rclpy.init()
    node = Node('echo')
    publisher = node.create_publisher(Twist, 'pong', 1)
    node.create_subscription(Odometry, 'ping', lambda _: publisher.publish(Twist()), 1)
    SingleThreadedExecutor().add_node(node)
    rclpy.spin(node)


def ping_pong_rate(seconds: float) -> float:
    """Exchanges per second between two bare rclpy nodes."""
    process = subprocess.Popen([sys.executable, __file__, '--echo'], stderr=subprocess.DEVNULL)
    node = Node('ping')
    publisher = node.create_publisher(Odometry, 'ping', 1)
    count, start = 0, 0.0

    def pong(_: Twist) -> None:
        nonlocal count, start
        start = start or time.perf_counter()
        count += 1
        publisher.publish(Odometry())

    node.create_subscription(Twist, 'pong', pong, 1)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while not start:
            publisher.publish(Odometry())
            executor.spin_once(timeout_sec=0.5)
        while time.perf_counter() - start < seconds:
            executor.spin_once(timeout_sec=0.5)
        return count / (time.perf_counter() - start)
    finally:
        process.kill()
        process.wait()
        executor.shutdown()  # or destroying the node may crash
        node.destroy_node()


def world_rate(name: str, seconds: float) -> float:
    """Steps per second of the task's world alone, with random actions."""
    task, rng = Task.load(name), np.random.default_rng(0)
    world = task.load_world(seed=0)
    world.reset()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        world.step(task.command(rng.uniform(-1, 1, task.action_dim)))
        count += 1
    rate = count / (time.perf_counter() - start)
    world.close()
    return rate


def stolen_share(before: list[int], after: list[int]) -> float:
    """Share of the processors' time that the host gave to other machines (``steal``, proc(5))."""
    spent = [late - early for early, late in zip(before, after, strict=True)]
    return spent[7] / sum(spent)


def processor_ticks() -> list[int]:
    """Time of all processors in each of the kinds of proc(5), up to ``steal``."""
    return [int(ticks) for ticks in Path('/proc/stat').read_text().split()[1:9]]


def measure(task: str, seconds: float, rounds: int) -> dict[str, Any]:
    """Alternate all measurements; rates, and ratios of their medians."""
    steps, exchanges, alone = [], [], []
    before = processor_ticks()
    for _ in range(rounds):
        exchanges.append(ping_pong_rate(seconds / 2))
        command = [sys.executable, __file__, '--alone', '--tasks', task, '--seconds', str(seconds)]
        alone.append(float(subprocess.check_output(command).splitlines()[-1]))
        steps.append(lockstep_rate(task, seconds))
        print(
            f'{task}: lockstep {steps[-1]:.0f} steps/s, ping-pong {exchanges[-1]:.0f}/s, '
            f'world alone {alone[-1]:.0f} steps/s',
            flush=True,
        )
    median = statistics.median(steps)
    return {
        'lockstep_steps_per_second': [round(rate) for rate in steps],
        'ping_pong_exchanges_per_second': [round(rate) for rate in exchanges],
        'world_steps_per_second': [round(rate) for rate in alone],
        'ratio_to_ping_pong': round(median / statistics.median(exchanges), 3),
        'ratio_to_world': round(median / statistics.median(alone), 3),
        'stolen_share': round(stolen_share(before, processor_ticks()), 3),
        'load': round(os.getloadavg()[0], 1),
    }


def main() -> None:
    """Measure all tasks; print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--tasks', nargs='+', default=['pointmass', 'push'])
    parser.add_argument('--seconds', type=float, default=10.0)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--output', type=Path, default=RESULTS / 'lockstep.json')
    parser.add_argument('--echo', action='store_true', help=argparse.SUPPRESS)
    parser.add_argument('--alone', action='store_true', help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    os.environ.setdefault('ROS_DOMAIN_ID', '88')
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    if arguments.echo:
        echo()
        return
    if arguments.alone:
        print(world_rate(arguments.tasks[0], arguments.seconds / 4))
        return
    rclpy.init()
    tasks = ' '.join(arguments.tasks)
    report: dict[str, Any] = {
        'command': f'python benchmarks/lockstep.py --tasks {tasks} '
        f'--seconds {arguments.seconds:g} --rounds {arguments.rounds}',
        'cores': os.cpu_count(),
    }
    for task in arguments.tasks:
        report[task] = measure(task, arguments.seconds, arguments.rounds)
    print(json.dumps(report, indent=1))
    arguments.output.write_text(json.dumps(report, indent=1) + '\n')
    rclpy.try_shutdown()


if __name__ == '__main__':
    main()
