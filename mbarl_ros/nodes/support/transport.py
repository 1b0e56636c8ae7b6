"""Transport of Fast DDS: UDP, also on one machine.

With shared memory, a process that is killed while it holds the lock of its port blocks every
process that sends to it, for a second or more. In measurements, one kill of a robot's driver in
thirty kept the safety gate from sending a stop to anyone. UDP has no such lock.
"""

from __future__ import annotations

from collections.abc import Mapping

from mbarl_ros.schema.environment import DISCOVERY_RANGE, PROFILES, STATIC_PEERS, TRANSPORTS
from mbarl_ros.schema.load import config_dir

_FAST = 'rmw_fastrtps'  # the default of Jazzy and Kilted


def without_shared_memory(environ: Mapping[str, str]) -> dict[str, str]:
    """Environment variables to set before rclpy starts; none where the user has chosen transports
    or another middleware.

    For the discovery range LOCALHOST, rmw_fastrtps adds shared memory whatever else is set. A
    profile replaces that setting then; it does not support static peers.
    """
    if not environ.get('RMW_IMPLEMENTATION', _FAST).startswith(_FAST):
        return {}  # another middleware ignores the profile, and would then leave this machine
    if any(environ.get(name) for name in (*PROFILES, TRANSPORTS)):
        return {}
    if environ.get(DISCOVERY_RANGE) != 'LOCALHOST':
        return {TRANSPORTS: 'UDPv4'}
    if environ.get(STATIC_PEERS):
        return {}
    profile = str(config_dir() / 'fastdds' / 'localhost.xml')
    return {DISCOVERY_RANGE: 'SYSTEM_DEFAULT', **dict.fromkeys(PROFILES, profile)}
