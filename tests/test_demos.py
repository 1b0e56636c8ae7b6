"""Demonstrations: recording, bags, reading, and what is wrong with them said clearly."""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped, Twist
from nav_msgs.msg import Odometry
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, Float64MultiArray
from std_srvs.srv import Trigger

from mbarl_ros.bringup import graphs
from mbarl_ros.bringup.run_folder import RunFolder
from mbarl_ros.bringup.up import check_demonstrations
from mbarl_ros.demos import reader
from mbarl_ros.demos import recording as recording_module
from mbarl_ros.demos.episodes import episode, transitions
from mbarl_ros.demos.metadata import (
    DemonstrationError,
    folders,
    read_metadata,
)
from mbarl_ros.demos.reader import load_demonstrations, read_demonstration
from mbarl_ros.demos.recording import Recording, recover, topic_types, unfinished
from mbarl_ros.nodes.support.qos import KEEP_ALL
from mbarl_ros.schema.load import load_world
from mbarl_ros.schema.message_fields import set_stamp, stamp_ns
from mbarl_ros.schema.topics import EXECUTED
from mbarl_ros.storage.run_files import DEMONSTRATIONS_FILE
from mbarl_ros.task import Task
from support.graph import Graph, small_agent
from support.recordings import metadata_of

pytestmark = pytest.mark.together

SHIPPED = Path(__file__).resolve().parent.parent / 'demos'
PERIOD = 100_000_000


def note(task, **changes):
    topics = {topic: f'/robot1/{topic}' for topic in topic_types(task.robot)}
    return metadata_of(task, topics, **{'verdict': 'unknown', 'lockstep': True, **changes})


def odometry(x, y, stamp):
    message = Odometry()
    message.pose.pose.position.x, message.pose.pose.position.y = float(x), float(y)
    set_stamp(message, stamp)
    return message


def executed(task, values, stamp):
    message = JointState(name=list(task.robot.command_names), position=[float(v) for v in values])
    message.header.frame_id = 'teleop'
    set_stamp(message, stamp)
    return message


def record(folder, task, messages, verdict='success', **changes):
    """Record (topic, stamp, message) for real; the demonstration's folder."""
    recording = Recording(folder, note(task, **changes), topic_types(task.robot))
    for topic, stamp, message in messages:
        data = message if isinstance(message, bytes) else serialize_message(message)
        recording.write(topic, stamp, data)
    return recording.finish(verdict)


def drive_to_goal(task, n=6, first=0):
    """A small point mass demonstration: n commands, n + 1 states, the last one a success."""
    xs = np.linspace(-0.35, -0.85, n + 1)
    messages = []
    for i, x in enumerate(xs):
        stamp = first + i * PERIOD
        messages.append(('odom', stamp, odometry(x, 0.8, stamp)))
        if i < n:
            messages.append((EXECUTED, stamp, executed(task, (-0.1 * i, 0.5), stamp)))
    return messages


@pytest.fixture
def task():
    return Task.load('pointmass')


# --- shipped ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'forward', 'backward'), [('pointmass', 3, 0), ('tabletop', 12, 12)]
)
def test_shipped_demonstrations_replay_to_the_very_same_states(name, forward, backward):
    task = Task.load(name)
    world = load_world(task.config, seed=0)
    found = [read_demonstration(path, task) for path in folders(SHIPPED / name)]
    assert [demo.metadata.direction for demo in found].count('forward') == forward
    assert [demo.metadata.direction for demo in found].count('backward') == backward
    for demo in found:
        assert demo.metadata.verdict == 'success' and demo.whole.all()
        states = [world.set_state(demo.states[0]), *map(world.step, demo.commands)]
        np.testing.assert_array_equal(states, demo.states)


def test_shipped_demonstrations_load_as_transitions_with_the_goal_of_each():
    task = Task.load('tabletop')
    rows = load_demonstrations(task.config.demonstrations, task)
    assert rows['terminated'].sum() == 12 and rows['truncated'].sum() == 12 * 4
    assert (np.diff(rows['phase'].astype(int)) >= 0).all()
    goals = rows['observation'][rows['terminated'] == 1][:, task.state_dim :]
    assert [(goals == goal).all(1).sum() for goal in task.goals] == [3, 3, 3, 3]
    assert rows['sequence'].tolist() == list(range(len(rows['reward'])))
    assert sum(path.stat().st_size for path in SHIPPED.rglob('*') if path.is_file()) < 4e6


