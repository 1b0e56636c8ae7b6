"""Poses from TF: chains of transforms in either direction, and from bags."""

import math

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from mbarl_ros.demos.bag import import_bag
from mbarl_ros.demos.metadata import DemonstrationError, profile_hash, read_metadata
from mbarl_ros.demos.reader import read_demonstration
from mbarl_ros.demos.recording import topic_types
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import load_robot
from mbarl_ros.schema.robot import RobotConfig
from mbarl_ros.schema.transforms import (
    NoTransformError,
    TransformCodec,
    TransformTree,
    roll_pitch_yaw,
)
from support.bags import write_bag, write_ros1
from support.frames import (
    PERIOD,
    START,
    TF,
    TF_STATIC,
    about_z,
    arm,
    pose_at,
    profile,
    recorded,
    robot,
    serialised,
    stamped,
    task_of,
    transforms,
)


def read(tree, parent='base_link', child='tcp', fields=None):
    entry = robot((parent, child), fields).state[0]
    return TransformCodec(entry).read(tree)


# --- rotations -------------------------------------------------------------------------------

parts = st.floats(-1, 1, allow_subnormal=False).map(lambda value: round(value, 9))
quaternions = (
    st.tuples(parts, parts, parts, parts)
    .filter(lambda q: math.hypot(*q) > 0.1)
    .map(lambda q: tuple(part / math.hypot(*q) for part in q))
)
right_angles = st.sampled_from([0, 90, 180, 270]).map(math.radians)
upright = st.tuples(right_angles, right_angles, right_angles)


def matrix(position, rotation):
    """Homogeneous matrix by scipy, the reference."""
    spatial = pytest.importorskip('scipy.spatial.transform')
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = spatial.Rotation.from_quat(rotation).as_matrix(), position
    return made


def matrix_of(values):
    named = dict(zip(('x', 'y', 'z', 'qx', 'qy', 'qz', 'qw'), values, strict=True))
    return matrix([named[k] for k in ('x', 'y', 'z')], [named[k] for k in ('qx', 'qy', 'qz', 'qw')])


@given(quaternions)
@settings(max_examples=200, deadline=None)
def test_roll_pitch_and_yaw_make_up_the_rotation(rotation):
    spatial = pytest.importorskip('scipy.spatial.transform')
    angles = roll_pitch_yaw(rotation)
    assert abs(angles[1]) <= math.pi / 2
    again = spatial.Rotation.from_euler('xyz', angles).as_matrix()
    np.testing.assert_allclose(again, matrix((0, 0, 0), rotation)[:3, :3], atol=1e-9)


@given(upright)
@settings(max_examples=64, deadline=None)
def test_they_do_where_the_tool_points_straight_up_or_down(angles):
    spatial = pytest.importorskip('scipy.spatial.transform')
    rotation = spatial.Rotation.from_euler('xyz', angles)
    again = spatial.Rotation.from_euler('xyz', roll_pitch_yaw(tuple(rotation.as_quat())))
    np.testing.assert_allclose(again.as_matrix(), rotation.as_matrix(), atol=1e-7)


@given(
    st.lists(st.tuples(st.tuples(parts, parts, parts), quaternions), min_size=4, max_size=4),
    st.integers(0, 3),
    st.randoms(),
    st.sets(st.integers(0, 3)),
)
@settings(max_examples=100, deadline=None)
def test_any_two_frames_of_a_tree_in_any_order_of_messages(poses, fork, chance, static):
    """A chain world > a > b > c > d whose frames hang on earlier ones, by ``fork``."""
    frames = ['world', 'a', 'b', 'c', 'd']
    parents = ['world', *(frames[min(i, fork)] for i in range(1, 4))]
    world = {'world': np.eye(4)}
    edges = []
    for number, (child, parent) in enumerate(zip(frames[1:], parents, strict=True)):
        world[child] = world[parent] @ matrix(*poses[number])
        edges.append((number in static, stamped(parent, child, START, *poses[number])))
    chance.shuffle(edges)
    tree = TransformTree()
    for is_static, edge in edges:
        tree.add(transforms(edge), 1.0, static=is_static)
    fields = {name: name for name in ('x', 'y', 'z', 'qx', 'qy', 'qz', 'qw')}
    for parent in frames:
        for child in set(frames) - {parent}:
            values = read(tree, parent, child, fields).values
            expected = np.linalg.inv(world[parent]) @ world[child]
            np.testing.assert_allclose(matrix_of(values), expected, atol=1e-9)
            assert values[-1] >= -1e-9


