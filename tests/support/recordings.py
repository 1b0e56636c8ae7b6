"""Metadata of recordings that tests make without a recorder."""

from mbarl_ros.demos.metadata import Metadata, layout, profile_hash


def metadata_of(task, topics, **changes):
    """Of a forward demonstration; ``topics``: profile topic -> name in the bag."""
    values = {
        'task': task.name,
        'robot': task.robot.name,
        'direction': 'forward',
        'verdict': 'success',
        'operator': 'test',
        'lockstep': False,
        'spec': layout(task.robot),
        'profile': profile_hash(task.robot),
        'recorded': '2026-11-21T00:00:00+00:00',
        'topics': topics,
        **changes,
    }
    return Metadata(**values)
