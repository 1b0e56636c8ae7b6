"""Topics of different rates -> control steps, and what is wrong with them.

Everything a recording can suffer from is found here and reported with its time: gaps, clocks that
jump, values that are not finite, topics that are too slow. What spoils single steps is left out of
the transitions; what makes the whole recording doubtful is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mbarl_ros.schema.findings import ERROR, INFO, WARNING, Finding
from mbarl_ros.schema.robot import LONGEST_STEP, MAX_REORDERING, RobotConfig

_MAX_FINDINGS = 5  # of one kind in one topic; the rest is counted


@dataclass(frozen=True)
class Series:
    """One topic: ``stamps`` [n] in ns by which it is dated, ``log`` [n], ``values`` [n, k]."""

    topic: str
    names: tuple[str, ...]
    stamps: np.ndarray
    log: np.ndarray
    values: np.ndarray

    def take(self, index: np.ndarray) -> Series:
        """The messages of an index or mask."""
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
    ``whole`` [n] is False for a step over which messages were lost.
    """

    stamps: np.ndarray
    states: np.ndarray
    commands: np.ndarray
    whole: np.ndarray


class UnusableError(ValueError):
    """The recording cannot be used; ``finding`` says why and where."""

    def __init__(self, finding: Finding) -> None:
        """Carry the finding."""
        super().__init__(str(finding))
        self.finding = finding


def align(
    states: list[Series], executed: Series, robot: RobotConfig, lockstep: bool
) -> tuple[AlignedSteps, list[Finding]]:
    """Control steps of a recording.

    In lockstep each command made one step. In real time a step is about one control period, begins
    at a measured state, holds of each topic the latest value (as the running graph does), and its
    command is the one last executed in it.

    :param states: in the order of the robot profile
    :raises UnusableError: the recording as a whole cannot be trusted.
    """
    start = int(min(series.stamps.min() for series in (*states, executed)))
    findings: list[Finding] = []
    cleaned = [_newest(_clean(series, start, lockstep, findings)) for series in states]
    executed = _clean(executed, start, True, findings)
    findings += [found for series in cleaned for found in _pace(series, start, robot, lockstep)]
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


def _clean(series: Series, start: int, strict: bool, findings: list[Finding]) -> Series:
    """Finite values in the order of their stamps.

    :param strict: a value that is not finite spoils the recording, not just its step
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
        findings.append(Finding(WARNING, f'{series.topic}: {bad.sum()} values not finite in all'))
    series = series.take(~bad)
    if not len(series.stamps):
        raise UnusableError(Finding(ERROR, f'{series.topic}: no value is finite'))
    back = np.diff(series.stamps)
    worst = int(np.argmin(back)) if len(back) else 0
    if len(back) and back[worst] < -MAX_REORDERING * 1e9:
        text = (
            f'{series.topic}: the clock runs back by {-back[worst] * 1e-9:.2f} s (simulation '
            'restarted, or clock set, while recording?)'
        )
        raise UnusableError(Finding(ERROR, text, (series.stamps[worst] - start) * 1e-9))
    if (back < 0).any():
        text = f'{series.topic}: {(back < 0).sum()} messages out of order, sorted'
        findings.append(Finding(INFO, text))
    return series.take(np.argsort(series.stamps, kind='stable'))


def _newest(series: Series) -> Series:
    """The last message of each stamp: a silent simulation says its state again."""
    return series.take(np.append(series.stamps[1:] != series.stamps[:-1], True))


def _pace(series: Series, start: int, robot: RobotConfig, lockstep: bool) -> list[Finding]:
    """Gaps, forward jumps of the clock, and a topic slower than control."""
    if lockstep:
        return []
    found = []
    period = 1e9 / robot.control_rate
    if series.spacing > LONGEST_STEP * period:
        text = (
            f'{series.topic}: comes at {1e9 / series.spacing:.1f} Hz, control runs at '
            f'{robot.control_rate:g} Hz; its values are held in between'
        )
        found.append(Finding(WARNING, text))
    steps, logged = np.diff(series.stamps), np.diff(series.log)
    gaps = np.flatnonzero(steps > _limit(series, robot))
    for row in gaps[:_MAX_FINDINGS]:
        jump = steps[row] - logged[row] > 0.5 * steps[row]
        what = 'the clock jumps ahead by' if jump else 'nothing for'
        text = f'{series.topic}: {what} {steps[row] * 1e-9:.2f} s'
        found.append(Finding(WARNING, text, (series.stamps[row] - start) * 1e-9))
    if len(gaps) > _MAX_FINDINGS:
        found.append(Finding(WARNING, f'{series.topic}: {len(gaps)} gaps in all'))
    return found


def _limit(series: Series, robot: RobotConfig) -> float:
    """Age, ns, at which a topic's value is stale."""
    return LONGEST_STEP * max(1e9 / robot.control_rate, series.spacing)


