"""Aligns topics of different rates at the control steps, and finds defects of a recording.

Defects are reported with their time: gaps, clock jumps, values that are not finite, topics that are
too slow. A defect of single steps leaves these steps out of the transitions; one of the whole
recording is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mbarl_ros.schema.findings import ERROR, INFO, WARNING, Finding
from mbarl_ros.schema.plausible import (
    jump_fact,
    jump_question,
    jumps,
    measured_unit_question,
    speeds,
)
from mbarl_ros.schema.robot import LONGEST_STEP, MAX_REORDERING, RobotConfig

_MAX_FINDINGS = 5  # of one kind per topic; further ones are only counted


@dataclass(frozen=True)
class Series:
    """One topic, or the values of it that come together.

    ``stamps`` [n] and times of receipt ``log`` [n] in ns, ``values`` [n, k]; ``ignored``: how many
    messages had no value.
    """

    topic: str
    names: tuple[str, ...]
    stamps: np.ndarray
    log: np.ndarray
    values: np.ndarray
    ignored: int = 0

    def take(self, index: np.ndarray) -> Series:
        """Messages selected by an index array or mask."""
        return replace(
            self, stamps=self.stamps[index], log=self.log[index], values=self.values[index]
        )

    @property
    def spacing(self) -> float:
        """Median time between messages, ns; 0 for a single one."""
        return float(np.median(np.diff(self.stamps))) if len(self.stamps) > 1 else 0.0


@dataclass(frozen=True)
class AlignedSteps:
    """A recording at the robot's control steps.

    ``stamps`` [n + 1] in ns, ``states`` [n + 1, robot dim], ``commands`` [n, action_dim];
    ``whole`` [n] is False for a step in which messages were lost.
    """

    stamps: np.ndarray
    states: np.ndarray
    commands: np.ndarray
    whole: np.ndarray


class UnusableError(ValueError):
    """A recording that cannot be used; ``finding`` is the reason and its time."""

    def __init__(self, finding: Finding) -> None:
        """Raise a finding as an error."""
        super().__init__(str(finding))
        self.finding = finding


def align(
    states: list[Series], executed: Series, robot: RobotConfig, lockstep: bool
) -> tuple[AlignedSteps, list[Finding]]:
    """Control steps of a recording.

    In lockstep each command made one step. In real time a step is about one control period long. It
    begins at a measured state, which holds the latest value of each topic (as in the running
    graph), and its command is the last one executed in it.

    :param states: in the order of the robot profile
    :raises UnusableError: a defect of the whole recording.
    """
    start = int(min(series.stamps.min() for series in (*states, executed)))
    findings: list[Finding] = []
    cleaned = [
        _newest(_clean(series, start, lockstep, findings), lockstep, findings) for series in states
    ]
    executed = _clean(executed, start, True, findings)
    for series in cleaned:
        findings += _pace(series, start, robot, lockstep)
        findings += _jumping(series, start, robot)
    stamps, values, stale = _merged(cleaned, robot, together=lockstep)
    if lockstep:
        index, commands = _pair_in_order(stamps, executed)
    else:
        index, commands = _pair_by_time(stamps, executed, robot)
    whole = np.diff(stamps[index]) < LONGEST_STEP * 1e9 / robot.control_rate
    whole &= ~(stale[index][1:] | stale[index][:-1])
    if not whole.all():
        findings.append(Finding(WARNING, f'{(~whole).sum()} of {len(whole)} steps are left out'))
    return AlignedSteps(stamps[index], values[index], commands, whole), findings


def with_stops(command: Series, robot: RobotConfig) -> tuple[Series, list[Finding]]:
    """Add the stop that the safety gate sends where a command topic is silent for too long.

    After ``command_timeout`` without a message no robot may go on with the last one. An entry with
    ``stop: hold`` stays where it was commanded to be.

    :param command: messages of a topic in real time; entries have the robot's names
    """
    timeout = round(robot.command_timeout * 1e9)
    before, newest, seconds = _silences(command, robot)
    if not len(before):
        return command, []
    text = (
        f'{_silent(command, before, newest, robot)}; then the stop of `limits` counts as the '
        f'command, for {seconds:.1f} s in all, as the safety gate would have sent it. If the robot '
        'moved on, let teleop repeat its command, or raise command_timeout'
    )
    series = replace(
        command,
        stamps=np.insert(command.stamps, before + 1, newest[before] + timeout),
        log=np.insert(command.log, before + 1, command.log[before] + timeout),
        values=np.insert(command.values, before + 1, _stops(command, robot)[before], 0),
    )
    return series, [Finding(WARNING, text)]


def gate_silences(executed: Series, robot: RobotConfig) -> list[Finding]:
    """Times for which the safety gate itself was silent while the robot moved.

    It records its stops, so nothing is added: it sent none while it was stalled.

    :param executed: what the gate executed in real time; entries have the robot's names
    """
    before, newest, seconds = _silences(executed, robot)
    if not len(before):
        return []
    text = (
        f'{_silent(executed, before, newest, robot)}: the safety gate was stalled, for '
        f'{seconds:.1f} s beyond it in all; the command before counts on. Free the processor of '
        'the computer at the robot (`mbarl doctor`)'
    )
    return [Finding(WARNING, text)]


def _silences(command: Series, robot: RobotConfig) -> tuple[np.ndarray, np.ndarray, float]:
    """After which messages a moving robot heard nothing for longer than ``command_timeout``.

    :returns: their rows, the newest stamp [n] up to each row in ns, and the time in s beyond it
    """
    timeout = round(robot.command_timeout * 1e9)
    newest = np.maximum.accumulate(command.stamps)  # messages may have overtaken each other
    silences = command.stamps[1:] - newest[:-1]
    moving = (_stops(command, robot) != command.values).any(1)[:-1]
    before = np.flatnonzero((silences > timeout) & moving)
    return before, newest, float((silences[before] - timeout).sum() * 1e-9)


def _stops(command: Series, robot: RobotConfig) -> np.ndarray:
    """The stop [n, k] after each message."""
    stopped = command.values.copy()
    for column, name in enumerate(command.names):
        if (stop := robot.limits[name].stop) != 'hold':
            stopped[:, column] = stop
    return stopped


def _silent(command: Series, before: np.ndarray, newest: np.ndarray, robot: RobotConfig) -> str:
    first = (newest[before[0]] - command.stamps.min()) * 1e-9
    return (
        f'{command.topic}: silent {len(before)} x for longer than command_timeout '
        f'({robot.command_timeout:g} s) without a stop, first {first:.2f} s after the first command'
    )


def _clean(series: Series, start: int, strict: bool, findings: list[Finding]) -> Series:
    """Finite values in the order of their stamps.

    :param strict: a value that is not finite makes the whole recording unusable
    """
    bad = ~np.isfinite(series.values).all(1)
    for row in np.flatnonzero(bad)[:_MAX_FINDINGS]:
        names = [
            name
            for name, value in zip(series.names, series.values[row], strict=True)
            if not np.isfinite(value)
        ]
        text = f'{series.topic}: {", ".join(names)} not finite (NaN or infinite)'
        finding = Finding(ERROR if strict else WARNING, text, (series.stamps[row] - start) * 1e-9)
        if strict:
            raise UnusableError(finding)
        findings.append(finding)
    if bad.sum() > _MAX_FINDINGS:
        findings.append(Finding(WARNING, f'{series.topic}: {bad.sum()} values not finite in total'))
    if bad.all():
        raise UnusableError(Finding(ERROR, _never_finite(series)))
    series = series.take(~bad)
    back = np.diff(series.stamps)
    worst = int(np.argmin(back)) if len(back) else 0
    if len(back) and back[worst] < -MAX_REORDERING * 1e9:
        text = (
            f'{series.topic}: the clock runs back by {-back[worst] * 1e-9:.2f} s (simulation '
            'restarted, or clock set, during the recording?)'
        )
        raise UnusableError(Finding(ERROR, text, (series.stamps[worst] - start) * 1e-9))
    if (back < 0).any():
        text = f'{series.topic}: {(back < 0).sum()} messages out of order, sorted'
        findings.append(Finding(INFO, text))
    return series.take(np.argsort(series.stamps, kind='stable'))


def _never_finite(series: Series) -> str:
    """Which entries of a topic leave no message that is finite in all of them."""
    counts = np.isfinite(series.values).sum(0)
    never = [name for name, count in zip(series.names, counts, strict=True) if not count]
    if not never:
        return (
            f'{series.topic}: no message has a finite value in each of {", ".join(series.names)}; '
            'map the fields of one device only, or repair its driver'
        )
    return (
        f'{series.topic}: {", ".join(never)} never finite (NaN or infinite); its driver does not '
        'fill this field: take it out of the robot profile, or repair the driver'
    )


def _newest(series: Series, lockstep: bool, findings: list[Finding]) -> Series:
    """The last message of each stamp: a simulation that waits publishes its state repeatedly."""
    last = np.append(series.stamps[1:] != series.stamps[:-1], True)
    repeated = np.flatnonzero(~last)
    if len(repeated) and not lockstep:
        differ = (series.values[repeated] != series.values[repeated + 1]).any(1).sum()
        text = f'{series.topic}: {len(repeated)} messages have the stamp of the next, which counts'
        if differ:
            text += (
                f'; {differ} of them have other values: does a second node publish on the topic? '
                f'Stop all but one (`ros2 topic info -v {series.topic}`) and record again'
            )
        findings.append(Finding(WARNING if differ else INFO, text))
    return series.take(last)


def _pace(series: Series, start: int, robot: RobotConfig, lockstep: bool) -> list[Finding]:
    """Gaps, forward jumps of the clock, and a topic slower than the control rate."""
    if lockstep:
        return []
    findings = []
    period = 1e9 / robot.control_rate
    if series.spacing > LONGEST_STEP * period:
        text = (
            f'{series.topic}: has a rate of {1e9 / series.spacing:.1f} Hz, below the control rate '
            f'of {robot.control_rate:g} Hz; its values are held in between'
        )
        findings.append(Finding(WARNING, text))
    steps, logged = np.diff(series.stamps), np.diff(series.log)
    gaps = np.flatnonzero(steps > _limit(series, robot))
    for row in gaps[:_MAX_FINDINGS]:
        jump = steps[row] - logged[row] > 0.5 * steps[row]
        what = 'the clock jumps ahead by' if jump else 'no message for'
        text = f'{series.topic}: {what} {steps[row] * 1e-9:.2f} s'
        findings.append(Finding(WARNING, text, (series.stamps[row] - start) * 1e-9))
    if len(gaps) > _MAX_FINDINGS:
        findings.append(Finding(WARNING, f'{series.topic}: {len(gaps)} gaps in total'))
    return findings


def _jumping(series: Series, start: int, robot: RobotConfig) -> list[Finding]:
    """Messages whose values are farther apart than the limits allow the robot to move."""
    findings = []
    period, elapsed = 1 / robot.control_rate, np.diff(series.stamps) * 1e-9
    for name, speed in speeds(robot).items():
        if name not in series.names:
            continue
        values = series.values[:, series.names.index(name)]
        if measured_unit_question(robot, name, values):
            continue  # numbers of another unit, which is told in terms of the task
        bad = np.flatnonzero(jumps(np.diff(values), elapsed, speed, period))
        if len(bad):
            text = (
                f'{series.topic}: {name} {jump_fact(values[bad], values[bad + 1], speed, period)} '
                f'(first at {(series.stamps[bad[0]] - start) * 1e-9:.2f} s); '
                f'{jump_question(series.topic)}, and record again'
            )
            findings.append(Finding(WARNING, text))
    return findings


def _limit(series: Series, robot: RobotConfig) -> float:
    """Age (ns) beyond which the value of a topic is stale."""
    return LONGEST_STEP * max(1e9 / robot.control_rate, series.spacing)


def _merged(
    states: list[Series], robot: RobotConfig, *, together: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stamps [m], states [m, robot dim], and which are stale [m], once all topics were received.

    :param together: only stamps that all topics share
    """
    stamps = np.unique(np.concatenate([series.stamps for series in states]))
    for series in states:
        if together:
            stamps = stamps[np.isin(stamps, series.stamps)]
        else:
            stamps = stamps[stamps >= series.stamps[0]]
    if not len(stamps):
        names = ', '.join(series.topic for series in states)
        raise UnusableError(Finding(ERROR, f'{names}: were never all received by the same time'))
    latest = [np.searchsorted(series.stamps, stamps, side='right') - 1 for series in states]
    stale = np.zeros(len(stamps), bool)
    for series, rows in zip(states, latest, strict=True):
        stale |= stamps - series.stamps[rows] > _limit(series, robot)
    values = [series.values[rows] for series, rows in zip(states, latest, strict=True)]
    return stamps, np.concatenate(values, 1), stale


