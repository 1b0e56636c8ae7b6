"""Message types of packages that are not among the common ones: profiles, recorder, import."""

import importlib
import sys

import numpy as np
import pytest
import yaml
from geometry_msgs.msg import Vector3
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from sensor_msgs.msg import JointState

from mbarl_ros.demos.decode import DecodeError, TopicDecoder, typestore
from mbarl_ros.demos.mcap_file import read_mcap
from mbarl_ros.demos.metadata import DemonstrationError
from mbarl_ros.demos.reader import read_demonstration
from mbarl_ros.demos.recording import RAW, Recording, topic_types
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.definitions import definition
from mbarl_ros.schema.message_fields import TopicCodec, message_class, set_stamp
from mbarl_ros.schema.profile_check import check_messages
from mbarl_ros.schema.robot import RobotConfig, TopicMap
from mbarl_ros.task import Task
from support.interfaces import build
from support.recordings import metadata_of

STORE = get_typestore(Stores.ROS2_JAZZY)
STATE, COMMAND = 'claw_msgs/msg/ClawState', 'claw_msgs/msg/ClawCommand'
CLAW = {
    'Nothing': '',
    'Finger': 'uint8 OPEN=1\nfloat32 angle 0.5\nbool[<=3] touches\nstring<=8 label',
    'ClawState': 'std_msgs/Header header\nNothing nothing\nFinger[2] fingers\nuint16[] ticks\n'
    'geometry_msgs/Vector3[<=2] forces\nchar mode\nfloat64 width',
    'ClawCommand': 'float64 width\nint16[3] ticks',
    'Named': 'wstring label\nfloat64 width',
}
PERIOD, START = 100_000_000, 1_700_000_000_000_000_000


@pytest.fixture(scope='module')
def claw(tmp_path_factory):
    folder = build('claw_msgs', CLAW, tmp_path_factory.mktemp('claw'))
    sys.path.insert(0, str(folder))
    yield importlib.import_module('claw_msgs.msg')
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.split('.')[0] == 'claw_msgs']:
        del sys.modules[name]


@pytest.fixture
def uninstall(monkeypatch):
    """Makes claw_msgs be not installed any more."""

    def hide():
        for name in [name for name in sys.modules if name.split('.')[0] == 'claw_msgs']:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, 'path', [entry for entry in sys.path if '/claw' not in entry])

    return hide


def profile():
    return {
        'name': 'claw',
        'control_rate': 10,
        'state': [
            {
                'topic': 'claw',
                'type': STATE,
                'fields': {
                    'left': 'fingers[0].angle',
                    'right': 'fingers[1].angle',
                    'tick': 'ticks[1]',
                    'width': 'width',
                },
                'constants': {'mode': 7},
            }
        ],
        'command': [
            {
                'topic': 'claw_command',
                'type': COMMAND,
                'fields': {'to': 'width', 'tick_to': 'ticks[2]'},
                'constants': {'ticks[0]': 4, 'ticks[1]': 5},
            }
        ],
        'limits': {name: {'low': -9, 'high': 9, 'stop': 0.0} for name in ('to', 'tick_to')},
    }


def state(claw, width, touches=(), ticks=(1, 2), forces=0, label='', stamp=0):
    fingers = [claw.Finger(angle=0.25, touches=list(touches), label=label), claw.Finger(angle=-2.0)]
    message = claw.ClawState(fingers=fingers, ticks=list(ticks), mode=7, width=width)
    message.forces = [Vector3(x=5.0)] * forces
    set_stamp(message, stamp)
    return message


