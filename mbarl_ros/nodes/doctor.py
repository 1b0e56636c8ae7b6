"""Looks at a running graph for ``mbarl doctor``: diagnostics, the gate's state, the robot."""

from __future__ import annotations

import os

from diagnostic_msgs.msg import DiagnosticArray
from std_msgs.msg import String

from mbarl_ros.config import ConfigError
from mbarl_ros.demos.align import ERROR, Finding
from mbarl_ros.demos.note import DemonstrationError
from mbarl_ros.demos.reader import load_demonstrations
from mbarl_ros.doctor import Picture, Status, diagnose
from mbarl_ros.domain import running_domains
from mbarl_ros.executables import NODES
from mbarl_ros.nodes.robot_check import Listener
from mbarl_ros.nodes.runtime import LATCHED, LOCKSTEP
from mbarl_ros.nodes.surroundings import simulated
from mbarl_ros.task import Task

_DIAGNOSTICS = 2.0  # s, in which each node speaks at least once


def examine(namespace: str, seconds: float) -> list[Finding]:
    """Listen to the graph in this process's domain; ``seconds`` for the robot's topics."""
    statuses: dict[str, Status] = {}
    gate: list[str] = []

    def receive(message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name in NODES:
                values = {item.key: item.value for item in status.values}
                level = int.from_bytes(status.level, 'little')
                statuses[status.name] = Status(level, status.message, values)

    with Listener('doctor', namespace) as listener:
        listener.node.create_subscription(DiagnosticArray, '/diagnostics', receive, 50)
        listener.node.create_subscription(
            String, 'safety_gate/state', lambda message: gate.append(message.data), LATCHED
        )
        listener.spin(_DIAGNOSTICS)
        task, problem = _task(statuses)
        robot = _robot(listener, task, seconds, statuses) if task else []
        return problem + diagnose(
            Picture(
                domain=os.environ.get('ROS_DOMAIN_ID', '0'),
                statuses=statuses,
                clock=simulated(listener.node),
                gate=gate[-1] if gate else '',
                robot=tuple(robot),
                demonstrations=_demonstrations(task) if task else '',
                running=tuple(running_domains()),
            )
        )


def _task(statuses: dict[str, Status]) -> tuple[Task | None, list[Finding]]:
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
    listener: Listener, task: Task, seconds: float, statuses: dict[str, Status]
) -> list[Finding]:
    robot = task.robot
    if any(status.values.get('mode') == LOCKSTEP for status in statuses.values()):
        # A world that stands still says its state twice a second: nothing is late in it.
        robot = robot.model_copy(update={'state_timeout': max(2.0, robot.state_timeout)})
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
