"""Writes the files of ``mbarl robot new``."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from mbarl_ros.nodes.support.new_robot import plan
from mbarl_ros.nodes.support.profile_plan import Wishes
from mbarl_ros.nodes.support.profile_writer import profile_text
from mbarl_ros.nodes.support.robot_discovery import Surroundings
from mbarl_ros.nodes.support.task_writer import task_text
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import load_robot
from mbarl_ros.storage.files import unwritable, write_file
from mbarl_ros.task import Task

_NAME = 'my_robot'


def write_files(folder: Path, name: str, found: Surroundings, wishes: Wishes) -> tuple[Path, Path]:
    """Write a robot profile and a task into a folder; their paths.

    :param name: of the robot; empty: that of its description
    :raises ConfigError: a file exists or cannot be written, or as :func:`new_robot.plan` says.
    """
    described = found.description.name if found.description else ''
    name = name or re.sub(r'\W+', '_', described).strip('_0123456789') or _NAME
    robot, task = folder / f'{name}.yaml', folder / f'{name}_task.yaml'
    for path in (robot, task):
        if path.exists():
            raise ConfigError(f'{path}: exists already; give another name, or move it away')
    planned = plan(found, wishes)
    texts = {robot: profile_text(name, planned)}
    with TemporaryDirectory() as scratch:  # what does not load is not written
        tried = Path(scratch) / robot.name
        tried.write_text(texts[robot])
        profile = load_robot(str(tried))
        texts[task] = task_text(f'{name}_task', profile, robot.name, planned.values)
        tried.with_name(task.name).write_text(texts[task])
        Task.load(str(tried.with_name(task.name)))
    for path, text in texts.items():
        _write(path, text)
    return robot, task


def _write(path: Path, text: str) -> None:
    try:
        write_file(path, text.encode())
    except OSError as error:
        raise unwritable(path, error) from error
