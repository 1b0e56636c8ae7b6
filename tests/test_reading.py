"""Reading recordings: alignment of topics, what is wrong with them and when, bags of others."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from geometry_msgs.msg import PoseStamped, Twist
from nav_msgs.msg import Odometry
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from sensor_msgs.msg import JointState
from std_msgs.msg import (
    Bool,
    Byte,
    Float64MultiArray,
    Int8,
    Int32MultiArray,
    MultiArrayDimension,
    UInt8,
)
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from mbarl_ros.bringup import graphs
from mbarl_ros.cli import demos
from mbarl_ros.demos.align import Series, UnusableError, align
from mbarl_ros.demos.bag import import_bag
from mbarl_ros.demos.decode import DecodeError, TopicDecoder, typestore
from mbarl_ros.demos.imported import save_episode
from mbarl_ros.demos.metadata import DemonstrationError, folders, read_metadata, write_metadata
from mbarl_ros.demos.reader import check_demonstration, read_demonstration, read_episode
from mbarl_ros.schema.load import find
from mbarl_ros.schema.message_fields import TopicCodec, set_stamp, stamp_ns
from mbarl_ros.schema.robot import RobotTopic, TopicMap
from mbarl_ros.task import Task

SHIPPED = Path(__file__).resolve().parent.parent / 'demos'
STORE = get_typestore(Stores.ROS2_JAZZY)


def series(topic, times, values, log=None):
    stamps = (np.asarray(times) * 1e9).round().astype(np.int64)
    log = stamps if log is None else (np.asarray(log) * 1e9).round().astype(np.int64)
    values = np.asarray(values, float).reshape(len(stamps), -1)
    names = tuple(f'{topic}{i}' for i in range(values.shape[1]))
    return Series(topic, names, stamps, log, values)


@pytest.fixture
def robot():
    return Task.load('pointmass').robot  # control at 10 Hz


def commands(times):
    return series('executed', times, [[time, 0.0] for time in times])


def words(findings):
    return ' | '.join(f'{finding.level}: {finding}' for finding in findings)


# --- alignment -------------------------------------------------------------------------------


def test_topics_of_different_rates_hold_their_latest_value(robot):
    fast = np.arange(0, 3, 0.01)  # 100 Hz
    slow = np.arange(0.003, 3, 1 / 30)  # 30 Hz
    steps, findings = align(
        [series('joints', fast, fast), series('pose', slow, slow)],
        commands(np.arange(0.105, 2.5, 0.05)),
        robot,
        lockstep=False,
    )
    times = steps.stamps * 1e-9
    np.testing.assert_allclose(np.diff(times), 0.1, atol=0.02)
    np.testing.assert_allclose(steps.states[:, 0], times, atol=0.0101)
    age = times - steps.states[:, 1]
    assert (age >= 0).all() and (age < 1 / 30 + 1e-6).all()
    # of two commands in a step the second is in force
    assert all(
        command == pytest.approx(0.105 + 0.05 * np.ceil((end - 0.105) / 0.05 - 1e-6) - 0.05)
        for command, end in zip(steps.commands[:, 0], times[1:], strict=True)
    )
    assert steps.whole.all() and findings == []


def test_gaps_are_reported_with_their_time_and_left_out(robot):
    times = [t for t in np.arange(0, 4, 0.05) if not 1.0 < t < 1.6]
    steps, findings = align(
        [series('odom', times, times)], commands(np.arange(0.5, 3, 0.1)), robot, lockstep=False
    )
    assert 'warning: odom: no message for 0.60 s at 1.00 s' in words(findings)
    assert (~steps.whole).sum() == 1 and '1 of' in words(findings)
    left_out = steps.stamps[:-1][~steps.whole] * 1e-9
    assert left_out == pytest.approx([1.0], abs=0.06)


def test_one_topic_that_falls_silent_spoils_the_steps_that_it_is_missing_from(robot):
    times = np.arange(0, 4, 0.1)
    silent = [t for t in times if not 2.0 < t < 2.95]
    steps, findings = align(
        [series('joints', times, times), series('pose', silent, silent)],
        commands(np.arange(0.1, 3.5, 0.1)),
        robot,
        lockstep=False,
    )
    assert 'pose: no message for 1.00 s at 2.00 s' in words(findings)
    bad = steps.stamps[:-1][~steps.whole] * 1e-9
    assert bad.min() == pytest.approx(2.1) and bad.max() == pytest.approx(2.9)


def test_a_clock_that_jumps_ahead_is_told_from_lost_messages(robot):
    log = np.arange(0, 4, 0.1)
    stamps = np.where(log > 1.95, log + 30, log)
    _, findings = align(
        [series('odom', stamps, log, log)], commands(np.arange(0.1, 1.5, 0.1)), robot, False
    )
    assert 'odom: the clock jumps ahead by 30.10 s at 1.90 s' in words(findings)


def test_a_clock_that_runs_back_makes_it_unusable(robot):
    stamps = [*np.arange(50, 52, 0.1), *np.arange(0, 2, 0.1)]
    with pytest.raises(UnusableError, match=r'odom: the clock runs back by 51\.90 s.* at 51\.90 s'):
        align([series('odom', stamps, stamps)], commands(np.arange(0.5, 1, 0.1)), robot, False)


def test_messages_out_of_order_are_sorted(robot):
    times = np.arange(0, 3, 0.1)
    swapped = times.copy()
    swapped[[10, 11]] = swapped[[11, 10]]
    steps, findings = align(
        [series('odom', swapped, swapped)], commands(np.arange(0.1, 2.5, 0.1)), robot, False
    )
    assert '1 messages out of order' in words(findings) and steps.whole.all()
    assert (np.diff(steps.states[:, 0]) > 0).all()


def test_values_that_are_not_finite_cost_their_step_only(robot):
    times = np.arange(0, 3, 0.1)
    values = np.stack([times, times], 1)
    values[15, 1] = np.nan
    steps, findings = align(
        [series('odom', times, values)], commands(np.arange(0.1, 2.5, 0.1)), robot, False
    )
    assert 'warning: odom: odom1 not finite (NaN or infinite) at 1.50 s' in words(findings)
    assert (~steps.whole).sum() == 1 and np.isfinite(steps.states).all()


def test_a_topic_slower_than_control_is_named(robot):
    fast, slow = np.arange(0, 5, 0.1), np.arange(0, 5, 0.25)
    steps, findings = align(
        [series('joints', fast, fast), series('pose', slow, slow)],
        commands(np.arange(0.3, 4, 0.1)),
        robot,
        lockstep=False,
    )
    said = 'pose: has a rate of 4.0 Hz, below the control rate of 10 Hz'
    assert said in words(findings) and steps.whole.all()


# --- decoding --------------------------------------------------------------------------------


def test_decoder_reads_what_an_object_of_each_message_says():
    """Against the profile's codec on rclpy messages, with names and layouts that change."""
    rng = np.random.default_rng(1)
    topic = TopicMap(
        topic='joint_states',
        type='sensor_msgs/msg/JointState',
        fields={'a': 'position[elbow]', 'b': 'velocity[#2]', 'c': 'position[#1]'},
    )
    messages = []
    for i in range(200):
        names = ['shoulder', 'elbow', 'wrist', 'hand'][: 3 + i % 2]
        if i % 5 == 0:
            names = names[::-1]
        message = JointState(name=names, position=rng.normal(size=len(names)).tolist())
        message.velocity = rng.normal(size=len(names)).tolist()
        message.header.frame_id = ['', 'base', 'a_longer_frame'][i % 3]
        set_stamp(message, int(rng.integers(2**60)))
        messages.append(message)
    stamps, values = TopicDecoder(topic, typestore()).decode(
        [serialize_message(message) for message in messages]
    )
    codec = TopicCodec(topic)
    np.testing.assert_array_equal(values, [codec.decode(message) for message in messages])
    np.testing.assert_array_equal(stamps, [stamp_ns(message) for message in messages])


