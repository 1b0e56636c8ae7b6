"""Files of a run folder: their names, its configuration as used, files of JSON lines."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.files import unwritable, write_file

ARGUMENTS_FILE = 'arguments.json'
SOFTWARE = 'software'
"""Its key that holds the versions that a run was made with."""
EVALUATIONS_FILE = 'evaluations.jsonl'
RESULT_FILE = 'result.json'
HISTORY_FILE = 'history.jsonl'
"""What the nodes reported on /diagnostics, sampled by the monitor."""
RECORDING_FOLDER = 'recording'
"""MCAP files of run_recorder."""
TRACKER_FILE = 'tracker.json'
"""Which run of a tracker this run is, so that a resumed run continues it."""
LOCK_FILE = '.lock'
WEB_URL_FILE = 'web_url'
"""URL of the run's page, with its token: only its owner may read it."""
POLICY_FILE = 'policy.safetensors'
"""The policy message that the learner published last."""
KEPT_POLICY_FILE = 'policy_{}.safetensors'
"""An earlier one, after so many environment steps; :func:`keeps_policy` says which are kept."""
ROBOTS_FILE = 'robots.json'
"""Robot name -> number of the robots of a fleet."""
ROBOTS_FOLDER = 'robots'
"""Has a folder for each robot of a fleet, with its spool."""
TRANSITIONS_FILE = 'transitions.log'
"""All transitions that the learner has acknowledged."""
DEMONSTRATIONS_FILE = 'demonstrations.safetensors'
"""The demonstrations as transitions, so that each process need not decode the bags again."""


# Two paths, whose content is checked, what is only drawn, and the device, on which no file depends.
MAY_DIFFER = ('demonstrations', 'robot', 'show', 'device')


def check_same(
    path: Path,
    config: Mapping[str, Any],
    folder: str,
    remedy: str,
    may_differ: Collection[str] = MAY_DIFFER,
) -> None:
    """Refuse to resume in a folder whose configuration file ``path`` holds other settings.

    A missing file is fine: a start was interrupted before it was written.

    :param may_differ: keys that are not compared
    :raises ConfigError: names ``folder``, the first key that differs, and ``remedy``; or the file,
        if it is damaged.
    """
    if not path.exists():
        return
    before = read_config(path)
    if not before:
        raise ConfigError(
            f'{path}: is empty or damaged; remove this file (the next start writes it again), or '
            'use a new folder'
        )
    # The name first: it is the most telling difference.
    for key in sorted({*before, *config}, key=lambda key: (key != 'name', key)):
        if key not in may_differ and before.get(key) != config.get(key):
            what = f"key '{key}'"
            if key == 'name':
                what += f" '{before.get(key)}' in place of '{config.get(key)}'"
            raise ConfigError(
                f'{folder}: was made with another configuration: {path.name}, {what}; {remedy}'
            )


def keeps_policy(evaluations: int) -> bool:
    """Whether to keep the policy that comes after so many evaluations: 0, 1, 2, 4, 8, ..."""
    return evaluations & (evaluations - 1) == 0


def kept_policies(folder: Path) -> dict[int, Path]:
    """Environment steps -> file of the policies that a run has kept, in the order of steps."""
    pattern = re.compile(KEPT_POLICY_FILE.format(r'(\d+)'))
    found = {int(m[1]): path for path in folder.iterdir() if (m := pattern.fullmatch(path.name))}
    return dict(sorted(found.items()))


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file; empty if the file is missing.

    :param remedy: what to do about a damaged file
    :raises ConfigError: it is damaged, or cannot be read; names file and ``remedy``.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f'{path}: cannot be read: {error.strerror}; {remedy}') from None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ConfigError(f'{path}: is damaged; {remedy}')
    return content


def read_json_lines(
    path: Path, required: Collection[str] = (), *, skip_damaged: bool = False
) -> list[dict[str, Any]]:
    """Records of a file of JSON lines; none if it is missing.

    A last line without line break was torn by a crash and is left out.

    :param required: keys that each record must have
    :param skip_damaged: leave out damaged lines
    :raises ConfigError: a complete line is damaged; names file and line.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    records = []
    for number, line in enumerate(data.split(b'\n')[:-1], 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict) or not record.keys() >= set(required):
            if skip_damaged:
                continue
            raise ConfigError(
                f'{path}: line {number} is damaged; remove this line, or use a new folder'
            )
        records.append(record)
    return records


def read_config(path: Path) -> dict[str, Any]:
    """A configuration file that :func:`write_config` has written; empty if there is none."""
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write a configuration file for :func:`check_same`, atomically.

    :raises ConfigError: it cannot be written.
    """
    write_text(path, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    :raises ConfigError: it cannot be written.
    """
    try:
        write_file(path, text.encode())
    except OSError as error:
        raise unwritable(path, error) from None
