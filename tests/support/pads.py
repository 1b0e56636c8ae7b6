"""How common gamepads rest, as joy_node and game_controller_node publish them on Linux.

Order of axes and buttons: Linux entries of SDL's community mappings (SDL_GameControllerDB), whose
numbers joy_node publishes; each hat follows as two axes. joy_node turns every axis round, so a
trigger, which SDL has at -32768 when it is released, rests at +1; until its first event it may be 0
(ros-drivers/joystick_drivers issues 155 and 263). game_controller_node has triggers from 0 to -1
(issue 294).
"""

from dataclasses import dataclass

# Kind of an axis -> value at rest, values of which either is fully pressed, largest drift at rest.
AXES = {
    'stick': (0.0, (1.0, -1.0), 0.3),
    'hat': (0.0, (1.0, -1.0), 0.0),
    'trigger': (1.0, (-1.0,), 0.3),
    'trigger from 0': (0.0, (-1.0,), 0.1),
    'trigger from -1': (-1.0, (1.0,), 0.3),
}
_STICK, _HAT, _TRIGGER = ('stick', 'stick'), ('hat', 'hat'), ('trigger',)
_XPAD = _STICK + _TRIGGER + _STICK + _TRIGGER + _HAT
_GAS_AND_BRAKE = _STICK + _STICK + _TRIGGER + _TRIGGER + _HAT
_PLAIN_HID = (*_STICK, 'stick', *_TRIGGER, *_TRIGGER, 'stick', *_HAT)


@dataclass(frozen=True)
class Control:
    """A button or axis of a pad, pressed in one of its directions."""

    path: str
    rest: float
    full: float
    drift: float = 0.0

    @property
    def deadman(self):
        """What a profile says to have it as a dead-man switch."""
        if self.path.startswith('buttons'):
            return self.path
        middle = 0.5 if self.full > 0 else -0.5
        key = 'pressed_above' if self.full > 0 else 'pressed_below'
        return {'field': self.path, key: middle}


@dataclass(frozen=True)
class Pad:
    """A gamepad under one of the drivers: kinds of its axes, number of its buttons."""

    name: str
    axes: tuple[str, ...]
    buttons: int

    @property
    def controls(self):
        """Everything that can be pressed."""
        axes = [
            Control(f'axes[{index}]', AXES[kind][0], full, AXES[kind][2])
            for index, kind in enumerate(self.axes)
            for full in AXES[kind][1]
        ]
        return [*axes, *(Control(f'buttons[{index}]', 0, 1) for index in range(self.buttons))]


PADS = (
    Pad('Xbox 360, One, Series by cable (xpad)', _XPAD, 11),
    Pad('Xbox by Bluetooth', _GAS_AND_BRAKE, 15),
    Pad('PS4 (hid-sony, hid-playstation)', _XPAD, 13),
    Pad('PS4 (plain HID)', _PLAIN_HID, 14),
    Pad('PS5 (hid-playstation)', _XPAD, 13),
    Pad('PS5 (plain HID)', _PLAIN_HID, 15),
    Pad('Logitech F310, switch at X', _XPAD, 11),
    Pad('Logitech F310, switch at D', _STICK + _STICK + _HAT, 12),
    Pad('8BitDo Pro 2, X-input', _XPAD, 11),
    Pad('8BitDo Pro 2, D-input', _GAS_AND_BRAKE, 15),
    Pad('any pad by game_controller_node', _STICK + _STICK + ('trigger from 0',) * 2, 21),
    Pad('a driver that does not turn axes round', _STICK + ('trigger from -1',) * 2, 8),
)