def test_decoder_reads_nested_layouts_and_big_endian_messages():
    topic = TopicMap(
        topic='odom',
        type='nav_msgs/msg/Odometry',
        fields={'y': 'pose.pose.position.y', 'c': 'twist.covariance[35]'},
    )
    odometry = Odometry()
    odometry.child_frame_id = 'b'
    odometry.pose.pose.position.y = 1.25
    odometry.twist.covariance[35] = -3.5
    set_stamp(odometry, 5_000_000_007)
    data = serialize_message(odometry)
    kind = 'nav_msgs/msg/Odometry'
    slackless = next(
        data[: len(data) - slack]
        for slack in (0, 4)
        if len(data) - slack == len(STORE.serialize_cdr(_as_rosbags(data), kind))
    )
    big = STORE.serialize_cdr(STORE.deserialize_cdr(slackless, kind), kind, little_endian=False)
    stamps, values = TopicDecoder(topic, typestore()).decode([data, bytes(big)])
    np.testing.assert_array_equal(values, [[1.25, -3.5]] * 2)
    assert stamps.tolist() == [5_000_000_007] * 2
    array = Float64MultiArray(data=[1.0, 2.0])
    array.layout.dim = [MultiArrayDimension(label='xyz', size=2, stride=2)]
    topic = TopicMap(topic='t', type='std_msgs/msg/Float64MultiArray', fields={'a': 'data[1]'})
    stamps, values = TopicDecoder(topic, typestore()).decode([serialize_message(array)])
    assert values.tolist() == [[2.0]] and stamps.tolist() == [-1]


