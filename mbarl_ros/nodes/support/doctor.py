"""Looks at a running graph for ``mbarl doctor``: diagnostics, the gate's state, the robot."""

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
from mbarl_ros.nodes.support.robot_check import DISCOVERY, Listener
from mbarl_ros.nodes.support.runtime import LATCHED, LOCKSTEP, node_of
from mbarl_ros.schema import topics
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.executables import NODES
from mbarl_ros.schema.findings import ERROR, Finding
from mbarl_ros.task import Task

_FRESH = 2.5  # s, in which each node speaks at least twice


class Doctor:
    """Listens to the graph in this process's domain; it has no publisher and calls no service."""

    def __init__(self, listener: Listener) -> None:
        """Subscribe to what the nodes say of themselves."""
        self._listener = listener
        self._heard: dict[str, tuple[float, NodeStatus]] = {}
        self._gate = ''
        node = listener.node
        node.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, 50)
        node.create_subscription(String, topics.GATE_STATE, self._on_gate, LATCHED)

    def examine(self, seconds: float, running: Sequence[int] = ()) -> list[Finding]:
        """Listen to the robot's topics for ``seconds``; what is wrong with the graph.

        :param running: domains in which graphs run on this machine
        """
        self._listener.spin(_FRESH)
        if not self._heard:
            self._listener.spin(DISCOVERY)
        statuses = self._statuses()
        task, problem = _task(statuses)
        robot = _robot(self._listener, task, seconds, statuses) if task else []
        return problem + diagnose(
            GraphSnapshot(
                domain=os.environ.get('ROS_DOMAIN_ID', '0'),
                namespace=self._listener.node.get_namespace().rstrip('/'),
                statuses=self._statuses(),
                clock=simulated(self._listener.node),
                gate=self._gate,
                robot=tuple(robot),
                demonstrations=_demonstrations(task) if task else '',
                running=tuple(running),
            )
        )

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name = node_of(status.name, self._listener.node.get_namespace())
            if name in NODES:
                values = {item.key: item.value for item in status.values}
                level = int.from_bytes(status.level, 'little')
                said = NodeStatus(level, status.message, values)
                self._heard[name] = time.monotonic(), said

    def _on_gate(self, message: String) -> None:
        self._gate = message.data

    def _statuses(self) -> dict[str, NodeStatus]:
        """What was said of late; who has been silent since is gone."""
        since = time.monotonic() - _FRESH
        return {name: status for name, (when, status) in self._heard.items() if when > since}


def _task(statuses: dict[str, NodeStatus]) -> tuple[Task | None, list[Finding]]:
    """The task that the nodes say they work on."""
    for name in ('safety_gate', 'policy_controller', 'learner', 'demo_recorder'):
        if name in statuses:
            values = statuses[name].values
            try:
                return Task.load(values['task'], values['robot'] or None), []
            except ConfigError as error:
                return None, [Finding(ERROR, f'{name} uses what cannot be read here: {error}')]
    return None, []


def _robot(
    listener: Listener, task: Task, seconds: float, statuses: dict[str, NodeStatus]
) -> list[Finding]:
    robot, said = task.robot, [status.values for status in statuses.values()]
    lockstep = any(values.get('mode') == LOCKSTEP for values in said)
    if lockstep:
        # A world that stands still says its state twice a second: nothing is late in it.
        robot = robot.model_copy(update={'state_timeout': max(2.0, robot.state_timeout)})
    # Stamps are read by the clock that the graph goes by.
    follows = lockstep or any(values.get('use_sim_time') == 'True' for values in said)
    sim_time = follows and simulated(listener.node)
    listener.node.set_parameters([rclpy.Parameter('use_sim_time', value=sim_time)])
    heard = listener.hear(robot, seconds).findings
    return [finding for finding in heard if finding.level == ERROR]


def _demonstrations(task: Task) -> str:
    folder = task.config.demonstrations
    if not folder:
        return ''
    try:
        load_demonstrations(folder, task)
    except DemonstrationError as error:
        return str(error)
    return ''
