"""Teleoperation: what messages of gamepads and keyboards ask for, and what reaches the robot."""

import json
import math
import os
import pty
import random
import re
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
from graph import Graph
from joystick import Joystick
from nav_msgs.msg import Odometry
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Bool

from mbarl_ros.control.keyboard import Held, Key, Steering, parse
from mbarl_ros.control.teleop import TeleopSource
from mbarl_ros.demos.metadata import folders, read_metadata
from mbarl_ros.demos.reader import load_demonstrations, read_demonstration
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import load_robot
from mbarl_ros.schema.message_fields import TopicCodec
from mbarl_ros.schema.robot import RobotConfig, keyboard_topic
from mbarl_ros.task import Task

pytestmark = pytest.mark.paced

TABLETOP = load_robot('tabletop')


def joy(axes=(0.0, 0.0), **buttons):
    message = Joy(axes=list(axes), buttons=[0] * 8)
    for name, value in buttons.items():
        message.buttons[int(name[1:])] = value
    return message


@pytest.fixture
def pad():
    return TeleopSource(TABLETOP.teleop[2])


# --- gamepads and other sources --------------------------------------------------------------


def test_nothing_is_asked_while_the_dead_man_switch_is_open(pad):
    assert pad.read(joy((1.0, 1.0), b5=1)).values is None
    asked = pad.read(joy((-0.5, 1.0), b4=1, b5=1))
    assert asked.values == {'dx': pytest.approx(0.1), 'dy': pytest.approx(0.2), 'grasp': 0.2}
    let_go = pad.read(joy((-0.5, 1.0), b5=1))
    assert let_go.values is None and let_go.released
    assert not pad.read(joy()).released


def test_sticks_that_do_not_rest_at_zero_do_not_drive(pad):
    assert pad.read(joy((0.09, -0.09), b4=1)).values == {'dx': 0.0, 'dy': 0.0, 'grasp': -0.2}


def test_buttons_count_when_they_go_down_and_only_if_seen_up_before(pad):
    assert pad.read(joy(b7=1)).pressed == ()  # held since before we were started
    assert pad.read(joy()).pressed == ()
    assert pad.read(joy(b7=1, b3=1)).pressed == ('start', 'success')
    assert pad.read(joy(b7=1)).pressed == ()
    assert pad.read(joy(b2=1)).pressed == ('discard',)


def test_a_pad_of_another_shape_is_named(pad):
    with pytest.raises(ValueError, match="topic 'joy'.*deadman"):
        pad.read(Joy(axes=[0.0], buttons=[1]))


def test_an_entry_that_latches_is_not_asked_for_at_zero():
    source = TeleopSource(TABLETOP.teleop[0])
    twist = Twist()
    twist.linear.x = 0.1
    assert source.read(twist).values == {'dx': 0.1, 'dy': 0.0}
    twist.linear.z = -0.2
    assert source.read(twist).values['grasp'] == -0.2


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'scale': {'vz': 1.0}}, 'scale: vz not in fields'),
        ({'levels': {'vx': [0, 1]}, 'scale': {'vx': 1.0}}, 'both given for vx'),
        ({'deadman': 'buttons[4]'}, 'has no buttons'),
        ({'latch': ['vx']}, 'needs limits.vx.stop: hold'),
        ({'buttons': {'jump': 'buttons[1]'}}, 'jump'),
        ({'topic': 'joy'}, 'names used twice: joy'),
    ],
)
def test_mistakes_in_a_mapping_are_named(change, words):
    robot = load_robot('pointmass').model_dump()
    robot['teleop'][0] |= change
    with pytest.raises(ValueError, match=re.escape(words)):
        RobotConfig.model_validate(robot)


# --- keys ------------------------------------------------------------------------------------


