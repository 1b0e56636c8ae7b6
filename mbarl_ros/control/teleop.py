"""Teleoperation: messages of gamepads and other sources -> commands and button presses.

Pure: works on any object with the message's attributes. The safety gate drives by it and the
recorder listens to its buttons.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mbarl_ros.schema.message_fields import TopicCodec
from mbarl_ros.schema.robot import Switch, TeleopMap, TopicMap

PRESSED = 0.5  # value from which a button, or a trigger that is used as one, is down


@dataclass(frozen=True)
class Asked:
    """What a person asked for with one message.

    ``values``: command name -> physical units, without what is to stay as it is; None while the
    dead-man switch is open.
    ``released``: it has just been opened. ``pressed``: recorder buttons that went down.
    """

    values: dict[str, float] | None
    released: bool = False
    pressed: tuple[str, ...] = ()


class DeadMan:
    """A dead-man switch on a topic of its own; it is open until it was heard to be pressed."""

    def __init__(self, switch: Switch, timeout: float) -> None:
        """``timeout``: s of silence that open it."""
        fields = {'deadman': switch.field}
        self._codec = TopicCodec(TopicMap(topic=switch.topic, type=switch.type, fields=fields))
        self._timeout = timeout
        self._pressed_at = -math.inf

    def hear(self, message: Any, now: float) -> bool:
        """What it says at ``now`` s; whether that releases it.

        :raises ValueError: the message lacks the field that the profile names.
        """
        was_closed = self.closed(now)
        (value,) = self._codec.decode(message)
        self._pressed_at = now if value > PRESSED else -math.inf
        return was_closed and not self.closed(now)

    def closed(self, now: float) -> bool:
        """Whether it is pressed."""
        return now - self._pressed_at <= self._timeout


class TeleopSource:
    """One entry of a robot profile's ``teleop``, from message to message."""

    def __init__(self, source: TeleopMap) -> None:
        """Nothing is pressed, and no button counts before it has been seen released."""
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

    def read(self, message: Any) -> Asked:
        """What a message asks for.

        :raises ValueError: it lacks an axis or a button that the profile names.
        """
        before, now = self._down, self._read_switches(message)
        self._down = now
        pressed = tuple(name for name in self.source.buttons if now[name] and not before[name])
        if not now.get('deadman', True):
            return Asked(None, released=before['deadman'], pressed=pressed)
        values = {
            name: self._scaled(name, value)
            for name, value in zip(self._codec.names, self._codec.decode(message), strict=True)
            if value != 0 or name not in self.source.latch
        }
        return Asked(values, pressed=pressed)

    def _read_switches(self, message: Any) -> dict[str, bool]:
        if self._switches is None:
            return {}
        values = self._switches.decode(message)
        return {
            name: value > PRESSED for name, value in zip(self._switches.names, values, strict=True)
        }

    def _scaled(self, name: str, value: float) -> float:
        if name in self.source.levels:
            low, high = self.source.levels[name]
            return low + value * (high - low)
        if abs(value) < self.source.deadzone:
            return 0.0
        return value * self.source.scale.get(name, 1.0)