def _as_rosbags(data):
    for slack in (0, 4, 8):
        try:
            return STORE.deserialize_cdr(data[: len(data) - slack], 'nav_msgs/msg/Odometry')
        except Exception:
            continue
    raise AssertionError


@pytest.mark.parametrize('cut', [0, 1, 4, 7, 20, 60])
def test_decoder_names_torn_messages(cut):
    topic = TopicMap(
        topic='joint_states', type='sensor_msgs/msg/JointState', fields={'a': 'position[elbow]'}
    )
    data = serialize_message(JointState(name=['elbow'], position=[1.0]))
    with pytest.raises(DecodeError, match="'joint_states'"):
        TopicDecoder(topic, typestore()).decode([data[: min(cut, 35)]])


def test_decoder_and_codec_say_where_a_constant_differs():
    topic = TopicMap(
        topic='odom',
        type='nav_msgs/msg/Odometry',
        fields={'x': 'pose.pose.position.x'},
        constants={'header.frame_id': 'odom', 'twist.covariance[0]': 0.5},
    )
    codec, decoder = TopicCodec(topic), TopicDecoder(topic, typestore())
    messages = [codec.encode(Odometry(), [float(i)]) for i in range(20)]
    _, values = decoder.decode([serialize_message(message) for message in messages])
    assert values[:, 0].tolist() == list(range(20))
    for field, found, expected in (
        ('header', "'map'", "header.frame_id is 'map', not 'odom'"),
        ('covariance', 0.25, 'covariance[0] is 0.25, not 0.5'),
    ):
        odd = codec.encode(Odometry(), [20.0])
        if field == 'header':
            odd.header.frame_id = found.strip("'")
        else:
            odd.twist.covariance[0] = found
        for read in (
            lambda odd=odd: codec.decode(odd),
            lambda odd=odd: decoder.decode([*map(serialize_message, [*messages, odd])]),
        ):
            with pytest.raises(ValueError, match=re.escape(expected)):
                read()


@pytest.mark.parametrize('seed', range(20))
def test_joints_are_found_by_name_in_any_order_and_in_parts(seed):
    """Names that are numbers, have dots, and come in other messages; velocity may be missing."""
    rng = np.random.default_rng(seed)
    joints = ['1', '2', '10', 'shoulder_pan.pos', 'elbow']
    fields = {f'p{i}': f'position[{joint}]' for i, joint in enumerate(joints)}
    fields |= {f'v{i}': f'velocity[{joint}]' for i, joint in enumerate(joints)}
    topic = TopicMap(topic='joint_states', type='sensor_msgs/msg/JointState', fields=fields)
    messages, expected = [], []
    for _ in range(30):
        shown = rng.permutation(len(joints))[: rng.integers(len(joints) + 1)]
        values = rng.normal(size=(2, len(joints)))
        names = [joints[i] for i in shown]
        message = JointState(name=[*names, 'finger'], position=[*values[0][shown], 7.0])
        row = np.full((2, len(joints)), np.nan)
        row[0][shown] = values[0][shown]
        if rng.random() < 0.5:
            message.velocity = [*values[1][shown], 7.0]
            row[1][shown] = values[1][shown]
        messages.append(message)
        expected.append(row.ravel())
    codec = TopicCodec(topic)
    np.testing.assert_array_equal([codec.decode(message) for message in messages], expected)
    decoder = TopicDecoder(topic, typestore())
    _, values = decoder.decode([serialize_message(message) for message in messages])
    np.testing.assert_array_equal(values, expected)
    assert codec.in_parts and decoder.in_parts


def test_a_trajectory_is_read_by_its_joint_names():
    fields = {'a': 'points[0].positions[elbow]', 'b': 'points[0].positions[#0]'}
    topic = TopicMap(topic='t', type='trajectory_msgs/msg/JointTrajectory', fields=fields)
    point = JointTrajectoryPoint(positions=[0.25, 0.5])
    message = JointTrajectory(joint_names=['shoulder', 'elbow'], points=[point])
    assert TopicCodec(topic).decode(message) == [0.5, 0.25]
    _, values = TopicDecoder(topic, typestore()).decode([serialize_message(message)])
    assert values.tolist() == [[0.5, 0.25]]


