"""A robot that is commanded by goals and calls, in a process of its own that can be killed.

``test_msgs/action/NestedMessage`` stands in for the actions of control_msgs, which is not on PyPI:
the code under test knows an action by its type's name and paths in its goal only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import rclpy
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import SetBool
from test_msgs.action import NestedMessage

GRIPPER, ARM, SUCTION, VALVE = 'gripper/gripper_cmd', 'arm/follow', 'suction/switch', 'valve/switch'


ACTION = 'test_msgs/action/NestedMessage'
NAMES = ['vx', 'grip', 'arm', 'suck', 'valve']
REST = {'vx': 0.1, 'grip': 0.0, 'arm': 0.0, 'suck': 0.0, 'valve': 0.0}
PROFILE = {
    'name': 'requested',
    'control_rate': 20.0,
    'state': [
        {
            'topic': 'robot_state',
            'type': 'sensor_msgs/msg/JointState',
            'fields': {'x': 'position[x]', 'elbow': 'position[elbow]'},
        }
    ],
    'command': [
        {
            'topic': 'robot_command',
            'type': 'std_msgs/msg/Float64MultiArray',
            'fields': {'vx': 'data[0]'},
        },
        {
            'action': GRIPPER,
            'type': ACTION,
            'fields': {'grip': 'nested_field.float64_value'},
            'constants': {'nested_field.float32_value': 20.0},
            'tolerance': {'grip': 0.01},
            'at_stop': 'keep',
        },
        {
            'action': ARM,
            'type': ACTION,
            'fields': {'arm': 'nested_field.float64_value'},
            'scale': {'arm': 0.5},
            'at_stop': 'cancel',
        },
        {'service': SUCTION, 'type': 'std_srvs/srv/SetBool', 'fields': {'suck': 'data'}},
        {'service': VALVE, 'type': 'std_srvs/srv/SetBool', 'fields': {'valve': 'data'}},
    ],
    'limits': {
        'vx': {'low': -1.0, 'high': 1.0, 'stop': 0.0},
        'grip': {'low': 0.0, 'high': 1.0, 'stop': 'hold'},
        'arm': {
            **{'low': -1.0, 'high': 1.0, 'rate': 40.0, 'stop': 'hold'},
            **{'measured': 'elbow', 'tracking_error': 3.0},
        },
        'suck': {'low': 0.0, 'high': 1.0, 'stop': 'hold'},
        'valve': {'low': 0.0, 'high': 1.0, 'stop': 0.0},
    },
    'command_timeout': 0.3,
    'state_timeout': 1.0,
}
TASK = {
    'name': 'requested',
    'robot': 'requested.yaml',
    'observation': [{'name': name, 'low': -2, 'high': 2} for name in ('x', 'elbow')],
    'action': [{'name': name, 'low': -1, 'high': 1} for name in NAMES],
    'success': {'entries': ['x'], 'target': [0.5], 'tolerance': 0.1},
    'phases': {'forward_limit': 10, 'backward_limit': 10},
    'evaluation': {'horizon': 10, 'every': 10, 'budget': 10},
}


class Servers(Node):
    """Two actions and two services; a file says how they behave, another gets what they received.

    Behaviours: ``succeed`` (at once), ``run`` (until cancelled), ``single`` (the same, and goals
    are rejected meanwhile), ``stubborn`` (until it behaves otherwise), ``abort``, ``reject`` (of
    services: ``success: false``).
    """

    def __init__(self, folder: Path) -> None:
        super().__init__('driver')
        self._folder, self._lock, self._running = folder, threading.Lock(), 0
        group = ReentrantCallbackGroup()
        self._servers = [
            ActionServer(
                self,
                NestedMessage,
                name,
                execute_callback=lambda handle, name=name: self._execute(name, handle),
                goal_callback=lambda goal, name=name: self._accept(name, goal),
                cancel_callback=lambda _, name=name: self._cancel(name),
                callback_group=group,
            )
            for name in (GRIPPER, ARM)
        ]
        for name in (SUCTION, VALVE):
            self.create_service(
                SetBool,
                name,
                lambda request, response, name=name: self._switch(name, request, response),
            )
        self._note('ready', '')

    @property
    def behaviour(self) -> str:
        return (self._folder / 'behaviour').read_text()

    def _note(self, what: str, name: str, value: float | bool | None = None, **more: Any) -> None:
        entry = {'what': what, 'name': name, 'value': value, 'at': time.monotonic(), **more}
        with self._lock, (self._folder / 'received.jsonl').open('a') as file:
            file.write(json.dumps(entry) + '\n')

    def _accept(self, name: str, goal: Any) -> GoalResponse:
        field = goal.nested_field
        self._note('goal', name, field.float64_value, effort=field.float32_value)
        rejected = self.behaviour == 'reject' or (self.behaviour == 'single' and self._running)
        return GoalResponse.REJECT if rejected else GoalResponse.ACCEPT

    def _cancel(self, name: str) -> CancelResponse:
        self._note('cancel', name)
        return CancelResponse.REJECT if self.behaviour == 'stubborn' else CancelResponse.ACCEPT

    def _execute(self, name: str, handle: Any) -> Any:
        self._running += 1
        while self.behaviour in ('run', 'single', 'stubborn') and not handle.is_cancel_requested:
            time.sleep(0.01)
        self._running -= 1
        end = 'abort' if self.behaviour == 'abort' else 'succeed'
        if handle.is_cancel_requested:
            end = 'canceled'
        getattr(handle, end)()
        self._note(end, name, handle.request.nested_field.float64_value)
        return NestedMessage.Result()

    def _switch(self, name: str, request: Any, response: Any) -> Any:
        self._note('call', name, request.data)
        response.success = self.behaviour != 'reject'
        response.message = '' if response.success else 'no vacuum'
        return response


class Driver:
    """The process of :class:`Servers`, as the test sees it."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self._environment = folder, environment
        self.process: subprocess.Popen[bytes] | None = None
        self.behave('succeed')
        self.clear()

    def behave(self, behaviour: str) -> None:
        """Of all goals and calls from now on."""
        (self.folder / 'behaviour.new').write_text(behaviour)
        (self.folder / 'behaviour.new').rename(self.folder / 'behaviour')

    def clear(self) -> None:
        """Forget what was received."""
        (self.folder / 'received.jsonl').write_text('')

    def start(self) -> None:
        """Start the process; it is ready as soon as :meth:`received` says so."""
        command = [sys.executable, '-m', 'support.request_side', str(self.folder)]
        tests = Path(__file__).parent.parent
        self.process = subprocess.Popen(command, cwd=tests, env=self._environment)

    def signal(self, how: int) -> None:
        """Send a signal."""
        self.process.send_signal(how)

    def close(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def received(self, what: str, name: str = '') -> list[dict[str, Any]]:
        """Events of one kind, in order."""
        lines = (self.folder / 'received.jsonl').read_text().splitlines()
        events = [json.loads(line) for line in lines]
        return [one for one in events if one['what'] == what and one['name'] == name]

    def values(self, what: str, name: str) -> list[float | bool]:
        """Their values."""
        return [one['value'] for one in self.received(what, name)]


if __name__ == '__main__':
    rclpy.init()
    executor = MultiThreadedExecutor(8)
    executor.add_node(Servers(Path(sys.argv[1])))
    executor.spin()
