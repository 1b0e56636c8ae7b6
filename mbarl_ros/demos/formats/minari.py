"""Reads and writes Minari datasets (Younis et al. 2024), Gymnasium's format of offline data.

A dataset is a folder ``<name>-v<version>`` with ``data/metadata.json`` and
``data/main_data.hdf5``. Load it with ``minari.load_dataset('<name>-v0')`` while the environment
variable ``MINARI_DATASETS_PATH`` is its parent folder.

Observations are the task's, as in :class:`mbarl_sim.gym.MbarlEnv`: states in physical units,
followed by the goal, if the task has goals.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from mbarl_ros.demos.episodes import UNKNOWN, Episode
from mbarl_ros.demos.formats.common import (
    FormatError,
    Reading,
    observations,
    read_episode,
    succeeds,
)
from mbarl_ros.demos.formats.hdf5 import Reader
from mbarl_ros.task import Task

_ID = re.compile(r'(?:[-\w]+/)*[-\w]+-v\d+')
_MAX_METADATA = 1 << 20
_ABOUT = ('direction', 'verdict', 'operator', 'name')


def write(episodes: list[Episode], task: Task, target: Path) -> None:
    """Write a dataset; the name of its folder is its id.

    Observations [n + 1] with actions, rewards, terminations and truncations [n]; ``infos`` hold
    the stamp of each state and whether the step before it is whole. Direction, verdict, operator
    and name are metadata of the episode.

    :raises FormatError: Minari cannot load a dataset of this name.
    """
    if not _ID.fullmatch(target.name):
        raise FormatError(
            f'{target.name}: Minari needs a name of letters, digits, - and _ that ends with a '
            'version, like tabletop-v0'
        )
    import minari
    from gymnasium.spaces import Box

    # The margin of the Gymnasium adapter: a robot can be pushed slightly beyond a limit.
    low, high = task.offset - 2 * task.scale, task.offset + 2 * task.scale
    with _datasets_path(target.parent), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # about metadata that we lack, such as an e-mail address
        dataset = minari.create_dataset_from_buffers(
            target.name,
            [_buffer(task, episode) for episode in episodes],
            algorithm_name='teleoperation',
            description=task.config.description or task.name,
            observation_space=Box(low.astype(np.float32), high.astype(np.float32)),
            action_space=Box(-1.0, 1.0, (task.action_dim,), np.float32),
        )
    dataset.storage.update_episode_metadata(
        {key: getattr(episode, key) for key in _ABOUT} for episode in episodes
    )


def read(source: Path, task: Task, direction: str | None, reading: Reading) -> list[Episode]:
    """Episodes of a dataset's folder.

    Observations are arrays, or dictionaries of arrays: ``observation``, as in goal-conditioned
    environments, or the given keys, concatenated. The Minari package is not used, because it would
    construct the environment that the file names.
    """
    folder = source / 'data' if (source / 'data').is_dir() else source
    count = _check_metadata(folder / 'metadata.json')
    with Reader(folder / 'main_data.hdf5') as reader:
        names = reader.names(reader.root)
        if len(names) != count or set(names) != {f'episode_{index}' for index in range(count)}:
            raise FormatError(
                f'{reader.path}: metadata.json says that there are {count} episodes, there are '
                f'{len(names)}'
            )
        return [_episode(reader, index, task, direction, source, reading) for index in range(count)]


def _buffer(task: Task, episode: Episode) -> object:
    from minari.data_collector import EpisodeBuffer

    last = np.zeros(len(episode.actions), bool)
    last[-1] = True
    success = succeeds(task, episode)
    return EpisodeBuffer(
        observations=observations(task, episode),
        actions=episode.actions,
        rewards=episode.rewards(task),
        terminations=last & success,
        truncations=last & (not success),
        infos={'stamp': episode.stamps, 'whole': np.append(True, episode.whole)},
    )


def _episode(
    reader: Reader,
    index: int,
    task: Task,
    direction: str | None,
    source: Path,
    reading: Reading,
) -> Episode:
    name = f'episode_{index}'
    group = reader.group(reader.root, name)
    place = f'{reader.path}: {name}'
    stamps = whole = None
    if reader.has(group, 'infos'):
        infos = reader.group(group, 'infos')
        if reader.has(infos, 'stamp') and reader.has(infos, 'whole'):  # as we write them
            stamps, whole = reader.array(infos, 'stamp'), reader.array(infos, 'whole')[1:]
    about = {key: reader.text(group, key, '') for key in _ABOUT}
    return read_episode(
        task,
        place,
        _observations(reader, group, reading),
        reader.array(group, 'actions'),
        reading,
        stamps=stamps,
        whole=whole,
        direction=direction or about['direction'] or 'forward',
        verdict=about['verdict'] or UNKNOWN,
        operator=about['operator'] or 'unknown',
        name=about['name'] or name,
        origin={'format': 'minari', 'file': source.name, 'episode': name},
    )


def _observations(reader: Reader, group: h5py.Group, reading: Reading) -> np.ndarray:
    keys = reading.options.keys
    if not reader.is_group(group, 'observations'):
        if keys:
            raise FormatError(
                f'{reader.location(group, "observations")}: is one array, without keys; leave out '
                '--key'
            )
        return reader.array(group, 'observations')
    inputs = reader.group(group, 'observations')
    if not keys and not reader.has(inputs, 'observation'):
        raise FormatError(
            f'{reader.location(group, "observations")}: has no array observation, but '
            f'{", ".join(reader.names(inputs)[:20]) or "nothing"}; give --key'
        )
    return reader.concatenated(inputs, keys or ['observation'])


def _check_metadata(path: Path) -> int:
    """Number of episodes according to ``metadata.json``."""
    if not path.is_file() or path.stat().st_size > _MAX_METADATA:
        raise FormatError(f'{path}: no such file of at most {_MAX_METADATA} bytes')
    try:
        metadata = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f'{path}: cannot be read: {error}') from error
    if not isinstance(metadata, dict):
        raise FormatError(f'{path}: is not a dictionary')
    kind, name = metadata.get('data_format'), metadata.get('dataset_id')
    if kind != 'hdf5':
        raise FormatError(
            f"{path}: data of format {repr(kind)[:50]}; only 'hdf5', Minari's usual one, is read"
        )
    if name is not None and (not isinstance(name, str) or not _ID.fullmatch(name)):
        raise FormatError(f'{path}: dataset_id {str(name)[:100]!r} is no name of a dataset')
    count = metadata.get('total_episodes')
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise FormatError(f'{path}: total_episodes is {str(count)[:50]}, not a number of episodes')
    return count


@contextmanager
def _datasets_path(folder: Path) -> Iterator[None]:
    """Set the environment variable by which Minari finds its datasets."""
    before = os.environ.get('MINARI_DATASETS_PATH')
    os.environ['MINARI_DATASETS_PATH'] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ['MINARI_DATASETS_PATH']
        else:
            os.environ['MINARI_DATASETS_PATH'] = before
