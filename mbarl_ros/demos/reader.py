"""Recorded demonstrations -> the learner's transitions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.config import RobotConfig
from mbarl_ros.demos.bag import (
    DISCARDED,
    EXECUTED,
    SUCCESS,
    DemonstrationError,
    Note,
    folders,
    layout,
    messages,
    read_note,
    topic_types,
)
from mbarl_ros.demos.transitions import episode, join, nearest_goal
from mbarl_ros.fields import TopicCodec, stamp_ns
from mbarl_ros.task import Task
from mbarl_ros.transitions import PHASES, Transitions

FORWARD = PHASES[0]


@dataclass(frozen=True)
class Demonstration:
    """One demonstration at the robot's control steps.

    ``states`` [n + 1, robot dim], ``commands`` [n, action_dim] in physical units and ``stamps``
    [n + 1] in s; ``whole`` [n] is False for a step over which state messages were lost.
    """

    folder: Path
    note: Note
    states: np.ndarray
    commands: np.ndarray
    stamps: np.ndarray
    whole: np.ndarray


def load_demonstrations(folder: str | Path, task: Task) -> Transitions:
    """Transitions of all demonstrations in a folder that succeeded, forward ones first.

    Where nobody gave a verdict, a forward demonstration counts if its last state is a success.

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
        if read_note(path).verdict != DISCARDED
        and _succeeded(demonstration := read_demonstration(path, task), task)
    ]
    kept.sort(key=lambda demonstration: PHASES.index(demonstration.note.direction))
    if not kept or kept[0].note.direction != FORWARD:
        raise DemonstrationError(
            f'{folder}: none of {len(found)} demonstrations is a successful forward one; {remedy}'
        )
    return join(
        [
            episode(task, demo.states, demo.commands, demo.stamps, demo.note.direction, demo.whole)
            for demo in kept
        ]
    )


def read_demonstration(folder: Path, task: Task) -> Demonstration:
    """Read one demonstration.

    :raises DemonstrationError: damaged, of another task or robot, without a needed topic, or
        with a value that is not finite.
    """
    note = read_note(folder)
    _check_note(folder, note, task)
    heard = _hear(folder, note, task.robot)
    stamps, states = _states(heard, task.robot, together=note.lockstep)
    asked, commands = (np.array(column) for column in zip(*heard[EXECUTED], strict=True))
    for what, values in (('state', states), ('executed command', commands)):
        if not np.isfinite(values).all():
            raise DemonstrationError(
                f'{folder}: a {what} is not finite (NaN or infinite); check the sensor or the '
                f'controller, record the demonstration again and remove {folder}'
            )
    if note.lockstep:
        index, commands = _pair_in_order(folder, stamps, asked, commands)
    else:
        index, commands = _pair_by_time(folder, stamps, asked, commands, task.robot)
    stamps = stamps[index] * 1e-9
    whole = np.diff(stamps) < 1.5 / task.robot.control_rate
    return Demonstration(folder, note, states[index], commands, stamps, whole)


def _succeeded(demonstration: Demonstration, task: Task) -> bool:
    if demonstration.note.verdict == SUCCESS:
        return True
    if demonstration.note.direction != FORWARD:
        return False
    final = demonstration.states[-1]
    goal = nearest_goal(task, final) if task.goal_conditioned else None
    return bool(task.success(task.observation(final, goal)))


def _check_note(folder: Path, note: Note, task: Task) -> None:
    if note.task != task.name:
        raise DemonstrationError(
            f"{folder}: is a demonstration of task '{note.task}', not of '{task.name}'; give the "
            "folder of this task's demonstrations (key 'demonstrations' of the task, or demos:=)"
        )
    expected = layout(task.robot)
    for key, value in expected.items():
        if note.spec.get(key) != value:
            raise DemonstrationError(
                f'{folder}: was recorded with another robot profile: {key} is '
                f"{note.spec.get(key)}, robot '{task.robot.name}' has {value}; give the profile "
                'it was recorded with, or record it again'
            )


