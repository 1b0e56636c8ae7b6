"""The whole graph: real nodes, real processes, real DDS."""

import json
import signal

import numpy as np
import pytest
from nav_msgs.msg import Odometry
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool

from mbarl_ros.control.policy import read_policy
from mbarl_ros.schema.load import load_agent
from mbarl_ros.storage.run_files import kept_policies
from mbarl_ros.task import Task
from support.graph import LEARNING, SIM, Graph, small_agent
from support.run_data import assert_continuous, stored

pytestmark = pytest.mark.together

LATCHED = QoSProfile(depth=20, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@pytest.fixture(scope='module')
def practised(tmp_path_factory):
    """Folder of a whole run of 1,000 steps with seed 5, its agent and how its evaluator ended."""
    folder = tmp_path_factory.mktemp('practised')
    agent = small_agent(folder)
    with Graph(folder, task='pointmass', agent=agent, seed=5) as graph:
        graph.start(*LEARNING)
        graph.start('policy_evaluator', budget=1000, target=1.0)
        assert len({process.pid for process in graph.processes.values()}) == 6
        evaluator = graph.processes['policy_evaluator']
        graph.wait_for('end of the run', lambda: evaluator.poll() is not None, 400)
    return folder, agent, evaluator.returncode


def test_the_graph_practises_learns_and_is_evaluated(practised):
    folder, agent, code = practised
    lines = [
        json.loads(line) for line in (folder / 'run' / 'evaluations.jsonl').read_text().splitlines()
    ]
    assert [line['environment_steps'] for line in lines] == [0, 500, 1000]
    assert all(line['training_resets'] == 0 for line in lines)
    result = json.loads((folder / 'run' / 'result.json').read_text())
    assert result['reason'] == 'budget' and result['environment_steps'] == 1000
    assert (folder / 'run' / 'success.png').stat().st_size > 5000
    task = Task.load('pointmass')
    for steps, path in kept_policies(folder / 'run').items():
        assert read_policy(path, task, load_agent(agent))[1] == steps
    assert list(kept_policies(folder / 'run')) == [0, 500, 1000]
    rows = stored(folder, agent)
    assert_continuous(rows)
    assert set(rows['phase']) == {0, 1}
    assert code == 3


def test_the_same_seed_gives_the_same_run_while_learning_with_and_without_evaluator(
    practised, tmp_path
):
    folder, agent, _ = practised
    with Graph(tmp_path, task='pointmass', agent=small_agent(tmp_path), seed=5) as graph:
        graph.start(*LEARNING)
        graph.wait_for(
            '1,000 stored steps', lambda: graph.value('learner', 'environment_steps') >= 1000
        )
    one, two = stored(folder, agent), stored(tmp_path, small_agent(tmp_path))
    assert len(np.unique(one['action'], axis=0)) > 900  # it does act
    for name in one:
        assert (one[name][:1000] == two[name][:1000]).all(), name


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


# --- one robot in real time, driven by a random policy -----------------------------------------


@pytest.fixture(scope='module')
def real_time(tmp_path_factory):
    """Graph, positions of the robot and what the gate executed."""
    positions, executed = [], []
    with Graph(tmp_path_factory.mktemp('real_time'), task='pointmass', mode='realtime') as graph:
        graph.node.create_subscription(
            Odometry,
            'odom',
            lambda m: positions.append([m.pose.pose.position.x, m.pose.pose.position.y]),
            10,
        )
        graph.node.create_subscription(JointState, 'safety_gate/executed', executed.append, 10)
        yield graph, positions, executed


@pytest.fixture
def driven(real_time):
    """The same, while it moves; nodes that a test has ended are started again."""
    graph, positions, executed = real_time
    for name, own in (*((name, {}) for name in SIM[:2]), (SIM[2], {'policy': 'random'})):
        if name not in graph.processes:
            graph.start(name, **own)
    before = graph.value('policy_controller', 'environment_steps', 0)
    graph.wait_for_steps(int(before) + 15)
    executed.clear()
    graph.wait_for('motion', lambda: executed and executed[-1].header.frame_id == 'policy')
    return graph, positions, executed


def test_estop_halts_the_robot_until_it_is_released(driven):
    graph, positions, _ = driven
    estop = graph.node.create_publisher(Bool, 'safety_gate/estop', 10)
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


def test_the_robot_stops_when_the_controller_is_killed(driven):
    graph, _, executed = driven
    graph.kill('policy_controller')
    graph.wait_for('stop', lambda: executed and executed[-1].header.frame_id == 'stop', 3)
    assert list(executed[-1].position) == [0.0, 0.0]


def test_sigint_sends_a_last_stop_command_before_the_process_ends(driven):
    graph, _, executed = driven
    assert graph.kill('safety_gate', signal.SIGINT) == 0
    graph.spin(0.5)
    assert executed[-1].header.frame_id == 'stop'
