"""Commands that go out as goals and service calls, through the running gate to a real server."""

import json
import signal
import subprocess
import sys
import time

import pytest
import yaml
from rclpy.action import ActionClient
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from test_msgs.action import NestedMessage

from mbarl_ros.schema.load import load_robot
from mbarl_ros.schema.message_fields import set_stamp
from support.graph import Graph
from support.request_side import (
    ACTION,
    ARM,
    GRIPPER,
    NAMES,
    PROFILE,
    REST,
    SUCTION,
    TASK,
    VALVE,
    Driver,
)

pytestmark = pytest.mark.paced


class Bench:
    """The running gate between a policy that the test plays and a robot with servers."""

    def __init__(self, graph, folder):
        self.graph, self.driver = graph, Driver(folder, graph.environment)
        self.command = dict(REST)
        self.sends = False
        self.moves = []  # times at which the velocity was received
        self.executed = []  # what was recorded
        node = graph.node
        self._states = node.create_publisher(JointState, 'robot_state', 10)
        self._commands = node.create_publisher(JointState, 'policy_controller/command', 10)
        node.create_subscription(
            Float64MultiArray, 'robot_command', lambda _: self.moves.append(time.monotonic()), 100
        )
        node.create_subscription(JointState, 'safety_gate/executed', self.executed.append, 100)
        node.create_timer(0.05, self._turn)

    def _turn(self):
        state = JointState(name=['x', 'elbow'], position=[0.0, 0.0])
        set_stamp(state, time.time_ns())
        self._states.publish(state)
        if self.sends:
            command = JointState(name=NAMES, position=[self.command[name] for name in NAMES])
            set_stamp(command, time.time_ns())
            self._commands.publish(command)

    def drive(self, **values):
        self.command.update(values)
        self.sends = True

    def fault(self, label):
        """What the gate's diagnostics say of an action or service."""
        return self.graph.statuses.get('safety_gate', {}).get(label, 'unknown')

    def wait_for_values(self, what, name, values):
        def latest():
            return self.driver.values(what, name)[-len(values) :]

        self.graph.wait_for(f'{what} {values}', lambda: latest() == values, 40)

    def restart(self, behaviour='succeed'):
        """A new driver that succeeds; the gate has sent it nothing but what rest commands."""
        self.driver.close()
        self.sends, self.command = False, dict(REST)
        self.driver.behave(behaviour)
        self.driver.clear()
        self.driver.start()
        if 'safety_gate' in self.graph.processes:
            self.graph.kill('safety_gate')
        self.graph.start('safety_gate')
        self.graph.wait_for('the driver', lambda: self.driver.received('ready'), 60)
        self.drive()
        self.wait_for_values('goal', ARM, [0.0])
        self.wait_for_values('goal', GRIPPER, [0.0])
        self.wait_for_values('call', SUCTION, [False])
        self.wait_for_values('call', VALVE, [False])
        self.driver.clear()
        self.moves.clear()
        self.executed.clear()


def files(folder, **changes):
    (folder / 'requested.yaml').write_text(yaml.safe_dump({**PROFILE, **changes}, sort_keys=False))
    task = {**TASK, 'robot': str(folder / 'requested.yaml')}
    (folder / 'requested_task.yaml').write_text(yaml.safe_dump(task))
    return str(folder / 'requested_task.yaml')


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp('requests')
    with Graph(folder, task=files(folder), mode='realtime') as graph:
        bench = Bench(graph, folder)
        yield bench
        bench.driver.close()


@pytest.fixture
def bench(shared):
    shared.restart()
    return shared


