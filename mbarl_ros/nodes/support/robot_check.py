"""``mbarl robot check``: listens to a running robot and says whether it is ready to be moved."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from mbarl_ros.control.jump_watch import JumpWatch
from mbarl_ros.nodes.support.diagnosis import request_failed
from mbarl_ros.nodes.support.graph_checks import check_graph, request_ends
from mbarl_ros.nodes.support.qos import SENSOR
from mbarl_ros.nodes.support.robot_topics import StateListener, subscribe
from mbarl_ros.nodes.support.runtime import message_class, node_of
from mbarl_ros.nodes.support.teleop_check import TeleopListener
from mbarl_ros.schema import topics
from mbarl_ros.schema.field_maps import ActionCommand
from mbarl_ros.schema.findings import ERROR, INFO, WARNING, Finding
from mbarl_ros.schema.plausible import unit_question
from mbarl_ros.schema.robot import RobotConfig
from mbarl_ros.task import Task

_GATE = topics.GATE_STATE.partition('/')[0]
DISCOVERY = 4.0  # s; Fast DDS announces itself at once, and again after 3 s if that was lost
# A line of the table: topic, rate, age, frame, nodes at the other end.
Row = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class Report:
    """Result of a check: a row for each topic, and findings."""

    rows: list[Row]
    findings: list[Finding]


class Listener:
    """A node of its own in the robot's domain, for as long as the ``with`` block lasts."""

    def __init__(self, name: str, namespace: str, sim_time: bool = False) -> None:
        """Prepare; ``sim_time``: follow /clock."""
        self._name, self._namespace, self._sim_time = name, namespace, sim_time

    def __enter__(self) -> Listener:
        self._context = Context()
        rclpy.init(context=self._context)
        overrides = [rclpy.Parameter('use_sim_time', value=self._sim_time)]
        self.node = _ListenerNode(
            self._name,
            namespace=self._namespace,
            context=self._context,
            parameter_overrides=overrides,
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def spin(self, seconds: float) -> None:
        """Receive messages for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.05)

    def check(self, robot: RobotConfig, seconds: float, task: Task | None = None) -> Report:
        """Check a robot by what it publishes in ``seconds``; ``task``: check its ranges, too."""
        latest: list[np.ndarray] = []
        states = StateListener(
            self.node, robot, False, lambda state, _: latest.append(state), JumpWatch(robot)
        )
        frames, teleop = self._frames(robot), TeleopListener(self.node, robot)
        faults = self._faults()
        self._discover(robot)
        self.spin(seconds)
        findings = states.findings(seconds) + teleop.findings()
        findings += _failed_requests(robot, faults, findings)
        if latest:
            findings += _check_ranges(robot, task, latest[-1])
        findings += _unmeasured(robot)
        return Report(self._rows(robot, states, frames, seconds), findings)

    def _frames(self, robot: RobotConfig) -> dict[str, str]:
        """Frame of the latest message by topic, also of messages that do not fit the profile.

        The dictionary is filled as they arrive.
        """
        frames: dict[str, str] = {}
        for topic in robot.state:
            kind = message_class(topic.type)
            if hasattr(kind, 'header'):
                keep = partial(_keep_frame, frames, topic.topic)
                subscribe(self.node, kind, topic.topic, keep, SENSOR, log_mismatch=False)
        return frames

    def _faults(self) -> dict[str, str]:
        """What a running safety gate reports in its latest diagnostics, filled as they arrive."""
        values: dict[str, str] = {}

        def keep(message: DiagnosticArray) -> None:
            for status in message.status:
                if node_of(status.name, self.node.get_namespace()) == _GATE:
                    values.update({item.key: item.value for item in status.values})

        self.node.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, keep, 50)
        return values

    def _discover(self, robot: RobotConfig) -> None:
        """Wait until the graph is without errors, or discovery has had its time."""
        end = time.monotonic() + DISCOVERY
        while time.monotonic() < end and any(
            finding.level == ERROR for finding in check_graph(self.node, robot)
        ):
            self.spin(0.1)

    def _rows(
        self, robot: RobotConfig, states: StateListener, frames: dict[str, str], seconds: float
    ) -> list[Row]:
        rows = []
        now = time.monotonic()
        for health in states.health:
            topic, age = health.topic.topic, health.age(now, seconds)
            ends = self.node.get_publishers_info_by_topic(topic)
            age_text = (
                '-' if age is None else f'{1000 * age:.0f} ms' if abs(age) < 100 else 'far off'
            )
            tf = health.topic.frames
            rate = f'{health.rate(now, seconds):.1f} Hz'
            frame = tf.parent if tf else frames.get(topic) or '-'
            rows.append((health.label, rate, age_text, frame, _names(ends)))
        for topic in robot.command_topics:
            ends = self.node.get_subscriptions_info_by_topic(topic.topic)
            rows.append((topic.topic, 'command', '-', '-', _names(ends)))
        for entry in robot.requests:
            servers, _ = request_ends(self.node, entry)
            name, kind = (
                (entry.action, 'goals')
                if isinstance(entry, ActionCommand)
                else (entry.service, 'calls')
            )
            rows.append((name, kind, '-', '-', ', '.join(sorted(servers)) or 'nobody'))
        return rows


class _ListenerNode(Node):
    """A bare node that logs messages that it cannot read."""

    def refuse(self, error: Exception, topic: str) -> None:
        """Log a message that is not trusted: ``error`` says why."""
        self.get_logger().warning(f'{topic}: {error}', throttle_duration_sec=5.0)


def _keep_frame(frames: dict[str, str], topic: str, message: Any) -> None:
    frames[topic] = message.header.frame_id


def _names(ends: Sequence[object]) -> str:
    return ', '.join(sorted({end.node_name for end in ends})) or 'nobody'


def _failed_requests(
    robot: RobotConfig, faults: dict[str, str], known: Sequence[Finding]
) -> list[Finding]:
    """Goals and calls of the safety gate that failed; a missing server is in ``known``."""
    return [
        request_failed(entry.label, fault)
        for entry in robot.requests
        if (fault := faults.get(entry.label))
        and not any(f.level == ERROR and f.text.startswith(entry.label) for f in known)
    ]


def _check_ranges(robot: RobotConfig, task: Task | None, state: np.ndarray) -> list[Finding]:
    """Warnings about a state outside the workspace or the task's ranges."""
    findings = []
    measured = dict(zip(robot.state_names, state.tolist(), strict=True))
    for name, (low, high) in robot.workspace.items():
        if not low <= measured[name] <= high:
            text = (
                f'{name} is {measured[name]:.3g}, outside the workspace of {low:g} to {high:g}; '
                'the safety gate will let only a person drive'
            )
            findings.append(Finding(WARNING, text + _unit(measured[name], low, high)))
    for entry in task.config.observation if task else ():
        if not entry.low <= measured[entry.name] <= entry.high:
            text = (
                f'{entry.name} is {measured[entry.name]:.3g}; task {task.name} expects '
                f'{entry.low:g} to {entry.high:g}'
            )
            unit = _unit(measured[entry.name], entry.low, entry.high)
            findings.append(Finding(WARNING, text + unit))
    return findings


def _unit(value: float, low: float, high: float) -> str:
    question = unit_question((value, value), low, high)
    return f'; {question}' if question else ''


def _unmeasured(robot: RobotConfig) -> list[Finding]:
    """Notes about positions without a measurement, whose first command cannot be limited."""
    return [
        Finding(
            INFO,
            f'{name}: this position is not measured, so its first command is sent unlimited, '
            f'at any distance; if a state entry measures it, name it in limits.{name}.measured',
        )
        for name, limit in robot.limits.items()
        if limit.stop == 'hold' and limit.measured is None
    ]
