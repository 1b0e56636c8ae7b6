"""Recordings survive: the recorder is killed for real, at random moments, over DDS."""

import itertools
import json
import random
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from rosbags.rosbag2 import Reader
from std_srvs.srv import Trigger

from mbarl_ros.demos.mcap_file import read_mcap
from mbarl_ros.demos.metadata import folders, read_metadata
from mbarl_ros.demos.reader import check_demonstration, read_demonstration
from mbarl_ros.demos.recording import recover, unfinished
from mbarl_ros.schema.message_fields import stamp_ns
from mbarl_ros.task import Task
from support.graph import Graph

pytestmark = pytest.mark.together

ROUNDS, AT_ONCE = 10, 5  # 50 recordings, all killed
NUMBERS = itertools.count()
FACTOR = 3.0  # robot seconds in a second: states at 30 Hz


@pytest.fixture(scope='module')
def robot(tmp_path_factory):
    """Graph of a simulated robot and its gate, stamps of its states, and a function that drives."""
    with Graph(tmp_path_factory.mktemp('robot'), task='pointmass', mode='realtime') as graph:
        stamps = []
        graph.node.create_subscription(Odometry, 'odom', lambda m: stamps.append(stamp_ns(m)), 10)
        teleop = graph.node.create_publisher(Twist, 'teleop/cmd_vel', 10)
        command = Twist()
        command.linear.x = 0.3

        def drive(seconds):
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                teleop.publish(command)
                graph.spin(0.04)

        graph.start('robot_sim', 'safety_gate', real_time_factor=FACTOR)
        graph.wait_for('robot', lambda: stamps)
        graph.wait_for('gate', teleop.get_subscription_count)
        yield graph, stamps, drive


def start_recorders(graph, folder, names):
    """Several recorders, each with a name and a folder of its own, all recording."""
    clients = []
    for name in names:
        graph.start(
            'demo_recorder',
            alias=name,
            demonstrations=str(folder / name),
            use_sim_time=True,
        )
        clients.append(graph.node.create_client(Trigger, f'{name}/start'))
    return clients


@pytest.mark.timing('the loss may be 1 s')
def test_fifty_recorders_killed_at_random_moments_lose_at_most_a_second(robot, tmp_path):
    graph, stamps, drive = robot
    task = Task.load('pointmass')
    chance = random.Random(0)
    worst, opened = 0.0, 0
    folder = tmp_path / 'demos'
    # New names each time: DDS believes for a while that the killed ones are still there.
    crews = [[f'recorder_{next(NUMBERS)}' for _ in range(AT_ONCE)] for _ in range(ROUNDS)]
    next_clients = start_recorders(graph, folder, crews[0])
    for number, names in enumerate(crews):
        clients = next_clients
        graph.wait_for('recorders', lambda group=clients: all(c.service_is_ready() for c in group))
        drive(0.3)
        answers = [client.call_async(Trigger.Request()) for client in clients]
        graph.wait_for('start', lambda group=answers: all(answer.done() for answer in group))
        assert all(answer.result().success for answer in answers), graph.logs()
        drive(0.15)
        if number + 1 < ROUNDS:  # they come up meanwhile
            next_clients = start_recorders(graph, folder, crews[number + 1])
        killed = {}
        for recorder in chance.sample(names, AT_ONCE):
            drive(chance.uniform(0.0, 0.4))
            if chance.random() < 0.2:  # in the middle of writing it down for good
                finish = graph.node.create_client(Trigger, f'{recorder}/success')
                finish.wait_for_service(5.0)
                finish.call_async(Trigger.Request())
                graph.spin(chance.uniform(0.0, 0.03))
            killed[recorder] = stamps[-1]
            graph.kill(recorder, signal.SIGKILL)
        for recorder, last in killed.items():
            messages = recover(folder / recorder)
            recorded = folders(folder / recorder)
            assert len(recorded) == 1 and unfinished(folder / recorder) == 0, messages
            with Reader(recorded[0]) as reader:  # as ros2 bag and others read it
                opened += reader.message_count > 0
            demonstration = read_demonstration(recorded[0], task)
            missing = last * 1e-9 - demonstration.stamps[-1]
            if read_metadata(recorded[0]).interrupted:
                assert messages and 'recovered from an interrupted recording' in messages[0]
                worst = max(worst, missing)
            assert demonstration.whole.all(), demonstration.findings
    assert opened == ROUNDS * AT_ONCE
    # `missing` is in robot seconds, in which a second has FACTOR
    assert worst / FACTOR <= 1.0
    print(f'worst loss {worst / FACTOR:.2f} s over {opened} kills')


