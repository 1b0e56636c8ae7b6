"""Finds and loads the robot, task and agent YAML files.

A mistake is one sentence that names the file and the key, raised as
:class:`~mbarl_ros.schema.base.ConfigError` before anything starts.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.schema.base import ConfigError, OldKeyError, Strict
from mbarl_ros.schema.robot import RobotConfig
from mbarl_ros.schema.task import TaskConfig

Config = TypeVar('Config', bound=Strict)
_KINDS = {list: 'list', int: 'number', float: 'number', str: 'text'}


def config_dir() -> Path:
    """Folder of the shipped YAML: MBARL_CONFIG_DIR, the source tree or the installed share/."""
    override = os.environ.get('MBARL_CONFIG_DIR')
    if override:
        return Path(override)
    here = Path(__file__).resolve().parent.parent
    candidates = [
        here.parent / 'config',
        *(parent / 'share' / 'mbarl_ros' / 'config' for parent in here.parents),
    ]
    for candidate in candidates:
        if (candidate / 'tasks').is_dir():
            return candidate
    raise ConfigError(
        f'config/ of mbarl_ros not found beside {here}; reinstall the package or set '
        'MBARL_CONFIG_DIR'
    )


def available(kind: str) -> list[str]:
    """Names of the shipped files of one kind: ``robots``, ``tasks`` or ``agents``."""
    return sorted(path.stem for path in (config_dir() / kind).glob('*.yaml'))


def is_path(name: str) -> bool:
    """Whether a robot, task or agent is named by the path of its file, not by a shipped name."""
    return name.endswith(('.yaml', '.yml'))


def find(kind: str, name: str) -> Path:
    """Path of a shipped file by name, or of a user's own file by path.

    :raises ConfigError: there is no such file; the message lists the shipped names.
    """
    if is_path(name):
        path = Path(name).expanduser()
        if not path.is_file():
            raise ConfigError(f'{path}: no such file')
        return path
    path = config_dir() / kind / f'{name}.yaml'
    if not path.is_file():
        raise ConfigError(
            f"unknown {kind[:-1]} '{name}'; known: {', '.join(available(kind))} "
            f'(or give the path of a .yaml file)'
        )
    return path


def load_robot(name: str) -> RobotConfig:
    """Load a robot profile by name or path."""
    return _load(RobotConfig, find('robots', name))


def load_task(name: str) -> TaskConfig:
    """Load a task by name or path.

    ``robot``, where it is a path, and ``demonstrations`` are relative to the task file and become
    absolute.
    """
    path = find('tasks', name)
    task = _load(TaskConfig, path)

    def absolute(relative: str) -> str:
        return str((path.parent / Path(relative).expanduser()).resolve())

    changes = {}
    if is_path(task.robot):
        changes['robot'] = absolute(task.robot)
    if task.demonstrations is not None:
        changes['demonstrations'] = absolute(task.demonstrations)
    return task.model_copy(update=changes)


def load_agent(name: str) -> AgentConfig:
    """Load an agent preset by name or path."""
    return _load(AgentConfig, find('agents', name))


def override(config: Config, changes: Mapping[str, Any], what: str) -> Config:
    """Copy of a configuration with keys, dotted like ``sac.batch_size``, set to other values.

    :raises ConfigError: ``what``, the key and what is wrong with it.
    """
    raw = config.model_dump()
    for key, value in changes.items():
        *path, last = key.split('.')
        inner = raw
        for name in path:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{what}: key '{key}': '{name}' is {inner!r} and has no keys")
        inner[last] = value
    try:
        return type(config).model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f'{what}: {_sentence(error)}') from None


def load_world(task: TaskConfig, **options: Any) -> Any:
    """Construct the world that a task names by import path (``package.module:Class``)."""
    if task.world is None:
        raise ConfigError(f"task '{task.name}': key 'world' is not set; it cannot be simulated")
    module, _, name = task.world.partition(':')
    try:
        return getattr(importlib.import_module(module), name)(**options)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"task '{task.name}': key 'world': cannot import {task.world} ({error}); "
            "install the extra with pip install 'mbarl_ros[sim]' or correct the path"
        ) from error


def _load(model: type[Config], path: Path) -> Config:
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f'{path}: cannot be read as YAML: {error}') from error
    if not isinstance(raw, dict):
        content = 'is empty' if raw is None else f'is a {_KINDS.get(type(raw), "single value")}'
        keys = [key for key, field in model.model_fields.items() if field.is_required()]
        raise ConfigError(f'{path}: {content}; it needs at least the keys {", ".join(keys)}')
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f'{path}: {_sentence(error)}') from None


def _sentence(error: ValidationError) -> str:
    parts = []
    for item in error.errors():
        location = [str(part) for part in item['loc']]
        cause = item.get('ctx', {}).get('error')
        if isinstance(cause, OldKeyError):
            parts.append(f"key '{'.'.join([*location, cause.key])}' {cause.remedy}")
            continue
        key = '.'.join(location)
        message = item['msg'].removeprefix('Value error, ')
        if item['type'] == 'extra_forbidden':
            message = 'unknown key'
        elif item['type'] == 'missing':
            message = 'is missing'
        parts.append(f"key '{key}': {message}" if key else message)
    return '; '.join(parts)