def test_a_quaternion_and_its_negative_give_the_same_numbers():
    fields = {name: name for name in ('qx', 'qy', 'qz', 'qw')}
    for rotation in ((1, 0, 0, 0), (0, 0.6, 0.8, 0), about_z(1.0), about_z(-3.0)):
        both = []
        for sign in (1, -1):
            tree = TransformTree()
            turned = tuple(sign * part for part in rotation)
            tree.add(
                transforms(stamped('base_link', 'tcp', START, (0, 0, 0), turned)), 0, static=True
            )
            both.append(read(tree, fields=fields).values)
        np.testing.assert_allclose(both[0], both[1], atol=1e-12)


# --- ages ------------------------------------------------------------------------------------


def test_the_age_is_that_of_the_oldest_moving_transform_and_static_ones_have_none():
    tree = TransformTree()
    tree.add(transforms(stamped('base_link', 'mount', 5)), 1.0, static=True)
    tree.add(transforms(stamped('mount', 'arm', START)), 2.0, static=False)
    tree.add(transforms(stamped('arm', 'tcp', START + 1)), 3.0, static=False)
    assert read(tree).received == 2.0 and read(tree).oldest == 'mount to arm'
    tree.add(transforms(stamped('mount', 'arm', START + 2)), 4.0, static=False)
    assert read(tree).received == 3.0
    fixed = read(tree, child='mount')
    assert fixed.static and fixed.stamp is None


def test_a_transform_that_repeats_its_stamp_does_not_count_as_received():
    tree = TransformTree()
    for received in (1.0, 2.0, 3.0):
        tree.add(transforms(stamped('base_link', 'tcp', START)), received, static=False)
    assert read(tree).received == 1.0


def test_a_transform_that_was_overtaken_is_ignored_and_a_clock_that_was_reset_is_not():
    tree = TransformTree()
    for x, stamp in ((1, START), (2, START + PERIOD), (3, START)):
        tree.add(transforms(stamped('base_link', 'tcp', stamp, (x, 0, 0))), 0.0, static=False)
    assert read(tree).values[0] == 2
    tree.add(transforms(stamped('base_link', 'tcp', 5 * 10**9, (4, 0, 0))), 0.0, static=False)
    assert read(tree).values[0] == 4


def test_a_localisation_that_is_slow_and_stamped_ahead_does_not_date_the_robot():
    tree = TransformTree()
    for step in range(20):
        if step % 10 == 0:
            ahead = stamped('map', 'odom', START + step * PERIOD + 10**9)
            tree.add(transforms(ahead), step * 0.1, static=False)
        moving = stamped('odom', 'base_link', START + step * PERIOD)
        tree.add(transforms(moving), step * 0.1, static=False)
    reading = read(tree, 'map', 'base_link')
    assert reading.stamp == START + 19 * PERIOD and reading.received == pytest.approx(1.0)


# --- what is wrong ---------------------------------------------------------------------------


def test_frames_that_never_come_are_named_with_those_that_came():
    tree = TransformTree()
    with pytest.raises(NoTransformError, match='no transform from base_link to tcp; .*: none'):
        read(tree)
    tree.add(transforms(stamped('/base_link', 'wrist', START)), 0.0, static=False)
    with pytest.raises(NoTransformError, match=r'base_link to tcp; .*: base_link, wrist$'):
        read(tree)
    assert read(tree, child='wrist').values == [0, 0, 0]  # without the / of ROS 1
    tree.add(transforms(stamped('camera', 'tcp', START)), 0.0, static=False)
    with pytest.raises(
        NoTransformError, match='which nothing connects; .*: base_link, camera, tcp'
    ):
        read(tree)


