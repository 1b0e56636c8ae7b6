"""Profiles and tasks that `mbarl robot new` begins, from what it would have heard of a robot."""

import random
import sys

import numpy as np
import pytest
import yaml
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from mbarl_ros.cli import robot as cli_robot
from mbarl_ros.nodes.support.new_robot import plan
from mbarl_ros.nodes.support.profile_plan import Wishes, parse_joints
from mbarl_ros.nodes.support.profile_writer import profile_text
from mbarl_ros.nodes.support.robot_discovery import (
    JOINT_STATE,
    NUMBERS,
    ODOMETRY,
    TWIST,
    TWIST_STAMPED,
    Controller,
    Heard,
    Surroundings,
)
from mbarl_ros.nodes.support.task_writer import task_text
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import available, find, load_robot
from mbarl_ros.schema.message_fields import TopicCodec
from mbarl_ros.schema.profile_check import check_messages
from mbarl_ros.schema.robot import RobotConfig
from mbarl_ros.schema.urdf import read_urdf
from mbarl_ros.task import Task
from support.stand_ins import urdf


def refuse_to_ask(question, answers, option):
    raise ConfigError(f'{question}; give {option}')


def joints_on(topic, **positions):
    return Heard(topic, JOINT_STATE, 50, 1.0, 2.0, positions=positions)


def odometry_on(topic='odom'):
    return Heard(topic, ODOMETRY, 50, 1.0, 2.0, frame='odom', child_frame='base')


def begun(states, commands, description=None, **options):
    """Profile that is begun for a robot, as loaded, and its text."""
    wishes = Wishes(refuse_to_ask, **options)
    found = Surroundings(states, commands, {}, [], description)
    text = profile_text('begun', plan(found, wishes))
    robot = RobotConfig.model_validate(yaml.safe_load(text))
    check_messages(robot)
    return robot, text


def velocities(*joints, topic='arm/commands', interface='velocity'):
    return Controller(topic, NUMBERS, '/arm', joints, interface)


@pytest.mark.parametrize('seed', range(30))
def test_joints_in_any_split_over_topics_are_observed_once_and_commanded_in_order(seed):
    chance = random.Random(seed)
    names = ['1', '2', 'a.pos', 'yes', 'y', 'x', 'wrist roll', 'null', 'b-c', 'b_c', '7.5', 'ünï']
    positions = {name: chance.uniform(-1, 1) for name in names}
    topics = {f'part{number}': {} for number in range(chance.randint(1, 4))}
    for name in names:
        for topic in chance.sample(list(topics), chance.randint(1, len(topics))):
            topics[topic][name] = positions[name]
    states = [joints_on(topic, **some) for topic, some in topics.items() if some]
    chance.shuffle(states)
    order = tuple(chance.sample(names, 8))
    robot, _ = begun(states, [velocities(*order)])
    measured = {name: path for topic in robot.state for name, path in topic.fields.items()}
    assert sorted(measured.values()) == sorted(f'position[{name}]' for name in names)
    (command,) = robot.command
    moved = [measured[robot.limits[name].moves] for name in command.fields]
    assert moved == [f'position[{name}]' for name in order]
    assert list(command.fields.values()) == [f'data[{number}]' for number in range(8)]
    for name, limit in robot.limits.items():
        here = positions[measured[limit.moves][len('position[') : -1]]
        low, high = robot.workspace[limit.moves]
        assert low < here < high and high - low < 0.7, name


def test_a_base_with_an_arm_keeps_both_and_its_wheels_are_not_mistaken_for_joints():
    base = Controller('cmd_vel', TWIST_STAMPED, '/base')
    wheels = joints_on('joint_states', wheel=3.0)
    robot, _ = begun([odometry_on(), wheels], [base])
    assert robot.state_names == ('x', 'y', 'turn_z', 'turn_w', 'speed', 'turning')
    assert robot.command[0].constants == {'header.frame_id': 'base'}
    arm = joints_on('arm/joint_states', a=0.1, speed=0.2)
    robot, _ = begun([odometry_on(), arm], [base, velocities('a', 'speed')])
    assert robot.command_names == ('speed', 'turning', 'a_velocity', 'speed_2_velocity')
    assert [robot.limits[name].moves for name in robot.command_names[2:]] == ['a', 'speed_2']