# --- bag -------------------------------------------------------------------------------------


def test_messages_come_back_from_the_bag_bit_equal(tmp_path, task):
    # serialised once: padding bytes of CDR are arbitrary
    messages = [(topic, at, serialize_message(m)) for topic, at, m in drive_to_goal(task)]
    path = record(tmp_path, task, messages)
    assert path == tmp_path / 'forward_000'
    with Reader(path) as reader:
        back = [(entry.topic, stamp, data) for entry, stamp, data in reader.messages()]
    expected = [(f'/robot1/{topic}', stamp, data) for topic, stamp, data in messages]
    assert sorted(back) == sorted(expected)
    assert (path / 'metadata.yaml').is_file() and read_metadata(path).operator == 'test'


def test_unfinished_recordings_are_not_seen_and_numbers_go_on(tmp_path, task):
    messages = drive_to_goal(task)
    for _ in range(2):
        record(tmp_path, task, messages)
    shutil.rmtree(tmp_path / 'forward_000')
    recording = Recording(tmp_path, note(task), topic_types(task.robot))
    assert [path.name for path in folders(tmp_path)] == ['forward_001']
    recording.discard()
    assert record(tmp_path, task, messages).name == 'forward_002'
    assert not list(tmp_path.glob('.*'))


def test_a_recorder_that_dies_after_publishing_leaves_one_demonstration(
    tmp_path, task, monkeypatch
):
    def die(hidden):
        raise KeyboardInterrupt

    monkeypatch.setattr(recording_module, '_remove', die)
    recording = Recording(tmp_path, note(task), topic_types(task.robot))
    for topic, stamp, message in drive_to_goal(task):
        recording.write(topic, stamp, serialize_message(message))
    with pytest.raises(KeyboardInterrupt):
        recording.finish('success')
    recording.abandon()  # a dead process holds no lock
    monkeypatch.undo()

    assert unfinished(tmp_path) == 1
    assert recover(tmp_path) == [f'{tmp_path}/forward_000: was finished before the recorder died']
    assert [path.name for path in folders(tmp_path)] == ['forward_000']
    assert (
        unfinished(tmp_path) == 0 and read_metadata(tmp_path / 'forward_000').verdict == 'success'
    )


def test_numbers_of_a_demonstration_arrive_as_transitions(tmp_path, task):
    record(tmp_path, task, drive_to_goal(task))
    rows = load_demonstrations(tmp_path, task)
    # the goal region begins at x = -0.65: the demonstration ends with its first success there
    np.testing.assert_allclose(
        rows['observation'][:, 0], np.linspace(-0.35, -0.85, 7)[:4], rtol=1e-6
    )
    np.testing.assert_allclose(rows['action'], [[-0.1 * i, 0.5] for i in range(4)], atol=1e-7)
    np.testing.assert_array_equal(rows['next_observation'][:-1], rows['observation'][1:])
    assert rows['terminated'].tolist() == [0, 0, 0, 1] == rows['reward'].tolist()
    np.testing.assert_allclose(rows['stamp'], [0.0, 0.1, 0.2, 0.3])


def test_realtime_states_are_thinned_to_control_steps_with_the_command_in_force(tmp_path, task):
    """State at 50 Hz with jitter, a gamepad at 30 Hz that pauses, control at 10 Hz."""
    rng = np.random.default_rng(0)
    messages = []
    for i in range(60):
        stamp = int(1e9 + i * 0.02e9 + rng.uniform(0, 0.002e9))
        messages.append(('odom', stamp, odometry(-0.35 - 0.01 * i, 0.8, stamp)))
    asked = [0.2 + i / 30 for i in range(10)] + [0.85 + i / 30 for i in range(9)]
    for i, when in enumerate(asked):
        stamp = int((1 + when) * 1e9)
        messages.append((EXECUTED, stamp, executed(task, (-0.01 * i, 0.0), stamp)))
    path = record(tmp_path, task, messages, lockstep=False)
    demo = read_demonstration(path, task)
    np.testing.assert_allclose(np.diff(demo.stamps), 0.1, atol=0.011)
    assert abs(demo.stamps[0] - 1.19) < 0.012
    for start, end, command in zip(demo.stamps, demo.stamps[1:], demo.commands, strict=False):
        latest = max(i for i, when in enumerate(asked) if 1 + when < end or i == 0)
        assert command[0] == pytest.approx(-0.01 * latest)
        assert end > start
    assert demo.whole.all() and demo.stamps[-1] > 1 + asked[-1]


