"""Keyboard teleoperation in a terminal, for machines without a gamepad; works over ssh."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from typing import Any

from rcl_interfaces.msg import (
    Parameter,
    ParameterType,
    ParameterValue,
    SetParametersResult,
)
from rcl_interfaces.srv import GetParameters, SetParameters
from std_msgs.msg import String
from std_srvs.srv import Trigger

from mbarl_ros.control.keyboard import (
    KITTY_OFF,
    KITTY_ON,
    KITTY_QUERY,
    KITTY_SUPPORTED,
    RELEASE,
    HeldKeys,
    Key,
    Steering,
    parse,
)
from mbarl_ros.nodes.support.qos import LATCHED, RELIABLE
from mbarl_ros.nodes.support.runtime import BaseNode, main_exit, message_class
from mbarl_ros.schema import topics
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.message_fields import TopicCodec, set_stamp
from mbarl_ros.schema.robot import keyboard_topic
from mbarl_ros.storage.transitions import DIRECTIONS

RATE = 30.0  # Hz
SERVICES = {
    'enter': topics.RECORDER_START,
    'y': topics.RECORDER_SUCCESS,
    'n': topics.RECORDER_STOP,
    'backspace': topics.RECORDER_DISCARD,
    'x': topics.SIM_RESET,
    '!': topics.GATE_STOP,
    '~': topics.GATE_RELEASE,
}
_STOPS = 3  # times that the stop is sent: the gate's subscription is best-effort
_HELP = 'space stop   ! e-stop   ~ release   1..9, 0 speed   x reset sim   q quit'
_NOT_FOUND = 'not found'
_RECORDER_HELP = 'Enter start   y success   n stop   Backspace discard   b direction'


class Terminal:
    """The terminal in character mode; it is restored whatever happens."""

    def __init__(self) -> None:
        """Take the terminal over.

        :raises ConfigError: standard input or output is no terminal.
        """
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        if not (os.isatty(self._in) and os.isatty(self._out)):
            raise ConfigError('mbarl teleop needs a terminal: standard input or output is not one')
        self._before = termios.tcgetattr(self._in)
        tty.setcbreak(self._in)
        self.lines = 0
        self.reports_releases = self._request_releases()

    def _request_releases(self) -> bool:
        """Whether the terminal reports the release of a key; every terminal answers the query."""
        os.write(self._out, KITTY_QUERY)
        answer, deadline = b'', time.monotonic() + 0.5
        while time.monotonic() < deadline and not answer.endswith(b'c'):
            answer += self.read(0.1) or b''
        if not KITTY_SUPPORTED.search(answer):
            return False
        os.write(self._out, KITTY_ON)
        return True

    def read(self, timeout: float = 0.0) -> bytes | None:
        """Bytes typed; None: the terminal is gone."""
        try:
            if not select.select([self._in], [], [], timeout)[0]:
                return b''
            return os.read(self._in, 4096) or None
        except OSError:
            return None

    def show(self, lines: list[str]) -> None:
        """Draw lines over the previous ones."""
        width = shutil.get_terminal_size().columns
        up = f'\x1b[{self.lines - 1}A' if self.lines > 1 else ''
        text = '\r\n'.join(f'{line[: width - 1]}\x1b[K' for line in lines)
        self._write(f'\r{up}{text}\x1b[J'.encode())
        self.lines = len(lines)

    def restore(self) -> None:
        """Restore the terminal's settings."""
        if self.reports_releases:
            self._write(KITTY_OFF)
        self._write(b'\r\n')
        try:
            termios.tcsetattr(self._in, termios.TCSADRAIN, self._before)
        except termios.error:
            return  # it is gone

    def _write(self, data: bytes) -> None:
        try:
            os.write(self._out, data)
        except OSError:
            return  # it is gone; read() will notice


