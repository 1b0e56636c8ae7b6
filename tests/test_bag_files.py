"""Bags of other recorders: files, compression, channels that nobody needs, definitions, ROS 1."""

import re
import shutil
import sqlite3
from contextlib import closing, suppress

import numpy as np
import pytest
import zstandard
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from mbarl_ros.demos.bag_files import bag_files, uncompressed
from mbarl_ros.demos.decode import DecodeError, TopicDecoder, typestore
from mbarl_ros.demos.formats import detect
from mbarl_ros.demos.mcap_file import MAX_MESSAGE, McapFileError
from mbarl_ros.demos.metadata import read_metadata
from mbarl_ros.demos.reader import read_demonstration
from mbarl_ros.schema.robot import TopicMap
from support import bags
from support.bags import (
    STEP,
    WALL,
    N,
    check_drive,
    drive,
    imported,
    refused,
    rover,
    write_bag,
    writing,
)

ZSTD = CompressionFormat.ZSTD

# --- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize('with_metadata', [True, False])
@pytest.mark.parametrize(
    ('plugin', 'mode'),
    [
        ('mcap', None),
        ('mcap', CompressionMode.FILE),
        ('mcap', CompressionMode.MESSAGE),
        ('mcap', CompressionMode.STORAGE),
        ('sqlite3', None),
        ('sqlite3', CompressionMode.FILE),
        ('sqlite3', CompressionMode.MESSAGE),
    ],
)
def test_compressed_bags_are_read_with_and_without_metadata(tmp_path, plugin, mode, with_metadata):
    source = write_bag(tmp_path / 'theirs', drive(), plugin, mode and (mode, ZSTD))
    if not with_metadata:
        (source / 'metadata.yaml').unlink()
    before = sorted(path.name for path in source.iterdir())
    assert detect(source) == 'bag'
    folder = imported(source, tmp_path)
    check_drive(folder, rover())
    assert not read_metadata(folder).interrupted
    with Reader(folder) as reader:  # the demonstration is an ordinary bag
        assert reader.message_count == len(drive())
    assert sorted(path.name for path in source.iterdir()) == before
    assert [path.name for path in (tmp_path / 'staging').iterdir()] == ['demonstration']


@pytest.mark.parametrize('suffix', ['.mcap', '.db3', '.mcap.zstd', '.db3.zst'])
def test_a_single_file_of_a_bag_is_enough(tmp_path, suffix):
    mode = (CompressionMode.FILE, ZSTD) if '.zst' in suffix else None
    plugin = 'mcap' if '.mcap' in suffix else 'sqlite3'
    source = write_bag(tmp_path / 'theirs', drive(), plugin, mode)
    file = next(path for path in source.iterdir() if path.name != 'metadata.yaml')
    file = file.rename(tmp_path / f'alone{suffix}')
    assert detect(file) == 'bag'
    check_drive(imported(file, tmp_path), rover())