def test_topics_without_a_header_are_as_old_as_the_last_that_has_one(tmp_path):
    """Joints at 20 Hz with jitter; tip and reward, without stamps, a little later each."""
    task = Task.load('arm_position')
    rng = np.random.default_rng(0)
    messages, stamps = [], []
    for i in range(60):
        stamp = int(1e9 + i * 0.05e9 + rng.uniform(-0.001e9, 0.001e9))
        stamps.append(stamp * 1e-9)
        joints = JointState(name=['shoulder', 'elbow'], position=[0.01 * i, 0.0])
        set_stamp(joints, stamp)
        tip = Float64MultiArray(data=[1.0 + 0.01 * i, 0.0])
        for late, topic, message in (
            (0.2e6, 'joint_states', joints),
            (rng.uniform(0.5e6, 2e6), 'tip', tip),
            (rng.uniform(2e6, 4e6), 'reward', Float64(data=0.01 * i)),
            (8e6, EXECUTED, executed(task, (0.01 * i, 0.0, 0.0), stamp)),
        ):
            messages.append((topic, int(stamp + late), message))
    demo = read_demonstration(record(tmp_path, task, messages, lockstep=False), task)
    assert demo.whole.all() and len(demo.commands) >= 58
    np.testing.assert_allclose(demo.stamps, stamps[: len(demo.stamps)])
    np.testing.assert_allclose(demo.commands[:, 0], demo.states[:-1, 0])
    np.testing.assert_allclose(demo.states[:, 2], 1.0 + demo.states[:, 0])


