"""Listens to the teleoperation sources of a robot, to say what is wrong with them."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from mbarl_ros.control.teleop import DeadmanSwitch, TeleopSource
from mbarl_ros.nodes.support.qos import SENSOR
from mbarl_ros.nodes.support.robot_topics import subscribe
from mbarl_ros.nodes.support.runtime import message_class
from mbarl_ros.schema.findings import ERROR, WARNING, Finding
from mbarl_ros.schema.robot import RobotConfig


class TeleopListener:
    """Reads what gamepads and dead-man switches send, as the safety gate does."""

    def __init__(self, node: Any, robot: RobotConfig) -> None:
        """Subscribe on ``node``."""
        self._faults: dict[str, str] = {}  # of the latest message, by topic
        self._complaints: dict[str, str] = {}
        for entry in robot.teleop:
            self._listen(node, entry.topic, entry.type, TeleopSource(entry))
            if entry.deadman and (own := entry.deadman_topic):
                switch = DeadmanSwitch(entry.deadman, own, robot.teleop_timeout)
                self._listen(node, own.topic, own.type, switch)

    def _listen(
        self, node: Any, topic: str, type_name: str, reader: TeleopSource | DeadmanSwitch
    ) -> None:
        receive = partial(self._receive, topic, reader)
        subscribe(node, message_class(type_name), topic, receive, SENSOR, log_mismatch=False)

    def _receive(self, topic: str, reader: TeleopSource | DeadmanSwitch, message: Any) -> None:
        self._faults.pop(topic, None)
        try:
            reader.read(message, time.monotonic())
        except ValueError as error:
            self._faults[topic] = str(error)
        self._complaints[topic] = reader.complaint

    def findings(self) -> list[Finding]:
        """What the latest messages tell; an error is a reason not to move."""
        return [
            *(Finding(ERROR, f'{topic}: {text}') for topic, text in self._faults.items()),
            *(
                Finding(WARNING, f'{topic}: {text}')
                for topic, text in self._complaints.items()
                if text
            ),
        ]
