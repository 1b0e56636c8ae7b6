"""A small rover, and bags of its drives as other recorders write them."""

from contextlib import contextmanager

import numpy as np
import pytest
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mbarl_ros.demos.bag import import_bag
from mbarl_ros.demos.metadata import DemonstrationError
from mbarl_ros.demos.reader import read_demonstration
from mbarl_ros.schema.robot import RobotConfig
from mbarl_ros.schema.task import TaskConfig
from mbarl_ros.task import Task

STORE = get_typestore(Stores.ROS2_JAZZY)
WALL = 1_750_000_000_000_000_000
PERIOD = 50_000_000
ODOMETRY, TWIST = 'nav_msgs/msg/Odometry', 'geometry_msgs/msg/TwistStamped'
STEP = 0.02  # m that the rover drives in a period
N = 60

ROBOT = {
    'name': 'rover',
    'control_rate': 20.0,
    'state': [{'topic': 'odom', 'type': ODOMETRY, 'fields': {'x': 'pose.pose.position.x'}}],
    'command': [{'topic': 'cmd_vel', 'type': TWIST, 'fields': {'v': 'twist.linear.x'}}],
    'limits': {'v': {'low': -1.0, 'high': 1.0, 'stop': 0.0}},
}
TASK = {
    'name': 'rover_drive',
    'robot': 'robot.yaml',
    'observation': [{'name': 'x', 'low': -5.0, 'high': 5.0}],
    'action': [{'name': 'v', 'low': -1.0, 'high': 1.0}],
    'success': {'entries': ['x'], 'target': [N * STEP], 'tolerance': 0.2},
    'phases': {'forward_limit': 200, 'backward_limit': 200},
    'evaluation': {'episodes': 5, 'horizon': 200, 'every': 1000, 'budget': 20000},
}


def rover(**changes):
    """The task of the rover; ``changes`` of its profile."""
    robot = RobotConfig.model_validate({**ROBOT, **changes})
    return Task(TaskConfig.model_validate(TASK), robot)


def cdr(message, store=STORE):
    return bytes(store.serialize_cdr(message, message.__msgtype__))


