"""One graph on two hosts: the robot's and the learner's, and how they find each other."""

from __future__ import annotations

import re
import shlex
import socket
from collections.abc import Mapping

from mbarl_ros.bringup.arguments import Value
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.environment import (
    DISCOVERY_RANGE,
    DISCOVERY_SERVER,
    LOCALHOST_ONLY,
    PROFILES,
    STATIC_PEERS,
    SUPER_CLIENT,
    TRANSPORTS,
)
from mbarl_ros.schema.load import config_dir

ALL, ROBOT, LEARNER = 'all', 'robot', 'learner'
OTHER = {ROBOT: LEARNER, LEARNER: ROBOT}
_SERVE = 'serve:'
_LOOPBACK = r'127\..*|localhost'
# What each side has for itself, or what one side only has a use for.
_OWN = {'run_dir', 'view', 'web_port', 'web_control', 'visualizer', 'record_run', 'tracker'}
_OF_THE_LEARNER = {'demos'}
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
            "argument 'discovery' must be serve:PORT or HOST:PORT, where HOST is a name or an IPv4 "
            f"address, got '{discovery}'"
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
    :raises ConfigError: the environment keeps the nodes on this computer, names another server or
        a middleware that has none; or the server's host has no address.
    """
    host, discovery = values.get('host', ALL), str(values.get('discovery', ''))
    if host == ALL:
        return {}
    reach = environ.get(DISCOVERY_RANGE, '').strip() or 'SUBNET'
    if reach not in ('SUBNET', 'SYSTEM_DEFAULT'):  # ROS takes what it does not know as LOCALHOST
        raise ConfigError(
            f'host:={host}: {DISCOVERY_RANGE}={reach} keeps the nodes on this computer; unset it '
            'or set it to SUBNET'
        )
    if environ.get(LOCALHOST_ONLY) == '1':
        raise ConfigError(
            f'host:={host}: {LOCALHOST_ONLY}=1 keeps the nodes on this computer; unset it'
        )
    given = {name: environ.get(name, '').strip() for name in (STATIC_PEERS, DISCOVERY_SERVER)}
    chosen = {DISCOVERY_RANGE: reach, **{name: text for name, text in given.items() if text}}
    if not any(environ.get(name) for name in (*PROFILES, TRANSPORTS)):
        chosen |= dict.fromkeys(PROFILES, str(config_dir() / 'fastdds' / 'two_hosts.xml'))
    known = given[DISCOVERY_SERVER]
    if discovery:
        server = discovery.replace(_SERVE, '127.0.0.1:', 1)
        if known not in ('', server):
            raise ConfigError(
                f'discovery:={discovery}: {DISCOVERY_SERVER}={known} names '
                'another server; unset it, or leave the argument out'
            )
        middleware = environ.get('RMW_IMPLEMENTATION') or 'rmw_fastrtps_cpp'
        if not middleware.startswith('rmw_fastrtps'):
            raise ConfigError(
                f'discovery:={discovery}: is for Fast DDS, and RMW_IMPLEMENTATION={middleware} is '
                'not; unset it, or leave the argument out'
            )
        _check_address(discovery, server.rpartition(':')[0])
        chosen[DISCOVERY_SERVER] = server
    # The controller looks at who else commands the robot, and who obeys; the learner of a fleet
    # for its robots.
    if (discovery or known) and (host == ROBOT or values.get('fleet')):
        chosen[SUPER_CLIENT] = 'TRUE'
    return chosen


def _check_address(discovery: str, host: str) -> None:
    # Fast DDS would say nothing to the user, and find nobody.
    try:
        socket.getaddrinfo(host, None, socket.AF_INET)
    except (OSError, UnicodeError):  # the latter for a name like a..b
        raise ConfigError(
            f'discovery:={discovery}: no IPv4 address is known for {host}; correct the name, or '
            'give its address'
        ) from None


def check_port(values: Mapping[str, Value]) -> None:
    """Check that the discovery server of this side, if there is one, can have its port.

    :raises ConfigError: it cannot.
    """
    discovery = str(values.get('discovery', ''))
    if not serves(discovery):
        return
    port = discovery.removeprefix(_SERVE)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(('', int(port)))
        except OSError as error:
            raise ConfigError(
                f'discovery:={discovery}: UDP port {port}: {error.strerror}; choose another one, '
                f'or use the server that has it: discovery:=127.0.0.1:{port}'
            ) from None


def how_to_start_the_other(graph: str, given: Mapping[str, str], host: str, domain: int) -> str:
    """A sentence with the command for the other host.

    :param given: arguments of this side's command
    """
    other = OTHER[host]
    left_out = _OWN | (_OF_THE_LEARNER if other == ROBOT else set())
    arguments = {name: text for name, text in given.items() if name not in left_out}
    discovery = arguments.get('discovery', '')
    address, _, port = discovery.rpartition(':')
    if serves(discovery) or re.fullmatch(_LOOPBACK, address):
        arguments['discovery'] = f'ADDRESS_OF_THIS_HOST:{port}'
    elif discovery and other == ROBOT:
        arguments['discovery'] = f'serve:{port}'
    if arguments.get('fleet', '').lower() == 'true':
        namespace = arguments.get('namespace', '').strip('/')
        above = namespace.rpartition('/')[0] if host == ROBOT else f'{namespace}/robot_1'
        arguments['namespace'] = above.strip('/')
    if not arguments.get('namespace'):
        arguments.pop('namespace', None)
    words = [f'{name}:={text}' for name, text in {**arguments, 'host': other}.items()]
    command = shlex.join(['mbarl', 'up', graph, *words])
    return f'on the other computer: ROS_DOMAIN_ID={domain} {command}'