def test_a_number_is_an_index_where_the_names_are_pinned_and_none_of_them():
    """As trajectories are often written down: joint_names, and positions by place."""
    fields = {'a': 'points[0].positions[0]', 'b': 'points[0].positions[1]'}
    pinned = {'joint_names': ['shoulder', 'elbow'], 'points[0].time_from_start': 0.1}
    kind = 'trajectory_msgs/msg/JointTrajectory'
    topic = TopicMap(topic='t', type=kind, fields=fields, constants=pinned)
    codec = TopicCodec(topic)
    message = codec.encode(JointTrajectory(), [0.25, 0.5])
    assert message.joint_names == ['shoulder', 'elbow']
    assert message.points[0].positions.tolist() == [0.25, 0.5]
    assert codec.decode(message) == [0.25, 0.5]
    _, values = TopicDecoder(topic, typestore()).decode([serialize_message(message)])
    assert values.tolist() == [[0.25, 0.5]]
    message.joint_names = ['elbow', 'shoulder']
    with pytest.raises(ValueError, match='joint_names is'):
        codec.decode(message)
    numbered = TopicMap(
        topic='t', type=kind, fields={'a': 'points[0].positions[1]'},
        constants={'joint_names': ['2', '1']},
    )  # fmt: skip
    point = JointTrajectoryPoint(positions=[0.25, 0.5])
    assert TopicCodec(numbered).decode(JointTrajectory(joint_names=['2', '1'], points=[point])) == [
        0.5
    ]


def test_a_number_in_a_list_of_names_is_a_name():
    """A profile that means the index reads the wrong joint where joints are called 1 to 6."""
    topic = TopicMap(topic='j', type='sensor_msgs/msg/JointState', fields={'a': 'position[1]'})
    named = JointState(name=['1', '2'], position=[0.25, 0.5])
    assert TopicCodec(topic).decode(named) == [0.25]
    codec = TopicCodec(topic)
    assert np.isnan(codec.decode(JointState(name=['a', 'b'], position=[1.0, 2.0]))).all()
    assert codec.listed == ['a', 'b']
    # Where nothing has a name, a number can only be an index.
    unnamed = JointState(position=[0.25, 0.5])
    assert codec.decode(unnamed) == [0.5]
    _, values = TopicDecoder(topic, typestore()).decode([serialize_message(unnamed)])
    assert values.tolist() == [[0.5]]


@pytest.mark.parametrize(
    ('kind', 'path', 'value', 'written'),
    [
        (Int8, 'data', 1.6, 2),
        (Int8, 'data', 1e9, 127),
        (Int8, 'data', -1e9, -128),
        (UInt8, 'data', -3.0, 0),
        (UInt8, 'data', 300.0, 255),
        (Int32MultiArray, 'data[0]', -2.5001, -3),
        (Byte, 'data', 7.4, b'\x07'),
        (Bool, 'data', 1e-6, False),
        (Bool, 'data', 0.021, True),
        (Bool, 'data', 0.019, False),
    ],
)
def test_whole_numbers_are_rounded_and_saturate_and_a_bool_has_a_threshold(
    kind, path, value, written
):
    name = f'std_msgs/msg/{kind.__name__}'
    codec = TopicCodec(TopicMap(topic='t', type=name, fields={'a': path}), {'a': 0.02})
    data = codec.encode(kind(), [value]).data
    assert (data if path == 'data' else data[0]) == written


@pytest.mark.parametrize('seed', range(5))
def test_scale_and_offset_hold_for_reading_and_writing(seed):
    rng = np.random.default_rng(seed)
    topic = RobotTopic(
        topic='j',
        type='sensor_msgs/msg/JointState',
        fields={'a': 'position[a]', 'b': 'position[b]', 'c': 'position[c]'},
        scale={'a': np.pi / 180, 'b': -0.01},
        offset={'b': 1.0},
    )
    raw = rng.normal(size=3) * 90
    message = JointState(name=['a', 'b', 'c'], position=raw.tolist())
    expected = [raw[0] * np.pi / 180, 1.0 - 0.01 * raw[1], raw[2]]
    codec = TopicCodec(topic)
    assert codec.decode(message) == pytest.approx(expected)
    _, values = TopicDecoder(topic, typestore()).decode([serialize_message(message)])
    np.testing.assert_allclose(values, [expected])
    assert codec.encode(JointState(), expected).position.tolist() == pytest.approx(raw)


