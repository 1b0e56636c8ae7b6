"""Imported demonstrations on disk: ``episode.safetensors`` beside ``demonstration.json``."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from mbarl_ros.demos.episodes import Episode
from mbarl_ros.demos.metadata import (
    DemonstrationError,
    Metadata,
    layout,
    profile_hash,
    read_metadata,
    write_metadata,
)
from mbarl_ros.storage.files import write_file
from mbarl_ros.storage.wire import pack, require, unpack
from mbarl_ros.task import Task

EPISODE_FILE = 'episode.safetensors'
_KIND = 'episode'
_DTYPES = {
    'states': np.float32,
    'actions': np.float32,
    'stamps': np.float64,
    'whole': np.bool_,
}
_MAX_BYTES = 256 << 20


def save_episode(folder: Path, episode: Episode, task: Task) -> None:
    """Write an episode and its metadata into an existing folder."""
    arrays = {name: getattr(episode, name) for name in _DTYPES}
    meta = {'layout': _layout(task), 'origin': {**episode.origin, 'name': episode.name}}
    write_file(folder / EPISODE_FILE, pack(arrays, meta, _KIND))
    write_metadata(
        folder,
        Metadata(
            task=task.name,
            robot=task.robot.name,
            direction=episode.direction,
            verdict=episode.verdict,
            operator=episode.operator,
            lockstep=False,
            spec=layout(task.robot),
            profile=profile_hash(task.robot),
            topics={},
            recorded=datetime.now(UTC).isoformat(timespec='seconds'),
            origin=f'imported from {episode.origin.get("file", "elsewhere")}',
        ),
    )


def load_episode(folder: Path, task: Task) -> Episode:
    """Read an episode; its name is that of its folder, other attributes are in the metadata.

    :raises DemonstrationError: missing, damaged, or of another layout than the task has now.
    """
    path = folder / EPISODE_FILE
    metadata = read_metadata(folder)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f'is larger than {_MAX_BYTES} bytes')
        arrays, meta = unpack(path.read_bytes(), _KIND, _MAX_BYTES)
        if meta.get('layout') != _layout(task):
            raise ValueError(
                f'its observation and action are {meta.get("layout")}, those of task {task.name} '
                f'{_layout(task)}; import it again'
            )
        require(arrays, _shapes(task, len(arrays.get('actions', ()))), _KIND)
        origin = meta.get('origin')
        episode = Episode(
            **arrays,
            direction=metadata.direction,
            verdict=metadata.verdict,
            operator=metadata.operator,
            origin=origin if isinstance(origin, dict) else {},
        ).check(task)
    except (OSError, ValueError, TypeError) as error:
        raise DemonstrationError(f'{path}: {error}; remove {folder}') from error
    return replace(episode, name=folder.name)


def _layout(task: Task) -> dict[str, list[str]]:
    config = task.config
    return {
        'observation': [column.name for column in config.columns],
        'action': [entry.name for entry in config.action],
    }


def _shapes(task: Task, n: int) -> dict[str, tuple[int, ...]]:
    return {
        'states': (n + 1, task.state_dim),
        'actions': (n, task.action_dim),
        'stamps': (n + 1,),
        'whole': (n,),
    }
