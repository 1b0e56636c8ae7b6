"""Listens to a running robot, without moving it, and says whether it is fit to be armed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from mbarl_ros.nodes.support.graph_checks import check_graph
from mbarl_ros.nodes.support.robot_topics import StateListener, subscribe
from mbarl_ros.nodes.support.runtime import SENSOR, message_class
from mbarl_ros.schema.findings import ERROR, INFO, WARNING, Finding
from mbarl_ros.schema.robot import RobotConfig
from mbarl_ros.task import Task

DISCOVERY = 4.0  # s; Fast DDS says hello at once, and if that was lost again after 3 s
# A line of the table: topic, rate, age, frame, other ends.
Row = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class Report:
    """What was heard: a row for each topic, and findings."""

    rows: list[Row]
    findings: list[Finding]


class Listener:
    """A node of its own in the robot's domain, for as long as the ``with`` block lasts."""

    def __init__(self, name: str, namespace: str, sim_time: bool = False) -> None:
        """Prepare; ``sim_time`` follows /clock."""
        self._name, self._namespace, self._sim_time = name, namespace, sim_time

    def __enter__(self) -> Listener:
        self._context = Context()
        rclpy.init(context=self._context)
        overrides = [rclpy.Parameter('use_sim_time', value=self._sim_time)]
        self.node = _Ears(
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
        """Listen for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.05)

    def hear(self, robot: RobotConfig, seconds: float, task: Task | None = None) -> Report:
        """Listen to a robot for ``seconds``; ``task``: whose ranges the state should be in."""
        latest: list[np.ndarray] = []
        ears = StateListener(
            self.node, robot, lockstep=False, callback=lambda state, _: latest.append(state)
        )
        frames = self._frames(robot)
        self._find(robot)
        self.spin(seconds)
        found = ears.findings(seconds)
        if latest:
            found += _ranges(robot, task, latest[-1])
        found += _unmeasured(robot)
        return Report(self._rows(robot, ears, frames, seconds), found)

    def _frames(self, robot: RobotConfig) -> dict[str, str]:
        """By topic, the frame of its last message, also of one that the profile does not believe.

        It is filled as they come.
        """
        frames: dict[str, str] = {}
        for topic in robot.state:
            kind = message_class(topic.type)
            if hasattr(kind, 'header'):
                keep = partial(_keep_frame, frames, topic.topic)
                subscribe(self.node, kind, topic.topic, keep, SENSOR, complain=False)
        return frames

    def _find(self, robot: RobotConfig) -> None:
        """Wait until all ends of the robot are known, or will not be."""
        end = time.monotonic() + DISCOVERY
        while time.monotonic() < end and any(
            finding.level == ERROR for finding in check_graph(self.node, robot)
        ):
            self.spin(0.1)

    def _rows(
        self, robot: RobotConfig, ears: StateListener, frames: dict[str, str], seconds: float
    ) -> list[Row]:
        rows = []
        now = time.monotonic()
        for hearing in ears.heard:
            topic, age = hearing.topic.topic, hearing.age(now, seconds)
            ends = self.node.get_publishers_info_by_topic(topic)
            shown = '-' if age is None else f'{1000 * age:.0f} ms' if abs(age) < 100 else 'far off'
            rate, frame = f'{hearing.rate(now, seconds):.1f} Hz', frames.get(topic) or '-'
            rows.append((topic, rate, shown, frame, _names(ends)))
        for topic in robot.command:
            ends = self.node.get_subscriptions_info_by_topic(topic.topic)
            rows.append((topic.topic, 'command', '-', '-', _names(ends)))
        return rows


class _Ears(Node):
    """A bare node that says what it cannot read."""

    def refuse(self, error: Exception, topic: str) -> None:
        """A message that is not to be trusted."""
        self.get_logger().warning(f'{topic}: {error}', throttle_duration_sec=5.0)


def _keep_frame(frames: dict[str, str], topic: str, message: Any) -> None:
    frames[topic] = message.header.frame_id


def _names(ends: Sequence[object]) -> str:
    return ', '.join(sorted({end.node_name for end in ends})) or 'nobody'


def _ranges(robot: RobotConfig, task: Task | None, state: np.ndarray) -> list[Finding]:
    """Warnings about a state that the gate or the task do not expect."""
    found = []
    measured = dict(zip(robot.state_names, state.tolist(), strict=True))
    for name, (low, high) in robot.workspace.items():
        if not low <= measured[name] <= high:
            text = f'{name} is {measured[name]:.3g}, outside the workspace of {low:g} to {high:g}'
            found.append(Finding(WARNING, f'{text}; the gate will let only a person drive'))
    for entry in task.config.observation if task else ():
        if not entry.low <= measured[entry.name] <= entry.high:
            text = (
                f'{entry.name} is {measured[entry.name]:.3g}; task {task.name} expects '
                f'{entry.low:g} to {entry.high:g}'
            )
            found.append(Finding(WARNING, text))
    return found


def _unmeasured(robot: RobotConfig) -> list[Finding]:
    """Notes about commands whose way from where they stand nobody can limit."""
    return [
        Finding(
            INFO,
            f'{name}: nothing measures what it holds, so its first command goes out at once, '
            f'whatever the distance; if a state entry does, name it in limits.{name}.measured',
        )
        for name, limit in robot.limits.items()
        if limit.stop == 'hold' and limit.measured is None
    ]