def test_message_types_that_a_bag_defines_itself_are_read(tmp_path):
    text = 'std_msgs/Header header\nfloat32[] angles\nstring note\n'
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg(text, 'my_msgs/msg/Arm'))
    arm = store.types['my_msgs/msg/Arm']
    header = store.types['std_msgs/msg/Header'](
        stamp=store.types['builtin_interfaces/msg/Time'](sec=3, nanosec=5), frame_id='base'
    )
    message = arm(header=header, angles=np.array([0.5, 0.25], np.float32), note='hello')
    definition, _ = store.generate_msgdef('my_msgs/msg/Arm', ros_version=2)
    topic = TopicMap(topic='arm', type='my_msgs/msg/Arm', fields={'elbow': 'angles[1]'})
    decoder = TopicDecoder(topic, typestore({'my_msgs/msg/Arm': definition}))
    stamps, values = decoder.decode([bytes(store.serialize_cdr(message, 'my_msgs/msg/Arm'))])
    assert values.tolist() == [[0.25]] and stamps.tolist() == [3_000_000_005]
    with pytest.raises(DecodeError, match='my_msgs/msg/Arm'):
        TopicDecoder(topic, typestore())


# --- bags that others recorded ---------------------------------------------------------------


def foreign_bag(path, plugin=StoragePlugin.MCAP, prefix='/robot7', leave_out=(), until=4.0):
    """What ``ros2 bag record`` makes of the tabletop robot's topics: no executed commands."""
    writer = Writer(path, version=9, storage_plugin=plugin)
    writer.open()
    wall = 1_700_000_000_000_000_000  # ros2 bag dates by the wall clock
    kinds = {
        'joint_states': 'sensor_msgs/msg/JointState',
        'mug_pose': 'geometry_msgs/msg/PoseStamped',
        'gripper_controller/commands': 'std_msgs/msg/Float64MultiArray',
        'camera/info': 'geometry_msgs/msg/Twist',
    }
    found = {
        topic: writer.add_connection(f'{prefix}/{topic}', kind, typestore=STORE)
        for topic, kind in kinds.items()
        if topic not in leave_out
    }
    for i in range(int(until * 10)):
        joints = JointState(name=['gripper_x', 'gripper_y', 'attached'])
        joints.position = [0.1 * i, 0.0, -1.0]
        mug = PoseStamped()
        mug.pose.position.x = 2.5
        for message in (joints, mug):
            set_stamp(message, i * 100_000_000)
        action = Float64MultiArray(data=[0.1, 0.0, -0.2])
        for topic, message, late in (
            ('joint_states', joints, 0.0),
            ('mug_pose', mug, 0.01),
            ('gripper_controller/commands', action, 0.02),
            ('camera/info', Twist(), 0.0),
        ):
            if topic in found and not (topic.startswith('gripper') and i < 5):
                at = wall + int((i * 0.1 + late) * 1e9)
                writer.write(found[topic], at, serialize_message(message))
    writer.close()
    return path


