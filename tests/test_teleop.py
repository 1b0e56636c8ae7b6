"""Teleoperation: what messages of gamepads and keyboards ask for."""

import re
import subprocess
import sys

import numpy as np
import pytest
from geometry_msgs.msg import Twist, TwistStamped
from sensor_msgs.msg import Joy

from mbarl_ros.control.keyboard import HeldKeys, Key, Steering, parse
from mbarl_ros.control.teleop import TeleopSource
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import load_robot
from mbarl_ros.schema.message_fields import TopicCodec
from mbarl_ros.schema.robot import RobotConfig, keyboard_topic
from support.joystick import joy

TABLETOP = load_robot('tabletop')


@pytest.fixture
def pad():
    return TeleopSource(TABLETOP.teleop[2])


# --- gamepads and other sources --------------------------------------------------------------


def test_nothing_is_asked_while_the_dead_man_switch_is_open(pad):
    assert pad.read(joy((1.0, 1.0), b5=1), 0.0).values is None
    asked = pad.read(joy((-0.5, 1.0), b4=1, b5=1), 0.3)
    assert asked.values == {'dx': pytest.approx(0.1), 'dy': pytest.approx(0.2), 'grasp': 0.2}
    let_go = pad.read(joy((-0.5, 1.0), b5=1), 0.4)
    assert let_go.values is None and let_go.released
    assert not pad.read(joy(), 0.5).released


def test_sticks_that_do_not_rest_at_zero_do_not_drive(pad):
    pad.read(joy(), 0.0)
    assert pad.read(joy((0.09, -0.09), b4=1), 0.3).values == {'dx': 0.0, 'dy': 0.0, 'grasp': -0.2}


def test_buttons_count_when_they_go_down_and_only_if_seen_up_before(pad):
    assert pad.read(joy(b7=1), 0.0).pressed == ()  # held since before we were started
    assert pad.read(joy(), 0.1).pressed == ()
    assert pad.read(joy(b7=1, b3=1), 0.4).pressed == ('start', 'success')
    assert pad.read(joy(b7=1), 0.5).pressed == ()
    assert pad.read(joy(b2=1), 0.6).pressed == ('discard',)


def test_a_pad_of_another_shape_is_named(pad):
    with pytest.raises(ValueError, match="topic 'joy'.*deadman"):
        pad.read(Joy(axes=[0.0], buttons=[1]), 0.0)


def test_an_entry_that_latches_is_not_asked_for_at_zero():
    source = TeleopSource(TABLETOP.teleop[0])
    twist = Twist()
    twist.linear.x = 0.1
    assert source.read(twist, 0.0).values == {'dx': 0.1, 'dy': 0.0}
    twist.linear.z = -0.2
    assert source.read(twist, 0.0).values['grasp'] == -0.2


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
    held = HeldKeys(releases=False)
    held.receive([Key('w')], 0.0)
    assert held.down(0.5) == {'w'} and held.down(0.6) == set()
    for i in range(10):
        held.receive([Key('w')], 0.5 + 0.03 * i)
    assert held.down(0.9) == {'w'} and held.down(0.95) == set()


def test_a_key_with_release_events_is_down_until_then():
    held = HeldKeys(releases=True)
    held.receive([Key('w'), Key('d')], 0.0)
    for tenth in range(1, 100):
        held.receive([Key('d', 'repeat')], 0.1 * tenth)  # the last repeats for all
    assert held.down(10.0) == {'w', 'd'}
    held.receive([Key('w', 'release')], 10.0)
    assert held.down(10.0) == {'d'}


def test_keys_of_a_terminal_that_says_nothing_more_are_let_go():
    held = HeldKeys(releases=True)
    held.receive([Key('w')], 0.0)
    assert held.down(0.9) == {'w'} and held.down(1.1) == set()  # the network hangs
    held.receive([Key('x')], 5.0)
    assert held.down(5.0) == {'x'}


def test_a_letter_let_go_with_shift_is_let_go():
    held = HeldKeys(releases=True)
    held.receive(parse('\x1b[119;1:1u\x1b[57441;2:1u')[0], 0.0)
    held.receive(parse('\x1b[119:87;2:3u')[0], 0.1)
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


@pytest.mark.parametrize(('low', 'high'), [(0.0, 0.04), (-0.04, 0.0), (-0.2, 0.2)])
def test_keys_ask_for_both_sides_of_a_gripper_also_where_one_is_zero(low, high):
    """0 means no change on a topic that latches."""
    raw = load_robot('panda_servo').model_dump()
    raw['limits']['gripper'] |= {'low': low, 'high': high}
    robot = RobotConfig(**raw)
    topic = keyboard_topic(robot)
    steering, source = Steering(robot, topic), TeleopSource(topic)
    for key, side in (('g', low), ('t', high), ('g', low)):
        steering.press(key)
        values = list(steering.command(set()).values())
        asked = source.read(TopicCodec(topic).encode(TwistStamped(), values), 0.0).values
        assert asked['gripper'] == pytest.approx(side, abs=1e-6)
        assert low <= asked['gripper'] <= high


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
        assert keyboard_topic(load_robot(name)).topic == 'teleop/cmd_vel'
    assert np.isfinite(Steering(TABLETOP, TABLETOP.teleop[1]).speed)