def header(ns, store=STORE, **more):
    time = store.types['builtin_interfaces/msg/Time'](sec=int(ns // 10**9), nanosec=int(ns % 10**9))
    return store.types['std_msgs/msg/Header'](stamp=time, frame_id='', **more)


def _vector(x, store, kind='Vector3'):
    return store.types[f'geometry_msgs/msg/{kind}'](x=float(x), y=0.0, z=0.0)


def twist(v, store=STORE):
    zero = _vector(0.0, store)
    return store.types['geometry_msgs/msg/Twist'](linear=_vector(v, store), angular=zero)


def odometry(ns, x, store=STORE, **more):
    t = store.types
    turn = t['geometry_msgs/msg/Quaternion'](x=0.0, y=0.0, z=0.0, w=1.0)
    pose = t['geometry_msgs/msg/Pose'](position=_vector(x, store, 'Point'), orientation=turn)
    pose = t['geometry_msgs/msg/PoseWithCovariance'](pose=pose, covariance=np.zeros(36))
    with_covariance = t['geometry_msgs/msg/TwistWithCovariance']
    speed = with_covariance(twist=twist(0, store), covariance=np.zeros(36))
    return t[ODOMETRY](
        header=header(ns, store, **more), child_frame_id='base', pose=pose, twist=speed
    )


def twist_stamped(ns, v, store=STORE, **more):
    return store.types[TWIST](header=header(ns, store, **more), twist=twist(v, store))


def joint_state(ns, position, names=('a', 'b')):
    empty = np.empty(0)
    return STORE.types['sensor_msgs/msg/JointState'](
        header=header(ns), name=list(names), position=np.array(position, float), velocity=empty,
        effort=empty,
    )  # fmt: skip


def drive(state_stamp=lambda at: at, command_stamp=lambda at: at, *, odom='/odom', cmd='/cmd_vel'):
    """Rows (log ns, topic, message): command number k is sent after state number k, x = k STEP."""
    rows = []
    for k in range(N):
        at = WALL + k * PERIOD
        rows.append((at + 1_000_000, odom, odometry(state_stamp(at), k * STEP)))
        if k >= 5:
            rows.append((at + 3_000_000, cmd, twist_stamped(command_stamp(at + 1_500_000), k / N)))
    return rows


def check_drive(folder, task, first=5):
    """The states of a drive are there, one a period, each with the command that was sent in it."""
    demonstration = read_demonstration(folder, task)
    numbers = np.arange(first, N)
    np.testing.assert_allclose(demonstration.states[:, 0], numbers * STEP, atol=1e-9)
    np.testing.assert_allclose(demonstration.commands[:, 0], numbers[:-1] / N, atol=1e-9)
    np.testing.assert_allclose(np.diff(demonstration.stamps), 0.05, atol=1e-6)
    assert demonstration.whole.all()
    return demonstration


def write_bag(path, rows, plugin='mcap', compression=None):
    """A bag as rosbag2 writes it; ``compression``: (mode, format) of rosbags."""
    storage = StoragePlugin.MCAP if plugin == 'mcap' else StoragePlugin.SQLITE3
    writer = Writer(path, version=9, storage_plugin=storage)
    if compression:
        writer.set_compression(*compression)
    with writer:
        made = {}
        for log, topic, message in rows:
            key = topic, message.__msgtype__
            if key not in made:
                made[key] = writer.add_connection(*key, typestore=STORE)
            writer.write(made[key], log, cdr(message))
    return path


def definition(kind, store=STORE):
    return store.generate_msgdef(kind, ros_version=2)[0]


def write_channels(path, rows, others=()):
    """A single MCAP file of rows (log, topic, message), and of channels of any sort.

    :param others: (topic, encoding, schema, bytes of a message); schema: (type, encoding, bytes) or
        None
    """
    path.parent.mkdir(exist_ok=True)
    with path.open('wb') as file:
        writer = McapWriter(file, chunk_size=4000, compression=CompressionType.ZSTD)
        writer.start(profile='ros2', library='test')
        foreign = []
        for topic, encoding, schema, data in others:
            number = writer.register_schema(*schema) if schema else 0
            foreign.append((writer.register_channel(topic, encoding, number), data))
        made = {}
        for log, topic, message in rows:
            kind = message.__msgtype__
            if (topic, kind) not in made:
                schema = writer.register_schema(kind, 'ros2msg', definition(kind).encode())
                made[topic, kind] = writer.register_channel(topic, 'cdr', schema)
            writer.add_message(made[topic, kind], log, cdr(message), log)
            for channel, data in foreign:
                writer.add_message(channel, log, data, log)
        writer.finish()
    return path.parent


def write_ros1(path, rows, store):
    """A bag of ROS 1 of rows (log, topic, message of ``store``)."""
    with Writer1(path) as writer:
        made = {}
        for log, topic, message in rows:
            kind = message.__msgtype__
            if topic not in made:
                made[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(made[topic], log, store.serialize_ros1(message, kind))
    return path


def imported(source, tmp_path, task=None, **options):
    """The demonstration that a bag becomes."""
    staging = tmp_path / 'staging'
    staging.mkdir()
    return import_bag(source, task or rover(), staging, **options)


@contextmanager
def writing(path):
    """A writer of a single MCAP file."""
    with path.open('wb') as file:
        writer = McapWriter(file)
        writer.start(profile='', library='test')
        yield writer
        writer.finish()


def refused(source, tmp_path, *words, task=None, **options):
    """A bag is refused, in a message that has these words."""
    with pytest.raises(DemonstrationError) as error:
        imported(source, tmp_path, task, **options)
    for word in (str(source), *words):
        assert word in str(error.value)