def _hear(folder: Path, note: Note, robot: RobotConfig) -> dict[str, list[tuple[int, Any]]]:
    """(stamp, values) of each state topic and of the executed commands, by stamp."""
    codecs = {topic.topic: TopicCodec(topic) for topic in robot.state}
    needed = [*codecs, EXECUTED]
    heard: dict[str, list[tuple[int, Any]]] = {topic: [] for topic in needed}
    bag_names = {topic: name for topic, name in note.topics.items() if topic in heard}
    for topic, logged, message in messages(folder, bag_names):
        try:
            if topic == EXECUTED:
                values = _executed(message, robot)
            else:
                values = codecs[topic].decode(message)
        except ValueError as error:
            raise DemonstrationError(f'{folder}: {error}; record it again') from error
        stamp = stamp_ns(message)
        heard[topic].append((logged if stamp is None else stamp, values))
    missing = [topic for topic in needed if not heard[topic]]
    if missing:
        types = topic_types(robot)
        silent = ', '.join(f'{topic} ({types[topic]})' for topic in missing)
        raise DemonstrationError(
            f'{folder}: no messages on {silent}; is it published, and under the name in the robot '
            f'profile? Record again and remove {folder}'
        )
    for entries in heard.values():
        entries.sort(key=lambda entry: entry[0])
    return heard


def _executed(message: Any, robot: RobotConfig) -> list[float]:
    values = dict(zip(message.name, message.position, strict=True))
    return [float(values[name]) if name in values else np.nan for name in robot.command_names]


def _states(
    heard: dict[str, list[tuple[int, Any]]], robot: RobotConfig, *, together: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Stamps [m] in ns and states [m, robot dim] from when all topics have been heard.

    ``together``: only where all topics bear the very same stamp.
    """
    arrivals = sorted(
        (
            (stamp, index, values)
            for index, topic in enumerate(robot.state)
            for stamp, values in heard[topic.topic]
        ),
        key=lambda arrival: arrival[:2],
    )
    latest: list[list[float] | None] = [None] * len(robot.state)
    latest_stamps: list[int | None] = [None] * len(robot.state)
    states: dict[int, list[float]] = {}
    for stamp, index, values in arrivals:
        latest[index], latest_stamps[index] = values, stamp
        if None in latest_stamps or (together and len(set(latest_stamps)) > 1):
            continue
        states[stamp] = [value for part in latest for value in part]
    return np.array(list(states), np.int64), np.array(list(states.values()), np.float64)


def _pair_in_order(
    folder: Path, stamps: np.ndarray, asked: np.ndarray, commands: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """In lockstep each command made one step, so the last n + 1 states belong to n commands.

    The gate may have stamped a command before it saw the state that it answers, so stamps alone
    would pair wrongly; only the first, before which the world stood still, must be exact.
    """
    answered = int((asked < stamps[-1]).sum())  # the last step may not have been recorded
    commands = commands[:answered]
    index = np.arange(len(stamps))[-answered - 1 :]
    if not answered or len(index) != answered + 1 or stamps[index[0]] != asked[0]:
        raise DemonstrationError(
            f'{folder}: {len(commands)} executed commands do not fit {len(stamps)} states of a '
            'lockstep simulation (a node was restarted while recording?); record it again and '
            f'remove {folder}'
        )
    return index, commands


def _pair_by_time(
    folder: Path, stamps: np.ndarray, asked: np.ndarray, commands: np.ndarray, robot: RobotConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Control steps from the first command on, each with the command last executed in it."""
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
        raise DemonstrationError(
            f'{folder}: no state follows the first executed command; is the robot stamping its '
            f'messages with the same clock as the gate? Record again and remove {folder}'
        )
    followed = np.searchsorted(asked, stamps[steps[1:]], side='left') - 1
    return np.array(steps), commands[np.maximum(followed, 0)]
