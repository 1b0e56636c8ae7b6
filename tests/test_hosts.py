"""One graph on two hosts: network namespaces with a line of 5 ms and 1 % loss between them.

``python benchmarks/hosts.py`` measures the same for longer.
"""

import contextlib
import io
import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from mbarl_ros.bringup import graphs, hosts
from mbarl_ros.bringup.domain import enter_domain, take_domain
from mbarl_ros.bringup.run_folder import RunFolder
from mbarl_ros.cli.main import main
from mbarl_ros.reports.run_data import read_run
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.environment import (
    DISCOVERY_RANGE,
    DISCOVERY_SERVER,
    LOCALHOST_ONLY,
    PROFILES,
    STATIC_PEERS,
    SUPER_CLIENT,
)
from mbarl_ros.view.screens import LiveScreen
from mbarl_ros.view.status import RunInfo
from support.graph import Graph, small_agent
from support.host_runs import MBARL, HostRun, bare_values, wait_for
from support.two_hosts import ADDRESSES, LEARNER, ROBOT, TwoHosts, obstacle

CUT = 8.0  # s; longer than the time after which the learner counts as lost
HOUR = 3600

needs_two_hosts = pytest.mark.skipif(bool(obstacle()), reason=f'no two hosts here: {obstacle()}')


def names(graph: str, **given: str) -> set[str]:
    return {spec.name for spec in graphs.plan(graph, given).nodes}


# --- what is started where -------------------------------------------------------------------


def test_the_two_sides_together_are_the_graph():
    for graph in ('sim', 'hardware'):
        robot, learner = (names(graph, host=host) for host in (ROBOT, LEARNER))
        assert robot | learner == names(graph)
        assert robot & learner == {'monitor'}
        assert {'safety_gate', 'policy_controller'} <= robot
        assert {'learner', 'state_classifier'} <= learner
    assert 'robot_sim' in names('sim', host=ROBOT)
    assert 'policy_evaluator' in names('sim', host=LEARNER)
    assert 'discovery_server' in names('sim', host=ROBOT, discovery='serve:11811')


def test_the_robot_needs_no_demonstrations(tmp_path):
    given = {'host': ROBOT, 'demos': str(tmp_path / 'nowhere')}
    assert graphs.plan('hardware', given).arguments['demos'] == ''
    with pytest.raises(ConfigError, match='no such folder of demonstrations'):
        graphs.plan('hardware', {**given, 'host': LEARNER})


def test_a_robot_of_a_fleet_and_what_the_fleet_shares_may_be_on_two_hosts():
    given = {'fleet': 'true', 'host': ROBOT, 'namespace': 'lab/robot_2', 'visualizer': 'true'}
    robot = {spec.name: spec for spec in graphs.plan('hardware', given).nodes}
    assert robot.keys() == {'safety_gate', 'policy_controller', 'monitor', 'visualizer'}
    assert {spec.namespace for spec in robot.values()} == {'lab/robot_2'}
    controller, monitor = robot['policy_controller'], robot['monitor']
    assert controller.parameters['fleet'] and controller.parameters['keeps_policy']
    assert not monitor.parameters.get('fleet') and monitor.label == 'monitor'
    assert ('learner/imagined', '/lab/learner/imagined') in robot['visualizer'].remappings
    for namespace in ('', 'lab'):
        given = {'fleet': 'true', 'host': LEARNER, 'namespace': namespace}
        plan = graphs.plan('hardware', given)
        assert {spec.namespace for spec in plan.nodes} == {namespace}
        assert {spec.name for spec in plan.nodes} == {'learner', 'state_classifier', 'monitor'}
        assert all(spec.parameters['fleet'] for spec in plan.nodes)
    with pytest.raises(ConfigError, match='namespace:=robot_1'):
        graphs.plan('hardware', {'fleet': 'true', 'host': ROBOT})
    for asked in ('visualizer', 'record_run'):
        with pytest.raises(ConfigError, match=f'{asked}:=true: shows one robot'):
            graphs.plan('hardware', {'fleet': 'true', 'host': LEARNER, asked: 'true'})
    with pytest.raises(ConfigError, match='buttons are those of one robot'):
        graphs.plan('fleet', {'view': 'web', 'web_control': 'true'})


def test_a_run_folder_belongs_to_one_side(tmp_path):
    given = {'run_dir': str(tmp_path / 'run')}
    RunFolder(graphs.plan('sim', {**given, 'host': ROBOT})).close()
    with pytest.raises(ConfigError, match="was made with host 'robot', not 'learner'"):
        RunFolder(graphs.plan('sim', {**given, 'host': LEARNER}))


def test_the_robots_side_is_not_explained_and_the_learners_is_named(tmp_path):
    folder = tmp_path / 'run'
    RunFolder(graphs.plan('sim', {'run_dir': str(folder), 'host': ROBOT})).close()
    with pytest.raises(ConfigError, match="run: is the robot's side .* of host:=learner"):
        read_run(folder)