def test_keys_of_plain_terminals_are_read():
    keys, rest = parse('wA\x1b[A\x1bOC\r\x7f !\x1b[')
    assert [key.name for key in keys] == ['w', 'a', 'w', 'd', 'enter', 'backspace', 'space', '!']
    assert rest == '\x1b['
    assert parse(rest + 'D') == ([Key('a')], '')


def test_keys_of_kitty_terminals_are_read_with_their_releases():
    keys, rest = parse(
        '\x1b[119;1:1u\x1b[119;1:2u\x1b[119;1:3u\x1b[1;1:3A\x1b[49:33;2:1u\x1b[99;5u\x1b[13u'
        '\x1b[57441;2:1u\x1b[127;1:1u'
    )
    assert [(key.name, key.event) for key in keys[:4]] == [
        ('w', 'press'), ('w', 'repeat'), ('w', 'release'), ('w', 'release'),
    ]  # fmt: skip
    names = [key.name for key in keys]
    assert '!' in names and 'interrupt' in names and 'enter' in names and 'backspace' in names
    assert rest == ''


def test_a_key_without_release_events_ends_soon_after_its_last_repeat():
    held = Held(releases=False)
    held.feed([Key('w')], 0.0)
    assert held.down(0.5) == {'w'} and held.down(0.6) == set()
    for i in range(10):
        held.feed([Key('w')], 0.5 + 0.03 * i)
    assert held.down(0.9) == {'w'} and held.down(0.95) == set()


def test_a_key_with_release_events_is_down_until_then():
    held = Held(releases=True)
    held.feed([Key('w'), Key('d')], 0.0)
    for tenth in range(1, 100):
        held.feed([Key('d', 'repeat')], 0.1 * tenth)  # the last repeats for all
    assert held.down(10.0) == {'w', 'd'}
    held.feed([Key('w', 'release')], 10.0)
    assert held.down(10.0) == {'d'}


def test_keys_of_a_terminal_that_says_nothing_more_are_let_go():
    held = Held(releases=True)
    held.feed([Key('w')], 0.0)
    assert held.down(0.9) == {'w'} and held.down(1.1) == set()  # the network hangs
    held.feed([Key('x')], 5.0)
    assert held.down(5.0) == {'x'}


def test_a_letter_let_go_with_shift_is_let_go():
    held = Held(releases=True)
    held.feed(parse('\x1b[119;1:1u\x1b[57441;2:1u')[0], 0.0)
    held.feed(parse('\x1b[119:87;2:3u')[0], 0.1)
    assert 'w' not in held.down(0.1)


def test_keys_steer_within_the_limits_and_a_gripper_latches():
    steering = Steering(TABLETOP, TABLETOP.teleop[0])
    assert steering.pairs == {'dx': ('d', 'a'), 'dy': ('w', 's'), 'grasp': ('r', 'f')}
    assert steering.command({'d', 's'}) == pytest.approx({'dx': 0.1, 'dy': -0.1, 'grasp': 0.0})
    assert steering.command({'d', 'a'})['dx'] == 0.0
    steering.press('r')
    steering.press('0')
    steering.press('²')  # a digit to Python, but no number
    assert steering.command({'a'}) == pytest.approx({'dx': -0.2, 'dy': 0.0, 'grasp': 0.2})
    steering.press('f')
    assert steering.command(set())['grasp'] == -0.2


# --- through the real gate -------------------------------------------------------------------


@pytest.fixture
def tabletop(tmp_path):
    """Simulated tabletop and gate in real time, and what was executed."""
    with Graph(tmp_path, task='tabletop', mode='realtime') as graph:
        executed = []
        graph.node.create_subscription(JointState, 'safety_gate/executed', executed.append, 10)
        graph.start('robot_sim', 'safety_gate')
        graph.wait_for('gate', lambda: graph.statuses.get('safety_gate', {}).get('state') == 'ok')
        yield graph, executed


