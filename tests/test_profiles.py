"""The hardware graph with each shipped robot profile, on a simulated robot that speaks it.

The robot is a process of its own with its own clock; nothing of it is known but its topics.
"""

import importlib
import time

import numpy as np
import pytest

from mbarl_ros.bringup import graphs
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import find, load_agent, load_world
from mbarl_ros.schema.message_fields import TopicCodec, message_class, stamp_ns
from mbarl_ros.storage.run_files import TRANSITIONS_FILE
from mbarl_ros.storage.sequence_tracker import SequenceTracker
from mbarl_ros.task import Task
from support.graph import Graph, demonstrate, small_agent

pytestmark = pytest.mark.together

PROFILES = (
    ('mobile_base', 'mobile_base'),
    ('arm_velocity', 'arm_velocity'),
    ('arm_position', 'arm_position'),
    ('arm_position', 'arm_trajectory'),
    ('arm_servo', 'arm_servo'),
    ('push', 'panda_servo'),
    ('door_velocity', 'panda_velocity'),
)
SERVO_TIMEOUT = 0.1  # s, incoming_command_timeout of MoveIt Servo


def activate(graph):
    """Activate, as soon as the controller agrees that the robot is fit."""
    assert graph.change('configure')
    graph.wait_for('activation', lambda: graph.change('activate') or graph.spin(0.2))


def listen(graph, topic, received):
    """Collect what arrives on a command topic as (message, its age by the stamp)."""
    kind = message_class(topic.type, importlib.import_module)

    def receive(message):
        stamp = stamp_ns(message)
        received.append((message, None if stamp is None else time.time() - stamp * 1e-9))

    graph.node.create_subscription(kind, topic.topic, receive, 50)


@pytest.mark.parametrize(('task_name', 'robot_name'), PROFILES)
def test_hardware_graph_practises_on_a_robot_that_speaks_the_profile(
    tmp_path, task_name, robot_name
):
    task = Task.load(task_name, robot_name)
    demonstrate(task, tmp_path / 'demos' / '0000')
    agent = small_agent(tmp_path, backward='none', model=None)  # one process with torch less
    words = {'task': task_name, 'robot': robot_name, 'agent': agent}
    plan = graphs.plan('hardware', {**words, 'demos': str(tmp_path / 'demos')})
    commands = [[] for _ in task.robot.command]
    with Graph(tmp_path, **words, mode='realtime') as graph:
        for topic, received in zip(task.robot.command, commands, strict=True):
            listen(graph, topic, received)
        graph.start('robot_sim', publish_clock=False)
        for spec in plan.nodes:
            if spec.name != 'monitor':
                graph.start(spec.name, **{**spec.parameters, **graph.parameters})
        activate(graph)
        graph.wait_for_steps(40)
        graph.wait_for('learner', lambda: graph.value('learner', 'environment_steps') >= 0)
        assert graph.value('robot_sim', 'refused_commands') == 0
        graph.spin(1.5)  # what is under way
    for topic, received in zip(task.robot.command, commands, strict=True):
        codec = TopicCodec(topic)
        assert len(received) >= 35
        values = np.array([codec.decode(message) for message, _ in received])  # constants included
        low, high = (
            [getattr(task.robot.limits[n], b) for n in codec.names] for b in ('low', 'high')
        )
        assert (values >= low).all() and (values <= high).all() and np.ptp(values, 0).min() > 0
        ages = [age for _, age in received if age is not None]
        if ages and 'header.stamp' not in topic.constants:
            assert np.median(ages) < SERVO_TIMEOUT / 2  # the present time, not the state's
    rows = SequenceTracker().load_log(
        tmp_path / 'run' / TRANSITIONS_FILE, task, task.spec_hash(load_agent(agent))
    )
    assert len(rows['sequence']) >= 35
    assert np.ptp(rows['observation'], 0).max() > 0.02  # it moved
    next_observation = rows['next_observation']
    names = [entry.name for entry in task.config.observation]
    if 'closeness' in names:  # the reward comes from its topic
        reward = next_observation[:, names.index('closeness')]
        assert (rows['reward'] == reward).all() and np.ptp(reward) > 0
    else:
        assert (rows['reward'] == task.success(next_observation)).all()


def test_a_trajectory_for_other_joints_is_not_taken_for_ours():
    topic = Task.load('arm_position', 'arm_trajectory').robot.command[0]
    codec = TopicCodec(topic)
    message = codec.encode(message_class(topic.type, importlib.import_module)(), [0.1, 0.2])
    assert codec.decode(message) == [0.1, 0.2]
    assert message.points[0].time_from_start.nanosec == 100_000_000
    message.joint_names = ['elbow', 'shoulder']
    assert codec.decode(message) == [0.2, 0.1]
    message.joint_names = ['left_elbow', 'left_shoulder']
    assert np.isnan(codec.decode(message)).all()


def test_a_reward_topic_that_the_robot_does_not_have_is_named():
    task = Task.load('arm_position')
    config = task.config.model_copy(update={'reward': 'topic:prize'})
    with pytest.raises(ConfigError, match="key 'reward': no single entry.*topic 'prize'"):
        Task(config, task.robot).check_agent(load_agent('mbarl'))


@pytest.mark.parametrize(
    ('changes', 'mode', 'words'),
    [
        (
            {'{vx: linear.x': '{vx: linear.sideways'},
            'realtime',
            "key 'command.0.fields.vx': a geometry_msgs/msg/Vector3 has no 'sideways' "
            '(linear.sideways); it has x, y, z',
        ),
        (
            {
                'nav_msgs/msg/Odometry': 'geometry_msgs/msg/Twist',
                'pose.pose.position': 'angular',
                'twist.twist.linear': 'linear',
            },
            'lockstep',
            'give mode:=realtime',
        ),
    ],
)
def test_a_profile_that_cannot_work_ends_the_gate_with_one_sentence(tmp_path, changes, mode, words):
    text = find('robots', 'pointmass').read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / 'mine.yaml').write_text(text)
    with Graph(tmp_path, task='pointmass', robot=str(tmp_path / 'mine.yaml'), mode=mode) as graph:
        graph.start('safety_gate')
        assert graph.processes['safety_gate'].wait(30) == 2
    assert words in (tmp_path / 'safety_gate.log').read_text()


@pytest.mark.parametrize('name', sorted({task for task, _ in PROFILES}))
def test_the_profiles_worlds_are_deterministic_and_within_the_tasks_ranges(name):
    task = Task.load(name)
    worlds = [load_world(task.config, seed=1) for _ in range(2)]
    order = [worlds[0].state_names.index(entry) for entry in task.robot.state_names]
    rng = np.random.default_rng(0)
    for world in worlds:
        world.trace = [world.reset_to_start(3)]
    for command in task.command(rng.uniform(-1, 1, (200, task.action_dim))):
        for world in worlds:
            world.trace.append(world.step(command))
    first, second = (np.array(world.trace) for world in worlds)
    assert (first == second).all() and np.ptp(first, 0).max() > 0.1
    states = task.state(first[:, order])
    assert (states >= task.state_low).all() and (states <= task.state_high).all()
    assert len(np.unique(worlds[0].render(80, 60))) > 5


def test_the_cartesian_arm_goes_where_it_is_told():
    world = load_world(Task.load('arm_servo').config)
    before = world.reset()
    after = world.step(np.array([0.1, -0.05, 0.0]))
    tip = [world.state_names.index('tip_x'), world.state_names.index('tip_y')]
    np.testing.assert_allclose((after - before)[tip], [0.005, -0.0025], atol=3e-4)
