"""What the graphs ``evaluate`` and ``replay`` start from: a policy, a demonstration."""

from __future__ import annotations

from pathlib import Path

from mbarl_ros.bringup.arguments import Value
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.run_files import POLICY_FILE


def resolve_policy(values: dict[str, Value]) -> None:
    """Make ``policy`` a file; unset ``task``, ``agent`` and ``robot`` become those beside it.

    :raises ConfigError: no policy, or nothing that says its task and agent.
    """
    if not values['policy']:
        raise ConfigError("argument 'policy' is required: a run folder, like policy:=runs/NAME")
    path = Path(str(values['policy'])).expanduser().absolute()
    if path.is_dir():
        path = path / POLICY_FILE
    if not path.is_file():
        raise ConfigError(f'{path}: no such file; a run writes it after its first policy update')
    values['policy'] = str(path)
    for key in ('task', 'agent', 'robot'):  # a run folder holds the configuration as used
        used = path.parent / f'{key}.yaml'
        if not values[key]:
            if not used.is_file() and key != 'robot':
                raise ConfigError(f"argument '{key}' is required: there is no {used}")
            values[key] = str(used) if used.is_file() else ''


def resolve_demo(values: dict[str, Value]) -> None:
    """Set lockstep mode, and the task of the demonstration unless a task is given.

    :raises ConfigError: no demonstration, or one that cannot be read.
    """
    values['mode'] = 'lockstep'
    if not values['demo']:
        raise ConfigError("argument 'demo' is required: a demonstration or a folder of them")
    path = Path(str(values['demo'])).expanduser().absolute()
    values['demo'] = str(path)
    if values['task']:
        return
    from mbarl_ros.demos.metadata import METADATA_FILE, DemonstrationError, folders, task_and_robot

    demonstrations = [path] if (path / METADATA_FILE).exists() else folders(path)
    if not demonstrations:
        raise ConfigError(f'{path}: no demonstration in this folder')
    try:
        values['task'], robot = task_and_robot(demonstrations[0])
        values['robot'] = values['robot'] or robot
    except DemonstrationError as error:
        raise ConfigError(str(error)) from None
