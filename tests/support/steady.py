"""How steadily the controller's loop runs while the learner trains, beside a bare rclpy timer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry

from mbarl_ros.schema.load import load_agent
from mbarl_ros.task import Task
from support.graph import Graph, stolen_seconds

_WINDOW = 10.0  # s; the diagnostics cover the last ten seconds
BARE = """
import json, sys, time
import rclpy
from mbarl_ros.control.loop_timing import LoopTiming
rate = float(sys.argv[1])
timing = LoopTiming(1.0 / rate)
rclpy.init()
node = rclpy.create_node('bare')
node.create_timer(1.0 / rate, lambda: timing.tick(time.monotonic()))
def report():
    print(json.dumps({'at': time.monotonic(), **timing.values()}), flush=True)
node.create_timer(0.5, report)
rclpy.spin(node)
"""


@dataclass(frozen=True)
class Steadiness:
    """Steadiness of the control loop beside that of a bare rclpy timer.

    Lists have an entry for each ten seconds: the 99th percentile of the period error (ms) of the
    loop and of the bare timer, processor seconds that the host gave to other machines, and stops of
    the gate for stale commands and stale states. The rest is of the whole run: missed periods,
    updates of the learner and its share of a core.
    """

    rate: float
    seconds: float
    p99_ms: list[float]
    bare_p99_ms: list[float]
    stolen_seconds: list[float]
    stale_commands: list[int]
    stale_states: list[int]
    missed_periods: int
    bare_missed_periods: int
    updates: int
    learner_share: float


class Base:
    """A base without physics, at any control rate: it moves exactly at the commanded velocity."""

    def __init__(self, graph: Graph, rate: float) -> None:
        self._node, self._moved_at = graph.node, time.monotonic()
        self._message = Odometry()
        self._publisher = graph.node.create_publisher(Odometry, 'odom', 10)
        graph.node.create_subscription(Twist, 'cmd_vel', self._obey, 10)
        graph.node.create_timer(1.0 / rate, self._publish)

    def _obey(self, message: Twist) -> None:
        self._move()
        self._message.twist.twist.linear = message.linear

    def _publish(self) -> None:
        self._move()
        self._message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(self._message)

    def _move(self) -> None:
        """Move on at the velocity, also over the time in which this process stalled."""
        now = time.monotonic()
        passed, self._moved_at = now - self._moved_at, now
        position, velocity = self._message.pose.pose.position, self._message.twist.twist.linear
        position.x = max(-0.8, min(0.8, position.x + passed * velocity.x))
        position.y = max(-0.8, min(0.8, position.y + passed * velocity.y))


def measure(folder: Path, rate: float, seconds: float) -> Steadiness:
    """Run controller, gate and a training learner in real time, each a process of its own."""
    robot = Task.load('pointmass').robot.model_dump(mode='json', exclude_defaults=True)
    (folder / 'fast.yaml').write_text(yaml.safe_dump({**robot, 'control_rate': rate}))
    agent = _tireless_agent(folder, rate)
    parameters: dict[str, Any] = {'task': 'pointmass', 'robot': str(folder / 'fast.yaml')}
    with Graph(folder, agent=agent, mode='realtime', **parameters) as graph:
        Base(graph, rate)
        graph.start('safety_gate', 'policy_controller')
        # Only these read the demonstrations, whose rate is 10 Hz.
        graph.start('learner', 'state_classifier', robot='pointmass')
        graph.wait_for('training', lambda: graph.value('learner', 'updates') > 0, 120)
        command = [sys.executable, '-c', BARE, str(rate)]
        output = folder / 'bare.jsonl'  # a full pipe would block it
        with (
            output.open('w') as file,
            subprocess.Popen(command, env=graph.environment, stdout=file) as bare,
        ):
            graph.spin(5.0)  # until it runs; keeps the base alive
            ends, ours = _watch(graph, seconds)
            bare.kill()
        lines = [json.loads(line) for line in output.read_text().splitlines()]
    reported = [[line for line in lines if line['at'] <= end][-1] for end in ends]
    return Steadiness(
        rate=rate,
        seconds=seconds,
        bare_p99_ms=[float(line['period_error_p99_ms']) for line in reported],
        bare_missed_periods=int(lines[-1]['missed_periods']),
        **ours,
    )


def _tireless_agent(folder: Path, rate: float) -> str:
    """The preset ``mbarl`` with more updates than a core can do: the learner never idles."""
    preset = load_agent('mbarl').model_dump(mode='json', exclude_defaults=True)
    path = folder / 'tireless.yaml'
    path.write_text(yaml.safe_dump({**preset, 'updates_per_step': 500.0 / rate}))
    return str(path)


def _watch(graph: Graph, seconds: float) -> tuple[list[float], dict[str, Any]]:
    """Ends of the windows on the steady clock, and the measurements in them."""
    first = dict(graph.statuses['policy_controller'])
    updates = graph.value('learner', 'updates')
    used, began = _processor(graph), time.monotonic()
    ends, p99, stolen = [], [], [stolen_seconds()]
    stops = [_stops(graph)]
    for _ in range(round(seconds / _WINDOW)):
        graph.spin(_WINDOW)
        ends.append(time.monotonic())
        p99.append(graph.value('policy_controller', 'period_error_p99_ms'))
        stolen.append(stolen_seconds())
        stops.append(_stops(graph))
    commands, states = zip(*stops, strict=True)
    missed = graph.value('policy_controller', 'missed_periods') - float(first['missed_periods'])
    share = (_processor(graph) - used) / (time.monotonic() - began)
    # Updates are counted at the end of a chunk, which may outlast the windows.
    graph.wait_for('the end of a chunk', lambda: graph.value('learner', 'updates') > updates)
    return ends, {
        'p99_ms': p99,
        'stolen_seconds': [round(after - before, 2) for before, after in pairwise(stolen)],
        'stale_commands': [after - before for before, after in pairwise(commands)],
        'stale_states': [after - before for before, after in pairwise(states)],
        'missed_periods': int(missed),
        'updates': int(graph.value('learner', 'updates') - updates),
        'learner_share': round(share, 2),
    }


def _stops(graph: Graph) -> tuple[int, int]:
    """Stops of the gate so far for stale commands and for stale states."""
    counts = graph.statuses['safety_gate']
    return int(counts.get('stale command', 0)), int(counts.get('stale state', 0))


def _processor(graph: Graph) -> float:
    """Processor seconds that the learner has used."""
    stat = Path(f'/proc/{graph.processes["learner"].pid}/stat').read_text()
    user, system = stat.rsplit(')', 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf('SC_CLK_TCK')