def _merged(
    states: list[Series], robot: RobotConfig, *, together: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stamps [m], states [m, robot dim] from when all topics are heard, and which are stale [m].

    ``together``: only where all topics bear the very same stamp.
    """
    stamps = np.unique(np.concatenate([series.stamps for series in states]))
    for series in states:
        if together:
            stamps = stamps[np.isin(stamps, series.stamps)]
        else:
            stamps = stamps[stamps >= series.stamps[0]]
    if not len(stamps):
        names = ', '.join(series.topic for series in states)
        raise UnusableError(Finding(ERROR, f'{names}: no moment at which all have been heard'))
    latest = [np.searchsorted(series.stamps, stamps, side='right') - 1 for series in states]
    stale = np.zeros(len(stamps), bool)
    for series, rows in zip(states, latest, strict=True):
        stale |= stamps - series.stamps[rows] > _limit(series, robot)
    values = [series.values[rows] for series, rows in zip(states, latest, strict=True)]
    return stamps, np.concatenate(values, 1), stale


def _pair_in_order(stamps: np.ndarray, executed: Series) -> tuple[np.ndarray, np.ndarray]:
    """In lockstep each command made one step, so n + 1 states belong to n commands.

    The gate may have stamped a command before it saw the state that it answers, so stamps alone
    would pair wrongly; only the first, before which the world stood still, must be exact. At the
    end of a recording the last state, or the last command, may not have been heard any more.
    """
    first = int(np.searchsorted(stamps, executed.stamps[0]))
    steps, heard = len(stamps) - 1 - first, len(executed.stamps)
    answered = min(steps, heard)
    index = np.arange(first, first + answered + 1)
    fits = answered > 0 and abs(steps - heard) <= 1 and stamps[first] == executed.stamps[0]
    if not fits or (executed.stamps[:answered] > stamps[index[:-1]]).any():
        text = (
            f'{len(executed.stamps)} executed commands do not fit {len(stamps)} states of a '
            'lockstep simulation (a node restarted while recording?)'
        )
        raise UnusableError(Finding(ERROR, text))
    return index, executed.values[:answered]


def _pair_by_time(
    stamps: np.ndarray, executed: Series, robot: RobotConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Control steps from the first command on, each with the command last executed in it."""
    asked = executed.stamps
    period = 1e9 / robot.control_rate
    start = max(int(np.searchsorted(stamps, asked[0], side='right')) - 1, 0)
    spacing = np.median(np.diff(stamps)) if len(stamps) > 1 else period
    shortest = period - min(spacing, period) / 2
    steps = [start]
    for i in range(start + 1, len(stamps)):
        if stamps[i] - stamps[steps[-1]] >= shortest:
            steps.append(i)
        if stamps[steps[-1]] > asked[-1]:
            break
    if len(steps) < 2:
        text = (
            'no state follows the first executed command; is the robot stamping its messages with '
            "the gate's clock?"
        )
        raise UnusableError(Finding(ERROR, text))
    followed = np.searchsorted(asked, stamps[steps[1:]], side='left') - 1
    return np.array(steps), executed.values[np.maximum(followed, 0)]
