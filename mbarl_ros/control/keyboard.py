"""Keys of a terminal: what is down at the moment, and what that asks of the robot.

Pure: bytes and times in, keys and commands out; :mod:`mbarl_ros.nodes.keyboard_teleop` owns the
terminal and the topics.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mbarl_ros.schema.robot import RobotConfig, TeleopMap

PAIRS = (('d', 'a'), ('w', 's'), ('r', 'f'), ('t', 'g'), ('u', 'j'), ('i', 'k'), ('o', 'l'))
"""Keys that raise and lower the first command entry, the second and so on."""
_ARROWS = {'C': 'd', 'D': 'a', 'A': 'w', 'B': 's'}
_NAMES = {'\r': 'enter', '\n': 'enter', '\x7f': 'backspace', '\x08': 'backspace', ' ': 'space'}

# Terminals without the kitty protocol do not say when a key is let go, only that it repeats:
# usually after 0.25 to 0.5 s, then 25 to 30 times a second.
FIRST, REPEAT = 0.55, 0.15
# With it the key that went down last repeats. Where even that falls silent, nobody may be there to
# let go: a network that hangs tells nobody.
SILENCE = 1.0

KITTY_ON, KITTY_OFF, KITTY_QUERY = b'\x1b[>15u', b'\x1b[<u', b'\x1b[?u\x1b[c'
"""Report presses, repeats and releases of all keys; back to what it was; does it know how?"""
KITTY_KNOWN = re.compile(rb'\x1b\[\?\d*u')
_SEQUENCE = re.compile(
    r'\x1b\[(?P<code>\d*)(?::(?P<shifted>\d*))?(?::\d*)?(?:;(?P<mods>\d*)(?::(?P<event>\d+))?)?(?:;[\d:]*)?'
    r'(?P<end>[ABCDu~])|\x1bO(?P<arrow>[ABCD])|\x1b\[[?>]?[\d;]*[a-zA-Z]'
)
_SHIFT, _CTRL = 1, 4
PRESS, AGAIN, RELEASE = 'press', 'repeat', 'release'
_EVENTS = {None: PRESS, '1': PRESS, '2': AGAIN, '3': RELEASE}


@dataclass(frozen=True)
class Key:
    """A key and what happened to it: ``press``, ``repeat`` or ``release``."""

    name: str
    event: str = PRESS


def parse(text: str) -> tuple[list[Key], str]:
    """Keys in what a terminal sent, and the rest that may be the beginning of a sequence."""
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
    # A letter is the same key with shift: it may be pressed without and let go with it.
    if modifiers & _SHIFT and match['shifted'] and not letter.isalpha():
        letter = _character(match['shifted'])
    letter = letter.lower()
    if modifiers & _CTRL and letter == 'c':
        return [Key('interrupt', event)]
    return [Key(_NAMES.get(letter, letter), event)]


def _character(code: str) -> str:
    number = int(code)
    return chr(number) if number < 0x110000 else ''


class Held:
    """Which keys are down."""

    def __init__(self, releases: bool) -> None:
        """``releases``: the terminal says when a key is let go."""
        self.releases = releases
        self._until: dict[str, float] = {}
        self._heard = float('-inf')

    def feed(self, keys: Iterable[Key], now: float) -> None:
        """Take note of keys at ``now`` s."""
        for key in keys:
            if self._silent(now):
                self.let_go()
            self._heard = now
            if key.event == RELEASE:
                self._until.pop(key.name, None)
            elif self.releases:
                self._until[key.name] = float('inf')
            else:
                repeats = self._until.get(key.name, -1.0) > now
                self._until[key.name] = now + (REPEAT if repeats else FIRST)

    def let_go(self) -> None:
        """Forget all keys."""
        self._until.clear()

    def down(self, now: float) -> set[str]:
        """Keys that are down at ``now`` s."""
        if self._silent(now):
            return set()
        return {name for name, until in self._until.items() if until > now}

    def _silent(self, now: float) -> bool:
        return now - self._heard > SILENCE


class Steering:
    """Keys -> commands on one teleop topic, within the robot's limits.

    Entries that the topic latches (a gripper) keep the side that was pressed last; before one
    was, they are sent as 0, which there means: as it is.
    """

    def __init__(self, robot: RobotConfig, source: TeleopMap) -> None:
        """Steer the entries of ``source``, of which the keys reach as many as there are pairs."""
        self.speed = 0.5
        self.pairs = dict(zip(source.fields, PAIRS, strict=False))
        self._limits = {name: robot.limits[name] for name in source.fields}
        self._latched = dict.fromkeys(source.latch, 0.0)

    def press(self, key: str) -> None:
        """Latch what latches; a digit sets the speed."""
        if key in set('0123456789'):
            self.speed = (int(key) or 10) / 10
        for name in self._latched:
            if key in self.pairs.get(name, ()):
                limit = self._limits[name]
                self._latched[name] = limit.high if key == self.pairs[name][0] else limit.low

    def moving(self, down: set[str]) -> bool:
        """Whether a key that drives is down."""
        return any(key in down for pair in self.pairs.values() for key in pair)

    def command(self, down: set[str]) -> dict[str, float]:
        """Command by name, physical units; with no key down the stop."""
        values = dict.fromkeys(self._limits, 0.0) | self._latched
        for name, (up, lower) in self.pairs.items():
            if name not in self._latched and (up in down) != (lower in down):
                limit = self._limits[name]
                values[name] = self.speed * (limit.high if up in down else limit.low)
        return values