@pytest.mark.parametrize('plugin', [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_a_bag_of_ros2_bag_record_becomes_a_demonstration(tmp_path, plugin):
    source = foreign_bag(tmp_path / 'theirs', plugin)
    task = Task.load('tabletop')
    folder = import_bag(source, task, tmp_path)
    note = read_metadata(folder)
    assert note.topics['mug_pose'] == '/robot7/mug_pose' and note.clock == 'log'
    demonstration = read_demonstration(folder, task)
    assert len(demonstration.commands) == pytest.approx(34, abs=1)
    np.testing.assert_allclose(
        demonstration.commands, [[0.1, 0.0, -0.2]] * len(demonstration.whole)
    )
    np.testing.assert_allclose(np.diff(demonstration.states[:, 0]), 0.1, atol=1e-9)
    assert demonstration.whole.all()
    with Reader(folder) as reader:
        assert '/robot7/camera/info' in reader.topics  # nothing is thrown away


def test_a_torn_bag_is_imported_up_to_where_it_is_torn(tmp_path):
    source = foreign_bag(tmp_path / 'theirs', until=600.0)  # more than one chunk
    file = next(source.glob('*.mcap'))
    file.write_bytes(file.read_bytes()[:-200_000])
    (source / 'metadata.yaml').unlink()
    task = Task.load('tabletop')
    folder = import_bag(source, task, tmp_path)
    assert read_metadata(folder).interrupted
    assert 3000 < len(read_demonstration(folder, task).commands) < 5990


def test_topics_that_are_missing_or_of_another_name_are_said(tmp_path):
    source = foreign_bag(tmp_path / 'theirs', leave_out=('mug_pose',))
    with pytest.raises(DemonstrationError) as error:
        import_bag(source, Task.load('tabletop'), tmp_path)
    for word in ("'mug_pose'", 'geometry_msgs/msg/PoseStamped', '/robot7/joint_states', 'robot:='):
        assert word in str(error.value)


def test_own_bags_imported_again_are_the_same(tmp_path):
    task = Task.load('tabletop')
    source = SHIPPED / 'tabletop' / 'backward_003'
    folder = import_bag(source, task, tmp_path)
    before, after = read_episode(source, task), read_episode(folder, task)
    np.testing.assert_array_equal(before.states, after.states)
    np.testing.assert_array_equal(before.actions, after.actions)
    assert (after.direction, after.verdict) == ('backward', 'success')


def test_files_outside_the_bag_are_not_read(tmp_path):
    source = tmp_path / 'theirs'
    source.mkdir()
    (source / 'link.mcap').symlink_to(next((SHIPPED / 'tabletop' / 'forward_000').glob('*.mcap')))
    (source / 'metadata.yaml').write_text(
        'rosbag2_bagfile_information: {relative_file_paths: [../../etc/passwd]}\n'
    )
    with pytest.raises(DemonstrationError, match=r'no \.mcap file'):
        import_bag(source, Task.load('tabletop'), tmp_path)


# --- the command -----------------------------------------------------------------------------


@pytest.fixture
def copies(tmp_path):
    folder = tmp_path / 'demos'
    shutil.copytree(SHIPPED / 'pointmass', folder)
    return folder


def test_list_and_check_say_what_there_is_and_what_is_wrong(copies, capsys):
    assert demos.main(['list', str(copies)]) == 0
    out = capsys.readouterr().out
    assert '3 of 3 are used for learning' in out and 'forward_002' in out
    assert demos.main(['check', str(copies)]) == 0
    bag = next((copies / 'forward_001').glob('*.mcap'))
    bag.write_bytes(bag.read_bytes()[:2000])
    capsys.readouterr()
    assert demos.main(['check', str(copies)]) == 1
    out = capsys.readouterr().out
    assert 'forward_001: cannot be used' in out and '3 checked, 1 cannot be used' in out
    assert demos.main(['list', str(copies)]) == 0
    assert '2 of 3 are used for learning' in capsys.readouterr().out


def test_long_names_are_never_cut(copies, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '40')
    name = 'forward_of_the_second_session_in_the_laboratory_000'
    (copies / 'forward_000').rename(copies / name)
    assert demos.main(['list', str(copies)]) == 0
    assert f'{name} ' in capsys.readouterr().out
    monkeypatch.setenv('FORCE_COLOR', '1')  # to rich: a terminal
    assert demos.main(['list', str(copies)]) == 0
    assert f'{name} ' in capsys.readouterr().out


def test_list_counts_findings_of_every_level(copies, capsys):
    metadata = read_metadata(copies / 'forward_000')
    write_metadata(copies / 'forward_000', replace(metadata, verdict='unknown'))
    assert demos.main(['list', str(copies)]) == 0
    assert '1 note' in capsys.readouterr().out


@pytest.fixture
def own_task(tmp_path):
    """A task of a user's own with a robot profile beside it."""
    folder = tmp_path / 'mine'
    folder.mkdir()
    raw = yaml.safe_load(find('tasks', 'pointmass').read_text())
    raw.update(name='mine', robot='robot.yaml', demonstrations='demos')
    (folder / 'task.yaml').write_text(yaml.safe_dump(raw))
    robot = find('robots', 'pointmass').read_text().replace('name: pointmass', 'name: own')
    (folder / 'robot.yaml').write_text(robot)
    return folder / 'task.yaml'


def test_demonstrations_of_a_task_by_path_are_listed_without_it(own_task, monkeypatch, capsys):
    monkeypatch.chdir(own_task.parent)
    source = str(SHIPPED / 'pointmass' / 'forward_000')
    assert demos.main(['import', source, '--task', 'task.yaml', '--into', 'demos']) == 0
    monkeypatch.chdir('/')
    folder = own_task.parent / 'demos'
    metadata = read_metadata(folder / 'forward_000')
    assert metadata.task_file == str(own_task)
    assert metadata.robot_file == str(own_task.parent / 'robot.yaml')
    assert demos.main(['list', str(folder)]) == 0
    assert '1 of 1 are used for learning (task mine)' in capsys.readouterr().out
    plan = graphs.plan('replay', {'demo': str(folder), 'run_dir': str(own_task.parent / 'run')})
    assert plan.task.name == 'mine' and plan.robot.name == 'own'
    own_task.rename(own_task.parent / 'moved.yaml')
    assert demos.main(['list', str(folder)]) == 2
    error = capsys.readouterr().err
    assert f"is of task 'mine', whose file {own_task} does not exist" in error and '--task' in error
    moved = str(own_task.parent / 'moved.yaml')
    assert demos.main(['list', str(folder), '--task', moved]) == 0


def test_metadata_without_a_task_file_names_the_remedy(copies, capsys):
    path = copies / 'forward_000' / 'demonstration.json'
    assert 'task_file' not in json.loads(path.read_text())
    for folder in folders(copies):
        write_metadata(folder, replace(read_metadata(folder), task='mine'))
    assert demos.main(['list', str(copies)]) == 2
    error = capsys.readouterr().err
    assert "is of task 'mine', which is none of the shipped tasks" in error and '--task' in error


@pytest.mark.parametrize(
    ('kind', 'target'),
    [('minari', 'pointmass-v0'), ('robomimic', 'pointmass.hdf5'), ('lerobot', 'pointmass')],
)
def test_convert_writes_to_a_relative_path(copies, kind, target, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert demos.main(['convert', 'demos', '--to', kind, '--output', f'new/{target}']) == 0
    assert f'new/{target}: 3 demonstrations' in capsys.readouterr().out
    assert (tmp_path / 'new' / target).exists()
    assert [path.name for path in (tmp_path / 'new').iterdir()] == [target]
    given = ['--task', 'pointmass', '--into', 'back']
    assert demos.main(['import', f'new/{target}', *given]) == 0
    assert len(folders(tmp_path / 'back')) == 3


def interrupt_a_recording(folder, original, task):
    """Record a demonstration once more, into ``folder``, up to where the recorder dies."""
    from mbarl_ros.demos.recording import Recording, topic_types

    note = read_metadata(original)
    topics = {**note.topics, 'demo_recorder/phase': '/demo_recorder/phase'}
    note = replace(note, topics=topics, recorded='2026-11-21T00:00:00+00:00')
    recording = Recording(folder, note, topic_types(task.robot))
    with Reader(original) as reader:
        names = {bag: topic for topic, bag in note.topics.items()}
        for connection, stamp, data in reader.messages():
            recording.write(names[connection.topic], stamp, data)
    recording.abandon()


def test_check_finishes_an_interrupted_recording(copies, capsys):
    task = Task.load('pointmass')
    interrupt_a_recording(copies, copies / 'forward_000', task)
    assert demos.main(['list', str(copies)]) == 0
    assert '1 recordings are in progress or were interrupted' in capsys.readouterr().out
    assert demos.main(['check', str(copies)]) == 0
    out = capsys.readouterr().out
    assert 'forward_003: recovered from an interrupted recording' in out
    assert '4 checked, 0 cannot be used' in out
    first = read_episode(copies / 'forward_000', task)
    again = read_episode(copies / 'forward_003', task)
    np.testing.assert_array_equal(first.states, again.states)


def test_check_finishes_an_interrupted_recording_that_is_the_only_one(copies, tmp_path, capsys):
    alone = tmp_path / 'alone'
    interrupt_a_recording(alone, copies / 'forward_000', Task.load('pointmass'))
    assert demos.main(['check', str(alone)]) == 0
    out = capsys.readouterr().out
    assert 'forward_000: recovered' in out and '1 checked, 0 cannot be used' in out


@pytest.mark.slow
def test_show_draws_a_picture_and_lines(copies, tmp_path, capsys):
    picture = tmp_path / 'show.png'
    assert demos.main(['show', str(copies), '--output', str(picture)]) == 0
    assert picture.read_bytes().startswith(b'\x89PNG') and picture.stat().st_size > 20_000
    capsys.readouterr()
    assert demos.main(['show', str(copies / 'forward_001')]) == 0
    out = capsys.readouterr().out
    for word in ('forward_001: forward, 69 steps', 'action vx', 'reward', '█'):
        assert word in out


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['list'], ['--task']),
        (['list', 'nowhere'], ['nowhere', 'no demonstrations']),
        (['list', '--task', 'nonsense'], ["unknown task 'nonsense'", 'pointmass']),
        (['import', 'nowhere.hdf5'], ['--task']),
    ],
)
def test_mistakes_are_one_sentence(arguments, words, capsys):
    assert demos.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1
    assert all(word in error for word in words)


