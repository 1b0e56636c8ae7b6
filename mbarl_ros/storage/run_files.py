"""Names of the files in a run folder, and its configuration as used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.files import unwritable, write_file

ARGUMENTS_FILE = 'arguments.json'
EVALUATIONS_FILE = 'evaluations.jsonl'
RESULT_FILE = 'result.json'
LOCK_FILE = '.lock'
POLICY_FILE = 'policy.safetensors'
"""The policy message that the learner published last."""
TRANSITIONS_FILE = 'transitions.log'
"""Every transition that the learner has acknowledged."""


def check_same(path: Path, config: Mapping[str, Any], folder: str, remedy: str) -> None:
    """Refuse to go on in a folder whose configuration file ``path`` holds other settings.

    :raises ConfigError: ``folder``, the first key that differs, and ``remedy``.
    """
    try:
        before = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        return  # an interrupted start; it is written again
    # The name first: it says most.
    for key in sorted({*before, *config}, key=lambda key: (key != 'name', key)):
        # Where demonstrations lie may change; who they are, the demonstration reader checks.
        if key != 'demonstrations' and before.get(key) != config.get(key):
            what = f"key '{key}'"
            if key == 'name':
                what += f" '{before.get(key)}' in place of '{config.get(key)}'"
            raise ConfigError(
                f'{folder}: was made with another configuration: {path.name}, {what}; {remedy}'
            )


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write a configuration file that :func:`check_same` reads, whole or not at all.

    :raises ConfigError: it cannot be written.
    """
    write_text(path, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    :raises ConfigError: it cannot be written.
    """
    try:
        write_file(path, text.encode())
    except OSError as error:
        raise unwritable(path, error) from None
