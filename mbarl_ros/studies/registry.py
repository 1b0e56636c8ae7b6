"""The studies by name. A new one is a class and its line here."""

from __future__ import annotations

import importlib

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.studies.study import Study

STUDIES: dict[str, str] = {
    'dyna-maze': 'mbarl_ros.studies.dyna_maze:DynaMaze',
    'offline': 'mbarl_ros.studies.offline:Offline',
    'mpc': 'mbarl_ros.studies.mpc:Mpc',
    'mbmf': 'mbarl_ros.studies.mbmf:Mbmf',
}


def load_study(name: str) -> Study:
    """The study of a name, or of an import path ``package.module:Class``.

    :raises ConfigError: there is no such study, or a package is missing that it needs.
    """
    path = STUDIES.get(name, name)
    module, colon, class_name = path.partition(':')
    if not colon:
        raise ConfigError(
            f"unknown study '{name}'; known: {', '.join(STUDIES)} (or give package.module:Class)"
        )
    try:
        return getattr(importlib.import_module(module), class_name)()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"study '{name}': cannot import {path} ({error}); install the extras with "
            "pip install 'mbarl_ros[sim,studies]' or correct the path"
        ) from error


def import_path(study: Study) -> str:
    """The import path that :func:`load_study` finds a study by."""
    return f'{type(study).__module__}:{type(study).__name__}'
