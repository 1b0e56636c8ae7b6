"""Statistics of a robot's state topics, and whether the robot may be controlled by them."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from mbarl_ros.schema.findings import ERROR, WARNING, Finding
from mbarl_ros.schema.robot import LONGEST_STEP, MAX_REORDERING, RobotConfig, TopicMap

_DAY = 86_400.0  # s
_HISTORY = 5000  # messages and faults kept of each topic
_USUAL = 20  # messages that tell what is usual for a topic


@dataclass(frozen=True)
class _Message:
    received: float  # s, steady clock
    stamp: int | None  # ns, from the header
    age: float  # s, by the node's clock; 0 without a stamp


def _rate(times: Sequence[float]) -> float:
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0


def states_too_sparse(stamps: Sequence[int], robot: RobotConfig) -> bool:
    """Whether states with these stamps (ns) are too far apart for control steps most of the time.

    Two states further apart than ``LONGEST_STEP`` control periods make no step.
    """
    gaps = [after - before for before, after in itertools.pairwise(stamps) if after > before]
    covered = sum(gap for gap in gaps if gap < LONGEST_STEP * 1e9 / robot.control_rate)
    return len(gaps) > 1 and covered < 0.5 * sum(gaps)


class TopicHealth:
    """The last messages of one state topic; times are those of a steady clock, in s."""

    def __init__(self, topic: TopicMap, robot: RobotConfig) -> None:
        """Start without any message; ``names``: the values that its messages hold."""
        self.topic, self._robot = topic, robot
        self.names = list(topic.fields)
        self._messages: deque[_Message] = deque(maxlen=_HISTORY)
        self._faults: deque[tuple[float, str]] = deque(maxlen=_HISTORY)
        self._out_of_order: deque[float] = deque(maxlen=_HISTORY)
        self._dates: deque[int] = deque(maxlen=_USUAL)  # ns, stamps of new messages
        self._delays: deque[int] = deque(maxlen=_USUAL)  # ns, by which others were ahead of them

    def date(self, stamp: int, latest: int) -> None:
        """Receive a new message of ``stamp`` ns; the latest stamp of all topics is ``latest``."""
        self._dates.append(stamp)
        self._delays.append(latest - stamp)

    def late(self, latest: int) -> bool:
        """Whether its last message is too old for a control step at the ``latest`` stamp, in ns.

        As in recordings: older than ``LONGEST_STEP`` control periods, or messages of a topic that
        is slower than control. By how much it is usually behind does not count.
        """
        period = 1e9 / self._robot.control_rate
        age = latest - self._dates[-1] if self._dates else 0
        if age <= LONGEST_STEP * period:
            return False
        if len(self._dates) < _USUAL:  # nobody knows yet what is usual
            return True
        gaps = [after - before for before, after in itertools.pairwise(self._dates)]
        limit = LONGEST_STEP * max(period, statistics.median(gaps))
        return age - statistics.median(self._delays) > limit

    def receive(self, now: float, clock: int, stamp: int | None, values: Sequence[float]) -> bool:
        """Receive a message; False if it should be ignored, because a newer one came before it.

        :param clock: ROS time in ns
        :param stamp: header stamp in ns; None for a message without a header
        :param values: of ``names``
        """
        bad = [
            name for name, value in zip(self.names, values, strict=True) if not math.isfinite(value)
        ]
        if bad:
            self._faults.append((now, f'{", ".join(bad)} not finite (NaN or infinite)'))
        last = self._messages[-1].stamp if self._messages else None
        step_back = last - stamp if stamp and last else 0
        if 0 < step_back < MAX_REORDERING * 1e9:
            self._out_of_order.append(now)
            return False
        if step_back > 0:
            self._faults.append((now, 'stamps run backwards'))
        stamp = stamp or None  # 0 is none
        age = 0.0 if stamp is None else (clock - stamp) * 1e-9
        self._messages.append(_Message(now, stamp, age))
        return True

    @property
    def label(self) -> str:
        """The topic, with the values that these messages hold if they are not all."""
        if len(self.names) == len(self.topic.fields):
            return self.topic.source
        return f'{self.topic.source} ({", ".join(self.names)})'

    def add_fault(self, now: float, text: str) -> None:
        """Record a message that cannot be read, and why."""
        self._faults.append((now, text))

    def silent(self, now: float) -> bool:
        """Whether no message, readable or not, came within the state time-out."""
        last = [m.received for m in self._messages][-1:] + [when for when, _ in self._faults][-1:]
        return now - max(last, default=-math.inf) > self._robot.state_timeout

    def rate(self, now: float, window: float) -> float:
        """Messages per second in the last ``window`` s; 0 for less than two."""
        return _rate([m.received for m in self._recent(now, window)])

    def age(self, now: float, window: float) -> float | None:
        """Median age (s) by the stamps of the last ``window`` s' messages; None without stamps."""
        ages = sorted(m.age for m in self._recent(now, window) if m.stamp is not None)
        return ages[len(ages) // 2] if ages else None

    def _recent(self, now: float, window: float) -> list[_Message]:
        return [m for m in self._messages if now - m.received <= window]

    def findings(self, now: float, window: float, sim_time: bool) -> list[Finding]:
        """What was wrong in the last ``window`` s; an error is a reason not to move.

        :param sim_time: this node follows /clock, whose seconds may be shorter than real ones
        """
        faults = [text for when, text in self._faults if now - when <= window]
        findings = [*self._fault_findings(faults), *self._order_findings(now, window)]
        times = [m.received for m in self._recent(now, window)]
        if not times or now - times[-1] > self._robot.state_timeout:
            if not faults:
                since = f' for {now - times[-1]:.1f} s' if times else ''
                text = f'{self.label}: no message received{since}; is the robot on?'
                findings.append(Finding(ERROR, text))
            return findings
        findings += self._rate_findings(times)
        age = self.age(now, window)
        if age is not None and abs(age) > self._robot.state_timeout:
            findings.append(_clock_finding(self.label, age, sim_time))
        return findings

    def _fault_findings(self, faults: list[str]) -> list[Finding]:
        """One finding for each kind of fault, with its count."""
        findings = []
        for text in dict.fromkeys(faults):
            count = faults.count(text)
            repeated = f' ({count} x)' if count > 1 else ''
            findings.append(Finding(ERROR, f'{self.label}: {text}{repeated}'))
        return findings

    def _order_findings(self, now: float, window: float) -> list[Finding]:
        count = sum(now - when <= window for when in self._out_of_order)
        if not count:
            return []
        text = f'{self.label}: {count} messages came after newer ones and are ignored'
        return [Finding(WARNING, text)]

    def _rate_findings(self, times: list[float]) -> list[Finding]:
        name, findings = self.label, []
        if len(times) < 3:
            text = f'{name}: too few messages to tell a rate; raise it, or listen for longer'
            findings.append(Finding(WARNING, text))
        elif _rate(times) * LONGEST_STEP < self._robot.control_rate:
            text = (
                f'{name}: comes at {_rate(times):.1f} Hz, control runs at '
                f'{self._robot.control_rate:g} Hz; raise its rate or lower control_rate'
            )
            findings.append(Finding(WARNING, text))
        gaps = [after - before for before, after in itertools.pairwise(times)]
        longest = max(gaps, default=0.0)
        if longest > self._robot.state_timeout:
            text = f'{name}: nothing for {longest:.2f} s; the safety gate would have stopped'
            findings.append(Finding(WARNING, text))
        return findings


def _clock_finding(name: str, age: float, sim_time: bool) -> Finding:
    """The finding that stamps differ from this node's clock by more than the state time-out."""
    if abs(age) > _DAY and not sim_time:
        text = (
            f'{name}: header stamps are no time of day, they are {abs(age):.3g} s off (are they '
            'counted from boot?); let the driver stamp with the clock of its machine'
        )
        return Finding(ERROR, text)
    difference = f'{abs(age):.3g} s {"behind" if age > 0 else "ahead of"}'
    if sim_time:
        text = (
            f'{name}: stamps are {difference} /clock; stamp the states with the same clock that '
            'is published on /clock'
        )
        return Finding(WARNING, text)
    # Also while /clock is published: that may come from a bag, and this robot may be a real one.
    text = (
        f"{name}: stamps are {difference} this machine's clock; synchronise the clocks (chrony), "
        'find out what delays the messages, or, if the robot is simulated, set use_sim_time to '
        'true (robot check: --sim-time)'
    )
    return Finding(ERROR, text)
