"""Malformed demonstrations, by name: imported ones on disk (safetensors) and bags."""

import json
import shutil
import sqlite3
import struct
from contextlib import closing
from functools import partial

import numpy as np
import zstandard
from mcap.writer import CompressionType, Writer
from rosbags.rosbag1 import Writer as Writer1
from safetensors.numpy import load, save

from mbarl_ros.demos.imported import EPISODE_FILE
from mbarl_ros.demos.metadata import METADATA_FILE
from support.malformed import FOLDERS, FRACTIONS, IMPORTS, cut, written

# --- imported demonstrations on disk ---------------------------------------------------------


def _kept(change):
    """The good imported demonstration, whose bytes are changed."""

    def build(folder, good):
        shutil.copytree(good.imported, folder / 'x')
        path = folder / 'x' / EPISODE_FILE
        path.write_bytes(change(path.read_bytes()))
        return folder / 'x'

    return build


def _header(change):
    """With another header of safetensors, the length of which is right."""

    def spoil(data):
        length = struct.unpack_from('<Q', data)[0]
        header = json.loads(data[8 : 8 + length])
        header = json.dumps(change(header) or header).encode()
        return struct.pack('<Q', len(header)) + header + data[8 + length :]

    return _kept(spoil)


def _meta(**values):
    def change(header):
        meta = {**json.loads(header['__metadata__']['mbarl']), **values}
        header['__metadata__']['mbarl'] = json.dumps(meta)

    return _header(change)


def _arrays(change):
    def spoil(data):
        length = struct.unpack_from('<Q', data)[0]
        arrays = load(data)
        change(arrays)
        return save(arrays, json.loads(data[8 : 8 + length])['__metadata__'])

    return _kept(spoil)


def _noted(change):
    def build(folder, good):
        shutil.copytree(good.imported, folder / 'x')
        path = folder / 'x' / METADATA_FILE
        note = json.loads(path.read_text())
        made = change(note)
        path.write_bytes(made if isinstance(made, bytes) else json.dumps(note).encode())
        return folder / 'x'

    return build


FOLDERS |= {
    'safetensors/length lies': _kept(lambda d: struct.pack('<Q', len(d) * 2) + d[8:]),
    'safetensors/length 2^63': _kept(lambda d: struct.pack('<Q', 1 << 63) + d[8:]),
    'safetensors/length 0': _kept(lambda d: bytes(8) + d[8:]),
    'safetensors/header not JSON': _kept(lambda d: d[:8] + b'x' * 20 + d[28:]),
    'safetensors/header deep': _kept(
        lambda d: struct.pack('<Q', 100_000) + b'[' * 100_000 + d
    ),
    'safetensors/offsets beyond': _header(
        lambda h: h['states'].update(data_offsets=[0, 10**12])
    ),
    'safetensors/offsets overlap': _header(
        lambda h: h['states'].update(data_offsets=h['actions']['data_offsets'])
    ),
    'safetensors/offsets negative': _header(lambda h: h['states'].update(data_offsets=[-4, 0])),
    'safetensors/type lies': _header(lambda h: h['states'].update(dtype='F64')),
    'safetensors/type unknown': _header(lambda h: h['states'].update(dtype='O')),
    'safetensors/shape lies': _header(lambda h: h['states'].update(shape=[10**9, 6])),
    'safetensors/shape overflows': _header(lambda h: h['states'].update(shape=[2**62, 2**62])),
    'safetensors/no metadata': _header(lambda h: h.pop('__metadata__') and None),
    'safetensors/another kind': _meta(kind='policy'),
    'safetensors/another schema': _meta(schema=99),
    'safetensors/another layout': _meta(layout={'observation': ['x'], 'action': ['y']}),
    'safetensors/no states': _arrays(lambda a: a.pop('states')),
    'safetensors/one array more': _arrays(lambda a: a.update(direction=np.zeros(3))),
    'safetensors/NaN': _arrays(lambda a: a['states'].__setitem__((2, 2), np.nan)),
    'safetensors/beyond 1': _arrays(lambda a: a['actions'].__setitem__((2, 2), 7.0)),
    'safetensors/another type': _arrays(lambda a: a.update(states=a['states'].astype('f8'))),
    'safetensors/fewer states': _arrays(lambda a: a.update(states=a['states'][1:])),
    'safetensors/no steps': _arrays(lambda a: a.update(actions=a['actions'][:0])),
    'note/empty': _noted(lambda note: b''),
    'note/not JSON': _noted(lambda note: b'{'),
    'note/a list': _noted(lambda note: b'[]'),
    'note/deep': _noted(lambda note: b'[' * 200_000),
    'note/another schema': _noted(lambda note: note.update(schema=1)),
    'note/another task': _noted(lambda note: note.update(task='../../etc')),
    'note/another key': _noted(lambda note: note.update(code='import os')),
    'note/direction': _noted(lambda note: note.update(direction='../..')),
    'note/verdict': _noted(lambda note: note.update(verdict='yes')),
    'note/types': _noted(lambda note: note.update(lockstep='no')),
}  # fmt: skip
for fraction in FRACTIONS:
    FOLDERS[f'safetensors/cut at {fraction}'] = _kept(partial(cut, fraction=fraction))