@given(
    st.floats(allow_nan=False, allow_subnormal=False),
    st.lists(st.booleans(), max_size=3),
    st.lists(st.integers(0, 65535), min_size=2, max_size=5),
    st.integers(0, 2),
    st.text('abcäß', max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_the_reader_finds_what_was_published(claw, width, touches, ticks, forces, label):
    message = state(claw, width, touches, ticks, forces, label, START)
    topic = RobotConfig.model_validate(profile()).state[0]
    decoder = TopicDecoder(topic, typestore({STATE: ''}))
    stamps, values = decoder.decode([serialize_message(message)])
    assert stamps.tolist() == [START] and values.tolist() == [[0.25, -2.0, ticks[1], width]]
    assert TopicCodec(topic).decode(message) == values[0].tolist()


def common_types():
    for package in ('geometry_msgs', 'nav_msgs', 'sensor_msgs', 'std_msgs', 'trajectory_msgs'):
        for name, kind in vars(importlib.import_module(f'{package}.msg')).items():
            if hasattr(kind, 'get_fields_and_field_types'):
                yield f'{package}/msg/{name}'


def test_definitions_from_classes_are_those_of_the_packages():
    compared = 0
    for name in common_types():
        for inner, (_, fields) in get_types_from_msg(definition(name), name).items():
            if inner in STORE.types and fields and inner != 'std_msgs/msg/Char':
                assert fields == STORE.fielddefs[inner][1], inner
                compared += 1
    assert compared > 100


def test_a_profile_is_tried_on_the_type_and_its_commands_are_written(claw):
    made = RobotConfig.model_validate(profile())
    check_messages(made)
    message = TopicCodec(made.command[0]).encode(claw.ClawCommand(), [0.5, 6.4])
    assert message.width == 0.5 and message.ticks.tolist() == [4, 5, 6]
    for path, words in (
        ('fingers[0].angel', 'it has angle, touches, label'),
        ('fingers[0].label', r'is no number but a string<8>'),
        ('fingers[0].touches', 'is a list'),
    ):
        wrong = profile()
        wrong['state'][0]['fields']['left'] = path
        with pytest.raises(ConfigError, match=words):
            check_messages(RobotConfig.model_validate(wrong))


def metadata(task):
    return metadata_of(task, {topic: f'/r/{topic}' for topic in topic_types(task.robot)})


@pytest.fixture
def task(tmp_path):
    (tmp_path / 'robot.yaml').write_text(yaml.safe_dump(profile(), sort_keys=False))
    entry = {'low': -9.0, 'high': 9.0}
    content = {
        'name': 'grip',
        'robot': 'robot.yaml',
        'observation': [{'name': 'width', **entry}],
        'action': [{'name': name, **entry} for name in ('to', 'tick_to')],
        'success': {'entries': ['width'], 'target': [0.0], 'tolerance': 0.1},
        'phases': {'forward_limit': 50, 'backward_limit': 50},
        'evaluation': {'horizon': 50, 'every': 1000, 'budget': 2000},
    }
    (tmp_path / 'task.yaml').write_text(yaml.safe_dump(content))
    return Task.load(str(tmp_path / 'task.yaml'))


def record(folder, task, claw):
    recording = Recording(folder, metadata(task), topic_types(task.robot))
    for step in range(8):
        stamp = START + step * PERIOD
        seen = state(claw, step / 4, ticks=(0, step), stamp=stamp)
        recording.write('claw', stamp, serialize_message(seen))
        executed = JointState(name=['to', 'tick_to'], position=[step * 1.0, -1.0])
        set_stamp(executed, stamp + 1)
        recording.write('safety_gate/executed', stamp + 1, serialize_message(executed))
    return recording


def test_a_recording_carries_its_definitions_and_is_read_where_nothing_is_installed(
    claw, tmp_path, task, uninstall
):
    recording = record(tmp_path / 'demos', task, claw)
    hidden = next((tmp_path / 'demos').glob('.recording-*'))
    texts = {topic.type: topic.definition for topic, _, _ in read_mcap(hidden / RAW, torn=True)}
    assert 'MSG: claw_msgs/Finger\nfloat32 angle' in texts[STATE]
    path = recording.finish('success')
    uninstall()
    with pytest.raises(ConfigError):
        message_class(STATE, importlib.import_module)
    demonstration = read_demonstration(path, task)
    assert len(demonstration.states) == 8 and demonstration.whole.all()
    np.testing.assert_allclose(demonstration.states[:, 3], np.arange(8) / 4)
    np.testing.assert_allclose(demonstration.states[:, 2], np.arange(8))


@pytest.mark.graph
@pytest.mark.together
def test_the_graph_reads_and_commands_the_type(claw, tmp_path):
    from mbarl_ros.nodes.support.robot_topics import CommandPublisher, StateListener
    from support.graph import Graph

    made = RobotConfig.model_validate(profile())
    with Graph(tmp_path) as graph:
        graph.node.lockstep = False
        received, commanded = [], []
        publisher = graph.node.create_publisher(claw.ClawState, 'claw', 10)
        StateListener(graph.node, made, False, lambda values, _: received.append(values.tolist()))
        graph.node.create_subscription(claw.ClawCommand, 'claw_command', commanded.append, 10)
        commands = CommandPublisher(graph.node, made)
        graph.wait_for(
            'robot', lambda: publisher.get_subscription_count() and commands.has_subscribers
        )
        publisher.publish(state(claw, 1.5, [True], (8, 9), 1, 'ß', START))
        commands.publish(np.array([0.5, 3.0]), 0, stop=False)
        graph.wait_for('messages', lambda: received and commanded)
    assert received == [[0.25, -2.0, 9, 1.5]]
    assert commanded[0].ticks.tolist() == [4, 5, 3]


# --- what is not installed -------------------------------------------------------------------


@pytest.mark.parametrize(
    ('kind', 'words'),
    [
        (
            'nav_msgs/msg/Odometrie',
            'nav_msgs has no message Odometrie; is it nav_msgs/msg/Odometry',
        ),
        ('stereo_msgs/msg/DisparityImage', 'pip install ros-stereo-msgs or apt install'),
        ('xarm_msgs/msg/RobotMsg', r'apt install ros-\$ROS_DISTRO-xarm-msgs, or build it with'),
    ],
)
def test_a_type_that_is_not_installed_is_said_with_the_remedy(kind, words):
    with pytest.raises(ConfigError, match=words) as caught:
        message_class(kind, importlib.import_module)
    assert kind in str(caught.value)
    assert ('pip' in str(caught.value)) == kind.startswith('stereo')


def test_tf_needs_a_package_that_pypi_does_not_have(monkeypatch):
    monkeypatch.setitem(sys.modules, 'tf2_msgs.msg', None)
    with pytest.raises(ConfigError, match=r'apt install ros-\$ROS_DISTRO-tf2-msgs, or .*PyPI'):
        message_class('tf2_msgs/msg/TFMessage', importlib.import_module)


def test_a_bag_that_does_not_define_an_uninstalled_type_is_refused_with_the_remedy():
    topic = TopicMap(topic='arm', type='xarm_msgs/msg/RobotMsg', fields={'a': 'angle[0]'})
    words = (
        r"'arm': .*'xarm_msgs/msg/RobotMsg' is not installed, and the bag does not define it; apt"
    )
    with pytest.raises(DecodeError, match=words):
        TopicDecoder(topic, typestore({topic.type: ''}))


def test_a_recorder_refuses_an_uninstalled_type_before_it_records(tmp_path, task, uninstall):
    uninstall()
    with pytest.raises(DemonstrationError, match=r"topic '/r/claw': message type .* apt install"):
        Recording(tmp_path / 'demos', metadata(task), topic_types(task.robot))


def test_wide_texts_are_recorded_but_not_read(claw):
    assert 'wstring label' in definition('claw_msgs/msg/Named')
    with pytest.raises(DecodeError, match=r"'claw_msgs/msg/Named': it has a wstring"):
        typestore({'claw_msgs/msg/Named': ''})