def test_a_goal_is_sent_once_for_each_change_and_a_call_for_each_change_of_the_bool(bench):
    graph, driver = bench.graph, bench.driver
    for grip, arm, suck in ((0.5, 0.25, 0.4), (0.505, 0.25, 0.6), (0.8, -0.5, 0.9)):
        bench.drive(grip=grip, arm=arm, suck=suck)
        graph.spin(1.0)
    assert driver.values('goal', GRIPPER) == [0.5, 0.8]  # 0.505 is within the tolerance
    assert {one['effort'] for one in driver.received('goal', GRIPPER)} == {20.0}
    assert driver.values('goal', ARM) == [0.5, -1.0]  # the field is in units of half a command
    assert driver.values('call', SUCTION) == [True]
    assert driver.values('call', VALVE) == []
    # What was commanded is recorded, though the goal of 0.505 was not sent.
    commanded = [dict(zip(one.name, one.position, strict=True)) for one in bench.executed]
    assert {one['grip'] for one in commanded} >= {0.5, 0.505, 0.8}
    assert not bench.driver.received('cancel', GRIPPER)


def test_a_command_that_changes_all_the_time_is_limited_and_sent_no_oftener_than_its_period(bench):
    graph, driver = bench.graph, bench.driver
    begin = time.monotonic()
    while (elapsed := time.monotonic() - begin) < 3.0:
        bench.drive(arm=min(elapsed, 2.0), grip=5.0 * elapsed)
        graph.spin(0.05)
    bench.wait_for_values('goal', ARM, [2.0])  # the field of its limit, 1.0
    bench.wait_for_values('goal', GRIPPER, [1.0])
    for name in (ARM, GRIPPER):
        times = [one['at'] for one in driver.received('goal', name)]
        assert len(times) <= 10 * (times[-1] - times[0]) + 2  # period: 0.1
    # The arm may have begun anew from where it is measured: a busy machine lets commands get stale.
    values = driver.values('goal', GRIPPER)
    assert values == sorted(values)
    assert len(driver.received('goal', ARM)) > 3  # of 10, in the second in which it moves


def test_a_stop_keeps_the_grip_and_the_suction_cancels_the_arm_and_closes_the_valve(bench):
    graph, driver = bench.graph, bench.driver
    driver.behave('run')
    bench.drive(grip=0.5, arm=0.5, suck=1.0, valve=1.0)
    bench.wait_for_values('goal', GRIPPER, [0.5])
    bench.wait_for_values('goal', ARM, [1.0])
    bench.wait_for_values('call', SUCTION, [True])
    bench.wait_for_values('call', VALVE, [True])
    graph.spin(0.3)
    bench.sends = False
    silent = time.monotonic()
    bench.wait_for_values('canceled', ARM, [1.0])
    bench.wait_for_values('call', VALVE, [True, False])
    graph.spin(1.5)  # a stop is repeated for a second
    assert driver.received('canceled', ARM)[0]['at'] - silent < 2.0
    assert driver.values('goal', GRIPPER) == [0.5] and driver.values('goal', ARM) == [1.0]
    assert not driver.received('cancel', GRIPPER) and not driver.received('canceled', GRIPPER)
    assert driver.values('call', SUCTION) == [True]
    assert driver.values('call', VALVE) == [True, False]
    assert not bench.fault(f"action '{ARM}'")
    # The same command once more: the arm's goal was cancelled, the gripper's was not.
    bench.drive()
    bench.wait_for_values('goal', ARM, [1.0, 1.0])
    bench.wait_for_values('call', VALVE, [True, False, True])
    assert driver.values('goal', GRIPPER) == [0.5]


@pytest.mark.parametrize('how', [signal.SIGTERM, signal.SIGKILL])
def test_a_gate_that_ends_or_starts_again_leaves_no_goal_of_the_arm_running(bench, how):
    driver = bench.driver
    driver.behave('run')
    bench.drive(grip=0.5, arm=0.5, valve=1.0)
    bench.wait_for_values('goal', ARM, [1.0])
    bench.wait_for_values('call', VALVE, [True])
    bench.sends = False  # before the time-out of the command
    bench.graph.kill('safety_gate', how)
    if how == signal.SIGKILL:
        driver.signal(signal.SIGSTOP)  # the new gate finds it only after its first second
        bench.graph.start('safety_gate')
        bench.graph.wait_for('gate', lambda: bench.fault(f"action '{ARM}'").startswith('no server'))
        bench.graph.spin(2.0)
        driver.signal(signal.SIGCONT)
    bench.wait_for_values('canceled', ARM, [1.0])
    bench.wait_for_values('call', VALVE, [True, False])
    assert not driver.received('cancel', GRIPPER)


