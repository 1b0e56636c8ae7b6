"""How the robots of a fleet are kept apart, and what they share: names and random streams."""

from __future__ import annotations

import zlib

from mbarl_ros.schema import topics
from mbarl_ros.schema.field_maps import ActionCommand
from mbarl_ros.schema.robot import RobotConfig

Remappings = tuple[tuple[str, str], ...]
_CONTROLLED_BY = (topics.POLICY, topics.FLEET_ESTOP)
_WATCHED = (topics.IMAGINED, topics.CLASSIFIER, topics.SCORE, topics.DEPLOYED_SUCCESS)


def robot_seed(seed: int, robot: str) -> int:
    """Seed of the random streams of one robot of a fleet."""
    return zlib.crc32(f'{seed} {robot}'.encode())


def shared_remappings(namespace: str) -> Remappings:
    """What a robot's nodes take from the namespace of its fleet: policies, and the stop of all."""
    return _from(namespace, _CONTROLLED_BY)


def watched_remappings(namespace: str) -> Remappings:
    """What those that watch one robot take from the namespace of its fleet."""
    return _from(namespace, _WATCHED)


def _from(namespace: str, names: tuple[str, ...]) -> Remappings:
    root = f'/{namespace.strip("/")}'.rstrip('/')
    return tuple((name, f'{root}/{name}') for name in names)


def robot_remappings(profile: RobotConfig, namespace: str) -> Remappings:
    """Names that all simulated robots would share, put into the namespace of one of them."""
    names = {topics.CLOCK, *profile.state_topics}
    names |= {topic.topic for topic in profile.command_topics}
    names |= {topic.topic for topic in profile.teleop}
    names |= {topic.deadman_topic.topic for topic in profile.teleop if topic.deadman_topic}
    names |= {
        entry.action if isinstance(entry, ActionCommand) else entry.service
        for entry in profile.requests
    }
    root = f'/{namespace.strip("/")}'
    return tuple((name, root + name) for name in sorted(names) if name.startswith('/'))
