"""Planning in real time: whether preset `mpc` keeps the control period, and learns.

    python benchmarks/planning_realtime.py [pointmass tabletop] [--steps 1500]

Runs ``mbarl up sim mode:=realtime agent:=mpc`` for each task, one after the other, listens to
``/diagnostics`` of the policy controller, and writes ``results/planning_realtime.json``: planning
time (ms, 99th percentile of the last 1,000 plans; the largest of the run), plans that were cut
short or continued the last plan, missed control periods, and the evaluations. ``stolen_seconds``:
processor time that the host gave to others meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray

RESULTS = Path(__file__).parent / 'results'
KEYS = ('planning_ms_p99', 'plans', 'plans_cut_short', 'plans_continued', 'missed_periods')


def stolen_seconds() -> float:
    """Processor seconds that the host has given to other machines (``steal``, proc(5))."""
    ticks = Path('/proc/stat').read_text().split('\n', 1)[0].split()
    return int(ticks[8]) / os.sysconf('SC_CLK_TCK')


def run(task: str, steps: int, folder: Path) -> dict[str, Any]:
    """One run of the graph in real time."""
    path = folder / task
    command = [sys.executable, '-m', 'mbarl_ros.cli', 'up', 'sim', f'task:={task}', 'agent:=mpc']
    command += ['mode:=realtime', f'steps:={steps}', 'target:=1.0', 'view:=none']
    node = rclpy.create_node('planning_benchmark')
    latest: dict[str, float] = {}

    def receive(message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == 'policy_controller':
                values = {item.key: item.value for item in status.values}
                for key in KEYS:
                    latest[key] = max(latest.get(key, 0.0), float(values.get(key, 0.0)))

    node.create_subscription(DiagnosticArray, '/diagnostics', receive, 10)
    before = stolen_seconds()
    process = subprocess.Popen([*command, f'run_dir:={path}'], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        rclpy.spin_once(node, timeout_sec=0.5)
    node.destroy_node()
    lines = map(json.loads, (path / 'evaluations.jsonl').read_text().splitlines())
    return {
        **latest,
        'deployed_success': {x['environment_steps']: x['deployed_success'] for x in lines},
        'stolen_seconds': round(stolen_seconds() - before, 1),
    }


def main() -> None:
    """Run the tasks, print and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('tasks', nargs='*', default=['pointmass', 'tabletop'])
    parser.add_argument('--steps', type=int, default=1500)
    arguments = parser.parse_args()
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    os.environ.setdefault('ROS_DOMAIN_ID', '89')
    rclpy.init()
    with tempfile.TemporaryDirectory() as folder:
        tasks = {task: run(task, arguments.steps, Path(folder)) for task in arguments.tasks}
    rclpy.try_shutdown()
    command = f'python benchmarks/planning_realtime.py --steps {arguments.steps}'
    report = {'command': command, 'cores': os.cpu_count(), 'tasks': tasks}
    print(json.dumps(report, indent=1))
    RESULTS.joinpath('planning_realtime.json').write_text(json.dumps(report, indent=1) + '\n')


if __name__ == '__main__':
    main()
