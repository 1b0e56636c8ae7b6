"""Writes LeRobot datasets of other people, as their tools lay them out."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def frames(lengths, fps=10):
    """The columns that number the frames of episodes of these lengths."""
    within = np.concatenate([np.arange(n) for n in lengths])
    return {
        'timestamp': (within / fps).astype(np.float32),
        'frame_index': within,
        'episode_index': np.repeat(np.arange(len(lengths)), lengths),
        'index': np.arange(sum(lengths)),
        'task_index': np.zeros(sum(lengths), int),
    }


def write_dataset(
    folder, columns, names, *, version='v3.0', fps=10, tasks=('reach it',), files=None, fixed=True
):
    """Write a dataset.

    ``columns``: name -> rows. ``names``: name -> what stands under ``names`` in ``info.json``.
    ``files``: which rows stand in which file; default: v3 one file, v2 one for each episode.
    ``fixed``: rows are lists of a fixed size, else of any size.
    """
    episodes = np.unique(columns['episode_index'])
    newer = version.startswith('v3')
    if files is None:
        of_episode = [np.flatnonzero(columns['episode_index'] == index) for index in episodes]
        files = [np.concatenate(of_episode)] if newer else of_episode
    (folder / 'meta').mkdir(parents=True)
    (folder / 'data' / 'chunk-000').mkdir(parents=True)
    pattern = 'file-{:03d}.parquet' if newer else 'episode_{:06d}.parquet'
    for number, rows in enumerate(files):
        table = {name: _column(column[rows], fixed) for name, column in columns.items()}
        pq.write_table(pa.table(table), folder / 'data' / 'chunk-000' / pattern.format(number))
    features = {
        name: {
            'dtype': str(column.dtype),
            'shape': list(column.shape[1:]) or [1],
            'names': names.get(name),
        }
        for name, column in columns.items()
    }
    features['observation.images.top'] = {
        'dtype': 'video',
        'shape': [480, 640, 3],
        'names': ['height', 'width', 'channels'],
        'info': {'video.fps': 30.0, 'video.codec': 'av1'},
    }
    info = {
        'codebase_version': version,
        'robot_type': 'so100_follower',
        'total_episodes': len(episodes),
        'total_frames': len(columns['index']),
        'fps': fps,
        'splits': {'train': f'0:{len(episodes)}'},
        'data_path': 'data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet'
        if newer
        else 'data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet',
        'features': features,
    }
    (folder / 'meta' / 'info.json').write_text(json.dumps(info, indent=4))
    if newer:
        table = pa.table({'task_index': range(len(tasks)), '__index_level_0__': list(tasks)})
        pq.write_table(table, folder / 'meta' / 'tasks.parquet')
    else:
        lines = [json.dumps({'task_index': i, 'task': text}) for i, text in enumerate(tasks)]
        (folder / 'meta' / 'tasks.jsonl').write_text('\n'.join(lines) + '\n')
    return folder


def change_info(folder, **changes):
    """Change keys of ``info.json``; None removes one."""
    path = folder / 'meta' / 'info.json'
    info = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in info.items() if v is not None}))


def _column(rows, fixed):
    if rows.ndim == 1:
        return pa.array(rows)
    if fixed:
        return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    return pa.array(list(rows))
