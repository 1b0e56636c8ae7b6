"""Recorded and imported demonstrations -> episodes, and the learner's transitions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mbarl_ros.demos.align import Series, UnusableError, align, gate_silences, with_stops
from mbarl_ros.demos.cache import fingerprint, pack_decoded, read_decoded
from mbarl_ros.demos.comparison import compare
from mbarl_ros.demos.episodes import (
    DISCARDED,
    Episode,
    episode,
    join,
    transitions,
)
from mbarl_ros.demos.imported import EPISODE_FILE, load_episode
from mbarl_ros.demos.metadata import (
    DemonstrationError,
    Metadata,
    check_profile,
    folders,
    read_metadata,
)
from mbarl_ros.demos.plausibility import examine, jumping
from mbarl_ros.schema.findings import ERROR, INFO, WARNING, Finding
from mbarl_ros.schema.load import how_to_record
from mbarl_ros.schema.robot import TopicMap
from mbarl_ros.schema.topics import EXECUTED
from mbarl_ros.storage.transitions import DIRECTIONS, Transitions
from mbarl_ros.task import Task


@dataclass(frozen=True)
class Demonstration:
    """One recorded demonstration at the robot's control steps.

    ``states`` [n + 1, robot dim] and ``commands`` [n, action_dim] in physical units, ``stamps``
    [n + 1] in s; ``whole`` [n] is False for a step in which messages were lost; ``findings`` are
    the defects of the recording.
    """

    folder: Path
    metadata: Metadata
    states: np.ndarray
    commands: np.ndarray
    stamps: np.ndarray
    whole: np.ndarray
    findings: tuple[Finding, ...] = ()

    def episode(self, task: Task) -> Episode:
        """The demonstration in the task's terms."""
        return episode(
            task,
            self.states,
            self.commands,
            self.stamps,
            self.metadata.direction,
            self.whole,
            verdict=self.metadata.verdict,
            operator=self.metadata.operator,
            name=self.folder.name,
        )


def load_demonstrations(
    folder: str | Path,
    task: Task,
    per_goal: int | None = None,
    *,
    run_dir: Path | None = None,
    warn: Callable[[str], object] | None = None,
) -> Transitions:
    """Transitions of all successful demonstrations in a folder, forward ones first.

    Without a verdict, a forward demonstration is successful if its last state is a success.

    :param per_goal: use only the first so many forward ones of each goal, and no backward ones
    :param run_dir: run folder that may hold these demonstrations decoded (see
        :func:`pack_demonstrations`), which saves decoding them again
    :param warn: is called with each warning about them (:mod:`mbarl_ros.demos.plausibility`)
    :raises DemonstrationError: no folder, no successful forward demonstration, or one that is
        damaged or of another task; the message names it and the remedy.
    """
    folder = Path(folder).expanduser()
    if run_dir is not None and per_goal is None:
        decoded = read_decoded(run_dir, folder, task)
        if decoded is not None:
            rows, warnings = decoded
            for text in warnings if warn else ():
                warn(text)
            return rows
    episodes = _successful_episodes(folder, task)
    if warn:
        for say in (examine, jumping, compare):
            for finding in say(episodes, task):
                if finding.level == WARNING:
                    warn(str(finding))
    if per_goal is not None:
        episodes = _first_of_each_goal(episodes, task, per_goal)
    return join([transitions(task, demonstration) for demonstration in episodes])


def pack_demonstrations(folder: str | Path, task: Task, run_dir: Path) -> bytes:
    """Decoded demonstrations as the content of ``DEMONSTRATIONS_FILE`` in a run folder.

    :raises DemonstrationError: as :func:`load_demonstrations`.
    """
    # Before they are read: a folder that changes meanwhile no longer fits, and is decoded again.
    before = fingerprint(Path(folder).expanduser(), task)
    warnings: list[str] = []
    rows = load_demonstrations(folder, task, run_dir=run_dir, warn=warnings.append)
    return pack_decoded(rows, before, warnings)


def _successful_episodes(folder: Path, task: Task) -> list[Episode]:
    remedy = how_to_record(task.name, task.config, folder)
    paths = folders(folder)
    if not paths:
        raise DemonstrationError(f'{folder}: there are no demonstrations; {remedy}')
    episodes = [
        demonstration
        for path in paths
        if read_metadata(path).verdict != DISCARDED
        and (demonstration := read_episode(path, task)).succeeded(task)
    ]
    episodes.sort(key=lambda demonstration: DIRECTIONS.index(demonstration.direction))
    if not episodes or not episodes[0].is_forward:
        raise DemonstrationError(
            f'{folder}: none of {len(paths)} demonstrations is a successful forward one; {remedy}'
        )
    return episodes


def _first_of_each_goal(episodes: list[Episode], task: Task, number: int) -> list[Episode]:
    count: Counter[bytes] = Counter()
    first = []
    for demonstration in episodes:
        goal = demonstration.goal(task)
        key = b'' if goal is None else goal.tobytes()
        if demonstration.is_forward and count[key] < number:
            count[key] += 1
            first.append(demonstration)
    return first


def read_episode(folder: Path, task: Task) -> Episode:
    """One demonstration, recorded or imported.

    :raises DemonstrationError: as :func:`read_demonstration`.
    """
    if (folder / EPISODE_FILE).exists():
        _check_task(folder, read_metadata(folder), task)
        return load_episode(folder, task)
    try:
        return read_demonstration(folder, task).episode(task)
    except DemonstrationError:
        raise
    except ValueError as error:
        raise DemonstrationError(f'{folder}: {error}; remove it') from error


