"""Folders of demonstrations, and the metadata of each demonstration."""

from __future__ import annotations

import errno
import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mbarl_ros import __version__
from mbarl_ros.demos.episodes import VERDICTS
from mbarl_ros.schema.load import available, is_path
from mbarl_ros.schema.robot import RobotConfig
from mbarl_ros.schema.topics import EXECUTED
from mbarl_ros.storage.files import sync_path, write_file
from mbarl_ros.storage.transitions import DIRECTIONS

SCHEMA = 2
METADATA_FILE = 'demonstration.json'
HEADER, LOG = CLOCKS = ('header', 'log')


class DemonstrationError(ValueError):
    """A demonstration that cannot be used; the message names its folder and the remedy."""


@dataclass(frozen=True)
class Metadata:
    """Content of ``demonstration.json``, beside the data.

    ``spec`` is the layout of the robot's state and command, ``profile`` its hash. ``topics`` maps
    topics of the robot profile to names in the bag (namespaces and remappings). ``lockstep``: each
    executed command made the world take exactly one step. ``clock``: messages are dated by their
    ``header`` or by the ``log`` time of the bag. ``interrupted``: the recorder died, and the end is
    missing. ``task_file`` and ``robot_file`` are absolute paths; empty for shipped files, and in
    older metadata. ``remarks`` are sentences about how it was imported.
    """

    task: str
    robot: str
    direction: str
    verdict: str
    operator: str
    lockstep: bool
    spec: dict[str, Any]
    profile: str
    topics: dict[str, str]
    recorded: str
    clock: str = HEADER
    interrupted: bool = False
    origin: str = 'demo_recorder'
    version: str = __version__
    schema: int = SCHEMA
    task_file: str = ''
    robot_file: str = ''
    remarks: list[str] = field(default_factory=list)


_UNITS = 'scale and offset'
_OPTIONAL: dict[str, Any] = {'task_file': '', 'robot_file': '', 'remarks': []}


def layout(robot: RobotConfig) -> dict[str, Any]:
    """The part of a robot profile in which recording and reading must agree."""
    units = {
        name: [topic.factor(name), topic.zero(name)]
        for topic in (*robot.state, *robot.command_topics)
        for name in topic.fields
        if (topic.factor(name), topic.zero(name)) != (1.0, 0.0)
    }
    return {
        'state': {
            name: f'{path} of {topic.tf.child} in {topic.tf.parent}' if topic.tf else path
            for topic in robot.state
            for name, path in topic.fields.items()
        },
        'command': list(robot.command_names),
        'control_rate': robot.control_rate,
        # Executed commands were recorded in these units; runs from before have none.
        **({_UNITS: units} if units else {}),
    }


def profile_hash(robot: RobotConfig) -> str:
    """Hash of :func:`layout`; the order of names matters."""
    return hashlib.sha256(json.dumps(layout(robot)).encode()).hexdigest()[:16]


def check_profile(folder: Path, metadata: Metadata, robot: RobotConfig) -> None:
    """Check that a demonstration was recorded with this robot profile.

    :raises DemonstrationError: with another one; the message names the difference.
    """
    if metadata.profile == profile_hash(robot):
        return
    expected, spec = layout(robot), metadata.spec
    differ = [key for key in (*expected, *spec) if spec.get(key) != expected.get(key)]
    if set(differ) == {_UNITS} and EXECUTED not in metadata.topics:
        return  # raw messages are read in the units of today
    key = differ[0] if differ else 'state'
    raise DemonstrationError(
        f'{folder}: was recorded with another robot profile: {key} is {spec.get(key)}, '
        f"robot '{robot.name}' has {expected.get(key)}; give the profile of the recording "
        '(robot:=), or record it again'
    )


def folders(folder: Path) -> list[Path]:
    """Finished demonstrations in a folder, by name; unfinished ones are in hidden folders."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith('.')
    )


def read_metadata(folder: Path) -> Metadata:
    """Read and check ``demonstration.json``.

    :raises DemonstrationError: it is missing, damaged or of another schema.
    """
    path = folder / METADATA_FILE
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError:
        raise DemonstrationError(
            f'{path}: is missing; if {folder} is a bag, add it with `mbarl demos import {folder}`'
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DemonstrationError(f'{path}: cannot be read: {error}; remove {folder}') from error
    kinds = {one.name: one.type for one in fields(Metadata)}
    if isinstance(raw, dict):
        raw = {**_OPTIONAL, **raw}
    if not isinstance(raw, dict) or raw.get('schema') != SCHEMA or set(raw) != set(kinds):
        raise DemonstrationError(
            f'{path}: is not metadata of schema {SCHEMA}; import the bag again with `mbarl demos '
            f'import {folder}`, or remove it'
        )
    for name, kind in kinds.items():
        if type(raw[name]).__name__ != str(kind).partition('[')[0]:
            raise DemonstrationError(f"{path}: '{name}' is not a {kind}; remove {folder}")
    metadata = Metadata(**raw)
    for value, known in (
        (metadata.direction, DIRECTIONS),
        (metadata.verdict, VERDICTS),
        (metadata.clock, CLOCKS),
    ):
        if value not in known:
            raise DemonstrationError(
                f"{path}: '{value}' is not one of {', '.join(known)}; remove {folder}"
            )
    return metadata


def write_metadata(folder: Path, metadata: Metadata) -> None:
    """Write ``demonstration.json`` into a folder, atomically."""
    write_file(folder / METADATA_FILE, (json.dumps(asdict(metadata), indent=2) + '\n').encode())


def file_of(name: str) -> str:
    """Absolute path of a task or robot that is named by its path; empty for a shipped name."""
    return str(Path(name).expanduser().absolute()) if is_path(name) else ''


def task_and_robot(folder: Path) -> tuple[str, str]:
    """Task and robot profile of a demonstration, each a shipped name or a path.

    The robot is empty where only the task can name it.

    :raises DemonstrationError: no metadata, or a task that cannot be found.
    """
    metadata = read_metadata(folder)
    file = Path(metadata.task_file)
    if metadata.task_file and not file.is_file():
        raise DemonstrationError(
            f"{folder}: is of task '{metadata.task}', whose file {file} does not exist any more; "
            'give the task (--task or task:=)'
        )
    if not metadata.task_file and metadata.task not in available('tasks'):
        raise DemonstrationError(
            f"{folder}: is of task '{metadata.task}', which is none of the shipped tasks "
            f'({", ".join(available("tasks"))}); give the path of its file (--task or task:=)'
        )
    robot = metadata.robot if metadata.robot in available('robots') else ''
    if Path(metadata.robot_file).is_file():
        robot = metadata.robot_file
    return metadata.task_file or metadata.task, robot


def publish(staged: Path, folder: Path, direction: str) -> Path:
    """Move a finished demonstration to its numbered name in ``folder``; returns its path there.

    It is on disk before it has its name, and never replaces another demonstration.
    """
    for path in (*staged.iterdir(), staged):
        sync_path(path)
    while True:
        final = folder / free_name(folder, direction)
        try:
            staged.rename(final)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                continue  # another process took this number
            raise
        sync_path(folder)
        return final


def free_name(folder: Path, direction: str) -> str:
    """``<direction>_<number>``, one above the highest number in use."""
    pattern = re.compile(rf'{direction}_(\d+)')
    numbers = [int(m[1]) for path in folder.iterdir() if (m := pattern.fullmatch(path.name))]
    return f'{direction}_{max(numbers, default=-1) + 1:03d}'
