"""Finds and loads the robot, task and agent YAML files.

A mistake is one sentence that names the file and the key, raised as
:class:`~mbarl_ros.schema.base.ConfigError` before anything starts.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.schema.base import ConfigError, OldKeyError, SimulatorError, Strict
from mbarl_ros.schema.model import DEMONSTRATED_STARTS
from mbarl_ros.schema.profile_check import check_messages
from mbarl_ros.schema.robot import RobotConfig
from mbarl_ros.schema.task import TaskConfig

Config = TypeVar('Config', bound=Strict)
TASK_SOURCES = 'mbarl_ros.task_sources'
"""Entry-point group: SCHEME -> function that makes tasks ``SCHEME:TEXT`` (:func:`generated`)."""
RECORDINGS = 'my_demos'
"""Folder in the working directory for demonstrations of tasks that have no folder of their own."""
_FORMS = {'world': 'package.module:Class', 'reward': 'success or topic:NAME'}
_KINDS = {list: 'list', int: 'number', float: 'number', str: 'text'}


def config_dir() -> Path:
    """Folder of the shipped YAML: MBARL_CONFIG_DIR, the source tree or the installed share/."""
    override = os.environ.get('MBARL_CONFIG_DIR')
    return Path(override) if override else _shipped() / 'config'


def _shipped() -> Path:
    """Folder of the files that come with the package: the source tree or the installed share/."""
    here = Path(__file__).resolve().parent.parent
    for folder in (here.parent, *(parent / 'share' / 'mbarl_ros' for parent in here.parents)):
        if (folder / 'config' / 'tasks').is_dir():
            return folder
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


def is_generated(name: str) -> bool:
    """Whether a task or robot has no file, but is made by its name ``SCHEME:TEXT``."""
    return re.match(r'\w+:.', name) is not None and not is_path(name)


@functools.cache
def generated(name: str) -> tuple[TaskConfig, RobotConfig]:
    """Task and robot profile that an installed package makes from a name ``SCHEME:TEXT``.

    The package declares the entry point SCHEME in the group :data:`TASK_SOURCES`: a function of
    TEXT that returns task and robot profile as the YAML files would hold them.

    :raises ConfigError: unknown scheme; a package that is missing; what the function refuses.
    """
    scheme, _, text = name.partition(':')
    sources = {source.name: source for source in entry_points(group=TASK_SOURCES)}
    if scheme not in sources:
        raise ConfigError(
            f"unknown task '{name}': nothing makes tasks of '{scheme}:'; known: "
            f'{", ".join(sorted(sources)) or "none (reinstall the package)"}'
        )
    try:
        source = sources[scheme].load()
    except ImportError as error:
        raise ConfigError(
            f"task '{name}': {error}; install the extra with pip install 'mbarl_ros[sim]'"
        ) from error
    task, robot = source(text)
    return _validate(TaskConfig, task, name), _validate(RobotConfig, robot, name)


def search_current_folder() -> None:
    """Let imports find modules in the current folder, which an installed command does not do."""
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that it cannot hide what is installed


def import_module(name: str) -> Any:
    """Import a module; where it is not installed, from the current folder.

    :raises ConfigError: it cannot be imported.
    """
    search_current_folder()
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f'cannot import {name} ({error}); install it, add its folder to PYTHONPATH, or start '
            'in that folder'
        ) from error


def import_object(path: str) -> Any:
    """Import what a path ``package.module:name`` names.

    :raises ConfigError: it cannot be imported.
    """
    module, _, name = path.partition(':')
    try:
        return getattr(import_module(module), name)
    except AttributeError as error:
        raise ConfigError(f'cannot import {path} ({error}); correct the path') from error


def load_robot(name: str) -> RobotConfig:
    """Load a robot profile by name or path."""
    if is_generated(name):
        return generated(name)[1]
    path = find('robots', name)
    robot = _load(RobotConfig, path)
    try:
        check_messages(robot)
    except ConfigError as error:
        raise ConfigError(f'{path}: {error}') from None
    return robot


def load_task(name: str) -> TaskConfig:
    """Load a task by name or path.

    ``robot``, where it is a path, and ``demonstrations`` are relative to the task file and become
    absolute.
    """
    if is_generated(name):
        return generated(name)[0]
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


def recording_folder(task: TaskConfig, given: str = '') -> Path:
    """Folder, absolute, to which demonstrations of a task are added.

    ``given``, or the task's own, or ``my_demos/TASK`` in the working directory where the task has
    none, or one that comes with the package.

    :raises ConfigError: ``given`` comes with the package.
    """
    if given:
        path = Path(given).expanduser().absolute()
        if _is_shipped(path):
            raise ConfigError(
                f'{path}: demonstrations that come with the package are not added to; give another '
                f'folder, such as {RECORDINGS}'
            )
        return path
    if task.demonstrations and not _is_shipped(Path(task.demonstrations)):
        return Path(task.demonstrations).expanduser().absolute()
    return Path(RECORDINGS, task.name).absolute()


def how_to_record(name: str, task: TaskConfig, folder: Path) -> str:
    """Says how to record what ``folder`` lacks for a task that ``name`` names."""
    if _is_shipped(folder):
        recorded = f'{RECORDINGS}/{task.name}'
        return f'record some with `mbarl up record task:={name}`, and give demos:={recorded}'
    return f'record some with `mbarl up record task:={name} demos:={folder}`'


def _is_shipped(path: Path) -> bool:
    return path.resolve().is_relative_to((_shipped() / 'demos').resolve())


def load_agent(name: str) -> AgentConfig:
    """Load an agent preset by name or path."""
    return _load(AgentConfig, find('agents', name))


def without_demonstrations(agent: AgentConfig, task: TaskConfig) -> AgentConfig:
    """The agent with the share of demonstrations, and of rollouts that need them, set to 0.

    :raises ConfigError: it cannot learn without; the message lists the presets that can.
    """
    if agent.needs_demonstrations:
        others = [load_agent(name) for name in available('agents')]
        able = [other.name for other in others if not other.needs_demonstrations]
        raise ConfigError(
            f"agent '{agent.name}' learns from demonstrations; task '{task.name}' has none: set "
            "its key 'demonstrations' or give a folder of them, or use a preset that does without "
            f'({", ".join(able)})'
        )
    changes: dict[str, Any] = {'demonstration_fraction': 0.0}
    if agent.model:
        kinds = agent.model.start_weights
        weights = {kind: kinds[kind] for kind in kinds if kind not in DEMONSTRATED_STARTS}
        weights = weights if sum(weights.values()) else {'replay': 1.0}
        changes['model'] = agent.model.model_copy(update={'start_weights': weights})
    return agent.model_copy(update=changes)


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
    """Construct the world that a task names by import path (``package.module:Class``).

    :param options: arguments beside ``world_options`` of the task
    :raises ConfigError: it cannot be imported, does not take these arguments, or fails.
    """
    if task.world is None:
        raise ConfigError(f"task '{task.name}': key 'world' is not set; it cannot be simulated")
    try:
        world = import_object(task.world)
    except ConfigError as error:
        raise ConfigError(
            f"task '{task.name}': key 'world': {error}, or install the extra with pip install "
            "'mbarl_ros[sim]'"
        ) from error
    try:
        inspect.signature(world).bind(**task.world_options, **options)
    except TypeError as error:
        raise ConfigError(
            f"task '{task.name}': key 'world_options': {task.world}: {error}"
        ) from None
    try:
        return world(**task.world_options, **options)
    except ConfigError:
        raise
    except Exception as error:  # of anybody's class
        raise ConfigError(
            f"task '{task.name}': key 'world': {task.world} cannot be made: {_what_failed(error)}"
        ) from error


def _what_failed(error: Exception) -> str:
    """What an exception says, and the line that failed, unless the code refused by itself."""
    said = str(error) or type(error).__name__
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, SimulatorError) or (frame.line or '').startswith('raise'):
        return said
    return f'{said} ({frame.filename}, line {frame.lineno}: {frame.line})'


def _load(model: type[Config], path: Path) -> Config:
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f'{path}: cannot be read as YAML: {error}') from error
    if not isinstance(raw, dict):
        content = 'is empty' if raw is None else f'is a {_KINDS.get(type(raw), "single value")}'
        keys = [key for key, field in model.model_fields.items() if field.is_required()]
        raise ConfigError(f'{path}: {content}; it needs at least the keys {", ".join(keys)}')
    return _validate(model, raw, str(path))


def _validate(model: type[Config], raw: Any, what: str) -> Config:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f'{what}: {_sentence(error)}') from None


def _form(key: str, given: str, pattern: str) -> str:
    """What is wrong with a text that a pattern refuses; nobody wants to read the pattern itself."""
    interface = re.search('/(msg|srv|action)/', pattern)
    if interface is None:
        return f"'{given}' must have the form {_FORMS.get(key, pattern)}"
    kind = interface[1]
    package, *names = [word for word in re.findall(r'\w+', given) if word != kind] or ['']
    remedy = f'{package}/{kind}/{names[0]}' if len(names) == 1 else 'see `ros2 topic list -t`'
    return f"'{given}' is no type; write package/{kind}/Name: {remedy}"


def _sentence(error: ValidationError) -> str:
    parts = []
    for item in error.errors():
        # '(action)' is no key but tells which kind of command entry was checked.
        location = [str(part) for part in item['loc'] if not str(part).startswith('(')]
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
        elif item['type'] == 'string_pattern_mismatch':
            message = _form(location[0], item['input'], item['ctx']['pattern'])
        parts.append(f"key '{key}': {message}" if key else message)
    return '; '.join(parts)
