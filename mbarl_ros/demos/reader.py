"""Recorded and imported demonstrations -> episodes, and the learner's transitions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mbarl_ros.demos.align import Series, UnusableError, align
from mbarl_ros.demos.bag import executed_map, read_series
from mbarl_ros.demos.episodes import (
    DISCARDED,
    SUCCEEDED,
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
from mbarl_ros.schema.findings import ERROR, INFO, WARNING, Finding
from mbarl_ros.schema.robot import TopicMap
from mbarl_ros.schema.topics import EXECUTED
from mbarl_ros.storage.transitions import DIRECTIONS, Transitions
from mbarl_ros.task import Task


@dataclass(frozen=True)
class Demonstration:
    """One recorded demonstration at the robot's control steps.

    ``states`` [n + 1, robot dim], ``commands`` [n, action_dim] in physical units and ``stamps``
    [n + 1] in s; ``whole`` [n] is False for a step over which messages were lost; ``findings``
    say what was wrong with the recording.
    """

    folder: Path
    note: Metadata
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
            self.note.direction,
            self.whole,
            verdict=self.note.verdict,
            operator=self.note.operator,
            name=self.folder.name,
        )


def load_demonstrations(folder: str | Path, task: Task, per_goal: int | None = None) -> Transitions:
    """Transitions of all demonstrations in a folder that succeeded, forward ones first.

    Where nobody gave a verdict, a forward demonstration counts if its last state is a success.

    :param per_goal: take only the first so many forward ones of each goal, none backward
    :raises DemonstrationError: no folder, no successful forward demonstration, or one that is
        damaged or of another task; the message names it and says what to do.
    """
    folder = Path(folder).expanduser()
    remedy = f'record some with `mbarl up record task:={task.name} demos:={folder}`'
    found = folders(folder)
    if not found:
        raise DemonstrationError(f'{folder}: there are no demonstrations; {remedy}')
    kept = [
        demonstration
        for path in found
        if read_metadata(path).verdict != DISCARDED
        and (demonstration := read_episode(path, task)).succeeded(task)
    ]
    kept.sort(key=lambda demonstration: DIRECTIONS.index(demonstration.direction))
    if not kept or not kept[0].is_forward:
        raise DemonstrationError(
            f'{folder}: none of {len(found)} demonstrations is a successful forward one; {remedy}'
        )
    if per_goal is not None:
        kept = _first_of_each_goal(kept, task, per_goal)
    return join([transitions(task, demonstration) for demonstration in kept])


def _first_of_each_goal(episodes: list[Episode], task: Task, number: int) -> list[Episode]:
    taken: Counter[bytes] = Counter()
    kept = []
    for demonstration in episodes:
        goal = demonstration.goal(task)
        name = b'' if goal is None else goal.tobytes()
        if demonstration.is_forward and taken[name] < number:
            taken[name] += 1
            kept.append(demonstration)
    return kept


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

    :raises DemonstrationError: damaged, of another task or robot, without a needed topic, or with
        what makes all of it doubtful (see :mod:`mbarl_ros.demos.align`).
    """
    note = read_metadata(folder)
    _check_task(folder, note, task)
    check_profile(folder, note, task.robot)
    robot = task.robot
    by_gate = EXECUTED in note.topics
    asked = [executed_map(robot.command_names)] if by_gate else robot.command
    series = read_series(folder, [*robot.state, *asked], note.topics, note.clock)
    _check_heard(folder, series, [*robot.state, *asked])
    states, executed = series[: len(robot.state)], series[len(robot.state) :]
    try:
        steps, findings = align(states, _joined(executed), robot, note.lockstep)
    except UnusableError as error:
        raise DemonstrationError(f'{folder}: {error}; record it again and remove it') from error
    if note.interrupted:
        findings.insert(0, Finding(INFO, 'the recorder died; the end is missing'))
    return Demonstration(
        folder,
        note,
        steps.states,
        steps.commands,
        steps.stamps * 1e-9,
        steps.whole,
        tuple(findings),
    )


def check_demonstration(folder: Path, task: Task) -> tuple[Episode | None, list[Finding]]:
    """Everything to know about a demonstration; no episode if it cannot be used."""
    findings: list[Finding] = []
    try:
        if (folder / EPISODE_FILE).exists():
            checked = read_episode(folder, task)
        else:
            demonstration = read_demonstration(folder, task)
            findings += demonstration.findings
            checked = demonstration.episode(task)
    except (DemonstrationError, ValueError) as error:
        text = str(error).removeprefix(f'{folder}: ')
        return None, [*findings, Finding(ERROR, text)]
    if checked.is_forward:
        reached = checked.reached(task)
        if checked.verdict == SUCCEEDED and not reached:
            text = "judged a success, but the last state is none by the task's measure"
            findings.append(Finding(WARNING, text))
        if checked.verdict not in (SUCCEEDED, DISCARDED):
            text = f'no verdict; by its last state it is {"a" if reached else "no"} success'
            findings.append(Finding(INFO, text))
    return checked, findings


def _check_task(folder: Path, note: Metadata, task: Task) -> None:
    if note.task != task.name:
        raise DemonstrationError(
            f"{folder}: is a demonstration of task '{note.task}', not of '{task.name}'; give the "
            "folder of this task's demonstrations (key 'demonstrations' of the task, or demos:=)"
        )


def _check_heard(folder: Path, series: list[Series], maps: list[TopicMap]) -> None:
    silent = [
        f'{topic.topic} ({topic.type})'
        for heard, topic in zip(series, maps, strict=True)
        if not len(heard.stamps)
    ]
    if silent:
        raise DemonstrationError(
            f'{folder}: no messages on {", ".join(silent)}; is it published, and under the name in '
            'the robot profile? Record again and remove it'
        )


def _joined(commands: list[Series]) -> Series:
    """Several command topics as one: of each the latest value, from when all were heard."""
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
