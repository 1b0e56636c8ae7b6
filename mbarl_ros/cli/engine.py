"""Arguments of ``mbarl bench``, ``mbarl study`` and ``mbarl tune`` that say where jobs run."""

from __future__ import annotations

import argparse

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.studies.jobs import Engine
from mbarl_ros.studies.local_engine import LocalEngine

_OF_RAY = ('address', 'cpus', 'memory', 'gpus')


def positive(text: str) -> int:
    """A whole number above 0."""
    number = int(text) if text.strip().isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f'{text} is not a whole number above 0')
    return number


def _amount(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float('inf'):
        raise argparse.ArgumentTypeError(f'{text} is not a number from 0 on')
    return number


def add_engine(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the arguments.

    :param what: what one job is, in the plural
    """
    parser.add_argument(
        '--jobs',
        type=positive,
        help=f'{what} at a time; default: the number of cores, or what the Ray cluster holds',
    )
    group = parser.add_argument_group('engine', f'Where {what} run. Results do not depend on it.')
    group.add_argument(
        '--engine',
        choices=('local', 'ray'),
        default='local',
        help='local: processes of this machine; ray: tasks of a Ray cluster (default: local)',
    )
    group.add_argument(
        '--address',
        help='Ray: auto, local or HOST:PORT; default: RAY_ADDRESS, or one that is started on this '
        'machine and ends with the command',
    )
    for name, default, unit in (('cpus', 1, 'cores'), ('memory', 1, 'GiB'), ('gpus', 0, 'GPUs')):
        group.add_argument(
            f'--{name}', type=_amount, help=f'Ray: {unit} for each (default: {default})'
        )


def engine(options: argparse.Namespace) -> Engine:
    """The engine that the arguments name.

    :raises ConfigError: an argument of Ray for the local engine; Ray is not installed.
    """
    given = {name: value for name in _OF_RAY if (value := getattr(options, name)) is not None}
    if options.engine == 'local':
        if given:
            raise ConfigError(f'--{next(iter(given))} is for --engine ray; add it or leave it out')
        return LocalEngine(options.jobs or 0)
    from mbarl_ros.studies.ray_engine import RayEngine, Request

    return RayEngine(given.pop('address', ''), Request(**given), options.jobs or 0)