def test_other_commands_look_where_the_run_looks(tmp_path, monkeypatch):
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    names = (DISCOVERY_RANGE, DISCOVERY_SERVER, SUPER_CLIENT, STATIC_PEERS, *PROFILES)

    def found(**own):
        for name in ('ROS_DOMAIN_ID', *names):
            monkeypatch.setenv(name, '')  # so that it is as before after the test
            monkeypatch.delenv(name)
        for name, text in own.items():
            monkeypatch.setenv(name, text)
        enter_domain(None)
        return {name: os.environ[name] for name in names if name in os.environ}

    given, peers = {'host': LEARNER, 'discovery': '10.0.0.1:7'}, {STATIC_PEERS: '10.0.0.2'}
    network = hosts.network(given, peers)
    _, lock = take_domain({'ROS_DOMAIN_ID': '77'}, 'lab')
    lock.keep_network(network)
    assert found() == {**network, **peers, SUPER_CLIENT: 'TRUE'}
    assert os.environ['ROS_DOMAIN_ID'] == '77'
    assert found(**{DISCOVERY_SERVER: '10.0.0.9:7'})[DISCOVERY_SERVER] == '10.0.0.9:7'
    assert found(ROS_DOMAIN_ID='7') == {DISCOVERY_RANGE: 'LOCALHOST'}
    with pytest.raises(ConfigError, match=rf'\(process {os.getpid()}\)'):
        take_domain({'ROS_DOMAIN_ID': '77'}, 'lab')
    lock.close()
    assert found() == {DISCOVERY_RANGE: 'LOCALHOST'}


@pytest.mark.parametrize(('here', 'other'), [(ROBOT, LEARNER), (LEARNER, ROBOT)])
def test_both_sides_on_one_computer_are_told_that_it_needs_none(
    here, other, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    monkeypatch.delenv(DISCOVERY_RANGE, raising=False)
    monkeypatch.setenv('ROS_DOMAIN_ID', '51')
    _, lock = take_domain({'ROS_DOMAIN_ID': '51'}, *graphs.plan('sim', {'host': other}).namespaces)
    words = ['up', 'sim', 'task:=pointmass', f'host:={here}', f'run_dir:={tmp_path / "run"}']
    assert main(words) == 2
    lock.close()
    message = capsys.readouterr().err
    assert f'if it is host:={other} of this run, stop it and leave host:= out' in message
    assert 'unset' not in message and message.count('\n') == 1


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ({'host': 'moon'}, "argument 'host' must be one of all, robot, learner, got 'moon'"),
        ({'discovery': 'serve:11811'}, 'discovery:=serve:11811: all nodes are on this computer'),
        ({'host': ROBOT, 'discovery': '10.0.0.1'}, 'must be serve:PORT or HOST:PORT'),
        ({'host': ROBOT, 'discovery': 'serve:0'}, 'must be serve:PORT or HOST:PORT'),
        ({'host': ROBOT, 'discovery': 'nuc:70000'}, 'must be serve:PORT or HOST:PORT'),
        ({'host': ROBOT, 'discovery': 'my nuc:7'}, 'must be serve:PORT or HOST:PORT'),
        ({'host': LEARNER, 'discovery': 'serve:7'}, 'give discovery:=ROBOT:7 here'),
    ],
)
def test_nonsense_is_answered_with_one_sentence(given, message):
    with pytest.raises(ConfigError) as caught:
        graphs.plan('sim', given)
    assert message in str(caught.value) and '\n' not in str(caught.value)


def test_the_nodes_look_for_the_other_host_and_only_then():
    assert hosts.network({'host': 'all'}, {}) == {}
    reach = hosts.network({'host': ROBOT, 'discovery': ''}, {})
    assert reach[DISCOVERY_RANGE] == 'SUBNET' and DISCOVERY_SERVER not in reach
    assert all(Path(reach[name]).is_file() for name in PROFILES)
    own = {PROFILES[0]: '/my.xml'}
    assert not {*PROFILES} & hosts.network({'host': ROBOT, 'discovery': ''}, own).keys()
    there = {'host': LEARNER, 'discovery': '10.0.0.1:7'}
    assert hosts.network(there, {})[DISCOVERY_SERVER] == '10.0.0.1:7'
    # The controller looks at topics that are not its own.
    here = hosts.network({'host': ROBOT, 'discovery': 'serve:7'}, {})
    assert (here[DISCOVERY_SERVER], here[SUPER_CLIENT]) == ('127.0.0.1:7', 'TRUE')
    # So does the learner of a fleet, which looks for its robots.
    assert SUPER_CLIENT not in hosts.network(there, {})
    assert hosts.network({**there, 'fleet': True}, {})[SUPER_CLIENT] == 'TRUE'
    # Also where the server is that of the environment; an empty variable names none.
    assert hosts.network({'host': ROBOT}, {DISCOVERY_SERVER: '10.0.0.1:7'})[SUPER_CLIENT] == 'TRUE'
    assert hosts.network(there, {DISCOVERY_SERVER: ''})[DISCOVERY_SERVER] == '10.0.0.1:7'