class KeyboardTeleop(BaseNode):
    """Drives by keys: publishes on a teleop topic of the robot profile while a key is held down.

    The topic is the profile's first one of velocities that is no gamepad. When the last key is
    released, the node sends a stop and nothing more, so that a policy may go on. If the terminal
    closes, it stops the robot and ends; if it is killed itself, the safety gate stops the robot
    for want of commands.

    Subscribes to ``safety_gate/state`` and ``demo_recorder/status``; calls the services of
    ``demo_recorder``, ``robot_sim/reset``, ``safety_gate/stop`` and ``safety_gate/release``.
    """

    def __init__(self) -> None:
        """Take over the terminal.

        :raises ConfigError: no terminal, or the robot profile has no topic for a keyboard.
        """
        super().__init__('keyboard_teleop')
        self.setup()
        source = keyboard_topic(self.task.robot)
        self._codec = TopicCodec(source)
        self._class = message_class(source.type)
        self._publisher = self.create_publisher(self._class, source.topic, RELIABLE)
        self._steering = Steering(self.task.robot, source)
        self._triggers = {key: self.create_client(Trigger, name) for key, name in SERVICES.items()}
        self._settings = self.create_client(SetParameters, topics.RECORDER_SET_PARAMETERS)
        self._get_settings = self.create_client(GetParameters, topics.RECORDER_GET_PARAMETERS)
        self._direction = ''  # parameter of the recorder; empty: not known
        self._gate = self._recorder = _NOT_FOUND
        self._message = ''  # last line on the screen
        self.create_subscription(String, topics.GATE_STATE, self._on_gate, LATCHED)
        self.create_subscription(String, topics.RECORDER_STATUS, self._on_recorder, LATCHED)
        self._unread = ''
        self._stops_due = 0  # above 0 while this node drives, or has just stopped
        self._sent: dict[str, float] = {}
        self._terminal = Terminal()
        self._held = HeldKeys(self._terminal.reports_releases)
        signal.signal(signal.SIGHUP, self._on_hangup)
        self.create_timer(1.0 / RATE, self._tick, clock=self.steady)
        self.create_timer(0.1, self._show, clock=self.steady)
        self.create_timer(0.5, self._request_direction, clock=self.steady)

    def _on_hangup(self, *_: Any) -> None:
        self.finished = True

    def _on_gate(self, message: String) -> None:
        self._gate = message.data

    def _on_recorder(self, message: String) -> None:
        self._recorder = message.data

    # --- keys --------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = time.monotonic()
        data = self._terminal.read()
        if data is None:
            self.finished = True
            return
        keys, self._unread = parse(self._unread + data.decode(errors='ignore'))
        self._held.receive(keys, now)
        for key in keys:
            if key.event != RELEASE:
                self._press(key)
        down = self._held.down(now)
        if self._steering.moving(down):
            self._stops_due = _STOPS
            self._send(down)
        elif self._stops_due:
            self._stops_due -= 1
            self._send(set())

    def _press(self, key: Key) -> None:
        if key.name in ('q', 'interrupt'):
            self.finished = True
        elif key.name == 'space':
            self._held.release_all()
            self._stops_due = _STOPS
        elif key.name == 'b':
            if key.event == 'press':
                self._toggle_direction()
        elif key.name in SERVICES and key.event == 'press':
            self._call(key.name)
        else:
            self._steering.press(key.name)

    def _send(self, down: set[str]) -> None:
        self._sent = self._steering.command(down)
        message = self._codec.encode(self._class(), list(self._sent.values()))
        set_stamp(message, self.get_clock().now().nanoseconds)
        self._publisher.publish(message)

    def _call(self, key: str) -> None:
        if not self._triggers[key].service_is_ready():
            self._message = f'{SERVICES[key]}: this service is not available'
            return
        self._message = f'{SERVICES[key]} ...'
        answer = self._triggers[key].call_async(Trigger.Request())
        answer.add_done_callback(lambda future: self._on_answer(SERVICES[key], future.result()))

    def _on_answer(self, service: str, answer: Trigger.Response) -> None:
        # That of a reset is JSON, for programs.
        text = 'done' if service == topics.SIM_RESET and answer.success else answer.message
        self._message = f'{service}: {text}'

    def _toggle_direction(self) -> None:
        if not self._direction or not self._settings.service_is_ready():
            self._message = 'direction: demo_recorder was not found'
            return
        direction = DIRECTIONS[1 - DIRECTIONS.index(self._direction)]
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=direction)
        request = SetParameters.Request(parameters=[Parameter(name='direction', value=value)])
        answer = self._settings.call_async(request)
        answer.add_done_callback(
            lambda future: self._on_direction_set(direction, future.result().results[0])
        )

    def _on_direction_set(self, direction: str, result: SetParametersResult) -> None:
        if result.successful:
            self._direction = direction
        else:
            self._message = f'direction: {result.reason}'

    def _request_direction(self) -> None:
        """Ask the recorder for its direction; it may have been restarted."""
        if self._get_settings.service_is_ready():
            answer = self._get_settings.call_async(GetParameters.Request(names=['direction']))
            answer.add_done_callback(self._on_direction)
        else:
            self._direction = ''

    def _on_direction(self, future: Any) -> None:
        self._direction = future.result().values[0].string_value

    # --- screen ------------------------------------------------------------------------------

    def _show(self) -> None:
        keys = '   '.join(
            f'{up}/{down} {name}' for name, (up, down) in self._steering.pairs.items()
        )
        sent = '   '.join(f'{name} {value:+.2f}' for name, value in self._sent.items())
        state = 'driving' if self._stops_due else 'idle'
        self._terminal.show(
            [
                f'{keys}   (arrows too)   speed {self._steering.speed:.0%}',
                _HELP,
                f'{_RECORDER_HELP} ({self._direction or _NOT_FOUND})',
                f'{state:8} {sent}',
                f'gate {self._gate}   recorder {self._recorder}',
                self._message,
            ]
        )

    def close(self) -> None:
        """Stop the robot and restore the terminal."""
        if self._stops_due:
            self._send(set())
        self._terminal.restore()
        time.sleep(0.05)  # let the middleware send before the context goes


def main() -> None:
    """Entry point of the node."""
    main_exit(KeyboardTeleop)


if __name__ == '__main__':
    main()
