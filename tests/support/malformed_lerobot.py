"""Malformed demonstrations, by name: datasets of LeRobot."""

import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from support.malformed import FRACTIONS, IMPORTS, cut

FRAMES = 'data/chunk-000/file-000.parquet'


def _dataset(change):
    """The good dataset after a change of its folder."""

    def build(folder, good):
        made = folder / 'x'
        shutil.copytree(good.lerobot, made)
        change(made)
        return made

    return build


def _info(**changes):
    """Keys of ``info.json`` changed; None: without the key."""

    def change(folder):
        path = folder / 'meta' / 'info.json'
        info = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({k: v for k, v in info.items() if v is not None}))

    return _dataset(change)


def _feature(name, **changes):
    def change(folder):
        path = folder / 'meta' / 'info.json'
        info = json.loads(path.read_text())
        info['features'][name] = {**info['features'][name], **changes}
        path.write_text(json.dumps(info))

    return _dataset(change)


def _file(name, data):
    return _dataset(lambda folder: (folder / name).write_bytes(data))


def _table(make, **options):
    """The frames replaced by what is made of their columns."""

    def change(folder):
        table = pq.read_table(folder / FRAMES)
        columns = {name: table.column(name) for name in table.column_names}
        pq.write_table(pa.table(make(columns)), folder / FRAMES, **options)

    return _dataset(change)


def _column(name, make):
    return _table(lambda columns: {**columns, name: make(columns[name])})


def _put(name, place, value):
    """One number changed."""

    def make(column):
        rows = np.array(column.to_pylist(), float)
        rows[place] = value
        return pa.array(list(rows)) if rows.ndim == 2 else pa.array(rows)

    return _column(name, make)


def _link(target):
    def change(folder):
        (folder / FRAMES).unlink()
        (folder / FRAMES).symlink_to(target)

    return _dataset(change)


def _pipe(name):
    def change(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return _dataset(change)


def _many_rows(folder):
    """As many frames as do not fit, all of them equal."""
    table = pq.read_table(folder / FRAMES).slice(0, 1)
    table = table.take(pa.array(np.zeros(10**6, np.int64)))
    with pq.ParquetWriter(folder / FRAMES, table.schema) as writer:
        for _ in range(2):
            writer.write_table(table)


def _long_list(column):
    """The same rows, one of them as a list that does not fit."""
    rows = column.to_pylist()
    flat = np.concatenate([np.ravel(rows), np.zeros(4 * 10**7)]).astype(np.float32)
    width = len(rows[0])
    offsets = np.append(np.arange(len(rows)) * width, len(flat)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))


IMPORTS |= {
    'lerobot/no info': _dataset(lambda folder: (folder / 'meta/info.json').write_text('')),
    'lerobot/info not JSON': _file('meta/info.json', b'{"fps": '),
    'lerobot/info not text': _file('meta/info.json', b'\xff\xfe\x00'),
    'lerobot/info a list': _file('meta/info.json', b'[]'),
    'lerobot/info deep': _file('meta/info.json', b'[' * 500_000),
    'lerobot/info large': _file('meta/info.json', b' ' * 20_000_000),
    'lerobot/no version': _info(codebase_version=None),
    'lerobot/version 1': _info(codebase_version='v1.6'),
    'lerobot/version a number': _info(codebase_version=3.0),
    'lerobot/no features': _info(features=None),
    'lerobot/features a list': _info(features=[1]),
    'lerobot/features numbers': _info(features={'action': 3}),
    'lerobot/name of a feature with an escape': _info(features={'a\x1b[2J': {}}),
    'lerobot/no fps': _info(fps=None),
    'lerobot/fps text': _info(fps='10'),
    'lerobot/fps 0': _info(fps=0),
    'lerobot/fps true': _info(fps=True),
    'lerobot/action wide': _feature('action', shape=[10**9]),
    'lerobot/action empty': _feature('action', shape=[0]),
    'lerobot/action of another width': _feature('action', shape=[4]),
    'lerobot/action a table': _feature('action', shape=[3, 1]),
    'lerobot/action text': _feature('action', dtype='string'),
    'lerobot/name with an escape': _feature('action', names=['a\x1b[2J', 'b', 'c']),
    'lerobot/name long': _feature('action', names=['a' * 9999, 'b', 'c']),
    'lerobot/names deep': _feature('action', names=json.loads('[' * 900 + ']' * 900)),
    'lerobot/no names': _feature('action', names=None),
    'lerobot/no data': _dataset(lambda folder: shutil.rmtree(folder / 'data')),
    'lerobot/data empty': _file(FRAMES, b''),
    'lerobot/data text': _file(FRAMES, b'PAR1' + b'x' * 999 + b'PAR1'),
    'lerobot/data passwd': _link('/etc/passwd'),
    'lerobot/data endless': _link('/dev/zero'),
    'lerobot/data a pipe': _pipe(FRAMES),
    'lerobot/info a pipe': _pipe('meta/info.json'),
    'lerobot/tasks not JSON': _dataset(
        lambda folder: [
            (folder / 'meta/tasks.parquet').unlink(),
            (folder / 'meta/tasks.jsonl').write_text('x'),
        ]
    ),
    'lerobot/tasks not Parquet': _file('meta/tasks.parquet', b'x'),
    'lerobot/no frames': _table(lambda columns: {k: v.slice(0, 0) for k, v in columns.items()}),
    'lerobot/NaN': _put('observation.state', (4, 2), np.nan),
    'lerobot/infinite': _put('action', (4, 2), -np.inf),
    'lerobot/beyond 1': _put('action', (4, 2), -2.0),
    'lerobot/episode NaN': _put('episode_index', 3, np.nan),
    'lerobot/clock stands': _put('timestamp', 3, 0.0),
    'lerobot/frame twice': _put('frame_index', 3, 2),
    'lerobot/actions text': _column('action', lambda column: pa.array(['x'] * len(column))),
    'lerobot/actions null': _column('action', lambda column: pa.nulls(len(column))),
    'lerobot/one action null': _column(
        'action', lambda column: pa.array([None, *column.to_pylist()[1:]], pa.list_(pa.float32()))
    ),
    'lerobot/one number null': _column(
        'action',
        lambda column: pa.array([[None, 0.0, 0.0], *column.to_pylist()[1:]]),
    ),
    'lerobot/ragged': _column(
        'action',
        lambda column: pa.array([[0.0], *column.to_pylist()[1:-1], [0.0] * 5]),
    ),
    'lerobot/lists of lists': _column(
        'action', lambda column: pa.array([[row] for row in column.to_pylist()])
    ),
    'lerobot/records': _column(
        'action', lambda column: pa.array([{'x': 1.0, 'y': 2.0}] * len(column))
    ),
    'lerobot/2 * 10^6 equal rows': _dataset(_many_rows),
    'lerobot/list of 4 * 10^7': _column('action', _long_list),
}
for name in ('action', 'observation.state', 'episode_index', 'frame_index', 'timestamp'):
    IMPORTS[f'lerobot/no column {name}'] = _table(
        lambda columns, name=name: {k: v for k, v in columns.items() if k != name}
    )
for fraction in FRACTIONS[1::2]:
    IMPORTS[f'lerobot/cut at {fraction}'] = _dataset(
        lambda folder, fraction=fraction: (folder / FRAMES).write_bytes(
            cut((folder / FRAMES).read_bytes(), fraction)
        )
    )