def test_a_joint_that_no_path_can_name_is_said():
    robot, text = begun([joints_on('j', **{'a': 0.1, '#7': 0.2, 'b[1]': 0.3})], [velocities('a')])
    assert robot.state_names == ('a',)
    assert text.count("TODO: no path can name joint '") == 2


def test_each_stick_moves_one_thing():
    base = Controller('cmd_vel', TWIST_STAMPED, '/base')
    servo = Controller('servo/delta_twist_cmds', TWIST_STAMPED, '/servo')
    robot, _ = begun([odometry_on(), joints_on('j', a=0.1)], [base, servo], frame='base_link')
    (source,) = robot.teleop
    assert set(source.fields) == set(robot.command_names)
    assert len(set(source.fields.values())) == len(robot.command_names) == 5


def test_the_odometry_of_a_base_has_to_be_among_the_topics():
    base = Controller('cmd_vel', TWIST, '/base')
    with pytest.raises(ConfigError, match='--topics: name the odometry'):
        begun([odometry_on()], [base], topics=['cmd_vel'])


def test_two_robots_with_the_same_names_are_not_taken_for_one():
    states = [joints_on('left/joint_states', a=0.1), joints_on('right/joint_states', a=0.9)]
    with pytest.raises(ConfigError, match='right/joint_states have different positions of joint a'):
        begun(states, [velocities('a')])
    robot, _ = begun(states, [velocities('a')], topics=['left/joint_states', 'arm/commands'])
    assert robot.state[0].topic == 'left/joint_states'


@pytest.mark.parametrize(
    ('states', 'commands', 'options', 'words'),
    [
        ([joints_on('j', a=0.1)], [], {}, 'no topic takes commands'),
        ([], [velocities('a')], {}, 'no message has the position of a|no topic says where'),
        ([joints_on('j', a=0.1)], [velocities('b')], {}, 'no message has the position of b'),
        ([joints_on('j', a=0.1)], [velocities('a', interface='effort')], {}, 'takes effort, not'),
        ([joints_on('j', a=0.1)], [velocities()], {}, 'give --joints arm/commands:=velocity'),
        ([joints_on('j', a=0.1)], [velocities('a', interface='')], {}, 'give --joints arm/comm'),
        (
            [joints_on('j', a=0.1)],
            [velocities('a'), velocities('a', topic='other')],
            {},
            'arm/commands, other; which is active.*give --topics',
        ),
        ([joints_on('j', a=0.1)], [velocities('a')], {'topics': ['k']}, "'k': nobody publishes"),
        (
            [joints_on('j', a=0.1)],
            [Controller('servo/delta_twist_cmds', TWIST_STAMPED, '/servo')],
            {},
            'give --frame base_link',
        ),
        (
            [odometry_on(), odometry_on('odom/filtered')],
            [Controller('cmd_vel', TWIST, '/base')],
            {},
            'odom, odom/filtered; which to use.*--topics',
        ),
    ],
)
def test_what_cannot_be_known_is_asked_for_by_its_option(states, commands, options, words):
    with pytest.raises(ConfigError, match=words):
        begun(states, commands, **options)


def test_limits_are_a_share_of_the_description_and_units_are_those_of_the_joint():
    described = read_urdf(
        urdf('r', [('a', -1.0, 2.0, 4.0), ('turn', None, None, 2.0)])
        .replace('</robot>', '<joint name="finger" type="prismatic"><limit lower="0" upper="0.04" '
                 'velocity="0.2"/></joint></robot>')
    )  # fmt: skip
    states = [joints_on('j', a=0.5, turn=3.0, finger=0.02)]
    grip = velocities('finger', topic='gripper/commands', interface='position')
    robot, text = begun(states, [velocities('a', 'turn', interface='position'), grip], described)
    limits = robot.limits
    assert (limits['a'].low, limits['a'].high, limits['a'].rate) == (-0.95, 1.95, 1.0)
    assert limits['turn'].low == 2.7 and limits['turn'].rate == 0.5  # turns for ever: near 3 rad
    assert (limits['finger'].low, limits['finger'].high) == (0.0, 0.04)
    assert limits['turn'].wraps and not limits['a'].wraps
    assert limits['finger'].measured is None and limits['a'].measured == 'a'
    (unknown,) = [line for line in text.splitlines() if 'no robot_description has' in line]
    assert 'limits of turn:' in unknown


