"""A ROS domain of its own for each simulated run on a machine, so that runs do not mix.

Two graphs in one domain hear each other's commands: the second simulation would drive the first,
or a robot. Domains are taken by lock files under the temporary folder; domains in which somebody
else's ROS 2 already listens are passed over.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.environment import DISCOVERY_RANGE
from mbarl_ros.storage.files import lock_file

DOMAINS = range(20, 100)
"""Candidates; 101 is the last whose UDP ports stay below Linux's ephemeral ports."""


def take_domain(environ: Mapping[str, str], namespace: str) -> tuple[int, IO[str]]:
    """Domain id and the open file that locks it; ``ROS_DOMAIN_ID`` wins where it is set.

    :raises ConfigError: the domain that was asked for holds a run with the same namespace, or
        none is free.
    """
    wanted = environ.get('ROS_DOMAIN_ID', '').strip()
    if wanted:
        if not wanted.isdigit() or int(wanted) > 232:
            raise ConfigError(f"ROS_DOMAIN_ID must be a number from 0 to 232, got '{wanted}'")
        message = (
            f'ROS_DOMAIN_ID={wanted}: another mbarl run uses this domain and namespace '
            f"'/{namespace.strip('/')}'; unset it, choose another, or give namespace:=NAME"
        )
        return int(wanted), lock_file(_lock_path(int(wanted), namespace), message)
    for domain in DOMAINS:
        if not _silent(domain):
            continue
        try:
            return domain, lock_file(_lock_path(domain, ''), 'taken')
        except ConfigError:
            continue
    raise ConfigError(
        f'no free ROS domain between {DOMAINS[0]} and {DOMAINS[-1]}; set ROS_DOMAIN_ID'
    )


def running_domains() -> list[int]:
    """Domains in which a graph of this user's ``mbarl up`` is running on this machine."""
    found = set()
    for path in _lock_path(0, '').parent.glob('domain-*.lock'):
        try:
            lock_file(path, 'taken').close()
        except ConfigError:
            found.add(int(path.name.split('-')[1].split('.')[0]))
    return sorted(found)


def enter_domain(domain: int | None) -> None:
    """Put this process into the ROS domain of the running graph, on this machine.

    What ``domain`` or the environment say wins; else it is that of the one graph which runs.

    :raises ConfigError: several run, so nobody knows which is meant.
    """
    if domain is None and 'ROS_DOMAIN_ID' not in os.environ:
        running = running_domains()
        if len(running) > 1:
            known = ', '.join(map(str, running))
            raise ConfigError(f'graphs run in the domains {known}; give --domain')
        domain = next(iter(running), None)
    if domain is not None:
        os.environ['ROS_DOMAIN_ID'] = str(domain)
    os.environ.setdefault(DISCOVERY_RANGE, 'LOCALHOST')


def _lock_path(domain: int, namespace: str) -> Path:
    folder = Path(tempfile.gettempdir()) / f'mbarl-{os.getuid()}'
    folder.mkdir(mode=0o700, exist_ok=True)
    name = namespace.strip('/').replace('/', '.')
    return folder / (f'domain-{domain}.{name}.lock' if name else f'domain-{domain}.lock')


def _silent(domain: int) -> bool:
    """Whether no first participant listens: its metatraffic port, as DDS-RTPS computes it."""
    port = 7400 + 250 * domain + 10
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(('', port))
        except OSError:
            return False
    return True