# --- bags ------------------------------------------------------------------------------------

_BOOL = 'bool data'


def _chunk(data, size=None, compression='zstd', crc=0):
    """A chunk record: times, size when unpacked, checksum, compression, bytes."""
    name = compression.encode()
    body = struct.pack('<QQQI', 0, 1, len(data) if size is None else size, crc)
    body += struct.pack('<I', len(name)) + name + struct.pack('<Q', len(data)) + data
    return struct.pack('<BQ', 0x06, len(body)) + body


def _mcap(*records):
    """A file of raw records with a header, and more to come: it is not merely torn."""
    head, end = struct.pack('<BQ', 0x01, 8) + bytes(8), struct.pack('<BQ', 0x0F, 4) + bytes(4)
    data = b'\x89MCAP0\r\n' + head + b''.join(records) + end
    return lambda folder, good: written(folder, 'x.mcap', data)


def _topic(topic, kind, definition, message=b'\x00\x01\x00\x00\x01'):
    """A whole file with one message."""

    def build(folder, good):
        path = folder / 'x.mcap'
        with path.open('wb') as file:
            writer = Writer(file, compression=CompressionType.NONE)
            writer.start()
            text = definition.replace('CANARY', str(good.canary))
            schema = writer.register_schema(kind, 'ros2msg', text.encode())
            channel = writer.register_channel(topic, 'cdr', schema)
            writer.add_message(channel, 1, message, 1)
            writer.finish()
        return path

    return build


def _recorded(change, name='.mcap'):
    """The good recorded demonstration with a file changed."""

    def build(folder, good):
        shutil.copytree(good.recorded, folder / 'x')
        path = next(path for path in (folder / 'x').iterdir() if path.name.endswith(name))
        made = change(path)
        if isinstance(made, bytes):
            path.write_bytes(made)
        return folder / 'x'

    return build


_PASSWD = (
    b'rosbag2_bagfile_information:\n  version: 9\n  storage_identifier: mcap\n'
    b'  relative_file_paths: [../../../../etc/passwd]\n'
)
_BOMB = zstandard.ZstdCompressor(level=19).compress(bytes(10**9))
_INJECTED = "int32 x\nstring y \"'); import os; os.system('touch CANARY') #\""


def _ros1(kind, definition):
    """A bag of ROS 1 with one message."""

    def build(folder, good):
        path = folder / 'x.bag'
        with Writer1(path) as writer:
            text = definition.replace('CANARY', str(good.canary))
            topic = writer.add_connection('/joint_states', kind, msgdef=text, md5sum='0' * 32)
            writer.write(topic, 1, bytes(40))
        return path

    return build


def _sqlite(*statements):
    """An SQLite bag with tables of these statements."""

    def build(folder, good):
        path = folder / 'x.db3'
        with closing(sqlite3.connect(path)) as database, database:
            for statement in _TABLES + statements:
                database.execute(statement)
        return path

    return build


_TABLES = (
    'CREATE TABLE topics(id, name, type, serialization_format)',
    'CREATE TABLE messages(topic_id, timestamp, data)',
    "INSERT INTO topics VALUES(1, '/joint_states', 'sensor_msgs/msg/JointState', 'cdr')",
)
_COMPRESSED = zstandard.ZstdCompressor().compress(bytes(10**8))

