"""Several robots with one learner: real nodes that come, die, leave, are refused and stopped."""

import collections
import io
import json
import os
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console
from std_msgs.msg import Bool, String, UInt8MultiArray

from mbarl_ros.bringup import graphs
from mbarl_ros.bringup.node_process import node_environment
from mbarl_ros.bringup.sros2 import sros2_policy
from mbarl_ros.nodes.support.diagnosis import GraphSnapshot, NodeStatus, diagnose
from mbarl_ros.nodes.support.qos import KEEP_ALL, LATCHED, RELIABLE
from mbarl_ros.nodes.support.runtime import message_bytes
from mbarl_ros.nodes.support.transport import without_shared_memory
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import load_agent, load_robot
from mbarl_ros.storage.record_log import read_records
from mbarl_ros.storage.sequence_tracker import SequenceTracker
from mbarl_ros.storage.transitions import row_dtype, unpack_log_record, unpack_transitions
from mbarl_ros.task import Task
from mbarl_ros.view.screens import LiveScreen
from mbarl_ros.view.status import RunInfo, status_line
from support.graph import Graph, small_agent

pytestmark = pytest.mark.together

TASK = Task.load('pointmass')
SHARED = ('learner', 'state_classifier')


def start_robot(graph, robot, seed):
    steps = str(graph.folder / f'{robot}.jsonl')
    clock = {'/clock': f'/{robot}/clock'}
    own = {'of_robot': robot, 'seed': seed, 'remap': clock}
    graph.start('robot_sim', publish_clock=True, step_log=steps, **own)
    graph.start('safety_gate', of_robot=robot)
    start_controller(graph, robot, seed)


def start_controller(graph, robot, seed):
    clock = {'/clock': f'/{robot}/clock'}
    graph.start('policy_controller', of_robot=robot, seed=seed, use_sim_time=True, remap=clock)


def start_shared(graph, *names):
    graph.start(*names, fleet=True)


def steps(graph, robot):
    """Transitions of a robot that the learner has stored, as it reports."""
    return graph.value('learner', f'steps of {robot}', 0.0)


def wait_for_more(graph, *robots, more=15):
    before = {robot: steps(graph, robot) for robot in robots}
    graph.wait_for(
        f'more steps of {robots}',
        lambda: all(steps(graph, robot) >= before[robot] + more for robot in robots),
    )


def test_robots_come_die_leave_and_are_refused_while_the_others_learn(tmp_path):
    agent = small_agent(tmp_path)
    other = tmp_path / 'other'
    other.mkdir()
    with Graph(tmp_path, task='pointmass', agent=agent, mode='realtime') as graph:
        sent = collections.defaultdict(set)  # robot -> sessions and numbers that it published

        def count(robot):
            def receive(message):
                rows, session, first = unpack_transitions(message_bytes(message), TASK, spec)
                sent[robot] |= {(session, first + row) for row in range(len(rows['phase']))}

            topic = f'{robot}/policy_controller/transitions'
            graph.node.create_subscription(UInt8MultiArray, topic, receive, KEEP_ALL)

        spec = TASK.spec_hash(load_agent(agent))
        count('robot_1')
        count('robot_2')
        start_shared(graph, *SHARED)
        start_robot(graph, 'robot_1', 1)
        wait_for_more(graph, 'robot_1')
        start_robot(graph, 'robot_2', 2)  # joins
        wait_for_more(graph, 'robot_1', 'robot_2')

        graph.kill('/robot_1/policy_controller')
        wait_for_more(graph, 'robot_2')  # nobody waits for a robot that is gone
        start_controller(graph, 'robot_1', 1)
        wait_for_more(graph, 'robot_1', 'robot_2')

        graph.kill('learner')
        graph.spin(1.0)
        start_shared(graph, 'learner')
        wait_for_more(graph, 'robot_1', 'robot_2')
        trained = graph.value('learner', 'environment_steps')
        graph.wait_for(
            'training to go on', lambda: graph.value('learner', 'environment_steps') > trained + 25
        )
        version = graph.value('/robot_1/policy_controller', 'policy_version')
        assert version > 0 and graph.value('/robot_1/policy_controller', 'refused') == 0
        own, shared = (
            graph.value('/robot_1/policy_controller', key)
            for key in ('robot_steps', 'environment_steps')
        )
        assert 0 < own < shared  # its own, and those of the fleet

        layout = small_agent(other, sac={'hidden': [16, 16], 'batch_size': 32, 'cloning_steps': 50})
        graph.start('policy_controller', of_robot='robot_3', agent=layout, seed=3)
        refused = graph.wait_for(
            'refusal',
            lambda: 'robot_3' in graph.statuses['learner']['message'] and graph.statuses['learner'],
        )
        assert 'both sides with the same task and agent' in refused['message']
        graph.kill('/robot_3/policy_controller')
        wait_for_more(graph, 'robot_1', 'robot_2')

        graph.kill('/robot_2/robot_sim', 2)  # leaves
        wait_for_more(graph, 'robot_1')
        assert graph.kill('/robot_1/robot_sim', 2) == 0
        graph.spin(2.0)
        graph.wait_for(
            'acknowledgement of all',
            lambda: all(
                graph.value(f'/robot_{number}/policy_controller', 'unacknowledged') == 0
                for number in (1, 2)
            ),
        )
        for node in ('/robot_1/policy_controller', '/robot_2/policy_controller', *SHARED):
            assert graph.kill(node, 2) == 0
    assert json.loads((tmp_path / 'run/robots.json').read_text()) == {'robot_1': 1, 'robot_2': 2}
    check_log(tmp_path, spec, sent)