def test_the_next_start_recovers_what_was_interrupted_and_reports_it(robot, tmp_path):
    graph, _, drive = robot
    folder = tmp_path / 'demos'
    graph.start('demo_recorder', demonstrations=str(folder), use_sim_time=True)
    assert graph.call('demo_recorder/start').success
    drive(1.0)
    assert unfinished(folder) == 1 and folders(folder) == []
    raw = next(folder.rglob('raw.mcap'))
    graph.kill('demo_recorder')
    # the file can be read up to its end before it is recovered
    topics = {topic.name for topic, *_ in read_mcap(raw, torn=True)}
    assert {'/odom', '/cmd_vel', '/safety_gate/executed', '/demo_recorder/phase'} <= topics
    # a new name: DDS believes for a while that the killed one is still there
    graph.start('demo_recorder', alias='second', demonstrations=str(folder), use_sim_time=True)
    assert graph.call('second/start').success
    drive(0.5)
    assert (
        'forward_000: recovered from an interrupted recording'
        in (graph.folder / 'second.log').read_text()
    )
    assert graph.call('second/success').success
    first, second = (read_metadata(path) for path in folders(folder))
    assert (first.interrupted, first.verdict) == (True, 'unknown')
    assert (second.interrupted, second.verdict) == (False, 'success')
    _, findings = check_demonstration(folder / 'forward_000', Task.load('pointmass'))
    assert 'the recorder died' in findings[0].text


def test_a_disk_that_fills_up_loses_nothing_that_was_written(robot, tmp_path):
    graph, _, drive = robot
    folder = tmp_path / 'demos'
    graph.start('demo_recorder', alias='third', demonstrations=str(folder), use_sim_time=True)
    assert graph.call('third/start').success
    drive(0.5)
    process = graph.processes['third']
    size = next(folder.rglob('raw.mcap')).stat().st_size
    # The system refuses to make any file larger than this, as a full disk would.
    limit = resource.RLIMIT_FSIZE
    resource.prlimit(process.pid, limit, (size + 20_000, resource.RLIM_INFINITY))
    drive(1.5)
    assert process.poll() is None, graph.logs()
    assert not graph.call('third/success').success
    assert 'recording stopped' in (graph.folder / 'third.log').read_text()
    resource.prlimit(process.pid, limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    graph.kill('third', signal.SIGTERM)
    assert len(recover(folder)) == 1
    demonstration = read_demonstration(folder / 'forward_000', Task.load('pointmass'))
    assert len(demonstration.commands) >= 10 and demonstration.whole.all()


def test_what_is_being_recorded_is_left_alone(robot, tmp_path):
    graph, _, drive = robot
    folder = tmp_path / 'demos'
    graph.start('demo_recorder', alias='fourth', demonstrations=str(folder), use_sim_time=True)
    assert graph.call('fourth/start').success
    drive(0.3)
    assert recover(folder) == [] and unfinished(folder) == 1
    drive(0.3)
    assert graph.call('fourth/success').success
    assert unfinished(folder) == 0 and np.all(
        read_metadata(folders(folder)[0]).verdict == 'success'
    )
    assert json.loads((folder / 'forward_000' / 'demonstration.json').read_text())['profile']
    assert not list(Path(folder).glob('.*'))
