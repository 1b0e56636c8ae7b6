"""Writes LeRobotDataset v3.0 (Cadene et al. 2024): parquet files and their metadata.

``data/`` holds the frames of all episodes in one file, ``meta/`` their metadata. Open it with
``LeRobotDataset(repo_id, root=folder)``. As in all LeRobot datasets a frame is an observation and
the action taken in it, so the state after an episode's last action is missing, and times are
multiples of the control period.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mbarl_ros.demos.episodes import Episode
from mbarl_ros.demos.formats.common import observation_names, observations
from mbarl_ros.task import Task

OBSERVATION, ACTION = 'observation.state', 'action'
UNDO = 'Undo: '
"""What the task of a backward demonstration begins with."""
NORMALIZED = 'normalized'
"""Key of a feature whose numbers are in [-1, 1]; without it they are in physical units."""
_FILE = 'chunk-000/file-000.parquet'
_QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)
_SCALARS = {
    'next.reward': 'float32',
    'next.done': 'bool',
    'next.success': 'bool',
    'timestamp': 'float32',
    'frame_index': 'int64',
    'episode_index': 'int64',
    'index': 'int64',
    'task_index': 'int64',
}


def write(episodes: list[Episode], task: Task, target: Path) -> None:
    """Write a dataset.

    ``observation.state`` is the task's observation, with the goal where it has one; actions are in
    [-1, 1]. Forward and backward are two tasks of the dataset. ``next.success`` tells which
    demonstrations are learned from.
    """
    tasks = _tasks(task, episodes)
    frames = _frames(task, episodes, tasks)
    for folder in ('meta/episodes/chunk-000', 'data/chunk-000'):
        (target / folder).mkdir(parents=True)
    _write_table(target / 'data' / _FILE, frames)
    _write_table(target / 'meta' / 'episodes' / _FILE, _about(episodes, task, tasks, frames))
    _write_tasks(target / 'meta' / 'tasks.parquet', tasks)
    statistics = {name: _statistics(values) for name, values in frames.items()}
    _write_json(target / 'meta' / 'stats.json', statistics)
    _write_json(target / 'meta' / 'info.json', _info(task, len(episodes), frames, tasks))


def _tasks(task: Task, episodes: list[Episode]) -> list[str]:
    """Sentences for the directions, in the order of their first use."""
    return list(dict.fromkeys(_sentence(task, episode) for episode in episodes))


def _sentence(task: Task, episode: Episode) -> str:
    sentence = task.config.description or task.name
    return sentence if episode.is_forward else f'{UNDO}{sentence}'


def _frames(task: Task, episodes: list[Episode], tasks: list[str]) -> dict[str, np.ndarray]:
    """Columns of the frames of all episodes."""
    lengths = [len(episode.actions) for episode in episodes]
    within = np.concatenate([np.arange(n) for n in lengths])
    last = np.concatenate([np.arange(n) == n - 1 for n in lengths])
    numbers = [tasks.index(_sentence(task, episode)) for episode in episodes]
    columns = {
        OBSERVATION: np.concatenate([observations(task, e)[:-1] for e in episodes]),
        ACTION: np.concatenate([episode.actions for episode in episodes]),
        'next.reward': np.concatenate([episode.rewards(task) for episode in episodes]),
        'next.done': last,
        'next.success': last & np.repeat([e.succeeded(task) for e in episodes], lengths),
        'timestamp': within / task.robot.control_rate,
        'frame_index': within,
        'episode_index': np.repeat(np.arange(len(episodes)), lengths),
        'index': np.arange(sum(lengths)),
        'task_index': np.repeat(numbers, lengths),
    }
    return {name: np.asarray(c, _SCALARS.get(name, 'float32')) for name, c in columns.items()}


def _about(
    episodes: list[Episode], task: Task, tasks: list[str], frames: dict[str, np.ndarray]
) -> dict[str, list[Any]]:
    """Columns of ``meta/episodes``: location and statistics of each episode."""
    lengths = np.array([len(episode.actions) for episode in episodes])
    ends = np.cumsum(lengths)
    zeros = [0] * len(episodes)
    columns: dict[str, list[Any]] = {
        'episode_index': list(range(len(episodes))),
        'tasks': [[_sentence(task, episode)] for episode in episodes],
        'length': lengths.tolist(),
        'data/chunk_index': zeros,
        'data/file_index': zeros,
        'dataset_from_index': (ends - lengths).tolist(),
        'dataset_to_index': ends.tolist(),
    }
    for name, values in frames.items():
        parts = [_statistics(values[end - n : end]) for end, n in zip(ends, lengths, strict=True)]
        for key in parts[0]:
            columns[f'stats/{name}/{key}'] = [part[key] for part in parts]
    return {**columns, 'meta/episodes/chunk_index': zeros, 'meta/episodes/file_index': zeros}


def _statistics(values: np.ndarray) -> dict[str, list[float]]:
    rows = values.reshape(len(values), -1)
    numbers = rows.astype(np.float64)
    found = {
        'min': rows.min(0),
        'max': rows.max(0),
        'mean': numbers.mean(0),
        'std': numbers.std(0),
        'count': np.array([len(rows)]),
    }
    for share, row in zip(_QUANTILES, np.quantile(numbers, _QUANTILES, axis=0), strict=True):
        found[f'q{round(share * 100):02d}'] = row
    return {name: value.tolist() for name, value in found.items()}


def _info(
    task: Task, episodes: int, frames: dict[str, np.ndarray], tasks: list[str]
) -> dict[str, Any]:
    rate = task.robot.control_rate
    names = {
        OBSERVATION: observation_names(task),
        ACTION: [entry.name for entry in task.config.action],
    }
    features = {
        name: {
            'dtype': str(column.dtype),
            'shape': list(column.shape[1:]) or [1],
            'names': names.get(name),
        }
        for name, column in frames.items()
    }
    features[ACTION][NORMALIZED] = True
    return {
        'codebase_version': 'v3.0',
        'robot_type': task.robot.name,
        'total_episodes': episodes,
        'total_frames': len(frames['index']),
        'total_tasks': len(tasks),
        'chunks_size': 1000,
        'data_files_size_in_mb': 100,
        'video_files_size_in_mb': 200,
        'fps': int(rate) if rate.is_integer() else rate,
        'splits': {'train': f'0:{episodes}'},
        'data_path': 'data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet',
        'video_path': None,
        'features': features,
    }


def _write_table(path: Path, columns: dict[str, Any]) -> None:
    arrays = {}
    for name, values in columns.items():
        if isinstance(values, np.ndarray) and values.ndim == 2:
            flat = pa.array(values.reshape(-1))
            arrays[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        else:
            arrays[name] = pa.array(values)
    pq.write_table(pa.table(arrays), path, compression='snappy')


def _write_tasks(path: Path, tasks: list[str]) -> None:
    """Write the tasks as pandas would: a frame of ``task_index``, indexed by the sentences."""
    index = '__index_level_0__'
    table = pa.table({'task_index': pa.array(range(len(tasks)), pa.int64()), index: tasks})
    text = {'pandas_type': 'unicode', 'numpy_type': 'object'}
    number = {'pandas_type': 'int64', 'numpy_type': 'int64'}
    pandas = {
        'index_columns': [index],
        'column_indexes': [
            {'name': None, 'field_name': None, **text, 'metadata': {'encoding': 'UTF-8'}}
        ],
        'columns': [
            {'name': 'task_index', 'field_name': 'task_index', **number, 'metadata': None},
            {'name': None, 'field_name': index, **text, 'metadata': None},
        ],
        'creator': {'library': 'pyarrow', 'version': pa.__version__},
        'pandas_version': '2.0.0',
    }
    pq.write_table(table.replace_schema_metadata({'pandas': json.dumps(pandas)}), path)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4, ensure_ascii=False) + '\n')
