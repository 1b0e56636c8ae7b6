"""What is heard of a robot's state topics, and whether that is fit to control by."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from mbarl_ros.schema.findings import ERROR, WARNING, Finding
from mbarl_ros.schema.robot import MAX_REORDERING, RobotConfig, TopicMap

_KEPT = 5000  # messages and faults, of each topic
_SLOW = 1.5  # control periods between two messages from which a topic is too slow


@dataclass(frozen=True)
class _Message:
    received: float  # s, steady clock
    stamp: int | None  # ns, of the header
    age: float  # s, by the node's clock; 0 without a stamp


def _rate(times: Sequence[float]) -> float:
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0


def too_seldom(stamps: Sequence[int], robot: RobotConfig) -> bool:
    """Whether states of these stamps, ns, leave most of the time without control steps."""
    gaps = [after - before for before, after in itertools.pairwise(stamps) if after > before]
    covered = sum(gap for gap in gaps if gap < _SLOW * 1e9 / robot.control_rate)
    return len(gaps) > 1 and covered < 0.5 * sum(gaps)


class TopicHealth:
    """The last messages of one state topic; times are those of a steady clock, in s."""

    def __init__(self, topic: TopicMap, robot: RobotConfig) -> None:
        """Nothing heard."""
        self.topic, self._robot = topic, robot
        self._messages: deque[_Message] = deque(maxlen=_KEPT)
        self._faults: deque[tuple[float, str]] = deque(maxlen=_KEPT)
        self._overtaken: deque[float] = deque(maxlen=_KEPT)

    def hear(self, now: float, clock: int, stamp: int | None, values: Sequence[float]) -> bool:
        """A message with ``values`` in the order of the profile; ``clock`` is ROS time in ns.

        False: it is no news, since a newer one has overtaken it on its way.
        """
        bad = [
            name
            for name, value in zip(self.topic.fields, values, strict=True)
            if not math.isfinite(value)
        ]
        if bad:
            self._faults.append((now, f'{", ".join(bad)} not finite (NaN or infinite)'))
        last = self._messages[-1].stamp if self._messages else None
        back = last - stamp if stamp and last else 0
        if 0 < back < MAX_REORDERING * 1e9:
            self._overtaken.append(now)
            return False
        if back > 0:
            self._faults.append((now, 'stamps run back'))
        age = 0.0 if stamp is None else (clock - stamp) * 1e-9
        self._messages.append(_Message(now, stamp, age))
        return True

    def fault(self, now: float, text: str) -> None:
        """A message that cannot be read."""
        self._faults.append((now, text))

    def silent(self, now: float) -> bool:
        """Whether nothing was heard within the state time-out, not even what cannot be read."""
        last = [m.received for m in self._messages][-1:] + [when for when, _ in self._faults][-1:]
        return now - max(last, default=-math.inf) > self._robot.state_timeout

    def rate(self, now: float, window: float) -> float:
        """Messages per second in the last ``window`` s; 0 for less than two."""
        return _rate([m.received for m in self._recent(now, window)])

    def age(self, now: float, window: float) -> float | None:
        """Median age by the stamps of the last ``window`` s' messages, s; None without stamps."""
        ages = sorted(m.age for m in self._recent(now, window) if m.stamp is not None)
        return ages[len(ages) // 2] if ages else None

    def _recent(self, now: float, window: float) -> list[_Message]:
        return [m for m in self._messages if now - m.received <= window]

    def findings(self, now: float, window: float, sim_time: bool) -> list[Finding]:
        """What was wrong in the last ``window`` s; an error is a reason not to move.

        :param sim_time: this node follows /clock, whose seconds may be short ones
        """
        name, found = self.topic.topic, []
        faults = [text for when, text in self._faults if now - when <= window]
        for text in dict.fromkeys(faults):
            count = faults.count(text)
            found.append(Finding(ERROR, f'{name}: {text}' + (f' ({count} x)' if count > 1 else '')))
        overtaken = sum(now - when <= window for when in self._overtaken)
        if overtaken:
            text = f'{name}: {overtaken} messages came after newer ones, and are ignored'
            found.append(Finding(WARNING, text))
        times = [m.received for m in self._recent(now, window)]
        if not times or now - times[-1] > self._robot.state_timeout:
            if not faults:
                silent = f' for {now - times[-1]:.1f} s' if times else ''
                found.append(Finding(ERROR, f'{name}: nothing is heard{silent}; is the robot on?'))
            return found
        found += self._pace(times)
        age = self.age(now, window)
        if age is not None and abs(age) > self._robot.state_timeout:
            found.append(_apart(name, age, sim_time))
        return found

    def _pace(self, times: list[float]) -> list[Finding]:
        name, found = self.topic.topic, []
        if len(times) < 3:
            text = f'{name}: too few messages to tell a rate; raise it, or listen for longer'
            found.append(Finding(WARNING, text))
        elif _rate(times) * _SLOW < self._robot.control_rate:
            text = (
                f'{name}: comes at {_rate(times):.1f} Hz, control runs at '
                f'{self._robot.control_rate:g} Hz; raise its rate or lower control_rate'
            )
            found.append(Finding(WARNING, text))
        gaps = [after - before for before, after in itertools.pairwise(times)]
        longest = max(gaps, default=0.0)
        if longest > self._robot.state_timeout:
            text = f'{name}: nothing for {longest:.2f} s in between; the gate would have stopped'
            found.append(Finding(WARNING, text))
        return found


def _apart(name: str, age: float, sim_time: bool) -> Finding:
    """That stamps and the clock of this node are far apart."""
    apart = f'{abs(age):.3g} s {"behind" if age > 0 else "ahead of"}'
    if sim_time:
        text = f'{name}: stamps are {apart} /clock; let what publishes /clock stamp the states too'
        return Finding(WARNING, text)
    # Also if somebody publishes /clock: that may be a bag, and this robot a real one.
    text = (
        f"{name}: stamps are {apart} this machine's clock; synchronise the clocks (chrony), look "
        'for what holds the messages up, or, if the robot is simulated, set use_sim_time to true '
        '(robot check: --sim-time)'
    )
    return Finding(ERROR, text)