def check_log(folder, spec, sent):
    """Every transition that a robot has sent is in the log, once, and is what its robot did."""
    path = folder / 'run' / 'transitions.log'
    rows = SequenceTracker().load_log(path, TASK, spec)
    stored, robots = collections.Counter(), rows['robot'].tolist()
    for record in read_records(path):
        part, session, first = unpack_log_record(record, row_dtype(TASK), spec)
        for number in range(first, first + len(part) // row_dtype(TASK).itemsize):
            stored[session, number] += 1
    assert set(stored.values()) == {1} and len(stored) == len(robots)
    assert len(sent['robot_1']) > 60 and len(sent['robot_2']) > 60
    assert set(stored) >= sent['robot_1'] | sent['robot_2']
    assert set(robots) == {1, 2}
    spools = folder / 'run' / 'robots'
    assert not list(spools.glob('robot_[12]/spool/*.log'))  # all of it was acknowledged
    for number in (1, 2):
        lines = (folder / f'robot_{number}.jsonl').read_text().splitlines()
        happened = {round(step['stamp'] / 1e6): step for step in map(json.loads, lines)}
        mine = np.flatnonzero(rows['robot'] == number)
        stamps = [round(rows['stamp'][row] * 1e3) for row in mine]
        assert len(set(stamps)) == len(stamps)
        for row, stamp in zip(mine, stamps, strict=True):
            state = rows['observation'][row, : TASK.state_dim]
            np.testing.assert_allclose(state, happened[stamp]['state'], atol=1e-6)


def test_robots_in_one_fleet_explore_differently_and_worlds_differ(tmp_path):
    plan = graphs.plan('fleet', {'robots': '3', 'run_dir': str(tmp_path / 'run')})
    seeds = {
        (spec.parameters['seed'], spec.parameters['run_dir'])
        for spec in plan.nodes
        if spec.name in ('robot_sim', 'policy_controller')
    }
    assert len(seeds) == 3 and len({seed for seed, _ in seeds}) == 3
    again = graphs.plan('fleet', {'robots': '3', 'run_dir': str(tmp_path / 'run'), 'seed': '1'})
    assert {spec.parameters['seed'] for spec in again.nodes if spec.robot}.isdisjoint(
        seed for seed, _ in seeds
    )


# --- one stop for all --------------------------------------------------------------------------


@pytest.fixture(scope='module')
def gates(tmp_path_factory):
    """The gates of two robots of a fleet, and one below the same namespace that is in no fleet."""
    with Graph(tmp_path_factory.mktemp('gates'), task='pointmass', mode='realtime') as graph:
        states = {}

        def listen(name):
            def receive(message):
                states[name] = message.data

            graph.node.create_subscription(String, f'{name}/safety_gate/state', receive, LATCHED)

        for name in ('robot_1', 'robot_2', 'lonely'):
            listen(name)
            graph.start('safety_gate', of_robot=name, fleet=name != 'lonely')
        graph.wait_for('gates', lambda: len(states) == 3)
        yield graph, states


def stopped(states):
    return {name for name, state in states.items() if state == 'e-stop'}


def test_one_message_stops_all_robots_of_a_fleet_and_each_is_released_alone(gates):
    graph, states = gates
    button = graph.node.create_publisher(Bool, 'fleet/estop', RELIABLE)
    graph.wait_for('gates', lambda: button.get_subscription_count() >= 2)
    button.publish(Bool(data=False))  # nobody presses it
    graph.spin(0.5)
    assert stopped(states) == set()
    button.publish(Bool(data=True))
    graph.wait_for('stop', lambda: stopped(states) == {'robot_1', 'robot_2'})
    answer = graph.call('robot_2/safety_gate/release')
    assert not answer.success and 'fleet/estop still says true' in answer.message
    button.publish(Bool(data=False))
    graph.wait_for('release', lambda: graph.call('robot_2/safety_gate/release').success)
    graph.wait_for('release', lambda: stopped(states) == {'robot_1'})
    graph.spin(1.5)
    assert stopped(states) == {'robot_1'}
    assert graph.call('robot_1/safety_gate/release').success
    graph.wait_for('release', lambda: not stopped(states))
    graph.node.destroy_publisher(button)


def test_mbarl_stop_stops_every_gate_and_says_so(gates):
    graph, states = gates
    command = [sys.executable, '-m', 'mbarl_ros.cli', 'stop', '--domain', str(graph.domain)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=graph.environment,
    ) as process:
        graph.wait_for('stop', lambda: stopped(states) == {'robot_1', 'robot_2', 'lonely'})
        graph.wait_for('end', lambda: process.poll() is not None)
        out = process.stdout.read()
    assert process.returncode == 0
    assert out.splitlines() == ['lonely: e-stop', 'robot_1: e-stop', 'robot_2: e-stop']
    for name in sorted(states):  # no topic still publishes true
        assert graph.call(f'{name}/safety_gate/release').success


# --- bring-up, diagnosis, view -----------------------------------------------------------------


def test_nodes_of_a_robot_have_names_folders_and_logs_of_their_own(tmp_path):
    plan = graphs.plan(
        'fleet', {'robots': '2', 'namespace': 'lab', 'run_dir': str(tmp_path / 'run')}
    )
    by_label = {spec.label: spec for spec in plan.nodes}
    assert {'learner', 'monitor', 'state_classifier', 'policy_evaluator'} < set(by_label)
    controller = by_label['robot_2/policy_controller']
    assert controller.namespace == 'lab/robot_2' and by_label['learner'].namespace == 'lab'
    assert set(controller.remappings) == {
        ('learner/policy', '/lab/learner/policy'),
        ('fleet/estop', '/lab/fleet/estop'),
        ('/clock', '/lab/robot_2/clock'),
    }
    assert controller.parameters['run_dir'] == str(tmp_path / 'run/robots/robot_2')
    assert all(spec.respawn for spec in plan.nodes if spec.robot)
    assert all(spec.parameters['mode'] == 'realtime' for spec in plan.nodes if spec.robot)
    with pytest.raises(ConfigError, match='a robot of a fleet cannot wait .* mode:=realtime'):
        graphs.plan('fleet', {'mode': 'lockstep'})
    with pytest.raises(ConfigError, match="'robots' must be from 1 to 30"):
        graphs.plan('fleet', {'robots': '0'})


MANY = """
import os, sys, time, rclpy
from rclpy.context import Context
from rclpy.node import Node
from std_msgs.msg import Empty
nodes = []
for number in range(int(sys.argv[1])):
    context = Context()
    rclpy.init(context=context)
    nodes.append(Node(f'node_{number}', context=context))
publisher = nodes[-1].create_publisher(Empty, 'topic', 1)
nodes[-2].create_subscription(Empty, 'topic', lambda _: None, 1)
end = time.monotonic() + 20.0
while not publisher.get_subscription_count() and time.monotonic() < end:
    time.sleep(0.1)
print('found', publisher.get_subscription_count(), flush=True)
os._exit(0)
"""


def test_the_last_robots_of_the_largest_fleet_find_each_other(tmp_path):
    """By default Fast DDS looks for 32 processes on this machine; each robot has three."""
    largest = 3 * 30 + 5
    environment = node_environment(os.environ, 66, tmp_path, {})
    environment |= without_shared_memory(environment)
    command = [sys.executable, '-c', MANY, str(largest)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == 'found 1', done.stderr


def test_a_robot_of_a_fleet_on_hardware_shares_what_is_in_the_namespace_above(tmp_path):
    given = {'fleet': 'true', 'namespace': 'lab/robot_2', 'run_dir': str(tmp_path / 'run')}
    plan = graphs.plan('hardware', given)
    where = {spec.name: spec.namespace for spec in plan.nodes}
    assert where['policy_controller'] == where['safety_gate'] == 'lab/robot_2'
    assert where['learner'] == where['state_classifier'] == where['monitor'] == 'lab'
    assert {spec.parameters.get('fleet') for spec in plan.nodes} == {True}
    with pytest.raises(ConfigError, match='give the namespace of this robot'):
        graphs.plan('hardware', {'fleet': 'true'})


def status(level=0, message='', **values):
    return NodeStatus(level, message, {key: str(value) for key, value in values.items()})


def test_the_doctor_names_the_robot():
    ready = {'lifecycle': 'active', 'needs_learner': True, 'fleet': True, 'spec_hash': 'a'}
    grip = {'state': 'ok', "action 'grip'": 'the goal was aborted', "service 'suck'": ''}
    statuses = {
        'learner': status(spec_hash='a'),
        'robot_1/policy_controller': status(**ready),
        'robot_1/safety_gate': status(state='ok'),
        'robot_2/policy_controller': status(**{**ready, 'lifecycle': 'inactive'}),
        'robot_2/safety_gate': status(2, 'e-stop', state='e-stop'),
        'robot_3/policy_controller': status(**{**ready, 'spec_hash': 'b'}),
        'robot_4/policy_controller': status(**ready),
        'robot_4/safety_gate': status(1, "ok; action 'grip': the goal was aborted", **grip),
    }
    graph = GraphSnapshot(domain='0', namespace='/lab', statuses=statuses, clock=True)
    texts = '\n'.join(map(str, diagnose(graph)))
    assert 'robot_1' not in texts
    assert 'robot_2: the e-stop is latched: ros2 service call /lab/robot_2/safety_gate' in texts
    assert 'robot_2: policy_controller is not active' in texts
    assert 'robot_3: no message from safety_gate' in texts
    assert 'robot_3: different spec hashes' in texts
    assert "robot_4: action 'grip': the goal was aborted" in texts and 'suck' not in texts
    del statuses['learner']
    assert 'no message from the learner' in '\n'.join(map(str, diagnose(graph)))
    empty = {'learner': status(1, 'no transition yet', fleet=True)}
    first, *_ = diagnose(GraphSnapshot(domain='0', namespace='/lab', statuses=empty))
    assert 'no message from a robot of this fleet' in first.text and "below '/lab/'" in first.text
    alone = GraphSnapshot(
        domain='0',
        namespace='/robot_1',
        statuses={'policy_controller': status(**ready), 'safety_gate': status(state='ok')},
        clock=True,
    )
    assert diagnose(alone) == []  # its learner is in the namespace above


def test_the_panel_has_a_row_for_each_robot(tmp_path):
    run = RunInfo('fleet', 'pointmass', 'mbarl', 0, tmp_path, budget=1000, target=0.9)
    console = Console(width=100, record=True, file=io.StringIO())
    live = LiveScreen(run, console)
    practice = {'phase': 'backward', 'attempts': '3', 'successes': '2'}
    live.status = {
        'learner': {'environment_steps': '250', 'steps of robot_1': '150', 'lag_steps': '3'},
        'policy_evaluator': {'deployed_success': '0.5', 'clone_success': '0.2'},
        **{
            f'robot_{number}/{node}': values
            for number in (1, 2, 10)
            for node, values in (
                ('policy_controller', {**practice, 'policy_version': str(number)}),
                ('safety_gate', {'state': 'ok'}),
            )
        },
        'robot_2/safety_gate': {'state': 'e-stop', 'level': '2', 'message': 'e-stop'},
    }
    console.print(live.panel())
    lines = console.export_text().splitlines()
    rows = [line for line in lines if 'backward' in line]
    assert [line.split()[1] for line in rows] == ['robot_1', 'robot_2', 'robot_10']
    assert '150 steps' in rows[0] and rows[0].split()[-2:] == ['ok', '│']
    assert 'gate e-stop' in rows[1]
    assert any('3 robots   250 of 1,000 steps   attempts 9   successes 6' in one for one in lines)
    assert any('policy 10' in one for one in lines)  # the newest
    line = status_line(live.status)
    assert line.startswith('robots 3 | steps 250 |') and 'successes 6/9' in line
    assert 'robot_2/safety_gate: e-stop' in line


def test_the_security_policy_of_a_robot_names_what_it_shares():
    profile = load_robot('pointmass')
    root = ElementTree.fromstring(sros2_policy(profile, 'lab/robot_2', fleet=True).encode())

    def entries(enclave):
        found = root.find(f"enclaves/enclave[@path='/mbarl/{enclave}']/profiles/profile")
        return {entry.text for group in found for entry in group}

    assert '/lab/learner/policy' in entries('lab/robot_2/policy_controller')
    assert '/lab/fleet/estop' in entries('lab/robot_2/safety_gate')
    assert {'*/policy_controller/transitions', '*/learner/acknowledged'} <= entries('lab/learner')
    assert '/lab/fleet/estop' in entries('lab/robot_2/operator')