def test_a_goal_that_is_accepted_after_the_stop_is_cancelled(bench):
    graph, driver = bench.graph, bench.driver
    driver.behave('run')
    driver.signal(signal.SIGSTOP)
    bench.drive(arm=0.5)
    graph.spin(0.5)
    bench.sends = False
    graph.wait_for('a stop', lambda: bench.fault('state') == 'stale command')
    assert not driver.received('goal', ARM)
    driver.signal(signal.SIGCONT)
    bench.wait_for_values('canceled', ARM, [1.0])


def test_a_server_that_refuses_to_cancel_at_a_stop_is_named(bench):
    graph, driver = bench.graph, bench.driver
    driver.behave('stubborn')
    bench.drive(arm=0.5)
    bench.wait_for_values('goal', ARM, [1.0])
    graph.spin(0.3)
    bench.sends = False
    graph.wait_for('a fault', lambda: 'refuses to cancel' in bench.fault(f"action '{ARM}'"))
    driver.behave('succeed')
    graph.wait_for('no fault', lambda: bench.fault(f"action '{ARM}'") == '')


@pytest.mark.parametrize('behaviour', ['run', 'single'])
def test_a_new_goal_takes_the_place_of_one_that_runs_also_where_one_at_a_time_is_accepted(
    bench, behaviour
):
    bench.driver.behave(behaviour)
    bench.drive(grip=0.5)
    bench.wait_for_values('goal', GRIPPER, [0.5])
    bench.graph.spin(0.5)
    bench.drive(grip=0.9)
    bench.wait_for_values('canceled', GRIPPER, [0.5])
    bench.driver.behave('succeed')
    bench.wait_for_values('succeed', GRIPPER, [0.9])
    bench.graph.wait_for('no fault', lambda: bench.fault(f"action '{GRIPPER}'") == '')


@pytest.mark.parametrize(
    ('behaviour', 'words'), [('reject', 'rejected the goal'), ('abort', 'the goal was aborted')]
)
def test_what_fails_is_named_and_repeated_until_it_succeeds(bench, behaviour, words):
    graph, driver = bench.graph, bench.driver
    driver.behave(behaviour)
    bench.drive(grip=0.5, suck=1.0)
    graph.wait_for('a fault', lambda: words in bench.fault(f"action '{GRIPPER}'"))
    if behaviour == 'reject':
        graph.wait_for('another', lambda: 'no vacuum' in bench.fault(f"service '{SUCTION}'"))
        assert f"service '{SUCTION}'" in graph.statuses['safety_gate']['message']
    assert f"action '{GRIPPER}': {words}" in graph.statuses['safety_gate']['message']
    graph.spin(3.0)
    again = driver.received('goal', GRIPPER)
    assert {one['value'] for one in again} == {0.5} and len(again) in (3, 4, 5)
    driver.behave('succeed')
    graph.wait_for('no fault', lambda: bench.fault(f"action '{GRIPPER}'") == '')
    graph.wait_for('no fault', lambda: bench.fault(f"service '{SUCTION}'") == '')


def test_a_driver_that_is_killed_and_starts_again_is_told_what_is_in_force(bench):
    driver = bench.driver
    bench.drive(grip=0.5, arm=-0.25, suck=1.0)
    bench.wait_for_values('succeed', GRIPPER, [0.5])
    bench.wait_for_values('call', SUCTION, [True])
    driver.signal(signal.SIGKILL)
    driver.close()
    driver.clear()
    driver.start()  # long before the middleware gives the killed one up
    bench.wait_for_values('succeed', GRIPPER, [0.5])
    bench.wait_for_values('succeed', ARM, [-0.5])
    bench.wait_for_values('call', SUCTION, [True])