def read_demonstration(folder: Path, task: Task) -> Demonstration:
    """Read one recorded demonstration.

    :raises DemonstrationError: damaged, of another task or robot, without a required topic, or
        with a defect that makes all of it unusable (see :mod:`mbarl_ros.demos.align`).
    """
    # Imported late: rosbags takes longer to import than a run folder's decoded ones to read.
    from mbarl_ros.demos.bag import executed_map, read_series
    from mbarl_ros.demos.matching import check_recorded

    metadata = read_metadata(folder)
    _check_task(folder, metadata, task)
    check_profile(folder, metadata, task.robot)
    robot = task.robot
    by_gate = EXECUTED in metadata.topics
    if not by_gate:
        check_recorded(folder, robot)
    commands = [executed_map(robot.command_names)] if by_gate else robot.command_topics
    parted = () if metadata.lockstep else robot.state  # a simulation tells all of each instant
    maps = [*robot.state, *commands]
    series = read_series(
        folder,
        maps,
        metadata.topics,
        metadata.clock,
        robot.state_timeout,
        parted,
        lockstep=metadata.lockstep,
    )
    _check_received(folder, series, maps)
    states, executed = (
        [one for topic in topics for one in topic]
        for topics in (series[: len(robot.state)], series[len(robot.state) :])
    )
    stopped: list[Finding] = []
    if by_gate and not metadata.lockstep:
        stopped = gate_silences(executed[0], robot)
    elif not metadata.lockstep:
        executed, found = zip(*(with_stops(topic, robot) for topic in executed), strict=True)
        stopped = [finding for findings in found for finding in findings]
    try:
        steps, findings = align(states, _merged(executed), robot, metadata.lockstep)
    except UnusableError as error:
        raise DemonstrationError(f'{folder}: {error}; record it again and remove it') from error
    findings[:0] = [Finding(INFO, remark) for remark in metadata.remarks]
    findings += [
        Finding(INFO, f'{one.topic}: {one.ignored} messages without any of its values are ignored')
        for one in states
        if one.ignored
    ]
    findings += stopped
    findings += _in_degrees(steps.states[:, _order(states, robot.state_names)], task)
    if metadata.interrupted:
        findings.insert(0, Finding(INFO, 'the recorder died; the end is missing'))
    return Demonstration(
        folder,
        metadata,
        steps.states[:, _order(states, robot.state_names)],
        steps.commands[:, _order(executed, robot.command_names)],
        steps.stamps * 1e-9,
        steps.whole,
        tuple(findings),
    )


def check_demonstration(folder: Path, task: Task) -> tuple[Episode | None, list[Finding]]:
    """A demonstration and its findings; no episode if it cannot be used."""
    findings: list[Finding] = []
    try:
        if (folder / EPISODE_FILE).exists():
            checked = read_episode(folder, task)
            findings += jumping([checked], task)
        else:
            demonstration = read_demonstration(folder, task)
            findings += demonstration.findings
            checked = demonstration.episode(task)
    except (DemonstrationError, ValueError) as error:
        text = str(error).removeprefix(f'{folder}: ')
        return None, [*findings, Finding(ERROR, text)]
    return checked, [*findings, *examine([checked], task)]


def _check_task(folder: Path, metadata: Metadata, task: Task) -> None:
    if metadata.task != task.name:
        raise DemonstrationError(
            f"{folder}: is a demonstration of task '{metadata.task}', not of '{task.name}'; give "
            "the folder of this task's demonstrations (key 'demonstrations' of the task, or "
            'demos:=)'
        )


def _in_degrees(states: np.ndarray, task: Task) -> list[Finding]:
    """Angles [n, robot dim] beyond two turns: sine and cosine of degrees would say nothing."""
    names, findings = task.robot.state_names, []
    for entry in task.config.observation:
        farthest = np.abs(states[:, names.index(entry.name)]).max() if entry.angle else 0.0
        if farthest > 4.0 * math.pi:
            text = (
                f'{entry.name}: is an angle in rad, but up to {farthest:.3g}; if it is in degrees, '
                f'convert them in the robot profile (scale: {{{entry.name}: 0.0174533}})'
            )
            findings.append(Finding(WARNING, text))
    return findings


def _order(series: list[Series], names: tuple[str, ...]) -> list[int]:
    """Columns of the series' values, side by side, in the order of the profile."""
    columns = [name for one in series for name in one.names]
    return [columns.index(name) for name in names]


def _check_received(folder: Path, series: list[list[Series]], maps: Sequence[TopicMap]) -> None:
    silent = [
        f'{topic.topic} ({topic.type})'
        for received, topic in zip(series, maps, strict=True)
        if not len(received[0].stamps)
    ]
    if silent:
        raise DemonstrationError(
            f'{folder}: no messages on {", ".join(silent)}; check that the topic is published, and '
            'under its name in the robot profile; then record again and remove this folder'
        )


def _merged(commands: Sequence[Series]) -> Series:
    """Several command topics as one: the latest value of each, once all were received."""
    if len(commands) == 1:
        return commands[0]
    stamps = np.unique(np.concatenate([series.stamps for series in commands]))
    stamps = stamps[stamps >= max(series.stamps.min() for series in commands)]
    ordered = [series.take(np.argsort(series.stamps, kind='stable')) for series in commands]
    values = [
        series.values[np.searchsorted(series.stamps, stamps, side='right') - 1]
        for series in ordered
    ]
    names = tuple(name for series in commands for name in series.names)
    return Series('commands', names, stamps, stamps, np.concatenate(values, 1))