def test_a_position_beyond_the_limits_of_its_joint_is_asked_about():
    described = read_urdf(urdf('r', [('a', -1.0, 2.0, 4.0), ('turn', None, None, 2.0)]))
    controller = velocities('a', interface='position')
    for positions, asked in (
        ({'a': 1.9, 'turn': 9.0}, False),
        ({'a': 9.0, 'turn': 9.0}, True),
        ({'a': 0.0, 'turn': 90.0}, True),
    ):
        _, text = begun([joints_on('j', **positions)], [controller], described)
        assert ('look like degrees' in text) == asked, positions


def test_degrees_are_seen_and_converted():
    states, commands = [joints_on('j', a=90.0)], [velocities('a', interface='position')]
    robot, text = begun(states, commands)
    assert 'TODO: a: look like degrees or percent' in text
    robot, text = begun(states, commands, degrees=True)
    codec = TopicCodec(robot.state[0])
    (value,) = codec.decode(JointState(name=['a'], position=[90.0]))
    assert value == pytest.approx(np.pi / 2, rel=1e-5)
    assert robot.limits['a'].low < value < robot.limits['a'].high
    sent = TopicCodec(robot.command[0]).encode(Float64MultiArray(), [np.pi / 2])
    assert sent.data[0] == pytest.approx(90.0, rel=1e-5)


def test_a_question_in_the_terminal_is_repeated_until_it_is_answered(monkeypatch, capsys):
    answers = iter(['', 'neither', ' b '])
    monkeypatch.setattr('builtins.input', lambda _question: next(answers))
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, 'isatty', lambda: True, raising=False)
    assert cli_robot._ask('which?', ['a', 'b'], '--topics') == 'b'
    assert capsys.readouterr().out.count('one of: a, b') == 2


def test_limits_come_from_the_description_and_its_root_is_known():
    described = read_urdf(
        '<robot name="r"><link name="base"/><link name="a"/><link name="b"/><link name="c"/>'
        '<joint name="turn" type="continuous"><parent link="base"/><child link="a"/>'
        '<limit velocity="2" effort="1"/></joint>'
        '<joint name="slide" type="prismatic"><parent link="a"/><child link="b"/>'
        '<limit upper="0.04" velocity="0.2" effort="1"/></joint>'
        '<joint name="bolt" type="fixed"><parent link="b"/><child link="c"/></joint></robot>'
    )
    assert described.root == 'base' and set(described.joints) == {'turn', 'slide'}
    turn, slide = described.joints['turn'], described.joints['slide']
    assert (turn.low, turn.high, turn.speed, turn.linear) == (None, None, 2.0, False)
    assert turn.endless and not slide.endless
    assert (slide.low, slide.high, slide.speed, slide.linear) == (0.0, 0.04, 0.2, True)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('<robot', 'is no XML'),
        ('', 'is no XML'),
        ('<sdf/>', 'begins with <sdf>'),
        (
            '<!DOCTYPE r [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><robot>&b;</robot>',
            'has a DOCTYPE',
        ),
        (
            '<!DOCTYPE r [<!ENTITY f SYSTEM "file:///etc/hostname">]><robot name="&f;"/>',
            'has a DOCTYPE',
        ),
    ],
)
def test_a_description_that_is_none_is_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        read_urdf(text)


@pytest.mark.parametrize(
    'limit',
    [
        '',
        '<limit lower="x" upper="1"/>',
        '<limit lower="1" upper="1"/>',
        '<limit lower="nan" upper="inf" velocity="-1"/>',
    ],
)
def test_a_limit_that_is_none_is_not_taken_for_one(limit):
    text = f'<robot name="r"><joint name="j" type="revolute">{limit}</joint></robot>'
    joint = read_urdf(text).joints['j']
    assert (joint.low, joint.high, joint.speed) == (None, None, None)


@pytest.mark.parametrize(
    'text', ['arm', 'arm:=turn:a', 'arm:=velocity:', ':=velocity:a', 'arm:=a,b']
)
def test_joints_are_written_in_one_way(text):
    with pytest.raises(ConfigError, match='write TOPIC:=velocity:JOINT,JOINT'):
        parse_joints(text)


@pytest.mark.parametrize('name', available('robots'))
def test_a_starting_task_loads_with_every_profile_of_a_robot(tmp_path, name):
    path = tmp_path / 'task.yaml'
    path.write_text(task_text('begun', load_robot(name), str(find('robots', name)), {}))
    task = Task.load(str(path))
    assert [entry.name for entry in task.config.observation] == list(task.robot.state_names)
