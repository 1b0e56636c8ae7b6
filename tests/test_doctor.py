"""`mbarl doctor` on graphs that do not move, each for another reason, over real DDS."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from geometry_msgs.msg import Twist
from rclpy.qos import DurabilityPolicy, QoSProfile

from mbarl_ros.nodes.support.diagnosis import GraphSnapshot, diagnose
from mbarl_ros.nodes.support.doctor import Doctor
from mbarl_ros.nodes.support.robot_check import DISCOVERY, Listener
from mbarl_ros.schema.load import find
from mbarl_ros.task import Task
from support.graph import Graph, demonstrate, small_agent

pytestmark = pytest.mark.together


@pytest.fixture
def task(tmp_path):
    """Path of a task whose demonstrations are still to be recorded."""
    raw = yaml.safe_load(find('tasks', 'pointmass').read_text())
    raw['demonstrations'] = str(tmp_path / 'demos')
    (tmp_path / 'mine.yaml').write_text(yaml.safe_dump(raw))
    return str(tmp_path / 'mine.yaml')


@pytest.fixture
def graph(tmp_path, task):
    with Graph(tmp_path, task=task, mode='realtime') as graph:
        yield graph


def expect(output, *words, never=(), whole=None):
    assert all(word in output for word in words) and whole in (None, output), output
    assert not any(word in output for word in never), output


@pytest.fixture
def examine(graph, monkeypatch):
    """Asserts what the doctor finds, in one text."""
    monkeypatch.setenv('ROS_DOMAIN_ID', str(graph.domain))
    with Listener('doctor', '/') as listener:
        doctor = Doctor(listener)

        def check(*words, **more):
            expect('\n'.join(map(str, doctor.examine(0.5))), *words, **more)

        yield check


# Steps of one graph: each builds on the one before.


@pytest.mark.parametrize(
    ('running', 'remedy'),
    [((), 'mbarl up'), ((6,), 'graphs run in 6: give --domain'), ((5, 6), 'give its --namespace')],
)
def test_nobody_is_found_and_the_remedy_fits_what_runs_here(running, remedy):
    assert remedy in diagnose(GraphSnapshot('5', running=running))[0].text


def nobody_is_there(examine, graph):
    examine(f'no node of mbarl_ros found in ROS domain {graph.domain}')


def there_is_no_robot_and_no_controller(examine, graph):
    graph.start('safety_gate')
    graph.wait_for('gate', lambda: 'safety_gate' in graph.statuses)
    examine(
        'odom: nobody publishes it; start the robot',
        'cmd_vel: nobody subscribes to it',
        'no message from policy_controller: start it',
    )


def the_controller_is_not_configured_and_then_not_active(examine, graph):
    graph.start('policy_controller', autostart=False)
    graph.start('robot_sim', publish_clock=False)
    graph.wait_for('controller', lambda: {'policy_controller', 'robot_sim'} <= set(graph.statuses))
    configure = 'policy_controller is not configured: ros2 lifecycle set'
    examine(configure, never=('odom', 'cmd_vel'))
    assert graph.change('configure')
    examine('policy_controller is not active: ros2 lifecycle set')


def somebody_else_commands_the_robot_and_qos_does_not_fit(examine, graph):
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    rival = graph.node.create_publisher(Twist, 'cmd_vel', 10)
    deaf = graph.node.create_subscription(Twist, 'cmd_vel', lambda _: None, latched)
    assert not graph.change('activate')
    examine(
        'cmd_vel: /test commands the robot past the safety gate; stop it',
        'cmd_vel: QoS of /test does not fit ours',
        '(it refused: cmd_vel: /test',
    )
    graph.node.destroy_publisher(rival)
    graph.node.destroy_subscription(deaf)


def the_estop_is_latched(examine, graph):
    assert graph.call('safety_gate/stop').success
    examine('the e-stop is latched: ros2 service call /safety_gate/release')
    assert graph.call('safety_gate/release').success


def there_are_no_demonstrations_and_then_no_learner(examine, graph, task):
    graph.wait_for('arming', lambda: graph.change('activate'))
    learner = 'no message from the learner: start it'
    examine(learner, 'unless given demos:=, it lacks demonstrations: ')
    demonstrate(Task.load(task), Path(task).parent / 'demos' / '0000')
    examine(learner, never=('lacks demonstrations', 'e-stop', 'not active'))


def a_node_has_another_spec_and_a_clock_that_stands_still(examine, graph, tmp_path):
    other = small_agent(tmp_path, sac={'hidden': [16, 16]})
    graph.start('policy_evaluator', agent=other, use_sim_time=True)
    graph.wait_for('evaluator', lambda: 'policy_evaluator' in graph.statuses)
    examine(
        'different spec hashes: nodes refuse the data of each other',
        'policy_controller: pointmass/mbarl:',
        'policy_evaluator: pointmass/small:',
        '/clock: nobody publishes it, but policy_evaluator follow it',
    )


def a_graph_that_moves_is_well(examine, graph):
    graph.kill('policy_evaluator')
    graph.start('learner')
    graph.wait_for_steps(5)
    examine(whole='')
    command = [sys.executable, '-m', 'mbarl_ros.cli', 'doctor', '--domain', str(graph.domain)]
    command += ['--seconds', '1']
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    assert 'nothing is wrong' in result.stdout


@pytest.mark.timing('rates, gaps and ages of messages are measured')
def test_the_doctor_names_each_reason_why_a_graph_does_not_move(examine, graph, task, tmp_path):
    nobody_is_there(examine, graph)
    there_is_no_robot_and_no_controller(examine, graph)
    the_controller_is_not_configured_and_then_not_active(examine, graph)
    somebody_else_commands_the_robot_and_qos_does_not_fit(examine, graph)
    the_estop_is_latched(examine, graph)
    there_are_no_demonstrations_and_then_no_learner(examine, graph, task)
    a_node_has_another_spec_and_a_clock_that_stands_still(examine, graph, tmp_path)
    a_graph_that_moves_is_well(examine, graph)


def test_a_graph_in_another_namespace_is_not_taken_for_this_one(tmp_path, task, monkeypatch):
    with Graph(tmp_path, task=task, mode='realtime') as graph:
        monkeypatch.setenv('ROS_DOMAIN_ID', str(graph.domain))
        graph.start('safety_gate', remap={'__ns': '/other'})
        graph.start('policy_controller', autostart=False, remap={'__ns': '/other'})
        names = {'/other/safety_gate', '/other/policy_controller'}
        graph.wait_for('both', lambda: names <= set(graph.statuses))
        assert graph.call('/other/safety_gate/stop').success
        output = {}
        for namespace in ('/', '/other'):
            with Listener('doctor', namespace) as listener:
                output[namespace] = '\n'.join(map(str, Doctor(listener).examine(0.3)))
    assert 'no node of mbarl_ros found' in output['/']
    assert 'ros2 service call /other/safety_gate/release' in output['/other']
    assert 'ros2 lifecycle set /other/policy_controller configure' in output['/other']


def test_a_recording_needs_a_gate_as_well(tmp_path, task, monkeypatch):
    with Graph(tmp_path, task=task, mode='realtime') as graph:
        monkeypatch.setenv('ROS_DOMAIN_ID', str(graph.domain))
        graph.start('demo_recorder')
        graph.wait_for('recorder', lambda: 'demo_recorder' in graph.statuses)
        with Listener('doctor', '/') as listener:
            output = '\n'.join(map(str, Doctor(listener).examine(0.3)))
    assert 'no message from safety_gate' in output and 'policy_controller' not in output


@pytest.mark.timing('rates, gaps and ages of messages are measured')
@pytest.mark.parametrize('mode', ['lockstep', 'realtime'])
def test_a_simulation_is_well_by_its_own_clock(tmp_path, mode, monkeypatch):
    with Graph(tmp_path, task='pointmass', mode=mode) as graph:
        monkeypatch.setenv('ROS_DOMAIN_ID', str(graph.domain))
        graph.start('robot_sim', publish_clock=True)
        graph.start('safety_gate')
        sim_time = {'use_sim_time': True} if mode == 'realtime' else {}
        graph.start('policy_controller', policy='random', **sim_time)
        graph.wait_for_steps(5)
        with Listener('doctor', '/') as listener:
            doctor = Doctor(listener)
            listener.spin(DISCOVERY)
            assert doctor.examine(1.0) == []
