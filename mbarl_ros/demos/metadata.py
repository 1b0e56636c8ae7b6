"""The folder of demonstrations, and the metadata that says what each of them is of."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mbarl_ros import __version__
from mbarl_ros.demos.episodes import VERDICTS
from mbarl_ros.schema.robot import RobotConfig
from mbarl_ros.storage.transitions import DIRECTIONS

SCHEMA = 2
METADATA_FILE = 'demonstration.json'
HEADER, LOG = CLOCKS = ('header', 'log')


class DemonstrationError(ValueError):
    """A demonstration that cannot be used; the message names the folder and the remedy."""


@dataclass(frozen=True)
class Metadata:
    """What a demonstration is of: ``demonstration.json`` beside the data.

    ``spec`` is the layout of the robot's state and command and ``profile`` its hash. ``topics``
    maps the profile's topics to the names in the bag (namespaces and remappings). ``lockstep``
    says that each executed command made the world take exactly one step; ``clock`` whether
    messages are dated by their ``header`` or by the ``log`` time of the bag; ``interrupted`` that
    the recorder died, and the end is missing.
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


def layout(robot: RobotConfig) -> dict[str, Any]:
    """What a demonstration and the robot profile that reads it must agree on."""
    return {
        'state': {name: path for topic in robot.state for name, path in topic.fields.items()},
        'command': list(robot.command_names),
        'control_rate': robot.control_rate,
    }


def profile_hash(robot: RobotConfig) -> str:
    """Hash of :func:`layout`, in which the order of names counts."""
    return hashlib.sha256(json.dumps(layout(robot)).encode()).hexdigest()[:16]


def check_profile(folder: Path, metadata: Metadata, robot: RobotConfig) -> None:
    """Check that a demonstration is of this robot.

    :raises DemonstrationError: it is not; the message names what differs.
    """
    if metadata.profile == profile_hash(robot):
        return
    expected = layout(robot)
    key = next((key for key in expected if metadata.spec.get(key) != expected[key]), 'state')
    raise DemonstrationError(
        f'{folder}: was recorded with another robot profile: {key} is {metadata.spec.get(key)}, '
        f"robot '{robot.name}' has {expected[key]}; give the profile that it has (robot:=), "
        'or record it again'
    )


def folders(folder: Path) -> list[Path]:
    """Finished demonstrations in a folder, by name; hidden folders are unfinished ones."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith('.')
    )


def read_metadata(folder: Path) -> Metadata:
    """Parse and check ``demonstration.json``.

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
    kinds = {field.name: field.type for field in fields(Metadata)}
    if not isinstance(raw, dict) or raw.get('schema') != SCHEMA or set(raw) != set(kinds):
        raise DemonstrationError(
            f'{path}: is not metadata of schema {SCHEMA}; add the bag anew with `mbarl demos '
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
    """Write ``demonstration.json`` into a folder, whole or not at all."""
    beside = folder / f'.{METADATA_FILE}.tmp'
    beside.write_text(json.dumps(asdict(metadata), indent=2) + '\n')
    sync(beside)
    beside.rename(folder / METADATA_FILE)


def publish(staged: Path, folder: Path, direction: str) -> Path:
    """Move a finished demonstration to its numbered name in ``folder``; its path there.

    It is on disk before it appears under its name, and never takes the place of another.
    """
    for path in (*staged.iterdir(), staged):
        sync(path)
    while True:
        final = folder / free_name(folder, direction)
        try:
            staged.rename(final)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                continue  # somebody else, who adds to the same folder, was faster
            raise
        sync(folder)
        return final


def free_name(folder: Path, direction: str) -> str:
    """``<direction>_<number>``, one above the highest number there is."""
    pattern = re.compile(rf'{direction}_(\d+)')
    numbers = [int(m[1]) for path in folder.iterdir() if (m := pattern.fullmatch(path.name))]
    return f'{direction}_{max(numbers, default=-1) + 1:03d}'


def sync(path: Path) -> None:
    """Force a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