def test_a_driver_that_hangs_does_not_hold_up_the_control_loop_and_is_named(bench):
    graph, driver = bench.graph, bench.driver
    driver.signal(signal.SIGSTOP)
    bench.drive(grip=0.5, suck=1.0)
    begin = time.monotonic()
    graph.wait_for('a fault', lambda: 'no answer' in bench.fault(f"action '{GRIPPER}'"))
    graph.wait_for('a fault', lambda: 'no answer' in bench.fault(f"service '{SUCTION}'"))
    graph.spin(max(0.0, begin + 4.0 - time.monotonic()))
    moves = [at for at in bench.moves if at > begin]
    assert len(moves) > 15 * (moves[-1] - begin)  # of 20 a second
    driver.signal(signal.SIGCONT)
    bench.wait_for_values('succeed', GRIPPER, [0.5])
    graph.wait_for('no fault', lambda: bench.fault(f"action '{GRIPPER}'") == '')
    graph.wait_for('no fault', lambda: bench.fault(f"service '{SUCTION}'") == '')


def check(graph, profile):
    """Exit code and output of `mbarl robot check`, while the robot goes on."""
    return ask(graph, 'robot', 'check', '--seconds', '4', '--robot', str(profile))


def ask(graph, *words):
    """Exit code and output of a command, while the robot goes on."""
    output = graph.folder / 'output.txt'
    with output.open('w') as file:
        process = subprocess.Popen(
            [sys.executable, '-m', 'mbarl_ros.cli', *words],
            env={**graph.environment, 'COLUMNS': '200'},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        graph.wait_for('the check', lambda: process.poll() is not None, 60)
    return process.returncode, ' '.join(output.read_text().split())


def test_robot_check_names_servers_what_fails_and_servers_that_are_missing(bench, tmp_path):
    graph, driver = bench.graph, bench.driver
    profile = graph.folder / 'requested.yaml'
    code, text = check(graph, profile)
    assert code == 0, text
    assert f'{GRIPPER} goals - - /driver' in text and f'{SUCTION} calls - - /driver' in text
    driver.behave('reject')
    bench.drive(grip=0.5)
    graph.wait_for('a fault', lambda: 'rejected' in bench.fault(f"action '{GRIPPER}'"))
    code, text = check(graph, profile)
    assert code == 1 and f"action '{GRIPPER}': rejected the goal" in text, text
    rival = ActionClient(graph.node, NestedMessage, GRIPPER)  # as MoveIt has one
    for words in (('doctor',), ('robot', 'check', '--robot', str(profile))):
        code, text = ask(graph, *words, '--seconds', '4')
        assert f"action '{GRIPPER}': rejected the goal; see the log of its server" in text, text
    assert 'can command the robot by it past the safety gate' in text
    rival.destroy()
    other = yaml.safe_load(profile.read_text())
    other['command'][1]['action'] = 'nobody/here'
    other['command'][3]['service'] = 'nobody/there'
    other['command'][4]['service'] = 'wrong/type'
    trigger = graph.node.create_service(Trigger, 'wrong/type', lambda _, response: response)
    (tmp_path / 'other.yaml').write_text(yaml.safe_dump(other))
    code, text = check(graph, tmp_path / 'other.yaml')
    graph.node.destroy_service(trigger)
    assert code == 1
    assert "action 'nobody/here': no server; start the driver or controller" in text, text
    assert "service 'nobody/there': no server" in text
    assert (
        "service 'wrong/type': /test uses std_srvs/srv/Trigger, the profile std_srvs/srv/SetBool"
        in text
    )


def test_a_controller_does_not_arm_a_robot_whose_gripper_has_no_server(tmp_path):
    with Graph(tmp_path, task=files(tmp_path), mode='realtime') as graph:
        bench = Bench(graph, tmp_path)
        bench.driver.behave('succeed')
        graph.start('safety_gate')
        graph.start('policy_controller', policy='random', autostart=False)
        assert graph.change('configure')

        def refused():  # for want of the gate first, until that is discovered
            assert not graph.change('activate')
            message = graph.statuses.get('policy_controller', {}).get('message', '')
            return f"action '{GRIPPER}': no server" in message

        graph.wait_for('why', refused)
        bench.driver.start()
        graph.wait_for('gate', lambda: bench.fault(f"service '{VALVE}'") == '')
        graph.wait_for('activation', lambda: graph.change('activate'))
        bench.wait_for_values('goal', GRIPPER, bench.driver.values('goal', GRIPPER)[-1:])
        bench.driver.close()


@pytest.mark.parametrize(
    ('changes', 'mode', 'words'),
    [
        ({}, 'lockstep', f"action '{GRIPPER}': is answered in its own time"),
        (
            {ACTION: 'control_msgs/action/GripperCommand'},
            'realtime',
            "action type 'control_msgs/action/GripperCommand' is not installed: No module named "
            "'control_msgs'; apt install ros-$ROS_DISTRO-control-msgs, or build it",
        ),
        (
            {'nested_field.float64_value': 'command.position'},
            'realtime',
            "key 'command.1.fields.grip': a test_msgs/action/NestedMessage_Goal has no 'command' "
            '(command.position); it has nested_field_no_pkg, nested_field, nested_different_pkg',
        ),
        (
            {'suck: data': 'suck: value'},
            'realtime',
            "key 'command.3.fields.suck': a std_srvs/srv/SetBool_Request has no 'value' (value); "
            'it has data',
        ),
        (
            {'float32_value: 20.0': 'string_value: 20.0'},
            'realtime',
            "key 'command.1.constants.nested_field.string_value': a test_msgs/msg/BasicTypes has "
            "no 'string_value'",
        ),
    ],
)
def test_a_profile_that_cannot_work_ends_the_gate_with_one_sentence(tmp_path, changes, mode, words):
    task = files(tmp_path)
    text = (tmp_path / 'requested.yaml').read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / 'requested.yaml').write_text(text)
    with Graph(tmp_path, task=task, mode=mode) as graph:
        graph.start('safety_gate')
        assert graph.processes['safety_gate'].wait(30) == 2
    assert words in (tmp_path / 'safety_gate.log').read_text()


