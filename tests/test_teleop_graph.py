"""Teleoperation through the real gate: what reaches the robot, and recorded demonstrations."""

import functools
import json
import math
import os
import pty
import random
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from geometry_msgs.msg import Twist, TwistStamped
from nav_msgs.msg import Odometry
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Bool

from mbarl_ros.demos.metadata import folders, read_metadata
from mbarl_ros.demos.reader import load_demonstrations, read_demonstration
from mbarl_ros.schema.load import load_robot
from mbarl_ros.task import Task
from support.graph import TIMEOUT, Graph
from support.joystick import Joystick, joy

pytestmark = pytest.mark.paced


def rest(graph, executed):
    """Put the robot back to its start and wait until the gate has nothing more to execute."""
    assert graph.call('robot_sim/reset').success

    def is_quiet():
        executed.clear()
        graph.spin(0.7)  # longer than the time-outs, after which the gate sends its last stop
        return not executed

    graph.wait_for('rest', is_quiet)
    assert graph.call('safety_gate/release').success  # its state is ok again


@pytest.fixture(scope='module')
def shared_tabletop(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tabletop')
    with Graph(folder, task='tabletop', mode='realtime') as graph:
        executed = []
        graph.node.create_subscription(JointState, 'safety_gate/executed', executed.append, 10)
        graph.start('robot_sim', 'safety_gate')
        graph.wait_for('gate', lambda: graph.statuses.get('safety_gate', {}).get('state') == 'ok')
        yield graph, executed


@pytest.fixture
def tabletop(shared_tabletop):
    """Simulated tabletop and gate in real time, and what was executed."""
    rest(*shared_tabletop)
    return shared_tabletop


def take_up(graph):
    """A gamepad that the gate receives, and whose dead-man switch it has seen released."""
    pad = graph.node.create_publisher(Joy, 'joy', 10)
    graph.wait_for('gate', pad.get_subscription_count)
    graph.spin(0.5)
    for _ in range(5):
        pad.publish(joy())
        graph.spin(0.1)
    return pad


@pytest.mark.timing('each command is executed before the one before it times out')
def test_every_standard_source_drives_and_a_gripper_keeps_its_hold(tabletop):
    graph, executed = tabletop
    stamped = graph.node.create_publisher(TwistStamped, 'teleop/cmd_vel_stamped', 10)
    plain = graph.node.create_publisher(Twist, 'teleop/cmd_vel', 10)
    graph.wait_for('gate', lambda: all(p.get_subscription_count() for p in (stamped, plain)))
    pad = take_up(graph)

    def sent(publisher, message):
        executed.clear()
        publisher.publish(message)
        graph.wait_for('echo', lambda: executed)
        assert executed[0].header.frame_id == 'teleop'
        return list(executed[0].position)

    assert sent(pad, joy((-1.0, 0.5), b4=1, b5=1)) == pytest.approx([0.2, 0.1, 0.2])
    twist = TwistStamped()
    twist.twist.linear.y = -0.15
    # the twist says nothing of the gripper: it keeps what it has
    assert sent(stamped, twist) == pytest.approx([0.0, -0.15, 0.2])
    assert sent(plain, Twist()) == pytest.approx([0.0, 0.0, 0.2])
    executed.clear()
    pad.publish(joy((-1.0, 0.5), b5=1))  # no dead-man switch
    graph.spin(0.2)
    assert all(message.header.frame_id != 'teleop' for message in executed)


@pytest.mark.timing('the stop has 0.3 s')
def test_letting_the_dead_man_switch_go_stops_at_once(tabletop):
    graph, executed = tabletop
    pad = take_up(graph)
    pad.publish(joy((1.0, 0.0), b4=1))
    graph.wait_for('motion', lambda: executed and executed[-1].position[0] < -0.1)
    pad.publish(joy((1.0, 0.0)))
    start = time.monotonic()
    graph.wait_for('stop', lambda: executed[-1].header.frame_id == 'stop')
    assert time.monotonic() - start < 0.3  # not the command timeout of 0.5 s
    assert executed[-1].position[0] == 0.0


def test_a_leader_arm_leads_only_while_its_own_dead_man_switch_is_pressed(tmp_path):
    with Graph(tmp_path, task='arm_position', mode='realtime') as graph:
        executed = []
        graph.node.create_subscription(JointState, 'safety_gate/executed', executed.append, 10)
        leader = graph.node.create_publisher(JointState, 'leader/joint_states', 10)
        pedal = graph.node.create_publisher(Bool, 'leader/deadman', 10)
        graph.start('robot_sim', 'safety_gate')
        graph.wait_for('gate', lambda: graph.statuses.get('safety_gate', {}).get('state') == 'ok')
        graph.wait_for('ends', lambda: leader.get_subscription_count())
        pressed: list[bool] = []  # what the pedal says; empty: nothing

        def lead() -> None:
            for value in pressed:
                pedal.publish(Bool(data=value))
            leader.publish(
                JointState(name=['shoulder', 'elbow', 'gripper'], position=[0.6, 0.4, 0])
            )

        def by_hand() -> bool:
            return any(message.header.frame_id == 'teleop' for message in executed)

        graph.node.create_timer(0.05, lead)
        graph.spin(1.0)
        assert not by_hand()  # the leader alone, as it is when somebody switches it on
        pressed[:] = [True]  # it was stuck already when the gate started
        graph.spin(1.0)
        assert not by_hand()
        pressed[:] = [False]
        graph.spin(0.5)
        pressed[:] = [True]
        graph.wait_for('motion', by_hand)
        graph.spin(0.5)
        pressed[:] = [False]
        graph.wait_for('stop', lambda: executed[-1].header.frame_id == 'stop')
        executed.clear()
        graph.spin(0.7)
        assert not by_hand()
        pressed[:] = [True]
        graph.wait_for('motion', by_hand)
        pressed.clear()  # its plug was pulled
        graph.wait_for('stop', lambda: executed[-1].header.frame_id == 'stop')
        executed.clear()
        graph.spin(0.7)
        assert not by_hand()


@pytest.mark.timing('the stop has 0.4 s')
@pytest.mark.parametrize(
    'bad', [Joy(axes=[math.nan, 0.0], buttons=[0, 0, 0, 0, 1, 0, 0, 0]), Joy(axes=[1.0])]
)
def test_a_broken_gamepad_stops_the_robot(tabletop, bad):
    graph, executed = tabletop
    pad = take_up(graph)
    pad.publish(joy((1.0, 0.0), b4=1))
    graph.wait_for('motion', lambda: executed and executed[-1].position[0] < -0.1)
    pad.publish(bad)
    graph.wait_for('stop', lambda: executed[-1].header.frame_id == 'stop', 0.4)


def happened(demonstration, log):
    """Whether the world took these very steps, one after the other.

    The last command is the stop of the dead-man switch, which the person lets go to press success.
    The gate sends it at once, between two states: it may arrive after the world's next step.
    """
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    count = len(demonstration.commands)
    states, commands = (np.array([step[key] for step in steps]) for key in ('state', 'command'))
    in_time = demonstration.commands
    too_late = np.concatenate([in_time[:-1], in_time[-2:-1]])
    return any(
        np.allclose(states[begin : begin + count], demonstration.states[:-1], atol=1e-6)
        and any(
            np.allclose(commands[begin : begin + count], taken, atol=1e-6)
            for taken in (in_time, too_late)
        )
        for begin in range(len(steps) - count + 1)
    )


@pytest.mark.parametrize('name', ['pointmass', 'tabletop'])
def test_a_demonstration_by_joystick_ends_in_success_also_when_replayed(tmp_path, name):
    task = Task.load(name)
    folder = tmp_path / 'demos'
    log = tmp_path / 'steps.jsonl'
    with Graph(tmp_path, task=name, mode='realtime', seed=3) as graph:
        graph.start('robot_sim', step_log=str(log))
        graph.start('safety_gate')
        graph.start('demo_recorder', demonstrations=str(folder))
        person = Joystick(graph, task)
        person.demonstrate()
        graph.wait_for('the bag', lambda: folders(folder), 10)
    note = read_metadata(folder / 'forward_000')
    assert (note.verdict, note.operator, note.lockstep) == ('success', 'person', False)
    demonstration = read_demonstration(folder / 'forward_000', task)
    assert happened(demonstration, log)
    assert load_demonstrations(folder, task)['terminated'].sum() == 1
    command = [
        sys.executable, '-m', 'mbarl_ros.cli', 'demos', 'replay', str(folder), '--task', name,
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert 'met' in result.stdout and 'yes' in result.stdout
    print(result.stdout)


@pytest.mark.timing('the recorded states have no gaps')
def test_a_demonstration_says_what_happened_also_where_the_gate_stalled(tmp_path):
    """The robot goes on with its last command meanwhile."""
    task = Task.load('tabletop')
    log = tmp_path / 'steps.jsonl'
    with Graph(tmp_path, task='tabletop', mode='realtime') as graph:
        graph.start('robot_sim', step_log=str(log))
        graph.start('safety_gate')
        graph.start('demo_recorder', demonstrations=str(tmp_path / 'demos'))
        gate, end = graph.processes['safety_gate'], threading.Event()

        def hold_up():
            rng = random.Random(0)
            while not end.wait(rng.uniform(2.0, 3.0)):
                gate.send_signal(signal.SIGSTOP)
                time.sleep(rng.uniform(0.15, 0.4))
                gate.send_signal(signal.SIGCONT)

        with ThreadPoolExecutor() as pool:
            held = pool.submit(hold_up)
            try:
                Joystick(graph, task).demonstrate()
            finally:
                end.set()
            held.result()
        graph.wait_for('the bag', lambda: folders(tmp_path / 'demos'), 10)
    demonstration = read_demonstration(tmp_path / 'demos' / 'forward_000', task)
    assert len(demonstration.commands) > 50
    assert happened(demonstration, log)


# --- mbarl teleop ----------------------------------------------------------------------------


class Terminal:
    """``mbarl teleop`` in a pseudo-terminal of the test's."""

    def __init__(self, graph, *arguments, kitty=False):
        self.process_id, self.handle = pty.fork()
        if self.process_id == 0:
            os.environ.update(graph.environment)
            os.environ['TERM'] = 'xterm'
            command = [
                sys.executable,
                '-m',
                'mbarl_ros.cli',
                'teleop',
                '--domain',
                str(graph.domain),
            ]
            os.execv(sys.executable, [*command, *arguments])
        self.graph, self.kitty, self.seen = graph, kitty, ''

    def read(self):
        while select.select([self.handle], [], [], 0)[0]:
            try:
                text = os.read(self.handle, 65536).decode(errors='replace')
            except OSError:
                return self.seen
            self.seen += text
            if '\x1b[?u' in text:  # as a terminal answers, whether it knows the protocol or not
                self.type('\x1b[?0u\x1b[?62;c' if self.kitty else '\x1b[?62;c')
        return self.seen

    def type(self, text):
        os.write(self.handle, text.encode())

    def wait(self, what, timeout=TIMEOUT):
        try:
            self.graph.wait_for(what, lambda: what in self.read(), timeout)
        except AssertionError:
            print(self.seen)
            raise

    def close(self, how=signal.SIGKILL):
        os.kill(self.process_id, how)
        os.waitpid(self.process_id, 0)


@pytest.fixture(scope='module')
def shared_base(tmp_path_factory):
    folder = tmp_path_factory.mktemp('base')
    with Graph(folder, task='pointmass', mode='realtime') as graph:
        speeds, executed = [], []
        graph.node.create_subscription(
            Odometry, 'odom', lambda m: speeds.append(m.twist.twist.linear.x), 10
        )
        echo = graph.node.create_subscription(
            JointState,
            'safety_gate/executed',
            lambda m: executed.append((time.monotonic(), m.position[0], m.header.frame_id)),
            10,
        )
        graph.start('robot_sim', 'safety_gate')
        graph.wait_for('robot and gate', lambda: speeds and echo.get_publisher_count())
        yield graph, speeds, executed


@pytest.fixture
def driven(shared_base):
    """A simulated base in real time, its velocity and what the gate executed."""
    graph, _, executed = shared_base
    rest(graph, executed)
    return shared_base


def ready(terminal):
    terminal.wait('gate ok')
    terminal.graph.spin(0.3)


@pytest.mark.timing('the stop comes before the time-out')
def test_a_key_drives_and_silence_stops(driven):
    graph, speeds, executed = driven
    terminal = Terminal(graph)
    try:
        ready(terminal)
        for _ in range(25):  # as a held key repeats
            terminal.type('d')
            graph.spin(0.03)
            terminal.read()
        graph.wait_for('motion', lambda: speeds[-1] > 0.3)
        assert 'vx +0.50' in terminal.read() and 'driving' in terminal.seen
        start = time.monotonic()
        graph.wait_for('stop', lambda: executed[-1][1] == 0.0 and terminal.read())
        assert time.monotonic() - start < 0.45  # its own stop, before any watchdog
        sources = {source for _, _, source in executed}
        assert sources == {'teleop'}
        graph.spin(0.25)
        executed.clear()
        graph.spin(0.5)
        assert 'teleop' not in {source for _, _, source in executed}  # silent: a policy may go on
        terminal.type('q')
        _, status = os.waitpid(terminal.process_id, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    finally:
        os.close(terminal.handle)


@pytest.mark.timing('the stop has 0.3 s')
def test_where_the_terminal_says_so_release_stops_at_once(driven):
    graph, speeds, executed = driven
    terminal = Terminal(graph, kitty=True)
    try:
        ready(terminal)
        terminal.type('\x1b[100;1:1u')
        graph.wait_for('motion', lambda: speeds[-1] > 0.3)
        graph.spin(0.7)
        assert executed[-1][1] == pytest.approx(0.5)  # no repeat is needed so soon
        terminal.type('\x1b[100;1:3u')
        start = time.monotonic()
        graph.wait_for('stop', lambda: executed[-1][1] == 0.0)
        assert time.monotonic() - start < 0.3  # a state message and a beat of the keyboard
    finally:
        terminal.close()
        os.close(terminal.handle)


@pytest.mark.timing('the stop has 0.2 s after the time-out')
@pytest.mark.parametrize('how', ['hangup', 'kill'])
def test_when_the_terminal_dies_the_robot_stops(driven, how):
    graph, speeds, executed = driven
    terminal = Terminal(graph, kitty=True)
    ready(terminal)
    terminal.type('\x1b[100;1:1u')  # pressed, and never let go
    graph.wait_for('motion', lambda: speeds[-1] > 0.3)
    start = time.monotonic()
    if how == 'kill':
        terminal.close(signal.SIGKILL)
        os.close(terminal.handle)
    else:
        os.close(terminal.handle)
    graph.wait_for('stop', lambda: executed[-1][1] == 0.0)
    robot = load_robot('pointmass')
    assert time.monotonic() - start < robot.command_timeout + 0.2
    assert executed[-1][2] == ('stop' if how == 'kill' else 'teleop')
    graph.spin(1.2)
    assert abs(speeds[-1]) < 0.01
    if how == 'hangup':
        os.waitpid(terminal.process_id, 0)


def test_keys_record_a_demonstration_and_stop_everything(driven, tmp_path):
    graph, _, executed = driven
    folder = tmp_path / 'demos'
    graph.start('demo_recorder', demonstrations=str(folder))
    terminal = Terminal(graph)
    try:
        terminal.wait('recorder idle')
        ready(terminal)
        terminal.type('\r')
        terminal.wait('recorder recording')
        for _ in range(20):
            terminal.type('d')
            graph.spin(0.05)
            terminal.read()
        terminal.type('y')
        terminal.wait('saved')
        assert read_metadata(folder / 'forward_000').verdict == 'success'
        terminal.type('b')
        graph.spin(0.3)
        terminal.type('\r')
        graph.wait_for('backward', lambda: 'backward_000' in terminal.read())
        terminal.type('\x7f')
        terminal.wait('discarded')
        assert [path.name for path in folders(folder)] == ['forward_000']
        terminal.type('!')
        terminal.wait('gate e-stop')
        executed.clear()
        terminal.type('d')
        graph.spin(0.3)
        assert all(value == 0.0 for _, value, _ in executed)
        terminal.type('~')
        terminal.wait('gate ok')
    finally:
        graph.kill('demo_recorder', signal.SIGINT)
        terminal.close()
        os.close(terminal.handle)


def test_keys_close_and_open_the_gripper_of_an_arm(tmp_path):
    """Closed is 0, which on the topic means no change."""
    fingers, executed = [], []
    with Graph(tmp_path, task='push', mode='realtime') as graph:
        graph.node.create_subscription(
            JointState, 'joint_states', lambda message: fingers.append(message.position[-1]), 10
        )
        graph.node.create_subscription(JointState, 'safety_gate/executed', executed.append, 10)
        graph.start('robot_sim', 'safety_gate')
        graph.wait_for('robot', lambda: fingers)
        terminal = Terminal(graph, '--task', 'push')

        def is_at(side):
            return abs(fingers[-1] - side) < 1e-3

        try:
            ready(terminal)
            for key, side in (('g', 0.0), ('t', 0.04), ('g', 0.0)):
                terminal.type(key)
                graph.wait_for(f'fingers at {side}', functools.partial(is_at, side), 15)
                graph.spin(1.0)  # nobody drives: the gripper keeps its hold
                assert is_at(side)
            terminal.type('d')  # and while something else is driven, too
            graph.wait_for('motion', lambda: executed[-1].position[0] > 0.1)
            assert is_at(0.0)
        finally:
            terminal.close()
            os.close(terminal.handle)
