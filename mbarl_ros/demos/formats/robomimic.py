"""Reads and writes the HDF5 format of robomimic (Mandlekar et al. 2021).

One file with ``data/demo_<i>/{obs,next_obs}/<key>``, ``actions``, ``rewards``, ``dones`` and
``states``, and filter keys under ``mask``. The only observation key that we write is ``flat``, that
of robomimic for Gym environments: states in physical units, followed by the goal, if the task has
goals. Files of others have several, which are concatenated.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import h5py
import numpy as np

from mbarl_ros.demos.episodes import SUCCEEDED, UNKNOWN, Episode
from mbarl_ros.demos.formats.common import (
    ROUNDING,
    FormatError,
    Reading,
    observation_names,
    observations,
    read_episode,
    succeeds,
)
from mbarl_ros.demos.formats.hdf5 import Reader
from mbarl_ros.storage.transitions import DIRECTIONS
from mbarl_ros.task import Task

_KEY = 'flat'
_GYM = 2  # robomimic.envs.env_base.EnvType.GYM_TYPE
_ABOUT = ('direction', 'verdict', 'operator', 'name')


def write(episodes: list[Episode], task: Task, target: Path) -> None:
    """Write a file; filter keys are ``forward``, ``backward`` and ``success``.

    Each demonstration also has ``stamps`` [n + 1] and ``whole`` [n], which robomimic ignores, and
    attributes for direction, verdict, operator and name. Arrays have checksums.
    """
    with h5py.File(target, 'x') as file:
        data = file.create_group('data')
        for index, episode in enumerate(episodes):
            _write_episode(data.create_group(f'demo_{index}'), task, episode)
        data.attrs['total'] = sum(len(episode.actions) for episode in episodes)
        environment = {'env_name': task.name, 'type': _GYM, 'env_kwargs': {}}
        data.attrs['env_args'] = json.dumps(environment)
        kinds = {
            phase: [episode.direction == phase for episode in episodes] for phase in DIRECTIONS
        }
        kinds['success'] = [episode.verdict == SUCCEEDED for episode in episodes]
        for name, chosen in kinds.items():
            if any(chosen):
                keys = [f'demo_{index}' for index in np.flatnonzero(chosen)]
                file[f'mask/{name}'] = np.array(keys, 'S')


def read(source: Path, task: Task, direction: str | None, reading: Reading) -> list[Episode]:
    """Episodes of a file, in the order of their numbers.

    Without given keys the observation key is ``flat``, or the only choice of keys with the width of
    the task's observation, which is noted.
    Without ``next_obs``, the state after the last action is unknown, and this action is left out.
    """
    with Reader(source) as reader:
        data = reader.group(reader.root, 'data')
        names = reader.names(data)
        for name in names:
            if not re.fullmatch(r'demo_\d+', name):
                raise FormatError(f'{source}: /data/{name!r} is not a name like demo_0')
        names.sort(key=lambda name: int(name.removeprefix('demo_')))
        return [_read_episode(reader, data, name, task, direction, reading) for name in names]


def _write_episode(group: h5py.Group, task: Task, episode: Episode) -> None:
    rows = observations(task, episode)
    dones = np.zeros(len(episode.actions), np.int64)
    dones[-1] = succeeds(task, episode)
    arrays = {
        f'obs/{_KEY}': rows[:-1],
        f'next_obs/{_KEY}': rows[1:],
        'actions': episode.actions,
        'rewards': episode.rewards(task),
        'dones': dones,
        'states': episode.states[:-1],
        'stamps': episode.stamps,
        'whole': episode.whole,
    }
    for name, array in arrays.items():
        group.create_dataset(name, data=array, fletcher32=True)
    group.attrs['num_samples'] = len(episode.actions)
    for name in _ABOUT:
        group.attrs[name] = getattr(episode, name)


def _read_episode(
    reader: Reader, data: h5py.Group, name: str, task: Task, direction: str | None, reading: Reading
) -> Episode:
    place = f'{reader.path}: {name}'
    group = reader.group(data, name)
    inputs = reader.group(group, 'obs')
    keys = reading.options.keys or [_guessed_key(reader, inputs, task, reading)]
    rows, actions = reader.concatenated(inputs, keys), reader.array(group, 'actions')
    if reader.has(group, 'next_obs'):
        after = reader.concatenated(reader.group(group, 'next_obs'), keys)
        if not _continues(rows, after):
            listed = ','.join(keys)
            raise FormatError(f'{place}: next_obs/{listed} does not continue obs/{listed}')
        rows = np.concatenate([rows, after[-1:]])
    else:
        actions = actions[:-1]
    optional = {
        key: reader.array(group, key) for key in ('stamps', 'whole') if reader.has(group, key)
    }
    about = {key: reader.text(group, key, '') for key in _ABOUT}
    return read_episode(
        task,
        place,
        rows,
        actions,
        reading,
        **optional,
        direction=direction or about['direction'] or 'forward',
        verdict=about['verdict'] or UNKNOWN,
        operator=about['operator'] or 'unknown',
        name=about['name'] or name,
        origin={'format': 'robomimic', 'file': reader.path.name, 'episode': name},
    )


def _continues(rows: np.ndarray, after: np.ndarray) -> bool:
    """Whether each next observation is the following observation, but for rounding."""
    if after.shape != rows.shape or not len(rows):
        return False
    size = np.abs(rows).max(0, initial=1.0)
    return bool((np.abs(after[:-1] - rows[1:]) <= ROUNDING * size).all())


def _guessed_key(reader: Reader, inputs: h5py.Group, task: Task, reading: Reading) -> str:
    """Observation key to read: ``flat``, or the only choice of keys with the task's width."""
    names = reader.names(inputs)
    if _KEY in names:
        return _KEY
    widths = {name: inputs[name].shape[1:] for name in names if not reader.is_group(inputs, name)}
    wanted = {task.state_dim, task.observation_dim}
    fitting = [name for name, width in widths.items() if width in [(each,) for each in wanted]]
    vectors = [width[0] for width in widths.values() if len(width) == 1]
    if len(fitting) != 1 or _choices(vectors, wanted) != 1:
        listed = ', '.join(f'{name} {width}' for name, width in list(widths.items())[:20])
        sizes = ' or '.join(map(str, sorted(wanted)))
        raise FormatError(
            f'{reader.path}: {inputs.name}: which of its keys ({listed or "none"}) are the '
            f'observation of task {task.name}, {sizes} wide? '
            f'Say --key A,B[0:3],C in the order {", ".join(observation_names(task))}, or put it '
            f"under the key '{_KEY}'"
        )
    reading.note(
        f"observations are the key '{fitting[0]}', the only choice of the task's width; --key "
        'names others'
    )
    return fitting[0]


def _choices(widths: list[int], wanted: set[int]) -> int:
    """Number of sets of keys whose widths add up to a wanted width."""
    ways = [1] + [0] * max(wanted)
    for width in widths:
        for total in range(max(wanted), max(width, 1) - 1, -1):
            ways[total] += ways[total - width] if width else 0
    return sum(ways[each] for each in wanted)