@pytest.mark.parametrize('length', [0.0, 0.5, math.nan])
def test_a_quaternion_that_is_none_is_refused_only_on_the_way(length):
    tree = TransformTree()
    tree.add(transforms(stamped('base_link', 'tcp', START)), 0.0, static=False)
    bad = stamped('tcp', 'finger', START, rotation=(0, 0, 0, length))
    tree.add(transforms(bad), 0.0, static=False)
    assert read(tree).values == [0, 0, 0]
    with pytest.raises(ValueError, match=f'tcp to finger: its quaternion has length {length:.3g}'):
        read(tree, child='finger')


def test_frames_in_a_circle_do_not_hang():
    tree = TransformTree()
    for parent, child in (('a', 'b'), ('b', 'c'), ('c', 'a')):
        tree.add(transforms(stamped(parent, child, START)), 0.0, static=False)
    with pytest.raises(NoTransformError):
        read(tree, 'a', 'elsewhere')


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'fields': {'x': 'pose.x'}}, "key 'state.0': fields: pose.x not in the values of a"),
        ({'topic': 'pose'}, "key 'state.0': tf: stands in place of topic"),
        ({'type': 'nav_msgs/msg/Odometry'}, "key 'state.0': tf: stands in place of type"),
        ({'constants': {'x': 1.0}}, "key 'state.0': tf: has no constants"),
        ({'tf': {'parent': 'a'}}, "key 'state.0.tf.child': is missing"),
        ({'tf': {'parent': 'a', 'child': '/a'}}, "key 'state.0.tf': parent and child: are both a"),
    ],
)
def test_a_mistake_in_the_profile_is_named_with_its_key(tmp_path, change, words):
    content = profile()
    content['state'][0] |= change
    path = tmp_path / 'robot.yaml'
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(ConfigError, match=r'robot\.yaml: ') as caught:
        load_robot(str(path))
    assert words in str(caught.value)


def test_a_profile_says_its_topics_to_recorder_policy_and_reload():
    made = robot()
    assert made.state_topics == {TF: 'tf2_msgs/msg/TFMessage', TF_STATIC: 'tf2_msgs/msg/TFMessage'}
    assert set(topic_types(made)) >= {TF, TF_STATIC, 'cmd'}
    assert RobotConfig.model_validate(made.model_dump()) == made
    other = robot(('base_link', 'elbow'))
    assert profile_hash(made) != profile_hash(other)


# --- bags ------------------------------------------------------------------------------------


@pytest.fixture
def task(tmp_path):
    return task_of(tmp_path, profile())


def check_arm(demonstration, steps=12):
    assert len(demonstration.states) == steps and demonstration.whole.all()
    stamps = np.round(demonstration.stamps * 1e9).astype(np.int64)
    np.testing.assert_allclose(demonstration.states, [pose_at(s) for s in stamps], atol=1e-6)


def test_a_recording_holds_the_pose_of_a_chain(tmp_path, task):
    demonstration = read_demonstration(recorded(tmp_path / 'demos', task, arm()), task)
    check_arm(demonstration)
    assert not demonstration.findings


@pytest.mark.parametrize('topic', ['/tf', 'tf'])
@pytest.mark.parametrize('namespace', ['', '/robot7'])
def test_a_bag_of_another_recorder_is_imported(tmp_path, namespace, topic):
    content = profile()
    content['state'][0]['tf']['topic'] = topic
    task = task_of(tmp_path, content)
    rows = ((at, f'{namespace}/{name.strip("/")}', content) for name, at, content in arm())
    write_bag(tmp_path / 'bag', rows)
    (tmp_path / 'staging').mkdir()
    imported = import_bag(tmp_path / 'bag', task, tmp_path / 'staging')
    check_arm(read_demonstration(imported, task))
    assert read_metadata(imported).clock == 'header'


def test_a_bag_of_ros_1_is_imported(tmp_path, task):
    noetic = get_typestore(Stores.ROS1_NOETIC)
    text = 'geometry_msgs/TransformStamped[] transforms'
    noetic.register(get_types_from_msg(text, 'tf2_msgs/msg/TFMessage'))
    path = write_ros1(tmp_path / 'theirs.bag', (as_ros1(noetic, *row) for row in arm()), noetic)
    (tmp_path / 'staging').mkdir()
    check_arm(read_demonstration(import_bag(path, task, tmp_path / 'staging'), task))


