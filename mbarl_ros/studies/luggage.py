"""What the jobs of a sweep take along to other machines: resolved YAML, demonstrations, modules."""

from __future__ import annotations

import importlib.util
import os
import re
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mbarl_ros.schema.base import Strict
from mbarl_ros.schema.load import load_robot, load_task, search_current_folder
from mbarl_ros.studies.jobs import Luggage
from mbarl_ros.studies.seeds import CONFIGURATION_FILES, SeedRun, load_variant, pseudo_agent

_OUT = 'out'
_OURS = ('mbarl_ros', 'mbarl_sim')
Files = dict[str, bytes | Path]


def seed_luggage(run: SeedRun, argument: Mapping[str, Any], folder: Path) -> Luggage:
    """Luggage of a seed of ``mbarl bench``: no YAML file, preset or demonstration need be there.

    :param argument: of its process here
    :param folder: of the seed here, OUT/TASK/AGENT/seed_S
    :raises ConfigError: task or agent cannot be loaded.
    """
    task, agent = load_task(run.task), load_variant(run.agent)
    demonstrations = run.demonstrations or task.demonstrations
    changes: dict[str, Any] = {'robot': 'robot.yaml'}
    files: Files = {'robot.yaml': _yaml(load_robot(task.robot))}
    there = {'out': _OUT, 'task': 'task.yaml', 'agent': run.agent, 'demonstrations': ''}
    if demonstrations:
        changes['demonstrations'] = 'demonstrations'
        files |= folder_files(Path(demonstrations).expanduser(), 'demonstrations')
    if pseudo_agent(agent) is None:
        there['agent'] = 'agent.yaml'
        files['agent.yaml'] = _yaml(agent)
    files['task.yaml'] = _yaml(task.model_copy(update=changes))
    files |= named_files([task.world, task.world_options])
    return Luggage(
        {**argument, **there},
        files,
        str(Path(_OUT, *folder.parts[-3:])),
        CONFIGURATION_FILES,
    )


def folder_files(folder: Path, there: str) -> dict[str, Path]:
    """All files of a folder, by their path below folder ``there``; not hidden ones."""
    return {
        str(there / path.relative_to(folder)): path
        for path in sorted(folder.rglob('*'))
        if path.is_file() and not path.name.startswith('.') and path.parent.name != '__pycache__'
    }


def named_files(value: Any) -> Files:
    """Modules (``module:NAME``) and files that any text in ``value`` names.

    Modules are sent where they are the user's own, not installed: the package, or the module and
    those beside it. Files are sent by the path they are named by, where it is relative and goes
    down; an absolute path must be the same there.
    """
    files: Files = {}
    for text in _texts(value):
        if named := re.match(r'([A-Za-z_]\w*(?:\.\w+)*):', text):
            files |= _module_files(named[1])
        elif _below(path := Path(text)) and os.path.isfile(path):  # also of what can be no path
            files[str(path)] = path
    return files


def _below(path: Path) -> bool:
    return not path.is_absolute() and '..' not in path.parts


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _module_files(module: str) -> dict[str, Path]:
    """Files of a module, or of its package, of the user's own; none if it is installed."""
    search_current_folder()
    name = module.partition('.')[0]
    spec = None if name in _OURS else importlib.util.find_spec(name)
    if spec is None or spec.origin in ('built-in', 'frozen'):
        return {}
    folders = list(spec.submodule_search_locations or [])
    if spec.origin is None and (module == name or importlib.util.find_spec(module) is None):
        return {}  # any folder is a package without __init__.py: this one has not that module
    path = Path(spec.origin or Path(folders[0], '__init__.py')).resolve()
    installed = (sysconfig.get_path(kind) for kind in ('purelib', 'platlib', 'stdlib'))
    if any(path.is_relative_to(Path(folder).resolve()) for folder in installed):
        return {}
    if folders:
        return folder_files(path.parent, name)
    return {beside.name: beside for beside in sorted(path.parent.glob('*.py'))}


def _yaml(config: Strict) -> bytes:
    # In its order: that of fields is part of what a demonstration was recorded with.
    raw = config.model_dump(mode='json')
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True).encode()
