"""A ROS domain for each simulated run on a machine, so that runs do not mix.

Two graphs in one domain receive each other's commands: the second simulation would drive the first
one, or a robot. A domain is reserved by a lock file in the temporary folder. Domains in which a
ROS 2 of somebody else already listens are skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO

from mbarl_ros.bringup.hosts import ALL, OTHER
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.environment import DISCOVERY_RANGE, DISCOVERY_SERVER, SUPER_CLIENT
from mbarl_ros.storage.files import lock_file

DOMAINS = range(20, 100)
"""Candidates; 101 is the last whose UDP ports stay below Linux's ephemeral ports."""
_MAX_DOMAIN = 232


class DomainLock:
    """The locks of a run's namespaces in its domain, until it is closed."""

    def __init__(self) -> None:
        """Start without any."""
        self.files: list[IO[str]] = []

    def keep_network(self, network: Mapping[str, str]) -> None:
        """Write down where a graph of two hosts looks for nodes, for :func:`enter_domain`.

        :param network: of :func:`mbarl_ros.bringup.hosts.network`
        """
        with contextlib.suppress(OSError):  # a full disk: other commands look at this machine only
            for file in self.files:
                os.write(file.fileno(), f'{json.dumps(dict(network))}\n'.encode())

    def close(self) -> None:
        """Let other runs have them."""
        for file in self.files:
            file.close()

    def __enter__(self) -> DomainLock:
        """Hold them for a ``with`` block."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close."""
        self.close()


def take_domain(
    environ: Mapping[str, str], *namespaces: str, host: str = ALL
) -> tuple[int, DomainLock]:
    """Reserve ``ROS_DOMAIN_ID`` where it is set, else a free domain.

    :param namespaces: all in which the run has nodes
    :param host: which side of the graph the run is
    :returns: domain id, and what locks it
    :raises ConfigError: ``ROS_DOMAIN_ID`` is no domain id, a run with one of the namespaces uses
        that domain, or none is free.
    """
    requested = environ.get('ROS_DOMAIN_ID', '').strip()
    if requested:
        if not requested.isdigit() or int(requested) > _MAX_DOMAIN:
            raise ConfigError(
                f"ROS_DOMAIN_ID must be a number from 0 to {_MAX_DOMAIN}, got '{requested}'"
            )
        return int(requested), _lock_namespaces(int(requested), namespaces, host)
    for domain in DOMAINS:
        if not _is_unused(domain):
            continue
        try:
            return domain, _lock_namespaces(domain, {'', *namespaces}, host)
        except ConfigError:
            continue
    raise ConfigError(
        f'no free ROS domain between {DOMAINS[0]} and {DOMAINS[-1]}; set ROS_DOMAIN_ID'
    )


def _lock_namespaces(domain: int, namespaces: Collection[str], host: str) -> DomainLock:
    """Lock namespaces of a domain, all or none.

    :raises ConfigError: another run has one of them.
    """
    remedy = 'stop it, choose another domain, or give namespace:=NAME'
    if host != ALL:
        remedy = (
            f'if it is host:={OTHER[host]} of this run, stop it and leave host:= out: one computer '
            'has both sides; else stop it, or choose another domain or namespace:=NAME for both '
            'sides'
        )
    lock = DomainLock()
    try:
        for namespace in sorted({name.strip('/') for name in namespaces}):
            message = (
                f'ROS_DOMAIN_ID={domain}: another mbarl run uses this domain and namespace '
                f"'/{namespace}'; {remedy}"
            )
            lock.files.append(lock_file(_lock_path(domain, namespace), message))
    except (ConfigError, OSError):
        lock.close()
        raise
    return lock


def running_domains() -> list[int]:
    """Domains in which a graph of this user's ``mbarl up`` is running on this machine."""
    return sorted({domain for domain, _ in _running()})


def _running() -> Iterator[tuple[int, Path]]:
    """Domains of running graphs, and their locks."""
    for path in _lock_path(0, '').parent.glob('domain-*.lock'):
        try:
            lock_file(path, 'in use').close()
        except ConfigError:
            yield int(path.name.split('-')[1].split('.')[0]), path


def enter_domain(domain: int | None) -> None:
    """Put this process into the ROS domain of the running graph, limited to this machine.

    ``domain`` wins, then the environment, then the domain of the only running graph. A graph of
    two hosts is looked for where its own nodes look, unless the environment says otherwise.

    :raises ConfigError: graphs run in several domains, and neither argument nor environment says
        which one is meant.
    """
    if domain is None and 'ROS_DOMAIN_ID' not in os.environ:
        running = running_domains()
        if len(running) > 1:
            known = ', '.join(map(str, running))
            raise ConfigError(f'graphs run in the domains {known}; choose one with --domain')
        domain = next(iter(running), None)
    if domain is not None:
        os.environ['ROS_DOMAIN_ID'] = str(domain)
    here = os.environ.get('ROS_DOMAIN_ID', '').strip() or '0'
    for number, lock in _running():
        if str(number) == here:
            network = _network(lock)
            # A command looks at what does not concern it, too.
            if DISCOVERY_SERVER in network:
                network[SUPER_CLIENT] = 'TRUE'
            for name, text in network.items():
                os.environ.setdefault(name, text)
    os.environ.setdefault(DISCOVERY_RANGE, 'LOCALHOST')


def _network(lock: Path) -> dict[str, str]:
    """What :meth:`DomainLock.keep_network` has written."""
    try:
        return json.loads(lock.read_text().partition('\n')[2])
    except (OSError, ValueError):
        return {}


def _lock_path(domain: int, namespace: str) -> Path:
    folder = Path(tempfile.gettempdir()) / f'mbarl-{os.getuid()}'
    folder.mkdir(mode=0o700, exist_ok=True)
    name = namespace.strip('/').replace('/', '.')
    return folder / (f'domain-{domain}.{name}.lock' if name else f'domain-{domain}.lock')


def _is_unused(domain: int) -> bool:
    """Whether the metatraffic port of a first participant (DDS-RTPS 9.6.1.1) is free."""
    port = 7400 + 250 * domain + 10
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(('', port))
        except OSError:
            return False
    return True
