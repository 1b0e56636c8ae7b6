"""Real controllers, learner and classifier of a fleet; worlds and gates in one process.

For ``benchmarks/fleet.py``: so many real worlds and gates need more cores than most machines have.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import String, UInt8MultiArray

from mbarl_ros.bringup import graphs
from mbarl_ros.bringup.domain import take_domain
from mbarl_ros.bringup.node_process import node_command, node_environment
from mbarl_ros.bringup.run_folder import RunFolder
from mbarl_ros.nodes.support.qos import KEEP_ALL, LATCHED, RELIABLE, RELIABLE_STEPS
from mbarl_ros.nodes.support.runtime import message_class
from mbarl_ros.schema.message_fields import TopicCodec, set_stamp
from mbarl_ros.storage.record_log import read_records
from mbarl_ros.storage.spool import SPOOL_FOLDER
from mbarl_ros.storage.transitions import unpack_transitions
from mbarl_ros.task import Task

TASK = 'pointmass'
STOOD_IN = ('robot_sim', 'safety_gate')
LEFT_OUT = ('policy_evaluator', 'monitor')
# What learns is no matter here, and a small agent leaves the cores to the data.
SMALL_AGENT = {
    'name': 'small',
    'sac': {'hidden': [32, 32], 'batch_size': 32, 'cloning_steps': 50},
    'classifier': {'batch_size': 32},
    'model': {'members': 3, 'elites': 2, 'hidden': [32, 32], 'every': 250},
    'updates_per_step': 0.1,
}


class StandIns:
    """Worlds and gates of a fleet in one node, and a count of what its controllers send.

    A command is executed as it is. The stamp of an executed command is that of the latest state.
    """

    def __init__(self, task: Task, robots: list[str], spec_hash: str, domain: int) -> None:
        """Build the worlds and connect them."""
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = Node('stand_ins', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._task, self._spec = task, spec_hash
        self.sent: dict[str, set[int]] = defaultdict(set)  # numbers of each session
        self.bytes: Counter[str] = Counter()
        self.messages: Counter[str] = Counter()
        self.status: dict[str, dict[str, str]] = {}
        self._state_type = message_class(task.robot.state[0].type)
        self._codec = TopicCodec(task.robot.state[0])
        self._robots = {}
        create = self.node.create_publisher
        for number, name in enumerate(robots):
            world = task.load_world(seed=number)
            self._robots[name] = {
                'world': world,
                'command': np.zeros(task.action_dim),
                'state': world.reset(),
                'stamp': 0,
                'states': create(self._state_type, f'{name}/odom', RELIABLE_STEPS),
                'executed': create(JointState, f'{name}/safety_gate/executed', RELIABLE_STEPS),
                'gate': create(String, f'{name}/safety_gate/state', LATCHED),
            }
            self.node.create_subscription(
                JointState,
                f'{name}/policy_controller/command',
                partial(self._on_command, name),
                RELIABLE,
            )
            # Without a subscriber the controller objects.
            for topic in task.robot.command_topics:
                kind, name_of_topic = message_class(topic.type), f'{name}/{topic.topic}'
                self.node.create_subscription(kind, name_of_topic, lambda _: None, 1)
            self.node.create_subscription(
                UInt8MultiArray,
                f'{name}/policy_controller/transitions',
                partial(self._on_transitions, name),
                KEEP_ALL,
            )
        self._listen_to_diagnostics()
        self.node.create_timer(1.0 / task.robot.control_rate, self._step)
        self.node.create_timer(1.0, self._say_ok)
        self._stopping = False
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def _listen_to_diagnostics(self) -> None:
        def receive(message: DiagnosticArray) -> None:
            for status in message.status:
                values = {item.key: item.value for item in status.values}
                self.status[status.name] = {**values, 'message': status.message}

        self.node.create_subscription(DiagnosticArray, '/diagnostics', receive, 100)

    def steps(self) -> int:
        """Steps that controllers have sent; those that were sent again count once."""
        return sum(len(numbers) for numbers in list(self.sent.values()))

    def close(self) -> None:
        """Stop all robots."""
        self._stopping = True
        self._thread.join()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def _spin(self) -> None:
        while not self._stopping:
            self._executor.spin_once(timeout_sec=0.1)

    def _step(self) -> None:
        for robot in self._robots.values():
            robot['state'] = robot['world'].step(robot['command'])
            robot['stamp'] = time.time_ns()
            message = self._state_type()
            self._codec.encode(message, robot['state'].tolist())
            set_stamp(message, robot['stamp'])
            robot['states'].publish(message)

    def _say_ok(self) -> None:
        for robot in self._robots.values():
            robot['gate'].publish(String(data='ok'))

    def _on_command(self, name: str, message: Any) -> None:
        robot = self._robots[name]
        if message.header.frame_id != 'policy':
            return
        robot['command'] = np.array(message.position)
        set_stamp(message, robot['stamp'])
        robot['executed'].publish(message)

    def _on_transitions(self, name: str, message: Any) -> None:
        data = bytes(message.data)
        rows, session, first = unpack_transitions(data, self._task, self._spec)
        self.bytes[name] += len(data)
        self.messages[name] += 1
        self.sent[session] |= set(range(first, first + len(rows['phase'])))


class Fleet:
    """Real controllers, learner and classifier of a fleet as processes that can be killed."""

    def __init__(self, folder: Path, robots: int) -> None:
        """Start them, with :class:`StandIns` for the rest."""
        agent = folder / 'small.yaml'
        agent.write_text(yaml.safe_dump(SMALL_AGENT))
        given = {
            'robots': str(robots),
            'task': TASK,
            'agent': str(agent),
            'run_dir': str(folder / 'run'),
        }
        plan = graphs.plan('fleet', given)
        self.run_dir, self.task = plan.run_dir, Task(plan.task, plan.robot)
        self.spec_hash = self.task.spec_hash(plan.agent)
        self._run_folder = RunFolder(plan)
        self.domain, self._lock = take_domain({}, '')
        self._environment = node_environment(os.environ, self.domain, self.run_dir / 'log', {})
        self.robots = [f'robot_{number + 1}' for number in range(robots)]
        self.stand_ins = StandIns(self.task, self.robots, self.spec_hash, self.domain)
        self.commands: dict[str, list[str]] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for spec in plan.nodes:
            if spec.name in (*STOOD_IN, *LEFT_OUT):
                continue
            own = {k: v for k, v in spec.parameters.items() if k != 'use_sim_time'}
            spec = replace(spec, parameters=own, remappings=spec.remappings[:2])
            self.commands[spec.label] = node_command(spec, self.run_dir / 'params', 'info')
            self.start(spec.label)

    def start(self, label: str) -> None:
        """Start a node, or start it again."""
        with (self.run_dir / 'log' / f'{label.replace("/", ".")}.log').open('ab') as log:
            self.processes[label] = subprocess.Popen(
                self.commands[label],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )

    def kill(self, label: str) -> None:
        """SIGKILL, and the end of the process."""
        self.processes[label].kill()
        self.processes[label].wait()

    def wait_until_all_practise(self, timeout: float) -> None:
        """Wait until the learner has stored steps of every robot."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            learner = self.stand_ins.status.get('learner', {})
            if all(int(learner.get(f'steps of {robot}', 0)) > 10 for robot in self.robots):
                return
            time.sleep(0.2)
        status = json.dumps(self.stand_ins.status, indent=1)
        raise RuntimeError(f'not all robots practise after {timeout:.0f} s: {status}')

    def stop(self) -> None:
        """Stop controllers, and when they have ended learner and classifier."""
        for of_robots in (True, False):
            group = [one for label, one in self.processes.items() if ('/' in label) == of_robots]
            for process in group:
                process.send_signal(2)
            for process in group:
                process.wait(60)

    def close(self) -> None:
        """Wait for processes that have been stopped, and end the stand-ins."""
        for process in self.processes.values():
            process.wait(60)
        self.stand_ins.close()
        self._run_folder.close()
        self._lock.close()

    def executed(self, robot: str) -> dict[str, int]:
        """Steps that a robot has executed in each session of which its spool has files."""
        ends: Counter[str] = Counter()
        for path in (self.run_dir / 'robots' / robot / SPOOL_FOLDER).glob('*.log'):
            header, *rows = list(read_records(path)) or [b'']
            if header:
                meta = json.loads(header)
                ends[meta['session']] = max(ends[meta['session']], meta['first'] + len(rows))
        return dict(ends)


@contextmanager
def running(robots: int) -> Iterator[Fleet]:
    """A fleet that practises; no process outlives the block."""
    with TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder), robots)
        try:
            fleet.wait_until_all_practise(90.0 + 20.0 * robots)
            yield fleet
        finally:
            for process in fleet.processes.values():
                process.kill()
            fleet.close()
