"""Typed, validated schema of the robot, task and agent YAML files.

Every node loads its configuration through :func:`load_robot`, :func:`load_task` and
:func:`load_agent`; a mistake is one sentence that names the file and the key, raised as
:class:`ConfigError` before anything starts.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from mbarl_ros.agent_config import AgentConfig
from mbarl_ros.robot_config import (
    ConfigError,
    RobotConfig,
    Strict,
    check_known,
    check_unique,
)

# --- task ------------------------------------------------------------------------------------


class Entry(Strict):
    """One entry of the observation or action vector and the range that is scaled to [-1, 1].

    ``binary`` says that the entry takes only the values ``low`` and ``high`` (a contact, a grasp).
    Entries with the same ``axis`` are positions along one line in one frame: networks also see
    their differences (where the gripper is, seen from the mug), the goal's included.
    """

    name: str
    low: float
    high: float
    binary: bool = False
    axis: str | None = None

    @model_validator(mode='after')
    def _ordered(self) -> Entry:
        if not self.low < self.high:
            raise ValueError(f'{self.name}: low ({self.low}) must be less than high ({self.high})')
        return self


class Success(Strict):
    """Success: the Euclidean distance of ``entries`` to ``target`` is at most ``tolerance``.

    Without ``target`` the distance is taken to the goal part of the observation.
    """

    entries: list[str] = Field(min_length=1)
    target: list[float] | None = None
    tolerance: float = Field(gt=0)


class Phases(Strict):
    """Step limits of the forward and the backward phase."""

    forward_limit: int = Field(gt=0)
    backward_limit: int = Field(gt=0)

    @property
    def limits(self) -> tuple[int, int, int]:
        """Of the forward, backward and exploration phase; exploration lasts as long as forward."""
        return self.forward_limit, self.backward_limit, self.forward_limit


class Wide(Strict):
    """Evaluation from starts all over the place, every so many environment steps.

    Observation entries in ``ranges`` start uniformly in them, all others as the world places them.
    """

    episodes: int = Field(gt=0)
    every: int = Field(gt=0)
    ranges: dict[str, tuple[float, float]] = Field(min_length=1)

    @field_validator('ranges')
    @classmethod
    def _ordered(cls, ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for name, (low, high) in ranges.items():
            if not low < high:
                raise ValueError(f'{name}: low ({low}) must be less than high ({high})')
        return ranges


class Evaluation(Strict):
    """The deployed protocol and the end of a run; ``every`` and ``budget`` in environment steps."""

    episodes: int = Field(default=50, gt=0)
    horizon: int = Field(gt=0)
    every: int = Field(gt=0)
    target: float = Field(default=0.9, gt=0, le=1)
    budget: int = Field(gt=0)
    wide: Wide | None = None


class TaskConfig(Strict):
    """A task: observation and action layout, goals, reward and success, phase limits."""

    name: str
    description: str = ''
    robot: str
    world: str | None = Field(default=None, pattern=r'^[\w.]+:\w+$')
    observation: list[Entry] = Field(min_length=1)
    action: list[Entry] = Field(min_length=1)
    goals: list[list[float]] = Field(default=[])
    success: Success
    reward: Literal['success'] | str = Field(default='success', pattern=r'^(success|topic:.+)$')
    phases: Phases
    evaluation: Evaluation
    demonstrations: str | None = None

    @model_validator(mode='after')
    def _consistent(self) -> TaskConfig:
        names = [entry.name for entry in self.observation]
        check_unique('action', [entry.name for entry in self.action])
        check_known('success.entries', self.success.entries, 'observation', names)
        if self.success.target is None and not self.goals:
            raise ValueError('success.target: is needed where the task has no goals')
        if self.success.target is not None and len(self.success.target) != len(
            self.success.entries
        ):
            raise ValueError('success.target: needs one number for each of success.entries')
        if self.evaluation.wide:
            check_known('evaluation.wide.ranges', self.evaluation.wide.ranges, 'observation', names)
        for goal in self.goals:
            if len(goal) != len(self.observation):
                raise ValueError(
                    f'goals: each needs {len(self.observation)} numbers (one for each '
                    f'observation entry), got {len(goal)}'
                )
        return self


# --- loading ---------------------------------------------------------------------------------

Config = TypeVar('Config', bound=Strict)


def config_dir() -> Path:
    """Folder of the shipped YAML: MBARL_CONFIG_DIR, the source tree or the installed share/."""
    override = os.environ.get('MBARL_CONFIG_DIR')
    if override:
        return Path(override)
    here = Path(__file__).resolve().parent
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


def find(kind: str, name: str) -> Path:
    """Path of a shipped file by name, or of a user's own file by path."""
    path = Path(name).expanduser()
    if path.suffix in ('.yaml', '.yml'):
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
    """Load a task by name or path; ``demonstrations`` becomes an absolute path."""
    path = find('tasks', name)
    task = _load(TaskConfig, path)
    if task.demonstrations is None:
        return task
    return task.model_copy(
        update={'demonstrations': str((path.parent / task.demonstrations).resolve())}
    )


def load_agent(name: str) -> AgentConfig:
    """Load an agent preset by name or path."""
    return _load(AgentConfig, find('agents', name))


def override(config: Config, changes: Mapping[str, Any], what: str) -> Config:
    """Copy of a configuration with keys, dotted like ``sac.batch``, set to other values.

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
        raise ConfigError(f'{path}: must hold keys and values, got {type(raw).__name__}')
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f'{path}: {_sentence(error)}') from None


def _sentence(error: ValidationError) -> str:
    parts = []
    for item in error.errors():
        key = '.'.join(str(part) for part in item['loc'])
        message = item['msg'].removeprefix('Value error, ')
        if item['type'] == 'extra_forbidden':
            message = 'unknown key'
        elif item['type'] == 'missing':
            message = 'is missing'
        parts.append(f"key '{key}': {message}" if key else message)
    return '; '.join(parts)