def _pair_in_order(stamps: np.ndarray, executed: Series) -> tuple[np.ndarray, np.ndarray]:
    """Pair states and commands in order: in lockstep, n commands have n + 1 states.

    Stamps alone would pair wrongly, because the gate may stamp a command before it receives the
    state that the command responds to. Only the first stamp must match, before which the world
    stood still. The recording may end before the last state, or the last command, was received.
    """
    first = int(np.searchsorted(stamps, executed.stamps[0]))
    steps, commands = len(stamps) - 1 - first, len(executed.stamps)
    paired = min(steps, commands)
    index = np.arange(first, first + paired + 1)
    fits = paired > 0 and abs(steps - commands) <= 1 and stamps[first] == executed.stamps[0]
    if not fits or (executed.stamps[:paired] > stamps[index[:-1]]).any():
        text = (
            f'{len(executed.stamps)} executed commands do not fit {len(stamps)} states of a '
            'lockstep simulation (was a node restarted during the recording?)'
        )
        raise UnusableError(Finding(ERROR, text))
    return index, executed.values[:paired]


def _pair_by_time(
    stamps: np.ndarray, executed: Series, robot: RobotConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Control steps from the first command on, each with the last command executed in it."""
    commanded = executed.stamps
    period = 1e9 / robot.control_rate
    start = max(int(np.searchsorted(stamps, commanded[0], side='right')) - 1, 0)
    spacing = np.median(np.diff(stamps)) if len(stamps) > 1 else period
    shortest = period - min(spacing, period) / 2
    steps = [start]
    for i in range(start + 1, len(stamps)):
        if stamps[i] - stamps[steps[-1]] >= shortest:
            steps.append(i)
        if stamps[steps[-1]] > commanded[-1]:
            break
    if len(steps) < 2:
        text = (
            'no state follows the first executed command; do the robot and the safety gate stamp '
            'their messages with the same clock?'
        )
        raise UnusableError(Finding(ERROR, text))
    last = np.searchsorted(commanded, stamps[steps[1:]], side='left') - 1
    return np.array(steps), executed.values[np.maximum(last, 0)]