def test_every_standard_source_drives_and_a_gripper_keeps_its_hold(tabletop):
    graph, executed = tabletop
    pad = graph.node.create_publisher(Joy, 'joy', 10)
    stamped = graph.node.create_publisher(TwistStamped, 'teleop/cmd_vel_stamped', 10)
    plain = graph.node.create_publisher(Twist, 'teleop/cmd_vel', 10)
    graph.wait_for('gate', lambda: all(p.get_subscription_count() for p in (pad, stamped, plain)))
    graph.spin(0.5)

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


def test_letting_the_dead_man_switch_go_stops_at_once(tabletop):
    graph, executed = tabletop
    pad = graph.node.create_publisher(Joy, 'joy', 10)
    graph.wait_for('gate', pad.get_subscription_count)
    graph.spin(0.5)
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


@pytest.mark.parametrize(
    'bad', [Joy(axes=[math.nan, 0.0], buttons=[0, 0, 0, 0, 1, 0, 0, 0]), Joy(axes=[1.0])]
)
def test_a_broken_gamepad_stops_the_robot(tabletop, bad):
    graph, executed = tabletop
    pad = graph.node.create_publisher(Joy, 'joy', 10)
    graph.wait_for('gate', pad.get_subscription_count)
    graph.spin(0.5)
    pad.publish(joy((1.0, 0.0), b4=1))
    graph.wait_for('motion', lambda: executed and executed[-1].position[0] < -0.1)
    pad.publish(bad)
    graph.wait_for('stop', lambda: executed[-1].header.frame_id == 'stop', 0.4)


def happened(demonstration, log):
    """Whether the world took these very steps, one after the other."""
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    count = len(demonstration.commands)
    states, commands = (np.array([step[key] for step in steps]) for key in ('state', 'command'))
    return any(
        np.allclose(states[begin : begin + count], demonstration.states[:-1], atol=1e-6)
        and np.allclose(commands[begin : begin + count], demonstration.commands, atol=1e-6)
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
    assert ': met' in result.stdout and 'yes' in result.stdout
    print(result.stdout)


def test_a_demonstration_says_what_happened_also_where_the_gate_was_held_up(tmp_path):
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

    def wait(self, what, timeout=20.0):
        try:
            self.graph.wait_for(what, lambda: what in self.read(), timeout)
        except AssertionError:
            print(self.seen)
            raise

    def close(self, how=signal.SIGKILL):
        os.kill(self.process_id, how)
        os.waitpid(self.process_id, 0)


@pytest.fixture
def driven(tmp_path):
    """A simulated base in real time, its velocity and what the gate executed."""
    with Graph(tmp_path, task='pointmass', mode='realtime') as graph:
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


def ready(terminal):
    terminal.wait('gate ok')
    terminal.graph.spin(0.3)


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
        assert time.monotonic() - start < 0.45  # it said stop itself, before any watchdog
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
        terminal.close()
        os.close(terminal.handle)


def test_without_a_terminal_it_says_so():
    result = subprocess.run(
        [sys.executable, '-m', 'mbarl_ros.cli', 'teleop', '--domain', '99'],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2 and 'needs a terminal' in result.stderr


def test_a_profile_without_a_topic_for_keys_is_named():
    with pytest.raises(ConfigError, match="'tabletop'.*other than Joy"):
        keyboard_topic(TABLETOP.model_copy(update={'teleop': [TABLETOP.teleop[2]]}))
    # There 0 is a place to go to: a key would drive all joints there.
    for name in ('arm_position', 'arm_trajectory'):
        with pytest.raises(ConfigError, match=f"'{name}'.*velocities"):
            keyboard_topic(load_robot(name))
    for name in ('pointmass', 'tabletop', 'arm_velocity', 'arm_servo', 'mobile_base'):
        assert TopicCodec(keyboard_topic(load_robot(name))).topic == 'teleop/cmd_vel'
    assert np.isfinite(Steering(TABLETOP, TABLETOP.teleop[1]).speed)
