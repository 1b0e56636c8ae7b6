"""Teleoperation: messages of gamepads and other sources -> commands and button presses.

Works on any object with the message's attributes. The safety gate uses the commands, the
demonstration recorder the buttons.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mbarl_ros.schema.message_fields import TopicCodec, stamp_ns
from mbarl_ros.schema.robot import TeleopMap, TopicMap
from mbarl_ros.schema.switches import Press

# s; joy_node first publishes 0 for a button that is held when it starts, and 1 a moment later
RELEASED_FOR = 0.2
GONE_AFTER = 1.0  # s of silence, after which another driver or gamepad may be there


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


class Contact:
    """Tells by the values of its field whether a button, trigger or axis is pressed.

    It counts as released until it was seen released for a moment, so that one that is held or
    stuck at the start, also that of its driver, does nothing. An axis tells nothing by 0 before it
    has had another value: many drivers publish 0 for a trigger that was not touched yet, wherever
    it rests.
    """

    def __init__(self, press: Press) -> None:
        """Start as it is before any message."""
        self._press = press
        self.reset()

    def reset(self) -> None:
        """Forget what was seen, as at the start."""
        self._touched = self._press.is_joy_button or not self._press.has_threshold
        self._released_since = math.inf  # s; inf: it was not
        self._seen_released = False
        self.pressed = False
        self.held_from_start = False

    def receive(self, value: float, now: float) -> None:
        """Receive a value of the field at ``now`` s; ``pressed`` says what follows.

        ``held_from_start`` then says that it reads as pressed but was never seen released.

        :raises ValueError: it is not finite.
        """
        if not math.isfinite(value):
            raise ValueError(f'{self._press.field} is {value}')
        self._seen_released |= now - self._released_since >= RELEASED_FOR
        self._touched = self._touched or value != 0
        held = self._press.holds(value)
        released = self._touched and not held
        self._released_since = min(self._released_since, now) if released else math.inf
        self.pressed = held and self._seen_released
        self.held_from_start = held and not self._seen_released

    @property
    def complaint(self) -> str:
        """What a person must do who presses it in vain; empty: nothing."""
        if not self.held_from_start:
            return ''
        text = (
            f'the dead-man switch {self._press.field} reads as pressed, but was not yet seen '
            f'released for {RELEASED_FOR:g} s since the start, a silence or a fault; release it'
        )
        if self._press.has_threshold:
            text += ', or turn its threshold round if nobody presses it'
        return text


class DeadmanSwitch:
    """A deadman switch on a topic of its own; released until messages say otherwise."""

    def __init__(self, press: Press, topic: TopicMap, timeout: float) -> None:
        """``timeout``: s without a message after which the switch counts as released."""
        self._codec = TopicCodec(topic)
        self._contact = Contact(press)
        self._timeout = timeout
        self._received = -math.inf
        self._stamp: int | None = None

    def read(self, message: Any, now: float) -> None:
        """Read a message that was received at ``now`` s.

        :raises ValueError: the message lacks the field that the profile names, or it is not
            finite; the switch then is released.
        """
        if now - self._received > GONE_AFTER:
            self._contact.reset()
        stamp = stamp_ns(message)
        if stamp and stamp == self._stamp:
            return  # a driver that hangs, or a relay that repeats itself
        self._received, self._stamp = now, stamp
        try:
            (value,) = self._codec.decode(message)
            self._contact.receive(value, now)
        except ValueError:
            self._contact.reset()
            raise

    def pressed(self, now: float) -> bool:
        """Whether the switch is pressed at ``now`` s."""
        return self._contact.pressed and now - self._received <= self._timeout

    @property
    def complaint(self) -> str:
        """See :attr:`Contact.complaint`."""
        return self._contact.complaint


class TeleopSource:
    """Reads the messages of one entry of a robot profile's ``teleop``."""

    def __init__(self, source: TeleopMap) -> None:
        """Start with everything released, and nothing pressed before it was seen released."""
        self.source = source
        self._codec = TopicCodec(source)
        fields = {name: press.field for name, press in source.presses.items()}
        self._switches = (
            TopicCodec(TopicMap(topic=source.topic, type=source.type, fields=fields))
            if fields
            else None
        )
        self._contacts = {name: Contact(press) for name, press in source.presses.items()}
        self._deadman = self._contacts.get('deadman')
        self._touched: set[str] = set()  # entries whose trigger has had another value than 0
        self._received = -math.inf

    def read(self, message: Any, now: float) -> TeleopCommand:
        """The command of a message that was received at ``now`` s.

        :raises ValueError: the message lacks an axis or a button that the profile names; all of
            them then count as released until they are seen released.
        """
        if now - self._received > GONE_AFTER:
            self._reset()
        self._received = now
        before = {name: contact.pressed for name, contact in self._contacts.items()}
        try:
            self._receive_switches(message, now)
            decoded = dict(zip(self._codec.names, self._codec.decode_all(message), strict=True))
        except ValueError:
            self._reset()
            raise
        pressed = tuple(
            name
            for name in self.source.buttons
            if self._contacts[name].pressed and not before[name]
        )
        self._touched |= {name for name, value in decoded.items() if abs(value) > 0}  # not NaN
        if self._deadman is not None and not self._deadman.pressed:
            return TeleopCommand(None, released=before['deadman'], pressed=pressed)
        values = {
            name: self._scaled(name, value)
            for name, value in decoded.items()
            if not self._keeps(name, value)
        }
        return TeleopCommand(values, pressed=pressed)

    @property
    def complaint(self) -> str:
        """Of the dead-man switch, see :attr:`Contact.complaint`."""
        return self._deadman.complaint if self._deadman else ''

    def _reset(self) -> None:
        """Forget what was seen: another gamepad may be there."""
        self._touched.clear()
        for contact in self._contacts.values():
            contact.reset()

    def _receive_switches(self, message: Any, now: float) -> None:
        if self._switches is None:
            return
        values = self._switches.decode(message)
        for name, value in zip(self._switches.names, values, strict=True):
            self._contacts[name].receive(value, now)

    def _keeps(self, name: str, value: float) -> bool:
        """Whether an entry keeps its last command."""
        untouched = name in self.source.levels_at and name not in self._touched
        return untouched or (value == 0 and name in self.source.latch)

    def _scaled(self, name: str, value: float) -> float:
        if name in self.source.levels:
            return self._level(name, value)
        if abs(value) < self.source.deadzone:
            return 0.0
        return value * self.source.scale.get(name, 1.0)

    def _level(self, name: str, value: float) -> float:
        if not math.isfinite(value):
            return value  # the safety gate refuses it
        first, second = self.source.levels[name]
        at_first, at_second = self.source.levels_at.get(name, (0.0, 1.0))
        share = min(max((value - at_first) / (at_second - at_first), 0.0), 1.0)
        return first + share * (second - first)
