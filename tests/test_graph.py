"""The whole graph: real nodes, real processes, real DDS."""

import json
import os
import signal

import numpy as np
import pytest
from graph import LEARNING, SIM, Graph, small_agent
from nav_msgs.msg import Odometry
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, UInt8MultiArray

from mbarl_ros.nodes.support.runtime import bytes_message
from mbarl_ros.schema.load import load_agent
from mbarl_ros.storage import wire
from mbarl_ros.storage.run_files import TRANSITIONS_FILE
from mbarl_ros.storage.sequence_tracker import SequenceTracker
from mbarl_ros.task import Task

pytestmark = pytest.mark.together

LATCHED = QoSProfile(depth=20, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def stored(folder, agent, task='pointmass'):
    """What the learner has on disk, and a check that nothing is missing or doubled."""
    task = Task.load(task)
    tracker = SequenceTracker()
    path = folder / 'run' / TRANSITIONS_FILE
    rows = tracker.load_log(path, task, task.spec_hash(load_agent(agent)))
    assert rows['sequence'].tolist() == list(range(tracker.total))
    return rows


def assert_continuous(rows):
    """Each transition starts where the one before it ended: nothing was lost in between."""
    dim = Task.load('pointmass').state_dim
    assert (rows['observation'][1:, :dim] == rows['next_observation'][:-1, :dim]).all()


def test_the_graph_practises_learns_and_is_evaluated(tmp_path):
    agent = small_agent(tmp_path)
    with Graph(tmp_path, task='pointmass', agent=agent) as graph:
        graph.start(*LEARNING)
        graph.start('policy_evaluator', budget=1000, target=1.0)
        assert len({process.pid for process in graph.processes.values()}) == 6
        evaluator = graph.processes['policy_evaluator']
        graph.wait_for('end of the run', lambda: evaluator.poll() is not None, 400)
    lines = [
        json.loads(line)
        for line in (tmp_path / 'run' / 'evaluations.jsonl').read_text().splitlines()
    ]
    assert [line['environment_steps'] for line in lines] == [0, 500, 1000]
    assert all(line['training_resets'] == 0 for line in lines)
    result = json.loads((tmp_path / 'run' / 'result.json').read_text())
    assert result['reason'] == 'budget' and result['environment_steps'] == 1000
    assert (tmp_path / 'run' / 'success.png').stat().st_size > 5000
    rows = stored(tmp_path, agent)
    assert_continuous(rows)
    assert set(rows['phase']) == {0, 1}
    assert evaluator.returncode == 3


def test_robot_goes_on_when_the_learner_is_killed_and_nothing_acknowledged_is_lost(tmp_path):
    agent = small_agent(tmp_path)
    with Graph(tmp_path, task='pointmass', agent=agent) as graph:
        graph.start(*LEARNING)
        graph.wait_for_steps(300)
        graph.kill('learner')
        acknowledged = len(stored(tmp_path, agent)['sequence'])
        graph.wait_for('loss', lambda: 'lost' in graph.statuses['policy_controller']['message'], 20)
        before = graph.value('policy_controller', 'environment_steps')
        graph.wait_for_steps(int(before) + 20)  # with its last policy, at its control rate
        assert 'learner lost' in graph.statuses['policy_controller']['message']
        graph.start('learner')
        target = graph.value('policy_controller', 'environment_steps') + 150
        graph.wait_for(
            'training to go on', lambda: graph.value('learner', 'environment_steps') >= target, 90
        )
        assert graph.kill('learner', signal.SIGINT) == 0
    rows = stored(tmp_path, agent)
    assert len(rows['sequence']) >= target > acknowledged >= 250
    assert_continuous(rows)
    assert 'resumed' in (tmp_path / 'learner.log').read_text()


def test_estop_halts_the_robot_until_it_is_released(tmp_path):
    positions = []
    with Graph(tmp_path, task='pointmass', mode='realtime') as graph:
        graph.node.create_subscription(
            Odometry,
            'odom',
            lambda m: positions.append([m.pose.pose.position.x, m.pose.pose.position.y]),
            10,
        )
        estop = graph.node.create_publisher(Bool, 'safety_gate/estop', 10)
        graph.start('robot_sim', 'safety_gate')
        graph.start('policy_controller', policy='random')
        graph.wait_for_steps(15)
        graph.wait_for('gate to listen', lambda: estop.get_subscription_count())
        estop.publish(Bool(data=True))
        graph.wait_for(
            'e-stop', lambda: graph.statuses.get('safety_gate', {}).get('state') == 'e-stop', 5
        )
        graph.spin(1.0)
        halted = np.array(positions[-1])
        graph.spin(2.0)
        assert np.abs(np.array(positions[-10:]) - halted).max() < 1e-3
        estop.publish(Bool(data=False))  # not a release
        graph.spin(1.0)
        assert np.abs(np.array(positions[-1]) - halted).max() < 1e-3
        assert graph.call('safety_gate/release').success
        graph.wait_for('motion', lambda: np.abs(np.array(positions[-1]) - halted).max() > 0.02)


def test_the_robot_stops_when_the_controller_is_killed(tmp_path):
    executed = []
    with Graph(tmp_path, task='pointmass', mode='realtime') as graph:
        graph.node.create_subscription(
            JointState, 'safety_gate/executed', lambda m: executed.append(m), 10
        )
        graph.start('robot_sim', 'safety_gate')
        graph.start('policy_controller', policy='random')
        graph.wait_for_steps(10)
        graph.wait_for('an echo', lambda: executed)  # discovery can take seconds
        graph.kill('policy_controller')
        graph.wait_for('stop', lambda: executed and executed[-1].header.frame_id == 'stop', 3)
        assert list(executed[-1].position) == [0.0, 0.0]


def test_malformed_messages_change_nothing_and_are_counted(tmp_path):
    agent = small_agent(tmp_path)
    good = wire.pack({}, {'session': 'x', 'stored': 10**9, 'total': 10**9}, 'acknowledged')
    arrays = {'forward/0/weight': np.full((4, 32), np.nan, np.float32)}
    spec = Task.load('pointmass').spec_hash(load_agent(agent))
    bad = [
        b'',
        b'garbage',
        os.urandom(5000),
        (2**62).to_bytes(8, 'little') + b'{}',
        good[:-3],
        wire.pack(arrays, {'spec_hash': 'other/agent:1'}, 'policy'),
        wire.pack(arrays, {'spec_hash': spec, 'version': 10**9}, 'policy'),
        wire.pack(arrays, {'spec_hash': spec, 'session': 'x', 'first': 0}, 'transitions'),
        wire.pack(arrays, {'spec_hash': spec, 'environment_steps': 1}, 'classifier'),
    ]
    with Graph(tmp_path, task='pointmass', agent=agent) as graph:
        graph.start(*LEARNING)
        graph.wait_for_steps(150)
        topics = {
            topic: graph.node.create_publisher(UInt8MultiArray, topic, LATCHED)
            for topic in (
                'policy_controller/transitions',
                'learner/policy',
                'learner/acknowledged',
                'state_classifier/classifier',
            )
        }
        graph.spin(2.0)
        for publisher in topics.values():
            for data in bad:
                publisher.publish(bytes_message(data, 'bad'))
                graph.spin(0.05)
        before = graph.value('policy_controller', 'environment_steps')
        graph.wait_for_steps(int(before) + 200)
        for node, key in (
            ('learner', 'refused'),
            ('state_classifier', 'refused'),
            ('policy_controller', 'refused'),
        ):
            assert graph.value(node, key) >= 3, node
        assert all(process.poll() is None for process in graph.processes.values())
    assert_continuous(stored(tmp_path, agent))


def test_the_same_seed_gives_the_same_run_also_while_learning(tmp_path):
    runs = []
    for name in ('one', 'two'):
        folder = tmp_path / name
        folder.mkdir()
        agent = small_agent(folder)
        with Graph(folder, task='pointmass', agent=agent, seed=5) as graph:
            graph.start(*LEARNING)
            graph.wait_for(
                '1,000 stored steps',
                lambda: graph.value('learner', 'environment_steps') >= 1000,
            )
        runs.append(stored(folder, agent))
    assert len(np.unique(runs[0]['action'], axis=0)) > 900  # it does act
    for name in runs[0]:
        assert (runs[0][name][:1000] == runs[1][name][:1000]).all(), name


@pytest.mark.parametrize(
    ('parameters', 'words'),
    [
        ({'task': 'nonsense'}, ['unknown task', 'pointmass']),
        ({'mode': 'fast'}, ['mode', 'lockstep']),
        ({'sead': 3}, ['unknown parameter sead', 'seed']),
    ],
)
def test_a_wrong_parameter_is_one_sentence_and_nothing_starts(tmp_path, parameters, words):
    with Graph(tmp_path, **parameters) as graph:
        graph.start('safety_gate')
        assert graph.processes['safety_gate'].wait(20) == 2
        text = (tmp_path / 'safety_gate.log').read_text()
    assert all(word in text for word in words) and 'Traceback' not in text


def test_sigint_sends_a_last_stop_command_before_the_process_ends(tmp_path):
    executed = []
    with Graph(tmp_path, task='pointmass', mode='realtime') as graph:
        graph.node.create_subscription(
            JointState, 'safety_gate/executed', lambda m: executed.append(m), 10
        )
        graph.start(*SIM[:2])
        graph.start('policy_controller', policy='random')
        graph.wait_for_steps(10)
        graph.wait_for('an echo', lambda: executed)  # discovery can take seconds
        assert graph.kill('safety_gate', signal.SIGINT) == 0
        graph.spin(0.5)
    assert executed[-1].header.frame_id == 'stop'
