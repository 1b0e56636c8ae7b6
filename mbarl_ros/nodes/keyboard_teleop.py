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
from mbarl_ros.nodes.support.runtime import LATCHED, RELIABLE, BaseNode, main_exit, message_class
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
_STOPS = 3  # times that the stop is sent: the gate hears teleop without acknowledging
_HELP = 'space stop   ! e-stop   ~ release   1..9, 0 speed   x reset sim   q quit'
_RECORDER_HELP = 'Enter start   y success   n stop   Backspace discard   b direction'


class Terminal:
    """The terminal in character mode; it is restored whatever happens."""

    def __init__(self) -> None:
        """Take the terminal over.

        :raises ConfigError: standard input is no terminal.
        """
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        if not (os.isatty(self._in) and os.isatty(self._out)):
            raise ConfigError('mbarl teleop needs a terminal: standard input or output is none')
        self._before = termios.tcgetattr(self._in)
        tty.setcbreak(self._in)
        self.lines = 0
        self.releases = self._ask_for_releases()

    def _ask_for_releases(self) -> bool:
        """Whether the terminal says when a key is let go; all answer the query that follows."""
        os.write(self._out, KITTY_QUERY)
        answer, deadline = b'', time.monotonic() + 0.5
        while time.monotonic() < deadline and not answer.endswith(b'c'):
            answer += self.read(0.1) or b''
        if not KITTY_SUPPORTED.search(answer):
            return False
        os.write(self._out, KITTY_ON)
        return True

    def read(self, timeout: float = 0.0) -> bytes | None:
        """What was typed; None if the terminal is gone."""
        try:
            if not select.select([self._in], [], [], timeout)[0]:
                return b''
            return os.read(self._in, 4096) or None
        except OSError:
            return None

    def show(self, lines: list[str]) -> None:
        """Draw lines over the ones that were drawn before."""
        width = shutil.get_terminal_size().columns
        up = f'\x1b[{self.lines - 1}A' if self.lines > 1 else ''
        text = '\r\n'.join(f'{line[: width - 1]}\x1b[K' for line in lines)
        self._write(f'\r{up}{text}\x1b[J'.encode())
        self.lines = len(lines)

    def restore(self) -> None:
        """Leave the terminal as it was found."""
        if self.releases:
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
            return  # it is gone; whoever reads will notice


class KeyboardTeleop(BaseNode):
    """Publishes on the profile's first teleop topic that is no gamepad, while a key is down.

    When the last key is let go it sends the stop and falls silent, so that a policy may go
    on. If the terminal dies it stops the robot and ends; if it is killed itself, the safety gate
    stops the robot for want of commands.
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
        self._settings = self.create_client(SetParameters, 'demo_recorder/set_parameters')
        self._ask = self.create_client(GetParameters, 'demo_recorder/get_parameters')
        self._direction = ''  # of the recorder, which alone knows it
        self._gate = self._recorder = 'not heard'
        self._said = ''
        self.create_subscription(String, topics.GATE_STATE, self._on_gate, LATCHED)
        self.create_subscription(String, topics.RECORDER_STATUS, self._on_recorder, LATCHED)
        self._unread = ''
        self._stops_due = 0  # while above 0 we drive, or have just stopped
        self._sent: dict[str, float] = {}
        self._terminal = Terminal()
        self._held = HeldKeys(self._terminal.releases)
        signal.signal(signal.SIGHUP, self._on_hangup)
        self.create_timer(1.0 / RATE, self._tick, clock=self.steady)
        self.create_timer(0.1, self._show, clock=self.steady)
        self.create_timer(0.5, self._know_direction, clock=self.steady)

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
                self._turn()
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
            self._said = f'{SERVICES[key]}: nobody offers this service'
            return
        self._said = f'{SERVICES[key]} ...'
        answer = self._triggers[key].call_async(Trigger.Request())
        answer.add_done_callback(lambda future: self._answered(SERVICES[key], future))

    def _answered(self, service: str, future: Any) -> None:
        self._said = f'{service}: {future.result().message}'

    def _turn(self) -> None:
        if not self._direction or not self._settings.service_is_ready():
            self._said = 'direction: no recorder is heard'
            return
        wanted = DIRECTIONS[1 - DIRECTIONS.index(self._direction)]
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=wanted)
        request = SetParameters.Request(parameters=[Parameter(name='direction', value=value)])
        answer = self._settings.call_async(request)
        answer.add_done_callback(lambda future: self._turned(wanted, future.result().results[0]))

    def _turned(self, wanted: str, result: SetParametersResult) -> None:
        if result.successful:
            self._direction = wanted
        else:
            self._said = f'direction: {result.reason}'

    def _know_direction(self) -> None:
        """Ask the recorder which way it records; another may have been started meanwhile."""
        if self._ask.service_is_ready():
            answer = self._ask.call_async(GetParameters.Request(names=['direction']))
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
        state = 'driving' if self._stops_due else 'silent'
        self._terminal.show(
            [
                f'{keys}   (arrows too)   speed {self._steering.speed:.0%}',
                _HELP,
                f'{_RECORDER_HELP} ({self._direction or "not heard"})',
                f'{state:8} {sent}',
                f'gate {self._gate}   recorder {self._recorder}',
                self._said,
            ]
        )

    def close(self) -> None:
        """Stop the robot and give the terminal back."""
        if self._stops_due:
            self._send(set())
        self._terminal.restore()
        time.sleep(0.05)  # let the middleware send before the context goes


def main() -> None:
    """Entry point of the node."""
    main_exit(KeyboardTeleop)


if __name__ == '__main__':
    main()