IMPORTS |= {
    'ros1/definition is code': _ros1('sensor_msgs/msg/JointState', _INJECTED),
    'ros1/definition is nothing': _ros1('sensor_msgs/msg/JointState', '!!!'),
    'ros1/definition deep': _ros1('a/msg/B', 'a/B b'),
    'ros1/text': lambda folder, good: written(folder, 'x.bag', b'#ROSBAG V2.0\n' + b'x' * 999),
    'ros1/lengths': lambda folder, good: written(
        folder, 'x.bag', b'#ROSBAG V2.0\n' + b'\xff' * 999
    ),
    'sqlite/no tables': _sqlite('DROP TABLE messages'),
    'sqlite/a number for a message': _sqlite('INSERT INTO messages VALUES(1, 1, 1)'),
    'sqlite/a text for a time': _sqlite("INSERT INTO messages VALUES(1, 'now', x'00')"),
    'sqlite/a text for a topic': _sqlite("UPDATE topics SET id = '1); ATTACH'"),
    'sqlite/nothing for a name': _sqlite(
        'UPDATE topics SET name = NULL', "INSERT INTO messages VALUES(1, 1, x'0001')"
    ),
    'sqlite/no end': _sqlite(
        'DROP TABLE messages',
        'CREATE VIEW messages AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) '
        "SELECT 1 AS topic_id, i AS timestamp, writefile('CANARY', 'x') AS data FROM n",
    ),
    'mcap/message of 10^8 zeros': _topic('/a', 'std_msgs/msg/Bool', _BOOL, _COMPRESSED),
    'zstd/file of nothing': lambda folder, good: written(folder, 'x.mcap.zstd', _COMPRESSED[:9]),
    'zstd/file of zeros': lambda folder, good: written(folder, 'x.mcap.zstd', _COMPRESSED),
    'mcap/magic only': _mcap(),
    'mcap/random': lambda folder, good: written(
        folder, 'x.mcap', b'\x89MCAP0\r\n' + np.random.default_rng(0).bytes(9999)
    ),
    'mcap/record longer than the file': _mcap(struct.pack('<BQ', 0x05, 1 << 62)),
    'mcap/chunk of 2^60 bytes': _mcap(_chunk(b'x', 1 << 60)),
    'mcap/chunk larger than it says': _mcap(_chunk(_BOMB, 1000)),
    'mcap/chunk of 10^9 zeros': _mcap(_chunk(_BOMB, 10**9)),
    'mcap/chunk smaller than it says': _mcap(
        _chunk(zstandard.ZstdCompressor().compress(b'x'), 1 << 27)
    ),
    'mcap/chunk of no zstd': _mcap(_chunk(b'not zstd at all', 99)),
    'mcap/chunk of no lz4': _mcap(_chunk(b'not lz4 at all', 99, 'lz4')),
    'mcap/chunk of pickle': _mcap(_chunk(b'cposix\nsystem\n.', 99, 'pickle')),
    'mcap/checksum wrong': _mcap(_chunk(bytes(99), None, '', 12345)),
    'mcap/record longer than its chunk': _mcap(
        _chunk(struct.pack('<BQ', 0x05, 1 << 40) + b'x', None, '')
    ),
    'mcap/message of no channel': _mcap(
        _chunk(struct.pack('<BQHIQQ', 0x05, 23, 7, 0, 1, 1) + b'x', None, '')
    ),
    'mcap/channel of no schema': _mcap(
        _chunk(struct.pack('<BQHH', 0x04, 16, 1, 9) + bytes(12), None, '')
    ),
    'mcap/no topic of the robot': _topic('/a', 'std_msgs/msg/Bool', _BOOL),
    'mcap/topic a path': _topic('../../../etc/passwd', 'std_msgs/msg/Bool', _BOOL),
    'mcap/type a path': _topic('/a', '../../etc/passwd', _BOOL),
    'mcap/type is code': _topic('/a', "a/msg/B'; import os; os.abort(); '", _BOOL),
    'mcap/definition is code': _topic('/a', 'a/msg/B', _INJECTED),
    'mcap/definition is nothing': _topic('/a', 'a/msg/B', '!!!'),
    'mcap/definition deep': _topic('/a', 'a/msg/B', 'a/msg/B b'),
    'bag/no file': _recorded(lambda path: path.unlink()),
    'bag/points to passwd': _recorded(
        lambda path: [path.unlink(), (path.parent / 'metadata.yaml').write_bytes(_PASSWD)]
    ),
    'bag/a link to passwd': _recorded(
        lambda path: [path.unlink(), path.symlink_to('/etc/passwd')]
    ),
    'bag/empty': _recorded(lambda path: b''),
    'bag/text': _recorded(lambda path: b'x' * 999),
    'bag/SQLite': lambda folder, good: written(
        folder, 'x.db3', b'SQLite format 3\x00' + bytes(999)
    ),
}  # fmt: skip
for fraction in FRACTIONS:
    FOLDERS[f'bag/cut at {fraction}'] = _recorded(
        lambda path, fraction=fraction: cut(path.read_bytes(), fraction)
    )
FOLDERS |= {
    'bag/no data': _recorded(lambda path: path.unlink()),
    'bag/link to passwd': _recorded(lambda path: [path.unlink(), path.symlink_to('/etc/passwd')]),
    'bag/zeros': _recorded(lambda path: bytes(path.stat().st_size)),
    'bag/bomb': _recorded(lambda path: path.read_bytes()[:17] + _chunk(_BOMB, 10**9)),
}
