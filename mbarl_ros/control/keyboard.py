"""Keyboard teleoperation: terminal input -> keys that are down -> commands.

No terminal, no ROS and no clock: :mod:`mbarl_ros.nodes.keyboard_teleop` has those.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mbarl_ros.schema.robot import RobotConfig, TeleopMap

PAIRS = (('d', 'a'), ('w', 's'), ('r', 'f'), ('t', 'g'), ('u', 'j'), ('i', 'k'), ('o', 'l'))
"""Keys that raise and lower the first command entry, the second, and so on."""
_ARROWS = {'C': 'd', 'D': 'a', 'A': 'w', 'B': 's'}
_NAMES = {'\r': 'enter', '\n': 'enter', '\x7f': 'backspace', '\x08': 'backspace', ' ': 'space'}

# A terminal without the kitty protocol does not report that a key is released, only that it
# repeats: usually after 0.25 to 0.5 s, then 25 to 30 times a second.
_FIRST_TIMEOUT, _REPEAT_TIMEOUT = 0.55, 0.15  # s; a key that does not repeat counts as released
# With the kitty protocol the key that was pressed last repeats. If even that one is silent, the
# connection may have broken while the key was down, and its release will never be reported.
_SILENCE_TIMEOUT = 1.0  # s

KITTY_ON, KITTY_OFF, KITTY_QUERY = b'\x1b[>15u', b'\x1b[<u', b'\x1b[?u\x1b[c'
"""Report press, repeat and release of all keys; restore the former mode; ask whether supported."""
KITTY_SUPPORTED = re.compile(rb'\x1b\[\?\d*u')
_SEQUENCE = re.compile(
    r'\x1b\[(?P<code>\d*)(?::(?P<shifted>\d*))?(?::\d*)?(?:;(?P<mods>\d*)(?::(?P<event>\d+))?)?(?:;[\d:]*)?'
    r'(?P<end>[ABCDu~])|\x1bO(?P<arrow>[ABCD])|\x1b\[[?>]?[\d;]*[a-zA-Z]'
)
_SHIFT, _CTRL = 1, 4
# Share of its range in place of a command of 0, which on a topic that latches means no change.
_NEARLY_ZERO = 1e-6
PRESS, REPEAT, RELEASE = 'press', 'repeat', 'release'
_EVENTS = {None: PRESS, '1': PRESS, '2': REPEAT, '3': RELEASE}


@dataclass(frozen=True)
class Key:
    """A key and what happened to it: ``press``, ``repeat`` or ``release``."""

    name: str
    event: str = PRESS


def parse(text: str) -> tuple[list[Key], str]:
    """Parse terminal input: its keys, and a rest that may be the start of an escape sequence."""
    keys, at = [], 0
    while at < len(text):
        if text[at] != '\x1b':
            keys.append(Key(_NAMES.get(text[at], text[at].lower())))
            at += 1
            continue
        match = _SEQUENCE.match(text, at)
        if match is None:
            if len(text) - at < 24 and re.fullmatch(r'\x1b(O|\[[?>\d;:]*)?', text[at:]):
                return keys, text[at:]
            at += 1
            continue
        keys += _key(match)
        at = match.end()
    return keys, ''


def _key(match: re.Match) -> list[Key]:
    arrow = match['arrow'] or (match['end'] if match['end'] in _ARROWS else None)
    event = _EVENTS.get(match['event'], PRESS)
    if arrow:
        return [Key(_ARROWS[arrow], event)]
    if match['end'] != 'u' or not match['code']:
        return []
    modifiers = int(match['mods'] or 1) - 1
    letter = _character(match['code'])
    # A letter with shift is the same key: it may be pressed without shift and released with it.
    if modifiers & _SHIFT and match['shifted'] and not letter.isalpha():
        letter = _character(match['shifted'])
    letter = letter.lower()
    if modifiers & _CTRL and letter == 'c':
        return [Key('interrupt', event)]
    return [Key(_NAMES.get(letter, letter), event)]


def _character(code: str) -> str:
    number = int(code)
    return chr(number) if number < 0x110000 else ''


class HeldKeys:
    """Which keys are down."""

    def __init__(self, releases: bool) -> None:
        """``releases``: the terminal reports when a key is released."""
        self.releases = releases
        self._down_until: dict[str, float] = {}
        self._last_received = float('-inf')

    def receive(self, keys: Iterable[Key], now: float) -> None:
        """Receive keys at ``now`` s."""
        for key in keys:
            if self._timed_out(now):
                self.release_all()
            self._last_received = now
            if key.event == RELEASE:
                self._down_until.pop(key.name, None)
            elif self.releases:
                self._down_until[key.name] = float('inf')
            else:
                repeats = self._down_until.get(key.name, -1.0) > now
                self._down_until[key.name] = now + (_REPEAT_TIMEOUT if repeats else _FIRST_TIMEOUT)

    def release_all(self) -> None:
        """Count all keys as released."""
        self._down_until.clear()

    def down(self, now: float) -> set[str]:
        """Keys that are down at ``now`` s."""
        if self._timed_out(now):
            return set()
        return {name for name, until in self._down_until.items() if until > now}

    def _timed_out(self, now: float) -> bool:
        return now - self._last_received > _SILENCE_TIMEOUT


class Steering:
    """Keys -> commands on one teleop topic, within the robot's limits.

    Entries that the topic latches (a gripper) keep the side of the last key pressed. Before the
    first press they are sent as 0, which means no change on such a topic.
    """

    def __init__(self, robot: RobotConfig, source: TeleopMap) -> None:
        """Steer the first entries of ``source``, as many as there are pairs of keys."""
        self.speed = 0.5
        self.pairs = dict(zip(source.fields, PAIRS, strict=False))
        self._limits = {name: robot.limits[name] for name in source.fields}
        self._latched = dict.fromkeys(source.latch, 0.0)

    def press(self, key: str) -> None:
        """Handle a key press: a digit sets the speed, a gripper key latches its side."""
        if key in set('0123456789'):
            self.speed = (int(key) or 10) / 10
        for name in self._latched:
            if key in self.pairs.get(name, ()):
                low, high = self._limits[name].low, self._limits[name].high
                side, inwards = (high, low) if key == self.pairs[name][0] else (low, high)
                self._latched[name] = side or _NEARLY_ZERO * inwards

    def moving(self, down: set[str]) -> bool:
        """Whether a steering key is down."""
        return any(key in down for pair in self.pairs.values() for key in pair)

    def command(self, down: set[str]) -> dict[str, float]:
        """Command by name, in physical units; with no key down, the stop command."""
        values = dict.fromkeys(self._limits, 0.0) | self._latched
        for name, (raise_key, lower_key) in self.pairs.items():
            raised, lowered = raise_key in down, lower_key in down
            if name not in self._latched and raised != lowered:
                limit = self._limits[name]
                values[name] = self.speed * (limit.high if raised else limit.low)
        return values
