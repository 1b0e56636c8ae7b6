"""One graph on two hosts: the robot's and the learner's, and how they find each other."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from mbarl_ros.bringup.arguments import Value
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.environment import (
    DISCOVERY_RANGE,
    DISCOVERY_SERVER,
    PROFILES,
    SUPER_CLIENT,
    TRANSPORTS,
)
from mbarl_ros.schema.load import config_dir

ALL, ROBOT, LEARNER = 'all', 'robot', 'learner'
OTHER = {ROBOT: LEARNER, LEARNER: ROBOT}
_SERVE = 'serve:'
_LARGEST_PORT = 65535


def check_discovery(values: Mapping[str, Value]) -> None:
    """Check that the argument ``discovery`` can be used with ``host``.

    :raises ConfigError: it cannot; the message says what can.
    """
    host, discovery = values.get('host', ALL), str(values.get('discovery', ''))
    if not discovery:
        return
    if host == ALL:
        raise ConfigError(
            f'discovery:={discovery}: all nodes are on this computer; give host:=robot or '
            'host:=learner, or leave it out'
        )
    address, _, port = discovery.rpartition(':')
    if not re.fullmatch(r'[\w.-]+', address) or not _is_port(port):
        raise ConfigError(
            f"argument 'discovery' must be serve:PORT or HOST:PORT, got '{discovery}'"
        )
    if serves(discovery) and host != ROBOT:
        raise ConfigError(
            f'discovery:={discovery}: the server belongs to host:=robot, whose nodes must find '
            f'each other while the line is cut; give discovery:=ROBOT:{port} here'
        )


def _is_port(text: str) -> bool:
    return text.isdecimal() and 0 < int(text) <= _LARGEST_PORT


def serves(discovery: str) -> bool:
    """Whether this side starts the discovery server."""
    return discovery.startswith(_SERVE)


def network(values: Mapping[str, Value], environ: Mapping[str, str]) -> dict[str, str]:
    """Environment variables by which the nodes reach the other host; none with ``host:=all``.

    :param environ: environment of the ``mbarl`` command; its profile of Fast DDS wins
    :raises ConfigError: the environment keeps the nodes on this computer, or names another server.
    """
    host, discovery = values.get('host', ALL), str(values.get('discovery', ''))
    if host == ALL:
        return {}
    reach = environ.get(DISCOVERY_RANGE, '').strip() or 'SUBNET'
    if reach in ('LOCALHOST', 'OFF'):
        raise ConfigError(
            f'host:={host}: {DISCOVERY_RANGE}={reach} keeps the nodes on this computer; unset it '
            'or set it to SUBNET'
        )
    chosen = {DISCOVERY_RANGE: reach}
    if not any(environ.get(name) for name in (*PROFILES, TRANSPORTS)):
        chosen |= dict.fromkeys(PROFILES, str(config_dir() / 'fastdds' / f'{host}_host.xml'))
    if discovery:
        server = discovery.replace(_SERVE, '127.0.0.1:', 1)
        if environ.get(DISCOVERY_SERVER, server) != server:
            raise ConfigError(
                f'discovery:={discovery}: {DISCOVERY_SERVER}={environ[DISCOVERY_SERVER]} names '
                'another server; unset it, or leave the argument out'
            )
        chosen[DISCOVERY_SERVER] = server
        # The controller looks at who else commands the robot, and who obeys; the learner of a fleet
        # for its robots.
        if host == ROBOT or values.get('fleet'):
            chosen[SUPER_CLIENT] = 'TRUE'
    return chosen


def how_to_start_the_other(graph: str, given: Mapping[str, str], host: str, domain: int) -> str:
    """A sentence with the command for the other host.

    :param given: arguments of this side's command
    """
    other = OTHER[host]
    arguments = {name: text for name, text in given.items() if name not in ('run_dir', 'view')}
    discovery = arguments.get('discovery', '')
    if serves(discovery):
        arguments['discovery'] = f'ADDRESS_OF_THIS_HOST:{discovery.removeprefix(_SERVE)}'
    elif discovery and other == ROBOT:
        arguments['discovery'] = f'serve:{discovery.rpartition(":")[2]}'
    if arguments.get('fleet', '').lower() == 'true':
        namespace = arguments.get('namespace', '').strip('/')
        above = namespace.rpartition('/')[0] if host == ROBOT else f'{namespace}/robot_1'
        arguments['namespace'] = above.strip('/')
    if not arguments.get('namespace'):
        arguments.pop('namespace', None)
    words = [f'{name}:={text}' for name, text in {**arguments, 'host': other}.items()]
    command = shlex.join(['mbarl', 'up', graph, *words])
    return f'on the other computer: ROS_DOMAIN_ID={domain} {command}'