@pytest.mark.slow
def test_a_replay_that_strays_is_reported_and_fails(tmp_path, capfd):
    task = Task.load('pointmass')
    shown = read_episode(SHIPPED / 'pointmass' / 'forward_000', task)
    states = shown.states.copy()
    states[20:40, 1] += 0.1  # 2.5 % of the room of 4 m
    folder = tmp_path / 'bent'
    folder.mkdir()
    save_episode(folder, replace(shown, states=states), task)
    assert demos.main(['replay', str(folder)]) == 1
    out = capfd.readouterr().out
    assert re.search(r'bent +\d+ +yes +2\.50% +y +[23]\.\d s', out) and 'NOT met' in out
    assert demos.main(['replay', str(folder), '--tolerance', '0.03']) == 0


def test_judged_success_that_is_none_is_noticed(copies):
    task = Task.load('pointmass')
    far = Task(
        task.config.model_copy(
            update={'success': task.config.success.model_copy(update={'target': [1.5, -1.5]})}
        ),
        task.robot,
    )
    _, findings = check_demonstration(folders(copies)[0], far)
    assert 'the verdict is success, but' in words(findings)


@pytest.mark.parametrize(
    ('path', 'words'),
    [
        ('effort[elbow]', 'NaN throughout, or the list is empty'),
        ('velocity[elbow]', 'NaN throughout, or the list is empty'),
        ('position[wrist]', 'the names in its messages are elbow, hand; correct the robot profile'),
    ],
)
def test_a_value_that_never_comes_is_named_with_the_reason(path, words):
    topic = TopicMap(topic='j', type='sensor_msgs/msg/JointState', fields={'a': path})
    decoder = TopicDecoder(topic, typestore())
    message = JointState(name=['elbow', 'hand'], position=[1.0, 2.0], effort=[np.nan, np.nan])
    _, values = decoder.decode([serialize_message(message)] * 3)
    assert np.isnan(values).all()
    assert f'{path} (a)' in decoder.nothing_named(['a'])
    assert words in decoder.nothing_named(['a'])


