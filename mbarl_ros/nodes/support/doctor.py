"""``mbarl doctor``: examines a running graph by what its nodes and its robot publish."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from std_msgs.msg import String

from mbarl_ros.demos.metadata import DemonstrationError
from mbarl_ros.demos.reader import load_demonstrations
from mbarl_ros.nodes.support.diagnosis import GraphSnapshot, NodeStatus, diagnose
from mbarl_ros.nodes.support.graph_checks import simulated
from mbarl_ros.nodes.support.qos import LATCHED
from mbarl_ros.nodes.support.robot_check import DISCOVERY, Listener
from mbarl_ros.nodes.support.runtime import LOCKSTEP, node_of
from mbarl_ros.schema import topics
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.executables import SHARED_NODES
from mbarl_ros.schema.findings import ERROR, Finding
from mbarl_ros.task import Task

_STATUS_AGE = 2.5  # s, in which each node publishes at least two statuses


class Doctor:
    """Examines the graph in this process's domain; publishes nothing and calls no service."""

    def __init__(self, listener: Listener) -> None:
        """Subscribe to diagnostics and to the safety gate's state."""
        self._listener = listener
        self._received: dict[str, tuple[float, NodeStatus]] = {}  # at (s), by node
        self._gate = ''
        node = listener.node
        node.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, 50)
        node.create_subscription(String, topics.GATE_STATE, self._on_gate, LATCHED)

    def examine(self, seconds: float, running: Sequence[int] = ()) -> list[Finding]:
        """Findings about the graph, after listening to the robot's topics for ``seconds``.

        :param running: domains in which graphs run on this machine
        """
        self._listener.spin(_STATUS_AGE)
        if not self._received:
            self._listener.spin(DISCOVERY)
        statuses = self._statuses()
        task, problem = _task(statuses)
        robot = _check_robot(self._listener, task, seconds, statuses) if task else []
        return problem + diagnose(
            GraphSnapshot(
                domain=os.environ.get('ROS_DOMAIN_ID', '0'),
                namespace=self._listener.node.get_namespace().rstrip('/'),
                statuses=self._statuses(),
                clock=simulated(self._listener.node),
                gate=self._gate,
                robot=tuple(robot),
                demonstrations=_check_demonstrations(task) if task else '',
                running=tuple(running),
            )
        )

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name = node_of(status.name, self._listener.node.get_namespace(), fleet=True)
            if name:
                values = {item.key: item.value for item in status.values}
                level = int.from_bytes(status.level, 'little')
                node_status = NodeStatus(level, status.message, values)
                self._received[name] = time.monotonic(), node_status

    def _on_gate(self, message: String) -> None:
        self._gate = message.data

    def _statuses(self) -> dict[str, NodeStatus]:
        """Recent statuses; a node without one is gone.

        Robots in the namespaces below are of this graph if it has none itself.
        """
        since = time.monotonic() - _STATUS_AGE
        recent = {name: status for name, (when, status) in self._received.items() if when > since}
        own = {name: status for name, status in recent.items() if '/' not in name}
        is_fleet = own.keys() and own.keys() <= {*SHARED_NODES}
        return recent if is_fleet else own


def _task(statuses: dict[str, NodeStatus]) -> tuple[Task | None, list[Finding]]:
    """The task of the graph, as its nodes report it."""
    for name in ('safety_gate', 'policy_controller', 'learner', 'demo_recorder'):
        if name in statuses:
            values = statuses[name].values
            try:
                return Task.load(values['task'], values['robot'] or None), []
            except ConfigError as error:
                return None, [
                    Finding(ERROR, f'{name} uses a task or robot that cannot be read here: {error}')
                ]
    return None, []


def _check_robot(
    listener: Listener, task: Task, seconds: float, statuses: dict[str, NodeStatus]
) -> list[Finding]:
    robot, reported = task.robot, [status.values for status in statuses.values()]
    lockstep = any(values.get('mode') == LOCKSTEP for values in reported)
    if lockstep:
        # A world that stands still repeats its state only twice a second.
        robot = robot.model_copy(update={'state_timeout': max(2.0, robot.state_timeout)})
    # Ages of stamps are measured by the graph's own clock.
    sim_time = lockstep or any(values.get('use_sim_time') == 'True' for values in reported)
    sim_time = sim_time and simulated(listener.node)
    listener.node.set_parameters([rclpy.Parameter('use_sim_time', value=sim_time)])
    findings = listener.check(robot, seconds).findings
    return [finding for finding in findings if finding.level == ERROR]


def _check_demonstrations(task: Task) -> str:
    """Why the demonstrations of a task cannot be used; empty: they can, or there are none."""
    folder = task.config.demonstrations
    if not folder:
        return ''
    try:
        load_demonstrations(folder, task)
    except DemonstrationError as error:
        return str(error)
    return ''