@pytest.mark.parametrize(
    ('environment', 'message'),
    [
        ({DISCOVERY_RANGE: 'LOCALHOST'}, 'LOCALHOST keeps the nodes on this computer; unset it'),
        ({DISCOVERY_RANGE: 'subnet'}, 'subnet keeps the nodes on this computer; unset it'),
        ({LOCALHOST_ONLY: '1'}, 'ROS_LOCALHOST_ONLY=1 keeps the nodes on this computer; unset it'),
        ({DISCOVERY_SERVER: '10.0.0.9:7'}, 'ROS_DISCOVERY_SERVER=10.0.0.9:7 names another server'),
        ({'RMW_IMPLEMENTATION': 'rmw_cyclonedds_cpp'}, 'RMW_IMPLEMENTATION=rmw_cyclonedds_cpp is'),
    ],
)
def test_an_environment_in_which_the_hosts_cannot_meet_is_refused(environment, message):
    with pytest.raises(ConfigError, match=message):
        hosts.network({'host': LEARNER, 'discovery': '10.0.0.1:7'}, environment)


@pytest.mark.parametrize('name', ['nobody.invalid', 'a..b'])
def test_a_discovery_server_whose_name_means_nothing_is_refused(name):
    with pytest.raises(ConfigError, match=f'no IPv4 address is known for {name}; correct'):
        hosts.network({'host': LEARNER, 'discovery': f'{name}:7'}, {})


def test_a_discovery_server_whose_port_is_taken_is_refused():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(('', 0))
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f'port {port}: Address already in use; choose'):
            hosts.check_port({'discovery': f'serve:{port}'})
    hosts.check_port({'discovery': f'serve:{port}'})


