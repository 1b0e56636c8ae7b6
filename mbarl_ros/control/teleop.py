"""Teleoperation: messages of gamepads and other sources -> commands and button presses.

Works on any object with the message's attributes. The safety gate uses the commands, the
demonstration recorder the buttons.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mbarl_ros.schema.message_fields import TopicCodec
from mbarl_ros.schema.robot import Switch, TeleopMap, TopicMap

_PRESSED_ABOVE = 0.5  # value of a button, or of a trigger that is used as one


@dataclass(frozen=True)
class TeleopCommand:
    """What one teleop message commands.

    ``values``: command name -> physical units, without entries that keep their value; None while
    the deadman switch is released. ``released``: the deadman switch was released by this message.
    ``pressed``: recorder buttons that were pressed by this message.
    """

    values: dict[str, float] | None
    released: bool = False
    pressed: tuple[str, ...] = ()


class DeadmanSwitch:
    """A deadman switch on a topic of its own; released until a message says otherwise."""

    def __init__(self, switch: Switch, timeout: float) -> None:
        """``timeout``: s without a message after which the switch counts as released."""
        fields = {'deadman': switch.field}
        self._codec = TopicCodec(TopicMap(topic=switch.topic, type=switch.type, fields=fields))
        self._timeout = timeout
        self._last_pressed = -math.inf

    def receive(self, message: Any, now: float) -> bool:
        """Receive a message at ``now`` s; whether it releases the switch.

        :raises ValueError: the message lacks the field that the profile names.
        """
        was_pressed = self.pressed(now)
        (value,) = self._codec.decode(message)
        self._last_pressed = now if value > _PRESSED_ABOVE else -math.inf
        return was_pressed and not self.pressed(now)

    def pressed(self, now: float) -> bool:
        """Whether the switch is pressed at ``now`` s."""
        return now - self._last_pressed <= self._timeout


class TeleopSource:
    """Reads the messages of one entry of a robot profile's ``teleop``."""

    def __init__(self, source: TeleopMap) -> None:
        """Start with all buttons down, so that each has to be released before a press counts."""
        self.source = source
        self._codec = TopicCodec(source)
        switches = {str(name): field for name, field in source.buttons.items()}
        if isinstance(source.deadman, str):
            switches['deadman'] = source.deadman
        self._switches = (
            TopicCodec(TopicMap(topic=source.topic, type=source.type, fields=switches))
            if switches
            else None
        )
        self._down = dict.fromkeys(switches, True)

    def read(self, message: Any) -> TeleopCommand:
        """The command of a message.

        :raises ValueError: the message lacks an axis or a button that the profile names.
        """
        before, down = self._down, self._read_switches(message)
        self._down = down
        pressed = tuple(name for name in self.source.buttons if down[name] and not before[name])
        if not down.get('deadman', True):
            return TeleopCommand(None, released=before['deadman'], pressed=pressed)
        values = {
            name: self._scaled(name, value)
            for name, value in zip(self._codec.names, self._codec.decode(message), strict=True)
            if value != 0 or name not in self.source.latch
        }
        return TeleopCommand(values, pressed=pressed)

    def _read_switches(self, message: Any) -> dict[str, bool]:
        if self._switches is None:
            return {}
        values = self._switches.decode(message)
        return {
            name: value > _PRESSED_ABOVE
            for name, value in zip(self._switches.names, values, strict=True)
        }

    def _scaled(self, name: str, value: float) -> float:
        if name in self.source.levels:
            low, high = self.source.levels[name]
            return low + value * (high - low)
        if abs(value) < self.source.deadzone:
            return 0.0
        return value * self.source.scale.get(name, 1.0)
