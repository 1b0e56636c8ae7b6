"""A person with a gamepad: publishes Joy at 20 Hz, as joy_node does, and watches the robot."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from sensor_msgs.msg import Joy

from mbarl_ros.nodes.support.runtime import message_class
from mbarl_ros.schema.message_fields import TopicCodec
from mbarl_ros.schema.switches import JOY
from mbarl_sim.operators import operator_for

RATE = 20.0  # Hz


def joy(axes: Sequence[float] = (0.0, 0.0), **buttons: int) -> Joy:
    """A message of a gamepad; ``b4=1``: its button 4 is pressed."""
    message = Joy(axes=list(axes), buttons=[0] * 8)
    for name, value in buttons.items():
        message.buttons[int(name[1:])] = value
    return message


class Joystick:
    """Inverts the profile's mapping to drive; keeps the deadman switch pressed while it drives."""

    def __init__(self, graph, task, seed=0):
        self.graph, self.task = graph, task
        self._map = next(entry for entry in task.robot.teleop if entry.type == JOY)
        self._operator = operator_for(task, seed)
        self._state = np.full(len(task.robot.state_names), np.nan)
        start = 0
        for topic in task.robot.state:
            codec = TopicCodec(topic)
            where = slice(start, start := start + len(codec.names))
            graph.node.create_subscription(
                message_class(topic.type),
                topic.topic,
                lambda m, codec=codec, where=where: self._state.__setitem__(where, codec.decode(m)),
                10,
            )
        self._pad = graph.node.create_publisher(Joy, self._map.topic, 10)
        self._buttons = []

    def demonstrate(self, direction='forward', goal=0, limit=60.0):
        """Press start, drive to the goal, press success."""
        graph = self.graph
        graph.wait_for('gate and recorder', lambda: self._pad.get_subscription_count() >= 2)
        graph.wait_for('state', lambda: np.isfinite(self._state).all())
        self._hold(1.0)
        goals = self.task.goals
        self._operator.begin(direction, goals[goal] if len(goals) else None)
        self._press('start')
        end = time.monotonic() + limit
        command = self._operator.command(self._state)
        while command is not None:
            assert time.monotonic() < end, 'the goal was not reached'
            # Twice with each command: it moves the stick as often as it sees the robot.
            for _ in range(2):
                self._publish(command)
                graph.spin(1 / RATE)
            command = self._operator.command(self._state)
        self._press('success')
        self._hold(0.5)

    def _press(self, button):
        self._buttons = [self._map.buttons[button].field]
        self._hold(0.1)
        self._buttons = []
        self._hold(0.1)

    def _hold(self, seconds):
        """Hold the pad with the sticks at rest; the gripper button stays as it is."""
        for _ in range(max(round(seconds * RATE), 1)):
            self._publish(None)
            self.graph.spin(1 / RATE)

    def _publish(self, command):
        message = Joy(axes=[0.0] * 8, buttons=[0] * 12)
        driving = command is not None
        pressed = [*self._buttons, *([self._map.deadman.field] if driving else [])]
        if driving:
            for name, value in zip(self.task.robot.command_names, command, strict=True):
                kind, index = self._map.fields[name].rstrip(']').split('[')
                if name in self._map.levels:
                    low, high = self._map.levels[name]
                    if value > (low + high) / 2:
                        pressed.append(self._map.fields[name])
                else:
                    assert kind == 'axes'
                    message.axes[int(index)] = float(value / self._map.scale.get(name, 1.0))
        for path in pressed:
            message.buttons[int(path.rstrip(']').split('[')[1])] = 1
        self._pad.publish(message)
