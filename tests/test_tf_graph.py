"""Poses from TF in the running graph, over DDS, with tf2_msgs built where it is not installed."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace as Of
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from geometry_msgs.msg import Twist
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from mbarl_ros.demos.reader import read_demonstration
from mbarl_ros.nodes.support.graph_checks import check_graph
from mbarl_ros.nodes.support.qos import latched
from mbarl_ros.nodes.support.robot_check import Listener
from mbarl_ros.nodes.support.robot_topics import StateListener
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.executables import NODES
from mbarl_ros.schema.findings import ERROR
from mbarl_ros.schema.message_fields import set_stamp
from mbarl_ros.schema.robot import RobotConfig
from mbarl_ros.task import Task
from support.frames import (
    PERIOD,
    START,
    TF,
    TF_STATIC,
    arm,
    profile,
    reach,
    recorded,
    robot,
    serialised,
    stamped,
    task_of,
    transforms,
)
from support.graph import Graph
from support.interfaces import TF as TF_MESSAGES
from support.interfaces import build

pytestmark = pytest.mark.paced


@pytest.fixture
def task(tmp_path):
    return task_of(tmp_path, profile())


@pytest.fixture(scope='session')
def tf2(tmp_path_factory):
    """tf2_msgs: of the ROS 2 installation, or built."""
    try:
        import tf2_msgs.msg
    except ImportError:
        folder = build('tf2_msgs', TF_MESSAGES, tmp_path_factory.mktemp('tf2'))
        sys.path.insert(0, str(folder))
        import tf2_msgs.msg
    return tf2_msgs.msg


class Publishers:
    """Publishes serialised transforms; static ones are latched."""

    def __init__(self, graph, tf2):
        self.graph = graph
        self.topics = {
            TF: graph.node.create_publisher(tf2.TFMessage, TF, 100),
            TF_STATIC: graph.node.create_publisher(tf2.TFMessage, TF_STATIC, latched(10)),
        }

    def listen(self, made):
        received = []
        listener = StateListener(
            self.graph.node, made, False, lambda state, stamp: received.append((stamp, state))
        )
        for publisher in self.topics.values():
            self.graph.wait_for('subscription', publisher.get_subscription_count)
        return listener, received

    def say(self, topic, content):
        self.topics[topic].publish(serialised(topic, content))
        self.graph.spin(0.02)


@pytest.fixture
def publishers(tmp_path, tf2):
    with Graph(tmp_path) as graph:
        yield Publishers(graph, tf2)


def test_the_graph_has_the_very_states_of_the_recording(tmp_path, task, publishers):
    messages = [one for one in arm() if one[0] in (TF, TF_STATIC)]
    for topic, _, content in messages[:2]:  # latched, before anybody listens
        publishers.say(topic, content)
    listener, received = publishers.listen(task.robot)
    publishers.graph.spin(0.3)
    for topic, _, content in messages[2:]:
        publishers.say(topic, content)
    live = dict(received)
    demonstration = read_demonstration(recorded(tmp_path / 'demos', task, arm()), task)
    stamps = np.round(demonstration.stamps * 1e9).astype(np.int64)
    known = {round(stamp, -3): state for stamp, state in live.items()}
    states = [known[round(int(stamp), -3)] for stamp in stamps]
    np.testing.assert_array_equal(states, demonstration.states)
    assert listener.late == []


def test_a_dead_transform_on_the_way_does_not_hide_behind_a_live_one(publishers):
    made = robot(('mount', 'tcp'), state_timeout=0.4)
    listener, received = publishers.listen(made)
    publishers.say(TF, transforms(stamped('arm', 'tcp', START)))
    for step in range(30):
        publishers.say(TF, transforms(stamped('mount', 'arm', START + step * PERIOD)))
    assert received and listener.silent() == ['/tf (mount to tcp)']
    assert time.monotonic() - listener.since > 0.4
    texts = [str(finding) for finding in listener.findings(5.0)]
    assert any('/tf (mount to tcp): no transform arm to tcp for' in text for text in texts)


def test_frames_may_come_on_a_topic_of_the_namespace(tmp_path, tf2):
    content = profile(('base_link', 'mount'))
    content['state'][0]['tf']['topic'] = 'robot7/tf'
    made, received = RobotConfig.model_validate(content), []
    with Graph(tmp_path) as graph:
        publisher = graph.node.create_publisher(tf2.TFMessage, '/robot7/tf_static', latched(1))
        publisher.publish(serialised(TF, next(arm())[2]))
        StateListener(graph.node, made, False, lambda state, _: received.append(state.tolist()))
        graph.wait_for('state', lambda: received)
    assert received == [[0.5, 0, 0]]


def test_static_transforms_never_grow_old(publishers):
    made = robot(('base_link', 'mount'), state_timeout=0.2)
    listener, received = publishers.listen(made)
    publishers.say(TF_STATIC, next(arm())[2])
    publishers.graph.spin(0.5)
    assert received[-1][1].tolist() == [0.5, 0, 0]
    assert listener.silent() == [] and listener.late == []
    assert not [f for f in listener.findings(5.0) if 'mount' in str(f)]


def test_a_check_names_the_frames_that_came(publishers):
    made = robot(('base_link', 'gripper_tcp'))
    listener, received = publishers.listen(made)
    for topic, _, content in arm(2):
        if topic in publishers.topics:
            publishers.say(topic, content)
    texts = [str(finding) for finding in listener.findings(5.0)]
    words = '/tf: no transform from base_link to gripper_tcp; frames that came: arm, base_link'
    assert not received and any(text.startswith(words) for text in texts)


def test_a_simulation_in_lockstep_is_refused(tf2):
    with pytest.raises(ConfigError, match=r'/tf \(base_link to tcp\): .* mode:=realtime'):
        StateListener(Of(), robot(), True, print)


@pytest.mark.slow
def test_the_recorder_writes_the_frames_that_it_had_when_it_began(tmp_path, task, publishers):
    graph = publishers.graph
    executed = graph.node.create_publisher(JointState, 'safety_gate/executed', 10)
    everything = list(arm())
    for topic, _, content in everything[:2]:
        publishers.say(topic, content)
    start_recorder(graph, tmp_path)
    said = call(graph, 'start')  # waits for its time-out
    assert 'no transform from base_link to tcp; frames that came: base_link, camera, mount' in said
    publishers.say(TF, transforms(stamped('arm', 'tcp', START, (reach(0), 0, 0))))
    publishers.say(TF, transforms(stamped('mount', 'arm', START)))
    assert call(graph, 'start').startswith('recording')
    for step in range(1, 4):
        publishers.say(TF, transforms(stamped('mount', 'arm', START + step * PERIOD)))
        done = JointState(name=['v'], position=[0.5])
        set_stamp(done, START + step * PERIOD + 1)
        executed.publish(done)
        graph.spin(0.1)
    publishers.say(TF, transforms(stamped('mount', 'arm', START + 4 * PERIOD)))
    publishers.say(TF, transforms(stamped('arm', 'tcp', START + 5 * PERIOD, rotation=(0,) * 4)))
    assert call(graph, 'success').startswith('saved')
    (path,) = (tmp_path / 'demos').glob('forward_*')
    demonstration = read_demonstration(path, task)
    # The tool's transform came before the recording began, the static ones before the recorder.
    np.testing.assert_allclose(demonstration.states, [[1.5, 0, 0]] * len(demonstration.states))
    assert len(demonstration.states) >= 3
    assert '1 messages without any of its values' in ' '.join(map(str, demonstration.findings))


def start_recorder(graph, folder):
    values = {
        'task': str(folder / 'task.yaml'),
        'demonstrations': str(folder / 'demos'),
        'mode': 'realtime',
    }
    start(graph, 'demo_recorder', values)


def start(graph, name, values):
    """Start a node in an interpreter of its own, which finds the messages that were built."""
    path = graph.folder / f'{name}.yaml'
    path.write_text(yaml.safe_dump({f'/**/{name}': {'ros__parameters': values}}))
    module = NODES[name].partition(':')[0]
    graph.processes[name] = subprocess.Popen(
        [sys.executable, '-m', module, '--ros-args', '--params-file', str(path)],
        env={**graph.environment, 'PYTHONPATH': os.pathsep.join(sys.path)},
    )


def call(graph, name):
    """Answer of a service of the recorder."""
    client = graph.node.create_client(Trigger, f'demo_recorder/{name}')
    graph.wait_for('recorder', client.service_is_ready)
    future = client.call_async(Trigger.Request())
    graph.wait_for(name, future.done)
    return future.result().message


def test_robot_check_shows_rate_age_and_frame_of_a_transform(publishers, monkeypatch):
    graph = publishers.graph
    monkeypatch.setenv('ROS_DOMAIN_ID', str(graph.domain))
    graph.node.create_subscription(Twist, 'cmd', lambda _: None, 10)

    def publish():
        now = time.time_ns()
        turned = stamped('base_link', 'tcp', now, (0.5, 0, 0))
        publishers.topics[TF].publish(serialised(TF, transforms(turned)))

    graph.node.create_timer(0.05, publish)
    stop = threading.Event()
    thread = threading.Thread(
        target=lambda: [graph.executor.spin_once(0.05) for _ in iter(stop.is_set, True)]
    )
    thread.start()
    try:
        with Listener('robot_check', '/') as listener:
            report = listener.check(robot(), 2.0)
    finally:
        stop.set()
        thread.join()
    row = report.rows[0]
    assert row[0] == '/tf (base_link to tcp)' and row[3:] == ('base_link', 'test')
    assert 10 < float(row[1].split()[0]) < 25 and row[2].endswith(' ms')
    assert not [str(one) for one in report.findings if one.level == ERROR]


def test_doctor_and_check_say_when_nobody_publishes_tf(tmp_path, tf2):
    with Graph(tmp_path) as graph:
        texts = [str(finding) for finding in check_graph(graph.node, robot())]
    assert any(text.startswith('/tf: nobody publishes it; start robot_state') for text in texts)


def test_a_static_broadcaster_that_does_not_latch_is_named(tmp_path, tf2):
    with Graph(tmp_path) as graph:
        graph.node.create_publisher(tf2.TFMessage, TF_STATIC, 10)
        texts = [str(finding) for finding in check_graph(graph.node, robot())]
    assert any(text.startswith('/tf_static: QoS of /test does not fit ours') for text in texts)


def test_the_simulated_arm_publishes_its_frames_and_its_description(tmp_path, tf2):
    frames, descriptions = {}, []
    with Graph(tmp_path, task='push') as graph:

        def receive(message):
            frames.update({t.child_frame_id: t for t in message.transforms})

        create = graph.node.create_subscription
        create(tf2.TFMessage, TF, receive, 100)  # reliable, as tf2's listener
        create(String, 'robot_description', descriptions.append, latched(1))
        start(graph, 'robot_sim', {'task': 'push', 'frames': True})
        graph.wait_for('frames', lambda: frames and descriptions)
    robot = ElementTree.fromstring(descriptions[0].data)
    assert {link.get('name') for link in robot.iter('link')} | {'object'} == set(frames)
    assert {transform.header.frame_id for transform in frames.values()} == {'world'}
    meshes = [Path(mesh.get('filename').removeprefix('file://')) for mesh in robot.iter('mesh')]
    assert meshes and all(path.is_absolute() and path.is_file() for path in meshes)
    world = Task.load('push').load_world(seed=0)
    state = dict(zip(world.state_names, world.reset(), strict=True))
    for frame, what in (('panda_grasptarget', 'hand'), ('object', 'object')):
        place = frames[frame].transform.translation
        expected = [state[f'{what}_{axis}'] for axis in 'xyz']
        np.testing.assert_allclose([place.x, place.y, place.z], expected, atol=2e-3)