def test_steps_over_which_states_were_lost_are_left_out(tmp_path, task):
    messages = [
        m for m in drive_to_goal(task, n=20) if not (m[0] == 'odom' and 5 <= m[1] // PERIOD < 8)
    ]
    record(tmp_path, task, messages, lockstep=False)
    rows = load_demonstrations(tmp_path, task)
    jumps = np.abs(rows['next_observation'][:, 0] - rows['observation'][:, 0])
    np.testing.assert_allclose(jumps, 0.025, atol=1e-5)


def test_verdicts_decide_what_is_used(tmp_path, task):
    short = drive_to_goal(task)[:4]  # the last command's state is missing
    record(tmp_path, task, drive_to_goal(task), verdict='unknown')  # ends in success: used
    record(tmp_path, task, short, verdict='unknown')
    record(tmp_path, task, drive_to_goal(task), verdict='discarded')
    assert len(load_demonstrations(tmp_path, task)['reward']) == 4
    shutil.rmtree(tmp_path / 'forward_000')
    with pytest.raises(DemonstrationError, match=r'none of 2 .* `mbarl up record task:=pointmass'):
        load_demonstrations(tmp_path, task)


def test_forward_label_is_the_goal_reached_and_steps_after_success_are_cut():
    task = Task.load('tabletop')
    mug = np.linspace([2.5, 0.0], [0.0, 2.0], 12)
    states = np.column_stack([np.zeros((12, 2)), -np.ones(12), mug])
    states = np.concatenate([states, states[-1:].repeat(5, 0)])
    shown = episode(task, states, np.zeros((16, 3)), np.arange(17) / 10, 'forward')
    rows = transitions(task, shown)
    np.testing.assert_array_equal(rows['observation'][:, 6:], np.tile(task.goals[2], (11, 1)))
    assert rows['terminated'].tolist() == [0] * 10 + [1]


# --- what can be wrong -----------------------------------------------------------------------


def fails(folder, task, *words):
    with pytest.raises(DemonstrationError) as error:
        load_demonstrations(folder, task)
    for word in (str(folder), *words):
        assert word in str(error.value)


# --- decoded once per run --------------------------------------------------------------------


@pytest.fixture
def decodings(monkeypatch):
    """Demonstrations that this process has decoded."""
    decoded = []
    read_episode = reader.read_episode
    monkeypatch.setattr(
        reader, 'read_episode', lambda path, task: decoded.append(path) or read_episode(path, task)
    )
    return decoded


def prepared_run(folder, **arguments):
    """A run folder as ``mbarl up sim`` prepares it, before any node starts."""
    plan = graphs.plan('sim', {'run_dir': str(folder), **arguments})
    packed = check_demonstrations(plan)
    run = RunFolder(plan)
    run.keep_decoded(packed)
    run.close()
    return run.path


@pytest.mark.parametrize('name', ['pointmass', 'tabletop'])
def test_a_run_decodes_its_demonstrations_once(tmp_path, decodings, name):
    task = Task.load(name)
    run_dir = prepared_run(tmp_path / 'run', task=name)
    count = len(folders(SHIPPED / name))
    assert len(decodings) == count
    rows = load_demonstrations(SHIPPED / name, task, run_dir=run_dir)
    prepared_run(run_dir, task=name)  # resumed
    assert len(decodings) == count
    for key, array in load_demonstrations(SHIPPED / name, task).items():
        assert rows[key].dtype == array.dtype and rows[key].tobytes() == array.tobytes()


def test_a_demonstration_that_is_added_or_changed_is_decoded(tmp_path, task, decodings):
    folder = tmp_path / 'demos'
    shutil.copytree(SHIPPED / 'pointmass', folder)
    run_dir = prepared_run(tmp_path / 'run', demos=str(folder))
    decodings.clear()
    before = load_demonstrations(folder, task, run_dir=run_dir)
    assert not decodings
    shutil.copytree(folder / 'forward_000', folder / 'forward_003')
    more = load_demonstrations(folder, task, run_dir=run_dir)
    assert len(decodings) == 4 and len(more['reward']) > len(before['reward'])
    shutil.rmtree(folder / 'forward_003')
    metadata = folder / 'forward_001' / 'demonstration.json'
    metadata.write_text(metadata.read_text().replace('"success"', '"discarded"'))
    less = load_demonstrations(folder, task, run_dir=run_dir)
    assert len(less['reward']) < len(before['reward'])
    (next((folder / 'forward_000').glob('*.mcap'))).write_bytes(b'damaged')
    with pytest.raises(DemonstrationError, match='forward_000'):
        load_demonstrations(folder, task, run_dir=run_dir)


def test_another_task_decodes_anew(tmp_path, task, decodings):
    run_dir = prepared_run(tmp_path / 'run')
    decodings.clear()
    success = task.config.success.model_copy(update={'tolerance': 0.2})
    stricter = Task(task.config.model_copy(update={'success': success}), task.robot)
    load_demonstrations(SHIPPED / 'pointmass', stricter, run_dir=run_dir)
    assert len(decodings) == 3


@pytest.mark.parametrize('keep', [0, 7, 500, -1])
def test_a_damaged_file_of_decoded_demonstrations_is_ignored(tmp_path, task, decodings, keep):
    run_dir = prepared_run(tmp_path / 'run')
    decodings.clear()
    path = run_dir / DEMONSTRATIONS_FILE
    path.write_bytes(path.read_bytes()[:keep])
    rows = load_demonstrations(SHIPPED / 'pointmass', task, run_dir=run_dir)
    assert len(decodings) == 3 and len(rows['reward']) > 100


def test_the_nodes_of_a_run_decode_no_bag(tmp_path):
    preset = small_agent(tmp_path)
    run_dir = prepared_run(tmp_path / 'run', agent=preset)
    (tmp_path / 'stub').mkdir()
    (tmp_path / 'stub' / 'rosbags.py').write_text('raise RuntimeError("a bag is decoded again")')
    given = [f'run_dir:={run_dir}', f'agent:={preset}', 'task:=pointmass']
    words = ['--ros-args', *(word for value in given for word in ('-p', value))]
    with Graph(tmp_path, task='pointmass', agent=preset) as graph, ExitStack() as stack:
        path = os.pathsep.join([str(tmp_path / 'stub'), os.environ.get('PYTHONPATH', '')])
        for node in ('learner', 'state_classifier'):  # not by the server, which has imported it
            command = [sys.executable, '-m', f'mbarl_ros.nodes.{node}', *words]
            environment = {**graph.environment, 'PYTHONPATH': path}
            process = subprocess.Popen(command, env=environment)
            stack.callback(process.wait)
            stack.callback(process.kill)
            graph.wait_for(node, lambda node=node: node in graph.statuses)


def test_empty_folder_says_how_to_record(tmp_path, task):
    fails(tmp_path, task, 'no demonstrations', 'mbarl up record task:=pointmass')
    fails(tmp_path / 'nowhere', task, 'no demonstrations')


def test_demonstrations_of_another_task_or_robot_are_named(task):
    tabletop = Task.load('tabletop')
    fails(SHIPPED / 'pointmass', tabletop, "task 'pointmass'", "not of 'tabletop'", 'forward_000')
    faster = Task(task.config, task.robot.model_copy(update={'control_rate': 20.0}))
    fails(SHIPPED / 'pointmass', faster, 'control_rate is 10.0', '20.0')


@pytest.mark.parametrize('keep', [0, 40, 3000, -20])
def test_torn_bag_is_named_with_its_remedy(tmp_path, task, keep):
    path = tmp_path / 'forward_003'
    shutil.copytree(SHIPPED / 'pointmass' / 'forward_000', path)
    bag = next(path.glob('*.mcap'))
    bag.write_bytes(bag.read_bytes()[:keep])
    fails(tmp_path, task, 'forward_003', 'damaged', 'mbarl demos import')


def test_damaged_chunk_is_named(tmp_path, task):
    path = tmp_path / 'forward_000'
    shutil.copytree(SHIPPED / 'pointmass' / 'forward_000', path)
    bag = next(path.glob('*.mcap'))
    data = bytearray(bag.read_bytes())
    data[400:700] = bytes(300)
    bag.write_bytes(data)
    fails(tmp_path, task, 'forward_000', 'remove')


@pytest.mark.parametrize('text', [None, '', '{', '[]', '{"schema": 2}', '{"schema": 1}'])
def test_missing_or_damaged_note_is_named(tmp_path, task, text):
    path = tmp_path / 'forward_000'
    shutil.copytree(SHIPPED / 'pointmass' / 'forward_000', path)
    (path / 'demonstration.json').unlink()
    if text is not None:
        (path / 'demonstration.json').write_text(text)
    fails(tmp_path, task, 'demonstration.json', 'mbarl demos import' if text is None else 'remove')


def test_missing_topics_are_named_with_their_types(tmp_path, task):
    states_only = [m for m in drive_to_goal(task) if m[0] == 'odom']
    record(tmp_path / 'a', task, states_only)
    fails(tmp_path / 'a', task, 'safety_gate/executed (sensor_msgs/msg/JointState)')
    commands_only = [m for m in drive_to_goal(task) if m[0] == EXECUTED]
    record(tmp_path / 'b', task, commands_only)
    fails(tmp_path / 'b', task, 'odom (nav_msgs/msg/Odometry)')


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_lockstep_values_that_are_not_finite_are_refused_with_their_time(tmp_path, task, bad):
    messages = drive_to_goal(task)
    messages[2][2].pose.pose.position.x = bad
    record(tmp_path / 'a', task, messages)
    fails(tmp_path / 'a', task, 'odom: x not finite', 'at 0.10 s')
    messages = drive_to_goal(task)
    messages[3][2].position[1] = bad
    record(tmp_path / 'b', task, messages)
    fails(tmp_path / 'b', task, 'safety_gate/executed: vy not finite', 'at 0.10 s')


@pytest.mark.parametrize('lost', [3, 5, 9])
def test_lockstep_bag_with_a_lost_command_is_refused(tmp_path, task, lost):
    messages = drive_to_goal(task)
    assert messages.pop(lost)[0] == EXECUTED
    record(tmp_path, task, messages)
    fails(tmp_path, task, 'do not fit', 'record it again')


@pytest.mark.parametrize(('lost', 'steps'), [(11, 5), (12, 5), (None, 6)])
def test_lockstep_bag_whose_end_was_not_heard_any_more_keeps_the_rest(tmp_path, task, lost, steps):
    messages = drive_to_goal(task)
    if lost is not None:
        messages.pop(lost)
    record(tmp_path, task, messages)
    found = read_demonstration(next(iter(folders(tmp_path))), task)
    np.testing.assert_allclose(found.commands[:, 0], -0.1 * np.arange(steps), atol=1e-7)
    np.testing.assert_allclose(found.states[:, 0], np.linspace(-0.35, -0.85, 7)[: steps + 1])


def test_lockstep_commands_that_the_gate_stamped_late_are_paired_in_order(tmp_path, task):
    messages = drive_to_goal(task)
    set_stamp(messages[3][2], 0)  # it answers the state of 0.1 s
    record(tmp_path, task, messages)
    rows = load_demonstrations(tmp_path, task)
    np.testing.assert_allclose(rows['action'][:, 0], [0, -0.1, -0.2, -0.3], atol=1e-7)


def test_lockstep_command_that_arrives_after_the_state_that_it_led_to_keeps_its_step(
    tmp_path, task
):
    messages = drive_to_goal(task)
    first = messages.index(next(m for m in messages if m[0] == EXECUTED))
    assert stamp_ns(messages[first][2]) == 0  # which elsewhere means that there is no stamp
    command, late = messages.pop(first), messages[first][1]
    messages.insert(first + 1, (command[0], late, command[2]))
    record(tmp_path, task, messages)
    found = read_demonstration(next(iter(folders(tmp_path))), task)
    np.testing.assert_allclose(found.states[:, 0], np.linspace(-0.35, -0.85, 7))
    np.testing.assert_allclose(found.commands[:, 0], -0.1 * np.arange(6), atol=1e-7)


# --- recorder and operator over DDS ----------------------------------------------------------


@pytest.mark.parametrize('name', ['pointmass', 'tabletop'])
def test_scripted_operator_records_over_ros_and_the_bags_replay(tmp_path, name):
    folder = tmp_path / 'demos'
    with Graph(tmp_path, task=name, seed=4) as graph:
        graph.start('robot_sim', 'safety_gate')
        graph.start('demo_recorder', demonstrations=str(folder))
        graph.start('scripted_operator', episodes=2)
        operator = graph.processes['scripted_operator']
        graph.wait_for('end of the episodes', lambda: operator.poll() is not None)
        assert operator.returncode == 0, graph.logs()
    task = Task.load(name)
    world = load_world(task.config)
    found = [read_demonstration(path, task) for path in folders(folder)]
    assert len(found) == 2
    assert {demo.metadata.direction for demo in found} == (
        {'forward', 'backward'} if task.goal_conditioned else {'forward'}
    )
    for demo in found:
        assert demo.metadata.verdict == 'success' and demo.metadata.operator == 'scripted'
        states = [world.set_state(demo.states[0]), *map(world.step, demo.commands)]
        np.testing.assert_array_equal(states, demo.states)
    assert load_demonstrations(folder, task)['terminated'].sum() >= 1


@pytest.mark.paced
@pytest.mark.timing('steps are counted against the control rate')
def test_recorder_serves_a_person_and_keeps_what_is_running_when_stopped(tmp_path):
    folder = tmp_path / 'demos'
    task = Task.load('pointmass')
    with Graph(tmp_path, task='pointmass', mode='realtime') as graph:
        graph.start('demo_recorder', demonstrations=str(folder))
        answer = graph.call('demo_recorder/start')
        assert not answer.success and 'odom' in answer.message
        assert not graph.call('demo_recorder/success').success
        graph.start('robot_sim', 'safety_gate')
        states = []
        graph.node.create_subscription(Odometry, 'odom', states.append, 1)
        teleop = graph.node.create_publisher(Twist, 'teleop/cmd_vel', 10)
        graph.wait_for('robot', lambda: states)
        graph.wait_for('gate', teleop.get_subscription_count)
        graph.spin(1.0)
        command = Twist()
        command.linear.x = 0.4

        def steer(seconds):
            start = time.monotonic()
            while time.monotonic() < start + seconds:
                teleop.publish(command)
                graph.spin(0.05)
            return (time.monotonic() - start) / 0.1

        assert graph.call('demo_recorder/start').success, graph.logs()
        assert not graph.call('demo_recorder/start').success  # already recording
        steps = steer(1.0)
        assert graph.call('demo_recorder/success').success
        assert graph.call('demo_recorder/start').success
        assert graph.call('demo_recorder/discard').success
        assert graph.call('demo_recorder/start').success
        steer(0.6)
        graph.kill('demo_recorder', 2)
    assert [path.name for path in folders(folder)] == ['forward_000', 'forward_001']
    first, second = (read_demonstration(path, task) for path in folders(folder))
    assert first.metadata.verdict == 'success' and second.metadata.verdict == 'unknown'
    assert abs(len(first.commands) - steps) <= 4
    np.testing.assert_allclose(first.commands[1:, 0], 0.4)
    moved = np.diff(first.states[2:, 0])
    assert (moved > 0.02).all() and first.metadata.operator == 'person'


def test_in_lockstep_the_recorder_waits_for_the_gate_to_say_what_the_last_step_did(tmp_path, task):
    folder = tmp_path / 'demos'
    with Graph(tmp_path, task='pointmass') as graph:
        publishers = {
            'odom': graph.node.create_publisher(Odometry, 'odom', KEEP_ALL),
            EXECUTED: graph.node.create_publisher(JointState, EXECUTED, KEEP_ALL),
        }
        graph.start('demo_recorder', demonstrations=str(folder))
        graph.wait_for(
            'recorder', lambda: all(p.get_subscription_count() for p in publishers.values())
        )
        first, *middle, late, last = drive_to_goal(task, first=PERIOD)
        publishers['odom'].publish(first[2])
        assert graph.call('demo_recorder/start').success
        for topic, _, message in (*middle, last):
            publishers[topic].publish(message)
        client = graph.node.create_client(Trigger, 'demo_recorder/success')
        answer = client.call_async(Trigger.Request())
        graph.spin(0.4)
        publishers[late[0]].publish(late[2])
        graph.wait_for('the answer', answer.done)
        assert answer.result().success
    assert len(read_demonstration(folder / 'forward_000', task).commands) == 6


def test_robot_sim_counts_resets_and_time_goes_on(tmp_path):
    stamps, counts = [], []
    with Graph(tmp_path, task='tabletop') as graph:
        graph.node.create_subscription(
            PoseStamped, 'mug_pose', lambda m: stamps.append(m.header.stamp), 10
        )
        graph.start('robot_sim')
        graph.wait_for('states, repeated in silence', lambda: len(stamps) >= 3)
        assert len({(stamp.sec, stamp.nanosec) for stamp in stamps}) == 1
        assert graph.call('robot_sim/reset').success
        graph.wait_for('the new state', lambda: stamps[-1].nanosec == PERIOD)
        graph.wait_for(
            'the count', lambda: graph.statuses.get('robot_sim', {}).get('resets') == '1'
        )
        counts.append(graph.statuses['robot_sim']['steps'])
    assert counts == ['0']


def test_robot_sim_refuses_a_profile_that_does_not_fit(tmp_path):
    profile = json.loads(Task.load('pointmass').robot.model_dump_json())
    profile['control_rate'] = 50.0
    path = tmp_path / 'robot.yaml'
    path.write_text(json.dumps(profile))
    with Graph(tmp_path, task='pointmass', robot=str(path)) as graph:
        graph.start('robot_sim')
        process = graph.processes['robot_sim']
        with pytest.raises(AssertionError, match='control_rate'):
            graph.wait_for('the end', lambda: False, 30)
        assert process.returncode == 2