def test_a_simulated_robot_serves_the_goals_and_calls_of_its_profile(tmp_path):
    """A point mass that is driven along y by goals, and along x by calls."""
    robot = load_robot('pointmass').model_dump()
    (velocity,) = robot['command']
    names = list(velocity['fields'])
    robot['command'] = [
        {
            'service': 'x',
            'type': 'std_srvs/srv/SetBool',
            'fields': {names[0]: 'data'},
            'scale': {names[0]: 0.5},
        },
        {'action': 'y', 'type': ACTION, 'fields': {names[1]: 'nested_field.float64_value'}},
    ]
    robot['teleop'] = []
    (tmp_path / 'mine.yaml').write_text(yaml.safe_dump(robot))
    log = tmp_path / 'steps.jsonl'
    with Graph(
        tmp_path, task='pointmass', robot=str(tmp_path / 'mine.yaml'), mode='realtime'
    ) as graph:
        graph.start('robot_sim', step_log=str(log))
        graph.start('safety_gate')
        publisher = graph.node.create_publisher(JointState, 'policy_controller/command', 10)

        def drive():
            command = JointState(name=names, position=[0.5, 0.2])
            set_stamp(command, time.time_ns())
            publisher.publish(command)

        timer = graph.node.create_timer(0.05, drive)

        def in_force():
            lines = log.read_text().splitlines() if log.exists() else []
            return json.loads(lines[-1])['command'] if lines else None

        graph.wait_for('both', lambda: in_force() == [0.5, 0.2])
        timer.cancel()
        graph.wait_for('a stop', lambda: in_force() == [0.0, 0.0])