def test_a_stamp_that_means_now_is_no_constant_of_recordings():
    """Drivers and MoveIt Servo stamp their trajectories in either way."""
    topic = Task.load('arm_position', 'arm_trajectory').robot.command[0]
    codec = TopicCodec(topic)
    message = codec.encode(JointTrajectory(), [0.25, 0.5])
    assert message.header.stamp.sec == 0
    set_stamp(message, 1_753_433_201_003_000_000)
    assert codec.decode(message) == [0.25, 0.5]
    _, values = TopicDecoder(topic, typestore()).decode([serialize_message(message)])
    assert values.tolist() == [[0.25, 0.5]]


def test_an_empty_joint_state_is_passed_over_also_where_the_index_is_given():
    topic = TopicMap(topic='j', type='sensor_msgs/msg/JointState', fields={'a': 'position[#1]'})
    messages = [JointState(name=['x', 'y'], position=[0.25, 0.5]), JointState()]
    codec = TopicCodec(topic)
    decoded = np.array([codec.decode(message) for message in messages])
    _, values = TopicDecoder(topic, typestore()).decode([*map(serialize_message, messages)])
    np.testing.assert_array_equal(decoded, [[0.5], [np.nan]])
    np.testing.assert_array_equal(values, decoded)


@pytest.mark.parametrize('seed', range(5))
def test_elements_of_nested_lists_are_found_by_name(seed):
    """As in control_msgs/DynamicJointState: joints, and named interfaces of each of them."""
    rng = np.random.default_rng(seed)
    joints, interfaces = ['elbow', 'wrist', '3'], ['position', 'velocity']
    text = 'string[] joint_names\nInterface[] interface_values\n'
    inner = 'string[] interface_names\nfloat64[] values\n'
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg(inner, 'arm_msgs/msg/Interface'))
    store.register(get_types_from_msg(text, 'arm_msgs/msg/Dynamic'))
    kinds = store.types
    order = rng.permutation(3)
    values = rng.normal(size=(3, 2))
    message = kinds['arm_msgs/msg/Dynamic'](
        joint_names=[joints[i] for i in order],
        interface_values=[
            kinds['arm_msgs/msg/Interface'](interface_names=interfaces, values=values[i])
            for i in order
        ],
    )
    fields = {
        'a': 'interface_values[elbow].values[velocity]',
        'b': 'interface_values[0].values[#0]',
    }
    topic = TopicMap(topic='d', type='arm_msgs/msg/Dynamic', fields=fields)
    expected = [values[0][1], values[order[0]][0]]
    assert TopicCodec(topic).decode(message) == expected
    data = bytes(store.serialize_cdr(message, 'arm_msgs/msg/Dynamic'))
    _, read = TopicDecoder(topic, store).decode([data])
    assert read.tolist() == [expected]