def split(path, plugin, names):
    """A drive cut into files of one folder, as rosbag2 does it."""
    path.mkdir()
    rows = drive()
    for number, name in enumerate(names):
        share = rows[number * len(rows) // len(names) : (number + 1) * len(rows) // len(names)]
        part = write_bag(path.parent / 'part', share, plugin)
        next(part.glob('part.*')).rename(path / name)
        shutil.rmtree(part)
    return path


@pytest.mark.parametrize('plugin', ['mcap', 'sqlite3'])
@pytest.mark.parametrize(
    'name', ['drive_{}', 'run2_{}', 'at-2026-01-01-10-{:02d}-00', 'of_3_robots_{}_x7']
)
def test_several_files_are_read_in_their_order(tmp_path, plugin, name):
    suffix = {'mcap': '.mcap', 'sqlite3': '.db3'}[plugin]
    source = split(tmp_path / 'theirs', plugin, [name.format(i) + suffix for i in range(12)])
    check_drive(imported(source, tmp_path), rover())


def test_a_file_whose_compression_was_interrupted_counts_once(tmp_path):
    source = write_bag(tmp_path / 'theirs', drive())
    file = next(source.glob('*.mcap'))
    packed = zstandard.ZstdCompressor().compress(file.read_bytes())
    (source / f'{file.name}.zstd').write_bytes(packed[: len(packed) // 2])
    folder = imported(source, tmp_path)
    check_drive(folder, rover())
    with Reader(folder) as reader:
        assert reader.message_count == len(drive())


@pytest.mark.parametrize('keep', [0.5, 0.8])
def test_a_torn_compressed_file_is_read_up_to_where_it_is_torn(tmp_path, keep):
    source = bags.write_channels(tmp_path / 'theirs' / 'x_0.mcap', drive())
    plain = (source / 'x_0.mcap').read_bytes()
    (source / 'x_0.mcap').unlink()
    packer = zstandard.ZstdCompressor().compressobj()
    packed = b''.join(  # in small blocks: what is in a torn one is lost
        packer.compress(plain[at : at + 1000]) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        for at in range(0, len(plain), 1000)
    )
    (source / 'x_0.mcap.zstd').write_bytes(packed[: int(len(packed) * keep)])
    folder = imported(source, tmp_path)
    assert read_metadata(folder).interrupted
    demonstration = read_demonstration(folder, rover())
    np.testing.assert_allclose(np.diff(demonstration.states[:, 0]), STEP, atol=1e-9)
    assert keep - 0.25 < len(demonstration.commands) / N < keep + 0.05


def test_damage_to_compressed_files_and_messages_is_said(tmp_path):
    source = tmp_path / 'theirs'
    source.mkdir()
    packed = zstandard.ZstdCompressor().compress(np.random.default_rng(0).bytes(1000))
    (source / 'x_0.mcap.zstd').write_bytes(packed[:4])
    refused(source, tmp_path, 'contains no message; it is torn')
    shutil.rmtree(tmp_path / 'staging')
    damaged = packed[:6] + b'\xff' * 20 + packed[26:]
    (source / 'x_0.mcap.zstd').write_bytes(damaged)
    refused(source, tmp_path, 'x_0.mcap.zstd: cannot be unpacked by zstd')
    bomb = zstandard.ZstdCompressor().compress(bytes(MAX_MESSAGE + 1))
    for data, words in ((bomb, f'claims {MAX_MESSAGE + 1} bytes'), (bomb[:9], 'claims|damaged')):
        with pytest.raises(McapFileError, match=words):
            uncompressed(data)


def test_an_sqlite_bag_whose_recorder_died_has_its_last_messages_in_a_log(tmp_path):
    rows = drive()
    source = write_bag(tmp_path / 'theirs', rows[:40], 'sqlite3')
    file = next(source.glob('*.db3'))
    with closing(sqlite3.connect(file)) as database:
        database.execute('PRAGMA journal_mode = WAL')
        topics = dict(database.execute('SELECT name, id FROM topics').fetchall())
        values = [(topics[topic], log, bags.cdr(message)) for log, topic, message in rows[40:]]
        with database:
            sql = 'INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)'
            database.executemany(sql, values)
        killed = shutil.copytree(source, tmp_path / 'killed')
    (killed / f'{file.name}-shm').unlink()
    before = sorted(path.name for path in killed.iterdir())
    assert f'{file.name}-wal' in before
    check_drive(imported(killed, tmp_path), rover())
    assert sorted(path.name for path in killed.iterdir()) == before


def test_the_folder_above_bags_names_them(tmp_path):
    for name in ('monday', 'tuesday'):
        write_bag(tmp_path / 'recordings' / name, drive())
    assert detect(tmp_path / 'recordings') == 'bag'
    with pytest.raises(McapFileError, match='give one of the bags in it: monday, tuesday'):
        bag_files(tmp_path / 'recordings')


# --- channels --------------------------------------------------------------------------------

CDR = b'\0\1\0\0' + bytes(12)
ODD = b'# comment\nuint8 MODE_A=1 # one\nstring<=10 name "a b"\nfloat32[<=3] v [1.0]\nSub sub\n'
KEPT = {
    'no definition': ('cdr', ('realsense2_camera_msgs/msg/Metadata', '', b''), CDR),
    'idl': ('cdr', ('px4_msgs/msg/Status', 'ros2idl', b'module px4_msgs { nothing }'), CDR),
    'odd': ('cdr', ('my_msgs/msg/Io', 'ros2msg', ODD), CDR),
    'not text': ('cdr', ('my_msgs/msg/Io', 'ros2msg', b'# \xe9t\xe9\nuint8 a\n'), CDR),
    'short type': ('cdr', ('std_msgs/String', 'ros2msg', b'string data\n'), CDR),
}
LEFT = {
    'no schema': ('cdr', None, CDR),
    'json': ('json', ('Note', 'jsonschema', b'{"type": "object"}'), b'{"a": 1}'),
    'protobuf': ('protobuf', ('foxglove.Log', 'protobuf', b'\n\xff\xfe\x00'), b'\x08\x01'),
    'ros1': ('ros1', ('my_msgs/Io', 'ros1msg', b'uint8 a\n'), b'\1'),
    'unknown': ('', ('', '', b''), b''),
}


@pytest.mark.parametrize('case', [*KEPT, *LEFT])
def test_channels_that_nobody_needs_are_not_parsed(tmp_path, case):
    encoding, schema, data = (KEPT | LEFT)[case]
    others = [('/other', encoding, schema, data)]
    source = bags.write_channels(tmp_path / 'theirs' / 'x_0.mcap', drive(), others)
    folder = imported(source, tmp_path)
    check_drive(folder, rover())
    remarks = ' '.join(read_metadata(folder).remarks)
    assert ('/other' in remarks) == (case in LEFT)
    with Reader(folder) as reader:
        kept = {one.topic: one for one in reader.connections}
        assert ('/other' in kept) == (case in KEPT)
        if case in KEPT:
            expected = schema[2].decode(errors='replace')
            assert kept['/other'].msgdef.data.endswith(expected)
            rows = reader.messages([kept['/other']])
            assert {bytes(raw) for _, _, raw in rows} == {data}


def test_a_type_without_a_definition_does_not_spoil_an_sqlite_bag(tmp_path):
    rows = drive()
    rows.append((rows[-1][0], '/other', bags.twist(0.0)))
    source = write_bag(tmp_path / 'theirs', rows, 'sqlite3')
    with closing(sqlite3.connect(next(source.glob('*.db3')))) as database, database:
        database.execute("UPDATE topics SET type = 'a_msgs/msg/B' WHERE name = '/other'")
        database.execute(
            "UPDATE message_definitions SET topic_type = 'a_msgs/msg/B', encoding = 'unknown', "
            "encoded_message_definition = '' WHERE topic_type = 'geometry_msgs/msg/Twist'"
        )
    check_drive(imported(source, tmp_path), rover())


def test_a_known_type_is_read_whatever_definition_the_bag_has(tmp_path):
    idl = b'module nav_msgs { module msg { struct Odometry { double x; }; }; };'
    source = tmp_path / 'theirs.mcap'
    with writing(source) as writer:
        schema = writer.register_schema(bags.ODOMETRY, 'ros2idl', idl)
        channels = {'/odom': writer.register_channel('/odom', 'cdr', schema)}
        schema = writer.register_schema(bags.TWIST, '', b'')
        channels['/cmd_vel'] = writer.register_channel('/cmd_vel', 'cdr', schema)
        for log, topic, message in drive():
            writer.add_message(channels[topic], log, bags.cdr(message), log)
    check_drive(imported(source, tmp_path), rover())


def test_a_needed_channel_in_another_encoding_is_said(tmp_path):
    rows = [row for row in drive() if row[1] == '/cmd_vel']
    others = [('/odom', 'json', ('nav_msgs/Odometry', 'jsonschema', b'{}'), b'{}')]
    source = bags.write_channels(tmp_path / 'theirs' / 'x_0.mcap', rows, others)
    refused(source, tmp_path, '/odom is nav_msgs/msg/Odometry, encoded as json, which is not read')


# --- definitions in the bag ------------------------------------------------------------------

ARM = 'my_msgs/msg/Arm'
ARM_TEXT = 'std_msgs/Header header\nfloat64[] angles\nmy_msgs/Grip grip\n'
GRIP_TEXT = 'float32 width\n'
ARM_IDL = """
module my_msgs { module msg { struct Arm {
  std_msgs::msg::Header header; sequence<double> angles; my_msgs::msg::Grip grip; }; }; };
"""
GRIP_IDL = 'module my_msgs { module msg { struct Grip { float width; }; }; };\n'
LINE = '=' * 80 + '\n'
ARM_STATE = [
    {'topic': 'odom', 'type': ARM, 'fields': {'x': 'angles[1]'}},
    {'topic': 'arm/grip', 'type': ARM, 'fields': {'w': 'grip.width'}},
]


@pytest.mark.parametrize('syntax', ['ros2msg', 'ros2idl'])
def test_types_that_only_the_bag_defines_are_read_by_its_definition(tmp_path, syntax):
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg(ARM_TEXT, ARM))
    store.register(get_types_from_msg(GRIP_TEXT, 'my_msgs/msg/Grip'))
    text = {
        'ros2msg': f'{ARM_TEXT}{LINE}MSG: my_msgs/Grip\n{GRIP_TEXT}',
        'ros2idl': f'{LINE}IDL: {ARM}\n{ARM_IDL}{LINE}IDL: my_msgs/msg/Grip\n{GRIP_IDL}',
    }[syntax]
    source = tmp_path / 'theirs.mcap'
    with writing(source) as writer:
        arm_schema = writer.register_schema(ARM, syntax, text.encode())
        twist_schema = writer.register_schema(
            bags.TWIST, 'ros2msg', bags.definition(bags.TWIST).encode()
        )
        channels = {
            '/odom': writer.register_channel('/odom', 'cdr', arm_schema),
            '/cmd_vel': writer.register_channel('/cmd_vel', 'cdr', twist_schema),
        }
        for log, topic, message in drive():
            if topic == '/odom':
                x = message.pose.pose.position.x
                grip = store.types['my_msgs/msg/Grip'](width=0.5)
                message = store.types[ARM](
                    header=message.header, angles=np.array([9.0, x]), grip=grip
                )
            writer.add_message(channels[topic], log, bags.cdr(message, store), log)
    task = rover(state=ARM_STATE[:1])
    folder = imported(source, tmp_path, task)
    assert read_metadata(folder).clock == 'header'
    check_drive(folder, task)
    shutil.rmtree(tmp_path / 'staging')
    grip = [{**ARM_STATE[1], 'topic': 'odom', 'fields': {'x': 'grip.width'}}]
    demonstration = read_demonstration(
        imported(source, tmp_path, rover(state=grip)), rover(state=grip)
    )
    assert set(demonstration.states[:, 0]) == {0.5}


@pytest.mark.parametrize(
    'text', ['int32 x\nstring y "{}', 'int32 x{}', LINE + 'IDL: a\nmodule a {}']
)
def test_a_definition_that_is_code_is_not_run(tmp_path, text):
    canary = tmp_path / 'canary'
    code = f"'); import os; os.system('touch {canary}') #"
    topic = TopicMap(topic='a', type='a/msg/B', fields={'x': 'x'})
    with suppress(DecodeError):
        TopicDecoder(topic, typestore({'a/msg/B': text.format(code)}))
    assert not canary.exists()


# --- ROS 1 -----------------------------------------------------------------------------------

NOETIC = get_typestore(Stores.ROS1_NOETIC)
NOETIC.register(get_types_from_msg('Header header\nduration d\nchar c\n', 'my_msgs/msg/Odd'))


def drive_of_ros1():
    rows = []
    for log, topic, message in drive():
        at = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        if topic == '/odom':
            x = message.pose.pose.position.x
            rows.append((log, topic, bags.odometry(at, x, NOETIC, seq=len(rows))))
            duration = NOETIC.types['builtin_interfaces/msg/Duration'](sec=1, nanosec=2)
            odd = NOETIC.types['my_msgs/msg/Odd'](
                header=bags.header(at, NOETIC, seq=1), d=duration, c=65
            )
            rows.append((log + 1, '/odd', odd))
        else:
            rows.append((log, topic, bags.twist_stamped(at, message.twist.linear.x, NOETIC, seq=3)))
    return rows


def test_a_bag_of_ros_1_becomes_a_demonstration(tmp_path):
    source = bags.write_ros1(tmp_path / 'theirs.bag', drive_of_ros1(), NOETIC)
    assert detect(source) == 'bag'
    folder = imported(source, tmp_path)
    assert read_metadata(folder).clock == 'header'
    check_drive(folder, rover())
    with Reader(folder) as reader:
        assert set(reader.topics) == {'/odom', '/cmd_vel'}
    assert '/odd' in ' '.join(read_metadata(folder).remarks)


def test_files_of_a_split_bag_of_ros_1_are_read_in_their_order(tmp_path):
    rows, source = drive_of_ros1(), tmp_path / 'theirs'
    source.mkdir()
    for number in range(11):
        share = rows[number * len(rows) // 11 : (number + 1) * len(rows) // 11]
        bags.write_ros1(source / f'x_{number}.bag', share, NOETIC)
    assert detect(source) == 'bag'
    check_drive(imported(source, tmp_path), rover())


def test_messages_of_ros_1_in_mcap_are_read(tmp_path):
    source = tmp_path / 'theirs.mcap'
    with writing(source) as writer:
        channels = {}
        for log, topic, message in drive_of_ros1():
            kind = message.__msgtype__
            if topic not in channels:
                text = NOETIC.generate_msgdef(kind, ros_version=1)[0].encode()
                schema = writer.register_schema(kind.replace('/msg/', '/'), 'ros1msg', text)
                channels[topic] = writer.register_channel(topic, 'ros1', schema)
            writer.add_message(channels[topic], log, NOETIC.serialize_ros1(message, kind), log)
    check_drive(imported(source, tmp_path), rover())


def test_a_bag_of_ros_1_without_index_names_the_remedy(tmp_path):
    source = bags.write_ros1(tmp_path / 'theirs.bag', drive_of_ros1(), NOETIC)
    data = source.read_bytes()
    source.write_bytes(re.sub(rb'(index_pos=).{8}', rb'\1' + bytes(8), data, count=1, flags=re.S))
    refused(source, tmp_path, 'rosbag reindex theirs.bag')


def test_a_type_that_ros_2_changed_names_the_converter(tmp_path):
    kind = 'sensor_msgs/msg/Range'
    rows = drive_of_ros1()
    scan = NOETIC.types[kind](
        header=bags.header(WALL, NOETIC, seq=0), radiation_type=0, field_of_view=0.1,
        min_range=0.0, max_range=1.0, range=0.5,
    )  # fmt: skip
    rows.append((rows[-1][0], '/range', scan))
    source = bags.write_ros1(tmp_path / 'theirs.bag', rows, NOETIC)
    state = [{'topic': 'range', 'type': kind, 'fields': {'x': 'range'}}]
    refused(source, tmp_path, kind, 'rosbags-convert', task=rover(state=state))
    shutil.rmtree(tmp_path / 'staging')
    check_drive(imported(source, tmp_path), rover())  # which does not need it