def as_ros1(store, topic, at, content):
    """(log, topic, message of ROS 1); its headers are numbered, its frames begin with a /."""

    def converted(value):
        if isinstance(value, list):
            return [converted(one) for one in value]
        if not hasattr(value, '__msgtype__'):
            return value
        if value.__msgtype__.endswith('/Time'):
            return value
        fields = {name: converted(field) for name, field in vars(value).items()}
        if value.__msgtype__.endswith('/Header'):
            fields |= {'seq': 0, 'frame_id': f'/{fields["frame_id"]}'}
        return store.types[value.__msgtype__](**fields)

    return at, '/' + topic.strip('/'), converted(content)


def test_a_bag_without_static_transforms_is_imported(tmp_path):
    task = task_of(tmp_path, profile(('mount', 'tcp')))
    path = recorded(tmp_path / 'demos', task, (m for m in arm() if m[0] != TF_STATIC))
    imported = tmp_path / 'staging'
    imported.mkdir()
    demonstration = read_demonstration(import_bag(path, task, imported), task)
    np.testing.assert_allclose(demonstration.states[0], [1, 0, 0], atol=1e-9)


def test_a_recording_ends_where_a_transform_on_the_way_falls_silent(tmp_path, task):
    messages = arm(steps=30, slow_until=10)  # the last tool pose is that of step 8
    demonstration = read_demonstration(recorded(tmp_path / 'demos', task, messages), task)
    last = (demonstration.stamps[-1] - START * 1e-9) / 0.1
    assert 8 + 4 <= last < 8 + 5.01  # state_timeout is 0.5 s


def test_a_frame_that_never_came_is_named_with_the_frames_of_the_bag(tmp_path):
    task = task_of(tmp_path, profile(('base_link', 'gripper_tcp')))
    path = recorded(tmp_path / 'demos', task, arm())
    words = (
        'no transform from base_link to gripper_tcp; frames that came: arm, base_link, camera, '
        'mount, odom, tcp'
    )
    with pytest.raises(DemonstrationError, match=words):
        read_demonstration(path, task)


def test_position_and_rotation_may_be_entries_of_their_own_in_other_units(tmp_path):
    content = profile(fields={'yaw_deg': 'yaw'})
    content['state'][0] |= {'scale': {'yaw_deg': math.degrees(1)}}
    content['state'].append({'tf': content['state'][0]['tf'], 'fields': {'x': 'x'}})
    content['state'][1] |= {'scale': {'x': 1000.0}, 'offset': {'x': -100.0}}
    task = task_of(tmp_path, content)
    demonstration = read_demonstration(recorded(tmp_path / 'demos', task, arm()), task)
    x, _, yaw = pose_at(START + 3 * PERIOD)
    np.testing.assert_allclose(demonstration.states[3], [math.degrees(yaw), 1000 * x - 100])


def test_a_static_transform_holds_for_the_whole_recording(tmp_path):
    content = profile()
    content['state'].append(
        {'tf': {'parent': 'camera', 'child': 'mount'}, 'fields': {'cx': 'x', 'cz': 'z'}}
    )
    task = task_of(tmp_path, content)
    demonstration = read_demonstration(recorded(tmp_path / 'demos', task, arm()), task)
    assert len(demonstration.states) == 12 and demonstration.whole.all()
    np.testing.assert_allclose(demonstration.states[:, 3:], [[-8.5, -8.8]] * 12)


def test_a_message_that_is_none_is_refused_with_its_topic(tmp_path, task):
    path = tmp_path / 'demos'
    messages = [*arm()]
    recording = recorded(path, task, messages)
    assert read_demonstration(recording, task)
    torn = serialised(TF, messages[5][2])[:20]
    recording = recorded(path, task, [*messages, (TF, messages[-1][1], torn)])
    with pytest.raises(DemonstrationError, match="topic '/robot7/tf'"):
        read_demonstration(recording, task)
