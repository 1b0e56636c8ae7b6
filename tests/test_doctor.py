"""`mbarl doctor` on graphs that do not move, each for another reason, over real DDS."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from geometry_msgs.msg import Twist
from graph import Graph, demonstrate, small_agent
from rclpy.qos import DurabilityPolicy, QoSProfile

from mbarl_ros.config import find
from mbarl_ros.nodes.doctor import Doctor
from mbarl_ros.nodes.robot_check import DISCOVERY, Listener
from mbarl_ros.task import Task

pytestmark = pytest.mark.together


@pytest.fixture(scope='module')
def task(tmp_path_factory):
    """Path of a task whose demonstrations are still to be recorded."""
    folder = tmp_path_factory.mktemp('task')
    raw = yaml.safe_load(find('tasks', 'pointmass').read_text())
    raw['demonstrations'] = str(folder / 'demos')
    (folder / 'mine.yaml').write_text(yaml.safe_dump(raw))
    return str(folder / 'mine.yaml')


@pytest.fixture(scope='module')
def graph(tmp_path_factory, task):
    with Graph(tmp_path_factory.mktemp('doctor'), task=task, mode='realtime') as graph:
        yield graph


@pytest.fixture(scope='module')
def examine(graph):
    """What the doctor says, in one text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('ROS_DOMAIN_ID', str(graph.domain))
        with Listener('doctor', '/') as listener:
            doctor = Doctor(listener)
            yield lambda: '\n'.join(map(str, doctor.examine(0.5)))


# One graph, which gets on from test to test: they are to be run in this order.


def test_nobody_is_there(examine, graph):
    assert f'no node of mbarl_ros is heard in ROS domain {graph.domain}' in examine()


def test_there_is_no_robot_and_no_controller(examine, graph):
    graph.start('safety_gate')
    graph.wait_for('gate', lambda: 'safety_gate' in graph.statuses)
    said = examine()
    assert 'odom: nobody publishes it; start the robot' in said
    assert 'cmd_vel: nobody listens' in said
    assert 'policy_controller is not heard: start it' in said


def test_the_controller_is_not_configured_and_then_not_active(examine, graph):
    graph.start('policy_controller', autostart=False)
    graph.start('robot_sim', publish_clock=False)
    graph.wait_for('controller', lambda: {'policy_controller', 'robot_sim'} <= set(graph.statuses))
    said = examine()
    assert 'policy_controller is not configured: ros2 lifecycle set' in said
    assert 'odom' not in said and 'cmd_vel' not in said
    assert graph.change('configure')
    assert 'policy_controller is not active: ros2 lifecycle set' in examine()


def test_somebody_else_commands_the_robot_and_qos_does_not_fit(examine, graph):
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    rival = graph.node.create_publisher(Twist, 'cmd_vel', 10)
    deaf = graph.node.create_subscription(Twist, 'cmd_vel', lambda _: None, latched)
    assert not graph.change('activate')
    said = examine()
    assert 'cmd_vel: /test commands the robot past the safety gate; stop it' in said
    assert 'cmd_vel: QoS of /test does not fit ours' in said
    assert '(it refused: cmd_vel: /test' in said
    graph.node.destroy_publisher(rival)
    graph.node.destroy_subscription(deaf)


def test_the_estop_is_latched(examine, graph):
    assert graph.call('safety_gate/stop').success
    assert 'the e-stop is latched: ros2 service call /safety_gate/release' in examine()
    assert graph.call('safety_gate/release').success


def test_there_are_no_demonstrations_and_then_no_learner(examine, graph, task):
    graph.wait_for('arming', lambda: graph.change('activate'))
    said = examine()
    assert 'the learner is not heard: start it' in said
    assert 'if it was not given demos:=, it wants demonstrations: ' in said
    demonstrate(Task.load(task), Path(task).parent / 'demos' / '0000')
    said = examine()
    assert 'the learner is not heard: start it' in said and 'wants demonstrations' not in said
    assert 'e-stop' not in said and 'not active' not in said


def test_a_node_has_another_spec_and_a_clock_that_stands_still(examine, graph, tmp_path):
    other = small_agent(tmp_path, sac={'hidden': [16, 16]})
    graph.start('policy_evaluator', agent=other, use_sim_time=True)
    graph.wait_for('evaluator', lambda: 'policy_evaluator' in graph.statuses)
    said = examine()
    assert 'wrong spec hash: the nodes refuse the data of each other' in said
    assert (
        'policy_controller: pointmass/mbarl:' in said
        and 'policy_evaluator: pointmass/small:' in said
    )
    assert '/clock: nobody publishes it, but policy_evaluator follow it' in said


def test_a_graph_that_moves_is_well(examine, graph):
    graph.kill('policy_evaluator')
    graph.start('learner')
    graph.wait_for_steps(5)
    assert examine() == ''
    command = [sys.executable, '-m', 'mbarl_ros', 'doctor', '--domain', str(graph.domain)]
    well = subprocess.run([*command, '--seconds', '1'], capture_output=True, text=True, timeout=120)
    assert well.returncode == 0 and 'nothing is wrong' in well.stdout, well.stdout + well.stderr


def test_a_graph_in_another_namespace_is_not_taken_for_this_one(tmp_path, task, monkeypatch):
    with Graph(tmp_path, task=task, mode='realtime') as graph:
        monkeypatch.setenv('ROS_DOMAIN_ID', str(graph.domain))
        graph.start('safety_gate', remap={'__ns': '/other'})
        graph.start('policy_controller', autostart=False, remap={'__ns': '/other'})
        names = {'/other/safety_gate', '/other/policy_controller'}
        graph.wait_for('both', lambda: names <= set(graph.statuses))
        assert graph.call('/other/safety_gate/stop').success
        said = {}
        for namespace in ('/', '/other'):
            with Listener('doctor', namespace) as listener:
                said[namespace] = '\n'.join(map(str, Doctor(listener).examine(0.3)))
    assert 'no node of mbarl_ros is heard' in said['/']
    assert 'ros2 service call /other/safety_gate/release' in said['/other']
    assert 'ros2 lifecycle set /other/policy_controller configure' in said['/other']


def test_a_recording_needs_a_gate_as_well(tmp_path, task, monkeypatch):
    with Graph(tmp_path, task=task, mode='realtime') as graph:
        monkeypatch.setenv('ROS_DOMAIN_ID', str(graph.domain))
        graph.start('demo_recorder')
        graph.wait_for('recorder', lambda: 'demo_recorder' in graph.statuses)
        with Listener('doctor', '/') as listener:
            said = '\n'.join(map(str, Doctor(listener).examine(0.3)))
    assert 'safety_gate is not heard' in said and 'policy_controller' not in said


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