def test_a_killed_discovery_server_leaves_its_port_to_the_next(tmp_path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(('', 0))
        given = {'discovery': f'serve:{free.getsockname()[1]}'}
    command = [*MBARL, 'node', 'discovery_server']
    server = {DISCOVERY_SERVER: given['discovery'].replace('serve', '127.0.0.1')}
    process = subprocess.Popen(
        command, env={**os.environ, **server}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert 'running' in process.stdout.readline()
        with pytest.raises(ConfigError):
            hosts.check_port(given)
    finally:
        process.kill()
        process.wait()

    def free_again():
        with contextlib.suppress(ConfigError):
            hosts.check_port(given)
            return True

    wait_for(free_again, 'the port', 10.0)


def test_a_side_says_how_to_start_the_other():
    given = {'task': 'push', 'host': ROBOT, 'discovery': 'serve:7', 'run_dir': '/x'}
    text = hosts.how_to_start_the_other('sim', given, ROBOT, 4)
    assert text == (
        'on the other computer: ROS_DOMAIN_ID=4 mbarl up sim task:=push host:=learner '
        'discovery:=ADDRESS_OF_THIS_HOST:7'
    )
    # What is for one side only is not in it.
    given |= {'view': 'web', 'web_port': '80', 'visualizer': 'true', 'demos': 'mine'}
    text = hosts.how_to_start_the_other('sim', {**given, 'host': LEARNER}, LEARNER, 4)
    assert text.endswith('mbarl up sim task:=push host:=robot discovery:=ADDRESS_OF_THIS_HOST:7')
    given = {'host': ROBOT, 'discovery': 'localhost:7'}  # a server that was there before
    text = hosts.how_to_start_the_other('sim', given, ROBOT, 4)
    assert text.endswith('discovery:=ADDRESS_OF_THIS_HOST:7')
    for host, namespace, other in (
        (ROBOT, 'lab/robot_2', 'lab'),
        (LEARNER, 'lab', 'lab/robot_1'),
        (LEARNER, '', 'robot_1'),
    ):
        given = {'fleet': 'true', 'namespace': namespace}
        text = hosts.how_to_start_the_other('hardware', given, host, 0)
        assert f' namespace:={other} ' in text
    alone = {'fleet': 'true', 'namespace': 'robot_2'}
    assert 'namespace' not in hosts.how_to_start_the_other('hardware', alone, ROBOT, 0)


def test_the_panel_has_the_link_where_there_is_one():
    controller = {
        'sent_bytes_per_second': '4791',
        'received_bytes_per_second': '86940',
        'round_trip_ms': '31.4',
        'policy_age_steps': '100',
        'unacknowledged': '2',
    }
    for host, shown in (('robot', True), ('all', False)):
        console = Console(record=True, width=100, file=io.StringIO())
        screen = LiveScreen(RunInfo('sim', 'push', 'mbarl', 0, Path('/x'), host=host), console)
        screen.status = {'policy_controller': controller}
        console.print(screen.panel())
        row = 'out 4.8, in 86.9 kB/s   round trip 31 ms   policy age 100   waiting 2'
        assert (row in console.export_text()) == shown


@pytest.mark.graph
@pytest.mark.parametrize(
    ('differs', 'said_by'),
    [
        ({'sac': {'hidden': [16, 16]}}, ('learner', 'policy_controller')),
        ({'sac': {'hidden': [256, 256]}}, ('learner', 'policy_controller')),
        ({'chunk': 100}, ('policy_controller',)),
    ],
)
def test_sides_with_different_presets_say_so(tmp_path, differs, said_by):
    other = tmp_path / 'other'
    other.mkdir()
    with Graph(tmp_path, task='pointmass') as graph:
        graph.start('learner', agent=small_agent(other, **differs))
        graph.start('robot_sim', 'safety_gate', 'policy_controller', agent=small_agent(tmp_path))

        def says(node):
            message = graph.statuses.get(node, {}).get('message', '')
            return 'start both sides with the same task and agent' in message

        graph.wait_for('what they say', lambda: all(says(node) for node in said_by))
        graph.spin(4.0)  # the learner has answered meanwhile
        assert all(says(node) for node in said_by), graph.statuses


# --- two hosts -------------------------------------------------------------------------------


@pytest.fixture
def line(tmp_path):
    with TwoHosts(tmp_path) as two:
        two.line(delay=0.005, loss=0.01)
        yield two


@needs_two_hosts
@pytest.mark.graph
@pytest.mark.slow
def test_a_cut_line_costs_no_transition_and_a_killed_learner_resumes(line, tmp_path):
    """In real time, with a robot of its own clock; the clocks of the learner's host are off."""
    run = HostRun(line, tmp_path, 'hardware', agent=small_agent(tmp_path))
    line.shift_clocks(LEARNER, HOUR)
    run.start_robot()
    run.start(ROBOT, autostart='true')
    run.start(LEARNER)
    bare = run.start_bare_timer(10.0)
    wait_for(lambda: run.value('policy_controller', 'policy_version') > 0, 'a policy', 300)

    before = run.value('policy_controller', 'environment_steps')
    line.line(cut=True)
    wait_for(
        lambda: run.value('policy_controller', 'environment_steps') > before + 10 * CUT, 'the cut'
    )
    assert run.value('policy_controller', 'unacknowledged') >= 0.7 * 10 * CUT
    line.line(cut=False)
    wait_for(lambda: run.value('policy_controller', 'unacknowledged') < 0.5 * 10 * CUT, 'the rest')
    missed = run.value('policy_controller', 'missed_periods')
    assert missed <= bare_values(bare)[-1]['missed_periods'], (missed, bare_values(bare)[-1])

    run.kill_side(LEARNER)
    stored = run.stored().rows
    run.start(LEARNER)
    wait_for(lambda: run.stored().rows > stored + 20, 'the learner to resume', 300)
    assert run.stored().gaps <= missed, run.stored()

    run.kill_side(ROBOT)  # it acts with the policy on its own disk until the line is back
    line.line(cut=True)
    stored = run.stored().rows
    run.start(ROBOT, autostart='true')
    wait_for(lambda: run.value('policy_controller', 'unacknowledged') > 20, 'practice', 300)
    line.line(cut=False)
    wait_for(lambda: run.stored().rows > stored + 20, 'both sessions', 300)
    wait_for(lambda: run.value('policy_controller', 'round_trip_ms') >= 10, 'a round trip')
    assert run.value('policy_controller', 'sent_bytes_per_second') > 0
    # Each side's files are its own.
    assert not (run.run_dir(ROBOT) / 'transitions.log').exists()
    assert not (run.run_dir(LEARNER) / 'spool').exists()


@needs_two_hosts
@pytest.mark.graph
@pytest.mark.slow
def test_in_lockstep_the_robots_side_ends_with_the_learners_by_a_discovery_server(line, tmp_path):
    run = HostRun(line, tmp_path, agent=small_agent(tmp_path), steps='100', target='1.0')
    line.line(multicast=False)
    run.start(ROBOT, discovery='serve:11811')
    run.start(LEARNER, discovery=f'{ADDRESSES[ROBOT]}:11811')
    for side in (LEARNER, ROBOT):
        assert run.sides[side].wait(300) == 3, (tmp_path / f'{side}.log').read_text()[-2000:]
    result = json.loads((run.run_dir(LEARNER) / 'result.json').read_text())
    assert result['reason'] == 'budget' and result['environment_steps'] == 100
    assert run.stored().rows >= 100
