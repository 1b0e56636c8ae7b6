"""What `import`, `check`, `list`, the learner and `robot check` say about implausible data."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from mbarl_ros.cli import demos
from mbarl_ros.control.jump_watch import JumpWatch
from mbarl_ros.demos.align import Series, UnusableError, align, with_stops
from mbarl_ros.demos.cache import fingerprint, pack_decoded
from mbarl_ros.demos.comparison import compare
from mbarl_ros.demos.episodes import episode
from mbarl_ros.demos.imported import save_episode
from mbarl_ros.demos.metadata import folders
from mbarl_ros.demos.plausibility import examine, jumping
from mbarl_ros.demos.reader import (
    check_demonstration,
    load_demonstrations,
    pack_demonstrations,
    read_demonstration,
    read_episode,
)
from mbarl_ros.nodes.support.robot_check import _check_ranges
from mbarl_ros.schema.message_fields import set_stamp
from mbarl_ros.schema.plausible import unit_question
from mbarl_ros.schema.robot import RobotConfig
from mbarl_ros.schema.task import TaskConfig
from mbarl_ros.storage.run_files import DEMONSTRATIONS_FILE
from mbarl_ros.task import Task

SHIPPED = Path(__file__).resolve().parent.parent / 'demos'
STORE = get_typestore(Stores.ROS2_JAZZY)
TASKS = ('door', 'peg', 'pick_place', 'pointmass', 'push', 'tabletop')
RATE = 20.0

ROBOT = {
    'name': 'two_joints',
    'control_rate': RATE,
    'state': [
        {
            'topic': 'joint_states',
            'type': 'sensor_msgs/msg/JointState',
            'fields': {'a': 'position[a]', 'b': 'position[b]'},
        }
    ],
    'command': [
        {
            'topic': 'commands',
            'type': 'std_msgs/msg/Float64MultiArray',
            'fields': {'a': 'data[0]', 'b': 'data[1]'},
        }
    ],
    'limits': {
        name: dict(low=-2.5, high=2.5, rate=1.0, stop='hold', measured=name, tracking_error=0.5)
        for name in 'ab'
    },
}
TASK = {
    'name': 'reach',
    'robot': 'robot.yaml',
    'observation': [{'name': name, 'low': -2.5, 'high': 2.5} for name in 'ab'],
    'action': [{'name': name, 'low': -2.5, 'high': 2.5} for name in 'ab'],
    'success': {'entries': ['a'], 'target': [1.0], 'tolerance': 0.1},
    'phases': {'forward_limit': 100, 'backward_limit': 100},
    'evaluation': {'episodes': 1, 'horizon': 100, 'every': 100, 'budget': 1000},
}


def two_joints(robot=None, task=None):
    """Two joints by position: at most 1 rad/s, from -2.5 to 2.5 rad; success is a = 1."""
    return Task(
        TaskConfig.model_validate({**TASK, **(task or {})}),
        RobotConfig.model_validate({**ROBOT, **(robot or {})}),
    )


def reach(task, n=40, b=0.3, start=0.0, commands=None, **about):
    """A demonstration that moves a to 1 in a straight line, and b by 0.1."""
    states = np.stack([np.linspace(start, 1.0, n + 1), np.linspace(b, b + 0.1, n + 1)], 1)
    commands = states[1:] if commands is None else commands
    stamps = np.arange(n + 1) / task.robot.control_rate
    about = {'verdict': 'success', 'name': 'reach', **about}
    return episode(task, states, commands, stamps, 'forward', **about)


def said(findings, level='warning'):
    return [str(finding) for finding in findings if finding.level == level]


@cache
def shipped(name):
    task = Task.load(name)
    return task, [read_episode(path, task) for path in folders(SHIPPED / name)]


# --- no false alarms -------------------------------------------------------------------------


@pytest.mark.parametrize('name', TASKS)
def test_nothing_is_said_about_the_shipped_demonstrations(name):
    task, episodes = shipped(name)
    assert examine(episodes, task) == jumping(episodes, task) == compare(episodes, task) == []
    for path in folders(SHIPPED / name)[:3]:
        assert check_demonstration(path, task)[1] == []


@pytest.mark.parametrize('name', TASKS)
@pytest.mark.parametrize('noise', [0.2, 0.5])
def test_noisy_but_consistent_demonstrations_do_not_disagree(name, noise):
    """``noise``: multiple of the usual action of each entry."""
    task, episodes = shipped(name)
    rng = np.random.default_rng(1)
    usual = np.sqrt(np.mean(np.concatenate([e.actions for e in episodes]) ** 2, 0))
    noisy = [
        replace(
            e,
            actions=np.clip(
                e.actions + noise * usual * rng.normal(size=e.actions.shape), -1, 1
            ).astype(np.float32),
        )
        for e in episodes
    ]
    assert compare(noisy, task) == []


def test_an_honest_demonstration_has_no_findings():
    task = two_joints()
    assert examine([reach(task)], task) == jumping([reach(task)], task) == []
    assert compare([reach(task)], task) == []


def test_noise_of_sensors_an_overshoot_and_an_angle_that_wraps_are_no_jumps():
    task = two_joints(task={'observation': [{'name': n, 'low': -4, 'high': 4} for n in 'ab']})
    shown = reach(task)
    states = shown.states.copy()
    states += 0.02 * np.random.default_rng(0).uniform(-1, 1, states.shape).astype(np.float32)
    states[10, 0] += 0.05  # twice the step that the limit allows, and back
    angle = np.linspace(3.0, 3.0 + 0.04 * 40, 41)
    states[:, 1] = (angle + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(np.diff(states[:, 1])).max() > 6
    assert said(examine([replace(shown, states=states)], task)) == []
    assert jumping([replace(shown, states=states)], task) == []


@pytest.mark.parametrize('low', [-np.pi, 0.0])
def test_an_angle_that_goes_round_is_honest_and_one_of_another_publisher_jumps(low):
    """It moves at the limit, through the end of its range, and is commanded a little ahead."""
    entries = [{'name': 'a', 'low': low, 'high': low + 2 * np.pi, 'angle': True}]
    success = {**TASK['success'], 'target': [(3.5 - low) % (2 * np.pi) + low]}
    limits = {**ROBOT['limits'], 'a': {**ROBOT['limits']['a'], 'low': -9.0, 'high': 9.0}}
    task = two_joints(
        {'limits': limits},
        {
            'observation': [*entries, TASK['observation'][1]],
            'action': [{'name': 'a', 'low': -9.0, 'high': 9.0}, TASK['action'][1]],
            'success': success,
        },
    )
    rng = np.random.default_rng(0)
    shown = []
    for number in range(5):
        states = np.stack([np.linspace(2.0, 3.5, 41), np.linspace(0.3, 0.4, 41)], 1)
        states[:, 0] += 0.01 * number + 0.001 * rng.normal(size=41)
        around = states.copy()
        around[:, 0] = (states[:, 0] - low) % (2 * np.pi) + low
        stamps = np.arange(41) / RATE
        about = {'verdict': 'success', 'name': f'd{number}'}
        shown.append(episode(task, around, states[1:], stamps, 'forward', **about))
    assert examine(shown, task) == jumping(shown, task) == compare(shown, task) == []
    states = shown[0].states.copy()
    states[5] = task.state(np.zeros(2))
    a, _ = said(jumping([replace(shown[0], states=states)], task))
    assert a.startswith('a jumps 2 x by up to 2.2')


# --- ranges and units ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('factor', 'unit', 'reaches'),
    [
        (180 / np.pi, 'degrees', 2.5),
        (1000, 'millimetres', 2.5),
        (1000, 'millimetres', 0.9),
        (100, 'centimetres or percent', 0.9),
    ],
)
def test_a_wrong_unit_is_named_with_the_share_that_is_clipped(factor, unit, reaches):
    low, high = -reaches, reaches
    entries = [{'name': name, 'low': low, 'high': high} for name in 'ab']
    success = {**TASK['success'], 'target': [0.85]}
    task = two_joints(task={'observation': entries, 'action': entries, 'success': success})
    right = reach(task)
    half = right.states * 0.85
    right = episode(task, half, half[1:], right.stamps, 'forward', verdict='success')
    wrong = replace(
        right, states=(right.states * factor).astype(np.float32), commands=right.commands * factor
    )
    outside = (np.abs(wrong.commands) > reaches).mean(0)
    beyond = wrong.commands.max(0) - reaches
    a, b, *_ = texts = said([*examine([wrong], task), *jumping([wrong], task)])
    for text, name, share, by in zip((a, b), 'ab', outside, beyond, strict=True):
        assert text.startswith(
            f'{name}: {share:.0%} of the commands lie outside {low:g} to {high:g}'
        )
        assert f'by up to {by:.3g} and are clipped' in text and unit in text
        assert f'factor of {factor:.3g}' in text
    states = [text for text in texts if 'of the states' in text]
    assert len(states) == 2 and all(unit in text for text in states)
    # One cause, one warning: numbers of another unit are too fast as well.
    assert not any('jumps' in text or 'faster' in text for text in texts)


def test_radians_where_the_task_says_degrees_are_asked_for():
    wide = {'low': -150.0, 'high': 150.0}
    limits = {n: {**ROBOT['limits'][n], **wide} for n in 'ab'}
    entries = [{'name': name, **wide} for name in 'ab']
    task = two_joints({'limits': limits}, {'observation': entries, 'action': entries})
    texts = said(examine([reach(task)], task))
    assert len(texts) == 4 and all('are they radians' in text for text in texts)


@pytest.mark.parametrize('scale', [0.01, 1.0, 30.0])
def test_values_that_only_leave_their_range_are_accused_of_no_unit(scale):
    question = unit_question((-0.5 * scale, 1.4 * scale), -scale, scale)
    assert question == ''


def test_limits_clip_as_the_range_of_the_task_does():
    limits = {**ROBOT['limits'], 'a': {**ROBOT['limits']['a'], 'high': 0.5}}
    task = two_joints({'limits': limits})
    shown = reach(task)
    (text,) = said(examine([shown], task))
    share = (shown.commands[:, 0] > 0.5).mean()
    assert f'a: {share:.0%} of the commands lie outside -2.5 to 0.5' in text
    assert "'limits.a' of robot two_joints" in text


def test_an_entry_that_is_only_scaled_may_leave_its_range():
    narrow = [TASK['observation'][0], {'name': 'b', 'low': -0.06, 'high': 0.06}]
    task = two_joints(task={'observation': narrow})
    (text,) = said(examine([reach(task, b=0.0)], task))
    assert text.startswith('b: 39% of the states lie outside -0.06 to 0.06')  # 0.1 * (16 of 41)
    narrow[1]['limited'] = False
    task = two_joints(task={'observation': narrow})
    assert said(examine([reach(task, b=0.0)], task)) == []
    (text,) = said(examine([reach(task, b=0.551)], task))  # 10 times as far as it scales
    assert text.startswith('b: 51% of the states')


def test_several_demonstrations_are_told_at_once_with_their_names():
    task = two_joints()
    good = [reach(task, b=0.1 * i, name=f'good_{i}') for i in range(3)]
    bad = [
        replace(one, name=f'bad_{i}', commands=one.commands + np.array([0.0, 4.0]))
        for i, one in enumerate(good[:2])
    ]
    (text,) = said(examine([*good, *bad], task))
    assert text.startswith('b: 40% of the commands') and '[2 of 5: bad_0, bad_1]' in text


# --- speed -----------------------------------------------------------------------------------


def test_commands_faster_than_the_rate_are_told():
    task = two_joints()
    shown = reach(task)
    commands = shown.commands.copy()
    commands[20:, 0] += 0.3  # 6 times what 1 rad/s allows in 0.05 s, and a little of its own
    (text,) = said(examine([replace(shown, commands=commands)], task))
    ratio = (commands[20, 0] - commands[19, 0]) * RATE
    assert 'a: the command changes faster than limits.a.rate (1 per s) in 3% of the steps' in text
    assert f'at most {ratio:.2g} times as fast (first at 0.95 s)' in text


def test_a_stop_may_come_at_once():
    task = Task.load('mobile_base')
    n = 30
    commands = np.zeros((n, 2))
    commands[:20, 0] = np.minimum(0.2 * np.arange(20), 0.8)
    states = np.zeros((n + 1, len(task.robot.state_names)))
    states[:, 0] = np.linspace(-1, 1, n + 1)
    shown = episode(task, states, commands, np.arange(n + 1) / 10, 'forward', verdict='success')
    assert not any('faster' in text for text in said(examine([shown], task)))
    backwards = replace(shown, commands=commands[::-1].copy())  # 0.8 m/s at once
    assert any('faster' in text for text in said(examine([backwards], task)))


@pytest.mark.parametrize('every', [3, 7])
def test_zeros_of_a_second_publisher_are_jumps(every):
    task = two_joints()
    shown = reach(task, start=0.8, b=1.2)
    states = shown.states.copy()
    states[1::every] = 0
    _, b = said(jumping([replace(shown, states=states)], task))
    changes = np.abs(np.diff(states[:, 1]))
    count, size = (changes > 1).sum(), changes.max()
    assert b.startswith(f'b jumps {count} x by up to {size:.3g}, where `limits` allow 0.05 in a')
    assert 'mostly to and from 0' in b and '`ros2 topic info -v joint_states`' in b


BOTH = np.array([0, 1])


def test_a_running_robot_that_jumps_is_told():
    watch = JumpWatch(two_joints().robot)
    for number in range(100):  # at 100 Hz, moving at the limit; every tenth of another publisher
        values = [0.0, 0.0] if number % 10 == 9 else [0.5 + 0.01 * number, -1.0]
        watch.receive(0.01 * number, BOTH, round(number * 1e7), np.array(values))
    a, b = (finding.text for finding in watch.findings(1.0, 2.0))
    assert a.startswith('joint_states: a jumps 19 x')
    assert b.startswith('joint_states: b jumps 19 x by up to 1, where `limits` allow 0.05')
    assert 'mostly to and from 0' in b and '`ros2 topic info -v joint_states`' in b
    assert watch.findings(9.0, 0.1) == []


@pytest.mark.parametrize('seed', range(5))
def test_joints_that_come_in_parts_are_watched_one_by_one(seed):
    """Any split of honest joints over messages is fine, and one wrong value in any is found."""
    rng = np.random.default_rng(seed)
    wrong = int(rng.integers(50, 90))
    for faulty in (False, True):
        watch = JumpWatch(two_joints().robot)
        for number in range(100):
            values = np.array([0.01 * number, 1 - 0.01 * number])
            values[1] += faulty and number == wrong
            stamp = round((1 + 0.01 * number) * 1e9)
            for part in rng.permutation([[0], [1]]) if rng.random() < 0.5 else [BOTH]:
                watch.receive(0.01 * number, np.array(part), stamp, values[part])
        texts = [finding.text for finding in watch.findings(1.0, 2.0)]
        assert [text.startswith('joint_states: b jumps 2 x by up to 1') for text in texts] == [
            True
        ] * faulty


def test_a_running_robot_whose_joints_are_in_degrees_has_no_second_publisher():
    watch = JumpWatch(two_joints().robot)
    for number in range(100):
        values = np.array([20 + 3.0 * (number % 25), 57.0])
        watch.receive(0.1 * number, BOTH, round(number * 1e8), values)
    (finding,) = watch.findings(10.0, 20.0)
    assert 'are they degrees' in finding.text and 'second node' not in finding.text


@pytest.mark.parametrize('stamped', [True, False])
def test_a_running_robot_that_moves_as_it_may_or_was_not_received_does_not_jump(stamped):
    watch = JumpWatch(two_joints().robot)
    for number in (*range(50), *range(150, 200)):  # a second is lost
        stamp = round(number * 1e7) if stamped else None
        values = np.array([0.01 * number, np.nan if number == 7 else 0.0])
        watch.receive(0.01 * number, BOTH, stamp, values)
    assert watch.findings(2.0, 5.0) == []


def test_robot_check_asks_for_the_unit_of_a_running_robot():
    task = two_joints()
    texts = [f.text for f in _check_ranges(task.robot, task, np.array([0.5, 70.0]))]
    assert len(texts) == 1 and texts[0].startswith('b is 70; task reach expects -2.5 to 2.5')
    assert 'degrees' in texts[0]


# --- time ------------------------------------------------------------------------------------


def test_gaps_and_another_rate_are_told():
    task = two_joints()
    shown = reach(task)
    gap = shown.stamps + 2.0 * (np.arange(41) > 10)
    (text,) = said(examine([replace(shown, stamps=gap)], task))
    assert 'a gap of up to 2.05 s' in text and '(first at 0.50 s)' in text
    unused = replace(shown, stamps=gap, whole=np.arange(40) != 10)
    assert said(examine([unused], task)) == []
    (text,) = said(examine([replace(shown, stamps=shown.stamps / 5)], task))
    assert 'steps are 0.01 s apart, a control period of robot two_joints is 0.05 s' in text
    (_, text) = said(examine([replace(shown, stamps=np.zeros(41))], task))
    assert 'all stamps are equal' in text


# --- success ---------------------------------------------------------------------------------


def test_a_demonstration_that_does_not_end_in_success_is_told_with_how_far_it_is():
    task = two_joints()
    shown = reach(task)
    states = shown.states.copy()
    states[:, 0] *= 0.7
    (text,) = said(examine([replace(shown, states=states)], task))
    assert text.startswith('the verdict is success, but') and 'ends 0.3 away' in text
    (text,) = said(examine([replace(shown, states=states, verdict='unknown')], task))
    assert 'is not used for learning' in text
    states = shown.states.copy()
    states[30:, 0] -= np.linspace(0, 0.4, 11, dtype=np.float32)
    states[25:31, 0] = 1.0
    shown = replace(shown, states=states, verdict='unknown')
    assert 'was a success before' in ' '.join(said(examine([shown], task)))
    assert said(examine([replace(shown, verdict='discarded')], task)) == []
    backward = replace(reach(task), direction='backward', verdict='unknown')
    (text,) = said(examine([backward], task))
    assert '--verdict success' in text


# --- demonstrations as a set -----------------------------------------------------------------


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('name', ['door', 'peg', 'pointmass', 'push', 'tabletop'])
def test_a_demonstration_with_opposite_actions_is_found_in_any_order_and_any_unit(name, seed):
    task, episodes = shipped(name)
    rng = np.random.default_rng(seed)
    forward = [e for e in episodes if e.is_forward]
    chosen = int(rng.integers(len(forward)))
    culprit = forward[chosen]
    stop = task.action(np.zeros(task.action_dim))
    opposite = np.clip(2 * stop - culprit.actions, -1, 1).astype(np.float32)
    forward[chosen] = replace(culprit, actions=opposite)
    rng.shuffle(forward)
    unit = float(rng.choice([0.001, 1, 57.3]))  # of the states: ranges that have it, too
    entries = [
        entry.model_copy(update={'low': entry.low * unit, 'high': entry.high * unit})
        for entry in task.config.observation
    ]
    success = task.config.success
    target = success.target and [number * unit for number in success.target]
    success = success.model_copy(update={'target': target, 'tolerance': success.tolerance * unit})
    goals = [[number * unit for number in goal] for goal in task.config.goals]
    config = task.config.model_copy(
        update={'observation': entries, 'success': success, 'goals': goals}
    )
    robot = task.robot.model_copy(update={'workspace': {}})
    scaled = [replace(e, states=(e.states * unit).astype(np.float32)) for e in forward]
    findings = said(compare(scaled, Task(config, robot)))
    assert len(findings) == 1 and 'forward demonstrations disagree' in findings[0]
    shares = dict(re.findall(r'(\w+) \((\d+)%\)', findings[0]))
    assert max(shares, key=lambda one: int(shares[one])) == culprit.name


def test_halves_that_go_round_an_obstacle_on_either_side_disagree():
    task = two_joints()
    rng = np.random.default_rng(0)
    episodes = []
    for number in range(8):
        shown = reach(task, name=f'd{number}', b=0.001 * number)
        side = -1 if number % 2 else 1
        states = shown.states + 0.001 * rng.normal(size=shown.states.shape)
        commands = states[:-1] + np.array([0.005, 0.3 * side])
        episodes.append(episode(task, states, commands, shown.stamps, 'forward', name=shown.name))
    (text,) = [one for one in said(compare(episodes, task)) if 'disagree' in one]
    assert re.search(r'd\d \(5\d%\)', text) and 'others act opposite' in text
    same_side = [one for one in episodes if int(one.name[1:]) % 2]
    assert said(compare(same_side, task)) == []


@pytest.mark.parametrize(('name', 'column'), [('door', 1), ('peg', 2), ('push', 1), ('peg', 3)])
def test_an_inverted_axis_and_an_inverted_gripper_are_named(name, column):
    task, episodes = shipped(name)
    forward = [e for e in episodes if e.is_forward]
    actions = forward[4].actions.copy()
    actions[:, column] *= -1
    forward[4] = replace(forward[4], actions=actions)
    (text,) = said(compare(forward, task))
    entry = task.config.action[column].name
    assert f'disagree in {entry}: ' in text or 'disagree: ' in text
    shares = dict(re.findall(r'(\w+) \((\d+)%\)', text))
    assert next(iter(shares)) == forward[4].name


def test_positions_are_compared_by_where_they_push():
    """A position command near the state says where to go only by its difference to the state."""
    task = two_joints()
    ahead = [reach(task, b=0.01 * i, name=f'ahead_{i}') for i in range(5)]
    behind = reach(task, b=0.02, name='behind')
    behind = replace(behind, actions=task.action(behind.states[:-1] * 2 - behind.states[1:]))
    assert said(compare(ahead, task)) == []
    (text,) = said(compare([*ahead, behind], task))
    assert 'behind (100%)' in text and 'ahead' not in text


def test_copies_and_parts_of_others_are_found():
    task, (first, second, third) = shipped('pointmass')
    assert said(compare([first, second, third], task)) == []
    (text,) = said(compare([first, second, replace(first, name='again')], task))
    assert text.startswith(f'again and {first.name} have {len(first.actions)} steps in common')
    part = replace(
        first,
        name='part',
        states=first.states[20:41],
        actions=first.actions[20:40],
        stamps=first.stamps[20:41] + 7,
        whole=first.whole[20:40],
    )
    for order in ([first, part], [part, first]):
        (text,) = said(compare(order, task))
        assert '20 steps in common' in text
    assert compare([first, replace(first, verdict='discarded')], task) == []


def test_an_entry_that_never_changes_is_named():
    task, episodes = shipped('pointmass')
    dead = []
    for shown in episodes:
        states = shown.states.copy()
        states[:, 1] = 0.25
        dead.append(replace(shown, states=states))
    (text,) = said(compare(dead, task))
    assert text.startswith('y: is always 0.25')
    assert said(compare(dead[:1], task)) == [] and said(compare(dead[:1], task), 'info')
    still = [replace(e, actions=np.zeros_like(e.actions), commands=None) for e in episodes]
    assert 'the command never changes' in ' '.join(said(compare(still, task)))


# --- recordings ------------------------------------------------------------------------------


def series(names, times, values, topic='topic'):
    stamps = (np.asarray(times) * 1e9).round().astype(np.int64)
    values = np.asarray(values, float).reshape(len(stamps), len(names))
    return Series(topic, tuple(names), stamps, stamps, values)


@pytest.mark.parametrize('seed', range(5))
def test_a_command_is_in_force_until_its_time_out_and_never_longer(seed):
    """Against a gate that is asked at each time what it would send."""
    robot = Task.load('pointmass').robot  # command_timeout 0.5 s, stop 0
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.choice([0.05, 0.1, 0.45, 0.6, 2.0], 60))
    values = rng.choice([-0.5, 0.0, 0.5], (60, 2))
    stopped, _ = with_stops(series(['vx', 'vy'], times, values, 'cmd_vel'), robot)
    for now in rng.uniform(times[0], times[-1], 500):
        last = np.flatnonzero(times <= now)[-1]
        expected = values[last] if now - times[last] <= 0.5 else [0, 0]
        row = np.flatnonzero(stopped.stamps <= now * 1e9)[-1]
        assert stopped.values[row].tolist() == list(expected)


def test_a_hold_stays_and_each_entry_has_its_own_stop():
    robot = Task.load('tabletop').robot  # dx, dy stop at 0, the grasp holds
    command = series(robot.command_names, [0, 0.1, 3], [[0.1, 0, -0.2], [0.1, 0.1, 0.2], [0] * 3])
    stopped, (finding,) = with_stops(command, robot)
    assert stopped.values.tolist()[2] == [0, 0, 0.2] and len(stopped.stamps) == 4
    assert finding.level == 'warning' and 'silent 1 x' in finding.text
    quiet = series(robot.command_names, [0, 5, 9], [[0, 0, -0.2], [0, 0, 0.2], [0] * 3])
    assert with_stops(quiet, robot) == (quiet, [])  # they stood anyway


def odometry(x, speed, at):
    message = Odometry()
    message.pose.pose.position.x, message.twist.twist.linear.x = x, speed
    set_stamp(message, round(at * 1e9))
    return message


def joints(names, positions, at):
    message = JointState(name=list(names), position=[float(p) for p in positions])
    set_stamp(message, round(at * 1e9))
    return message


def write_bag(path, messages):
    """A bag of (time in s, topic, message)."""
    writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
    with writer:
        connections = {}
        for at, topic, message in sorted(messages, key=lambda one: one[0]):
            kind = f'{type(message).__module__.split(".")[0]}/msg/{type(message).__name__}'
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], round(at * 1e9), serialize_message(message))
    return path


def test_a_teleop_that_falls_silent_stops_the_robot_in_the_demonstration(tmp_path, capsys):
    messages, x = [], -1.0
    for number in range(100):
        at = 1 + 0.1 * number
        driving = 1 <= number < 20 or 70 <= number < 90
        moving = driving or 20 <= number < 25 or 90 <= number < 95  # the base's own time-out
        messages.append((at, '/odom', odometry(x, 0.2 * moving, at)))
        x += 0.02 * moving
        if driving:
            message = Twist()
            message.linear.x = 0.2
            messages.append((at + 0.01, '/cmd_vel', message))
    bag = write_bag(tmp_path / 'bag', messages)
    into = tmp_path / 'demos'
    assert demos.main(['import', str(bag), '--task', 'pointmass', '--into', str(into)]) == 0
    assert 'cmd_vel: silent 1 x for longer than command_timeout (0.5 s)' in capsys.readouterr().out
    found = read_demonstration(into / 'forward_000', Task.load('pointmass'))
    standing = found.states[:-1, 2] == 0
    assert standing.sum() > 40 and not found.commands[standing].any()
    driven = found.commands[:, 0] == 0.2
    assert 39 <= driven.sum() <= 45


def test_a_stalled_safety_gate_sends_no_stop_and_the_demonstration_has_none(tmp_path, capsys):
    """It records its stops itself; the robot goes on with the command before."""
    messages = []
    for number in range(60):
        at, speed = 1 + 0.1 * number, 0.3 if number < 27 else 0.2
        messages.append((at, '/odom', odometry(-1 + 0.03 * number, speed, at)))
        if not 20 < number < 27:  # stalled for 0.7 s, longer than command_timeout
            message = joints(['vx', 'vy'], [speed, 0], at)
            messages.append((at + 0.01, '/safety_gate/executed', message))
    bag = write_bag(tmp_path / 'bag', messages)
    into = tmp_path / 'demos'
    assert demos.main(['import', str(bag), '--task', 'pointmass', '--into', str(into)]) == 0
    out = capsys.readouterr().out
    assert 'safety_gate/executed: silent 1 x' in out and 'the safety gate was stalled' in out
    found = read_demonstration(into / 'forward_000', Task.load('pointmass'))
    assert found.commands[:, 0].tolist() == [0.3] * 27 + [0.2] * 32


def test_a_bag_of_two_publishers_in_degrees_is_told_by_import_check_and_list(tmp_path, capsys):
    (tmp_path / 'robot.yaml').write_text(yaml.safe_dump(ROBOT))
    (tmp_path / 'task.yaml').write_text(yaml.safe_dump(TASK))
    task = ['--task', str(tmp_path / 'task.yaml')]

    def make(name, factor, zeros):
        messages = []
        for number in range(200):
            at, a = 1 + 0.02 * number, 0.005 * number
            messages.append((at, '/joint_states', joints('ab', [a * factor, factor], at)))
            command = Float64MultiArray(data=[(a + 0.01) * factor, (1 + 0.001 * a) * factor])
            messages.append((at + 0.001, '/commands', command))
            if zeros and number % 5 == 2:
                message = joints('ba', [0, 0], at + 0.01)
                messages.append((at + 0.011, '/joint_states', message))
        return str(write_bag(tmp_path / name, messages))

    into = str(tmp_path / 'jumping')
    bag = make('zeros', 1.0, True)
    for command in (['import', bag, '--into', into], ['check', into], ['list', into]):
        assert demos.main([*command, *task]) == 0
        out = capsys.readouterr().out
        # 40 zeros, of which the control steps happen to see none.
        assert 'joint_states: b jumps 80 x by up to 1, where `limits` allow 0.05' in out
    into = str(tmp_path / 'degrees')
    bag = make('wrong', 180 / np.pi, False)
    for command in (['import', bag, '--into', into], ['check', into], ['list', into]):
        assert demos.main([*command, *task]) == 0
        out = capsys.readouterr().out
        assert re.search(r'a: 9\d% of the commands lie outside .*degrees', out)
        assert re.search(r'b: 100% of the states lie outside .*by up to 54\.8.*degrees', out)
    assert demos.main(['import', bag, '--into', into, *task]) == 0
    assert 'was it imported twice?' in capsys.readouterr().out


def test_same_stamps_are_counted_and_other_values_under_them_are_a_warning():
    robot = Task.load('pointmass').robot
    times = np.arange(0, 3, 0.05)
    doubled = np.repeat(times, 2)
    executed = series(['vx', 'vy'], times, np.full((60, 2), 0.1))
    for differ, level in ((0.0, 'info'), (1.0, 'warning')):
        values = np.repeat(times, 2)[:, None] + [[0.0], [differ]] * 60
        _, findings = align([series(['x'], doubled, values, 'odom')], executed, robot, False)
        assert [f.level for f in findings] == [level]
        assert '60 messages have the stamp of the next' in findings[0].text
        _, findings = align([series(['x'], doubled, values, 'odom')], executed, robot, True)
        assert findings == []


def test_an_entry_that_is_never_finite_is_named():
    robot = Task.load('pointmass').robot
    times = np.arange(0, 3, 0.1)
    values = np.stack([times, np.full(30, np.nan), times], 1)
    executed = series(['vx', 'vy'], times, np.full((30, 2), 0.1))
    with pytest.raises(UnusableError, match='odom: vx never finite'):
        align([series(['x', 'vx', 'y'], times, values, 'odom')], executed, robot, False)
    values = np.where(np.arange(30)[:, None] % 2 == [0, 1], times[:, None], np.nan)
    with pytest.raises(UnusableError, match='no message has a finite value in each of x, y'):
        align([series(['x', 'y'], times, values, 'odom')], executed, robot, False)
    task = two_joints()
    states = reach(task).states.copy()
    states[4, 1] = np.inf
    with pytest.raises(ValueError, match=r'states are not finite .* at step 4 in b'):
        replace(reach(task), states=states).check(task)


# --- the learner -----------------------------------------------------------------------------


def test_the_learner_is_warned_also_where_another_process_decoded(tmp_path):
    task, episodes = shipped('pointmass')
    folder, run_dir = tmp_path / 'demos', tmp_path / 'run'
    run_dir.mkdir()
    for shown in (*episodes, replace(episodes[0], name='again')):
        (folder / shown.name).mkdir(parents=True)
        save_episode(folder / shown.name, shown, task)
    decoded, cached = [], []
    load_demonstrations(folder, task, warn=decoded.append)
    (text,) = decoded
    assert 'was it imported twice?' in text
    packed = pack_demonstrations(folder, task, run_dir)
    (run_dir / DEMONSTRATIONS_FILE).write_bytes(packed)
    rows = load_demonstrations(folder, task, run_dir=run_dir, warn=cached.append)
    assert cached == decoded
    # What else may stand there, in a file of another hand, warns of nothing and breaks nothing.
    odd = pack_decoded(rows, fingerprint(folder, task), [])
    (run_dir / DEMONSTRATIONS_FILE).write_bytes(odd)
    again = []
    load_demonstrations(folder, task, run_dir=run_dir, warn=again.append)
    assert again == []
