"""Runs the real graph, each node a process of its own over DDS, and watches it."""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from mbarl_ros.bringup.domain import take_domain
from mbarl_ros.bringup.fleet import shared_remappings
from mbarl_ros.demos.episodes import SUCCEEDED, episode
from mbarl_ros.demos.imported import save_episode
from mbarl_ros.schema.executables import NODES
from mbarl_ros.schema.load import load_world
from mbarl_ros.task import Task
from support.node_server import NodeProcess, NodeServer

SIM = ('robot_sim', 'safety_gate', 'policy_controller')
# s; generous, for whatever has no deadline of its own
TIMEOUT = 120.0
LEARNING = (*SIM, 'learner', 'state_classifier')


@functools.cache
def _server() -> NodeServer:
    return NodeServer()


class Graph:
    """A graph of real nodes in a ROS domain of its own, and a node of the test among them."""

    def __init__(self, folder: Path, **parameters: Any) -> None:
        """``parameters`` go to every node that is started."""
        self.folder = folder
        self.parameters = {'run_dir': str(folder / 'run'), **parameters}
        (folder / 'run').mkdir(exist_ok=True)
        # a free one, because other runs may be active on this machine
        self.domain, self._lock = take_domain({}, '')
        self.environment = {
            **os.environ,
            'ROS_DOMAIN_ID': str(self.domain),
            'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
            'OMP_NUM_THREADS': '1',
        }
        self.processes: dict[str, NodeProcess | subprocess.Popen] = {}
        self.statuses: dict[str, dict[str, str]] = {}

    def __enter__(self) -> Graph:
        os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
        self.context = Context()
        rclpy.init(context=self.context, domain_id=self.domain)
        self.node = Node('test', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._receive_status, 50)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait(10)
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)
        self._lock.close()

    def _receive_status(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {item.key: item.value for item in status.values}
            self.statuses[status.name] = {'message': status.message, **values}

    def start(
        self,
        *names: str,
        alias: str = '',
        of_robot: str = '',
        remap: dict[str, str] | None = None,
        **own: Any,
    ) -> None:
        """Start nodes. ``own`` parameters go to these alone, ``alias`` renames a single one.

        ``of_robot``: of this robot of a fleet, in its namespace: ``/robot/node`` from now on.
        """
        remap = {**(remap or {}), **(dict(shared_remappings('')) if of_robot else {})}
        rules = [word for old, new in remap.items() for word in ('-r', f'{old}:={new}')]
        rules += ['-r', f'__ns:=/{of_robot}'] if of_robot else []
        for executable in names:
            node = alias or executable
            name = f'/{of_robot}/{node}' if of_robot else node
            running = name in self.processes and self.processes[name].poll() is None
            assert not running, f'{name} is running'  # the handle of that process would be lost
            file = name.strip('/').replace('/', '.')
            path = self.folder / f'{file}.yaml'
            values = {**self.parameters, **own}
            if of_robot:
                values['run_dir'] = str(self.folder / 'run' / 'robots' / of_robot)
            if of_robot and executable != 'robot_sim':
                values.setdefault('fleet', True)
            if executable == 'robot_sim' and self._is_real_time(values):
                values.setdefault('publish_clock', False)
            path.write_text(yaml.safe_dump({f'/**/{node}': {'ros__parameters': values}}))
            self.processes[name] = _server().start(
                NODES[executable],
                ['--ros-args', '-r', f'__node:={node}', '--params-file', str(path), *rules],
                self.environment,
                self.folder / f'{file}.log',
            )

    def _is_real_time(self, values: dict[str, Any]) -> bool:
        """Whether the other nodes use the system clock, so that the robot must use it, too."""
        realtime = values.get('mode') == 'realtime' and 'real_time_factor' not in values
        return realtime and not self.parameters.get('use_sim_time')

    def kill(self, name: str, how: int = signal.SIGKILL) -> int:
        """Send a signal to a node's process and wait for its end; its exit code."""
        process = self.processes.pop(name)
        process.send_signal(how)
        code = process.wait(15)
        self.statuses.pop(name, None)
        return code

    def spin(self, seconds: float) -> None:
        """Serve the test's own node."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.05)

    def wait_for(self, what: str, condition: Callable[[], Any], timeout: float = TIMEOUT) -> Any:
        """Spin until the condition holds; its value.

        :raises AssertionError: time-out, or a node has failed; the message has statuses and logs.
        """
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.05)
            # Before the condition, which may be the end of one of them.
            failed = {name: process.poll() for name, process in self.processes.items()}
            value = condition()
            if value:
                return value
            for name, code in failed.items():
                if code:
                    raise AssertionError(f'{name} ended with {code}: {self.logs()}')
        raise AssertionError(f'{what}: not within {timeout:g} s; {self.statuses}; {self.logs()}')

    def value(self, node: str, key: str, default: float = -1.0) -> float:
        """A number from the latest diagnostics of a node."""
        return float(self.statuses.get(node, {}).get(key, default))

    def gave_up(self) -> bool:
        """Whether the controller has deactivated itself."""
        return 'deactivated' in self.statuses.get('policy_controller', {}).get('message', '')

    def wait_for_steps(self, steps: int) -> None:
        """Wait until the controller has recorded so many steps."""
        self.wait_for(
            f'{steps} steps',
            lambda: self.value('policy_controller', 'environment_steps') >= steps,
        )

    def call(self, service: str) -> Any:
        """Call a std_srvs/Trigger service."""
        trigger = importlib.import_module('std_srvs.srv').Trigger
        client = self.node.create_client(trigger, service)
        assert client.wait_for_service(timeout_sec=15.0), f'service {service} is not there'
        future = client.call_async(trigger.Request())
        self.wait_for(f'answer of {service}', future.done)
        return future.result()

    def change(self, transition: str) -> bool:
        """Request a lifecycle transition of the controller, like ``activate``; its success."""
        client = self.node.create_client(ChangeState, 'policy_controller/change_state')
        assert client.wait_for_service(timeout_sec=30.0)
        number = getattr(Transition, f'TRANSITION_{transition.upper()}')
        future = client.call_async(ChangeState.Request(transition=Transition(id=number)))
        self.wait_for(transition, future.done)
        return future.result().success

    def logs(self) -> str:
        """Last lines of each node's output."""
        return json.dumps(
            {path.stem: path.read_text()[-800:] for path in self.folder.glob('*.log')}, indent=1
        )


def small_agent(folder: Path, **changes: Any) -> str:
    """Path of a preset that is small enough for tests."""
    preset = {
        'name': 'small',
        'sac': {'hidden': [32, 32], 'batch_size': 32, 'cloning_steps': 50},
        'classifier': {'batch_size': 32},
        'model': {'members': 3, 'elites': 2, 'hidden': [32, 32], 'every': 250},
        'updates_per_step': 0.5,
        **changes,
    }
    path = folder / 'small.yaml'
    path.write_text(yaml.safe_dump(preset))
    return str(path)


def demonstrate(task: Task, folder: Path) -> None:
    """Write a demonstration: a drive through the task's world, marked as a success."""
    world = load_world(task.config, seed=0)
    order = [world.state_names.index(name) for name in task.robot.state_names]
    commands = np.tile(task.command(np.full(task.action_dim, 0.3)), (30, 1))
    states = np.array([world.reset(), *(world.step(command) for command in commands)])
    stamps = np.arange(31) / task.robot.control_rate
    folder.mkdir(parents=True)
    recorded = episode(task, states[:, order], commands, stamps, 'forward', verdict=SUCCEEDED)
    save_episode(folder, recorded, task)


def stolen_seconds() -> float:
    """Processor seconds that the host has given to other machines (``steal``, proc(5))."""
    ticks = Path('/proc/stat').read_text().split('\n', 1)[0].split()
    return int(ticks[8]) / os.sysconf('SC_CLK_TCK')
