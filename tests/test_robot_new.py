"""`mbarl robot new`, and profiles of robots that people own, against stand-ins for their drivers.

Each stand-in speaks its driver's topics in a process of the test's own; the profile that is written
for it, and the shipped one, pass the check and move it through the real gate.
"""

import contextlib
import json
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from geometry_msgs.msg import Twist, TwistStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64MultiArray, Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from mbarl_ros.nodes.support.profile_files import write_files
from mbarl_ros.nodes.support.profile_plan import Wishes, parse_joints
from mbarl_ros.nodes.support.robot_check import Listener
from mbarl_ros.nodes.support.robot_discovery import discover
from mbarl_ros.nodes.support.robot_topics import StateListener
from mbarl_ros.nodes.support.task_writer import task_text
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import find, load_robot
from mbarl_ros.schema.message_fields import set_stamp
from mbarl_ros.schema.open_questions import open_questions
from mbarl_ros.task import Task
from support import stand_in_bases, stand_ins
from support.graph import Graph

pytestmark = pytest.mark.paced

LISTEN = 2.0  # s
# Shipped profile, stand-in, namespace.
OWNED = (
    ('ur_velocity', stand_ins.UrVelocity, ''),
    ('ur_servo', stand_ins.UrServo, ''),
    ('franka_fr3', stand_ins.Franka, ''),
    ('kinova_gen3', stand_ins.Kinova, ''),
    ('xarm7', stand_ins.XArm, ''),
    ('so101', stand_ins.So101, ''),
    ('so101', stand_ins.So101Numbered, ''),
    ('so101_lerobot', stand_ins.So101LeRobot, ''),
    ('turtlebot3', stand_in_bases.TurtleBot3, ''),
    ('turtlebot4', stand_in_bases.TurtleBot4, ''),
    ('husky', stand_in_bases.Husky, 'a200_0000'),
)
# What the topics of a driver do not tell: LeRobot's units, which of two topics to use.
UNTOLD = {
    stand_ins.So101LeRobot: {'degrees': True},
    stand_in_bases.TurtleBot4: {'topics': ['cmd_vel', 'odom']},
}
# Task of a simulated robot, its profile if it is not the task's, and what its topics do not tell.
VELOCITIES = 'forward_velocity_controller/commands:=velocity:'
POSITIONS = 'forward_position_controller/commands:=position:'
TRAJECTORIES = 'joint_trajectory_controller/joint_trajectory:=position:'
GRIPPER = 'gripper_controller/commands'
SIMULATED = (
    ('pointmass', '', {}),
    ('mobile_base', '', {}),
    ('arm_velocity', '', {
        'joints': [f'{VELOCITIES}shoulder,elbow', f'{GRIPPER}:=position:gripper']}),
    ('arm_position', '', {  # nothing measures the gripper of this and the next
        'joints': [f'{POSITIONS}shoulder,elbow', f'{GRIPPER}:=position:gripper']}),
    ('arm_position', 'arm_trajectory', {
        'joints': [f'{TRAJECTORIES}shoulder,elbow'],
        'topics': [TRAJECTORIES.partition(':')[0], 'joint_states']}),
    ('arm_servo', '', {'joints': [f'{GRIPPER}:=position:gripper']}),
    ('tabletop', '', {'joints': [f'{GRIPPER}:=velocity:gripper_x,gripper_y,attached']}),
    ('push', '', {'joints': [f'{GRIPPER}:=position:panda_finger_joint1']}),
    ('door_velocity', '', {'joints': [
        VELOCITIES + ','.join(f'panda_joint{number}' for number in range(1, 8)),
        f'{GRIPPER}:=position:panda_finger_joint1']}),
)  # fmt: skip


def refuse_to_ask(question, answers, option):
    raise ConfigError(f'{question}; give {option}')


def new(folder, name, namespace='', **options):
    """What `mbarl robot new` writes, as loaded: paths of robot and task."""
    given = {
        topic: (kind, names) for topic, kind, names in map(parse_joints, options.pop('joints', ()))
    }
    wishes = Wishes(refuse_to_ask, joints=given, **options)
    with Listener('robot_new', '/' + namespace) as listener:
        found = discover(listener, LISTEN)
    return write_files(folder, name, found, wishes)


def errors(profile, namespace=''):
    """Errors of `robot check`."""
    with Listener('robot_check', '/' + namespace) as listener:
        findings = listener.check(load_robot(str(profile)), 1.0).findings
    return [finding.text for finding in findings if finding.level == 'error']


class Person:
    """Drives a robot through the gate by the teleoperation that its profile has."""

    def __init__(self, graph, task_file, namespace=''):
        self.graph, self.robot = graph, Task.load(str(task_file)).robot
        (self.source,) = self.robot.teleop[:1]
        kinds = {'Twist': Twist, 'JointState': JointState, 'Float64MultiArray': Float64MultiArray}
        self.kind = kinds[self.source.type.rpartition('/')[2]]
        prefix = f'/{namespace}/' if namespace else ''
        self.publisher = graph.node.create_publisher(self.kind, prefix + self.source.topic, 10)
        self.pedal = graph.node.create_publisher(Bool, prefix + 'leader/deadman', 10)

    def drive(self, start, seconds=1.5):
        """Push the first entry for a while, in the direction of growing values."""
        name = next(iter(self.source.fields))
        limit = self.robot.limits[name]
        if self.source.deadman:  # the gate has to see it released before
            self.graph.wait_for('pedal', self.pedal.get_subscription_count)
            for _ in range(12):
                self.pedal.publish(Bool(data=False))
                self.graph.spin(0.05)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.pedal.publish(Bool(data=True))
            self.publisher.publish(self._message(name, start, limit))
            self.graph.spin(0.04)

    def _message(self, name, start, limit):
        """A message of the kind; a leader arm leads by a tenth of a radian at most."""
        if self.kind is JointState:
            # In the unit of the leader: undo the scale of the source.
            values = {entry: start.get(entry, 0.0) for entry in self.source.fields}
            values[name] = min(start[name] + 0.1, limit.high)
            names = [path[len('position[') : -1] for path in self.source.fields.values()]
            return JointState(
                name=names,
                position=[values[e] / self.source.scale.get(e, 1.0) for e in self.source.fields],
            )
        if self.kind is Float64MultiArray:
            data = [0.0] * len(self.source.fields)
            data[list(self.source.fields).index(name)] = limit.high
            return Float64MultiArray(data=data)
        message = Twist()
        owner, axis = self.source.fields[name].split('.')
        setattr(getattr(message, owner), axis, limit.high)
        return message


def move_through_gate(graph, task_file, place, namespace=''):
    """How far and in which direction the robot went while a person drove; it stopped after."""
    person = Person(graph, task_file, namespace)
    states = {}
    with Listener('watcher', '/' + namespace) as listener:
        robot = person.robot
        StateListener(
            listener.node,
            robot,
            False,
            lambda state, _: states.update(zip(robot.state_names, state.tolist(), strict=True)),
        )
        end = time.monotonic() + 20
        while not states and time.monotonic() < end:
            listener.spin(0.1)
    remap = {'__ns': f'/{namespace}'} if namespace else None
    gate = f'/{namespace}/safety_gate' if namespace else 'safety_gate'
    graph.statuses.pop(gate, None)
    graph.start('safety_gate', task=str(task_file), robot='', remap=remap)
    try:
        graph.wait_for('gate', person.publisher.get_subscription_count)
        graph.wait_for('state', lambda: graph.statuses.get(gate, {}).get('state') == 'ok')
        before = place()
        person.drive(states)
        after = place()
        graph.spin(1.2)  # longer than every time-out
        rest = place()
        graph.spin(0.3)
        # A simulated arm with a joint too many creeps.
        assert np.abs(place() - rest).max() < 0.1 * np.abs(after - before).max(), 'it went on'
        return after - before
    finally:
        graph.kill('safety_gate')
        graph.node.destroy_publisher(person.publisher)
        graph.node.destroy_publisher(person.pedal)


@pytest.fixture(scope='module')
def graph(tmp_path_factory):
    with Graph(tmp_path_factory.mktemp('new'), mode='realtime') as graph:
        yield graph


@pytest.fixture
def domain(graph, monkeypatch):
    monkeypatch.setenv('ROS_DOMAIN_ID', str(graph.domain))


def shipped_profile(name, stand_in, folder):
    """Path of a shipped profile, with the names of joints that its comment gives for this robot."""
    if stand_in is not stand_ins.So101Numbered:
        return str(find('robots', name))
    text = find('robots', name).read_text()
    for number, joint in enumerate(stand_ins.SO101, 1):
        text = text.replace(f'position[{joint}]', f'position[{number}]')
    (folder / 'numbered.yaml').write_text(text)
    return str(folder / 'numbered.yaml')


def pushed_joint(robot, task_file):
    """Index of what a person drives: of the joint that a leader arm leads, else the first."""
    path = next(iter(Task.load(str(task_file)).robot.teleop[0].fields.values()))
    named = path.startswith('position[')
    return list(robot.joints).index(path[len('position[') : -1]) if named else 0


@pytest.mark.timing('the robot moves while it is driven, and stops in time')
@pytest.mark.parametrize(
    ('name', 'stand_in', 'namespace'), OWNED, ids=[stand_in.__name__ for _, stand_in, _ in OWNED]
)
def test_a_shipped_profile_and_a_new_one_move_the_robot_of_their_driver(
    graph, domain, tmp_path, name, stand_in, namespace
):
    with contextlib.closing(stand_in(graph.domain, namespace)) as robot:
        written = new(tmp_path, 'mine', namespace, **UNTOLD.get(stand_in, {}))
        own = shipped_profile(name, stand_in, tmp_path)
        shipped = tmp_path / 'shipped_task.yaml'
        shipped.write_text(task_text('shipped_task', load_robot(own), own, {}))
        for profile, task in ((own, shipped), written):
            assert errors(profile, namespace) == []
            moved = move_through_gate(graph, task, lambda: robot.place, namespace)
            pushed = pushed_joint(robot, task)
            others = np.delete(moved, pushed)
            assert moved[pushed] > 0.02, (profile, moved, robot.refused)
            assert np.abs(others).max(initial=0) < moved[pushed] / 4, (profile, moved)
        assert robot.refused == []


@pytest.mark.timing('the robot moves while it is driven, and stops in time')
@pytest.mark.parametrize(
    ('task', 'robot', 'options'), SIMULATED, ids=[robot or task for task, robot, _ in SIMULATED]
)
def test_a_new_profile_moves_each_simulated_robot(graph, domain, tmp_path, task, robot, options):
    log = tmp_path / 'steps.jsonl'
    graph.start('robot_sim', task=task, robot=robot, step_log=str(log))
    try:
        graph.wait_for('robot', lambda: log.exists() and log.stat().st_size)
        profile, written = new(tmp_path, 'mine', **options)
        assert errors(profile) == []

        def place():
            step = json.loads(log.read_text().rstrip('\n').rpartition('\n')[2])
            return np.array(step['next_state'])

        moved = move_through_gate(graph, written, place)
        assert np.abs(moved).max() > 0.015, moved
        assert graph.value('robot_sim', 'refused_commands') == 0
    finally:
        graph.kill('robot_sim')


def test_what_is_not_known_is_asked_for_or_left_as_a_question(graph, domain, tmp_path):
    with contextlib.closing(stand_ins.So101Numbered(graph.domain)):
        robot, task = new(tmp_path, 'mine')
    questions = [finding.text for finding in open_questions(robot)]
    assert any('no robot_description has limits of joint_1, joint_2' in text for text in questions)
    profile = load_robot(str(robot))
    assert profile.state[0].fields['joint_2'] == 'position[2]'
    limit = profile.limits['joint_1']
    assert limit.high - limit.low <= 0.7 and limit.rate <= 0.1  # it stood at 0.3 rad
    assert limit.low < 0.3 < limit.high
    assert len(open_questions(task)) >= 2


def test_the_command_writes_checks_and_never_asks_without_a_terminal(graph, tmp_path):
    command = [sys.executable, '-m', 'mbarl_ros.cli', 'robot']
    domain = ['--domain', str(graph.domain), '--seconds', '2']

    def run(*words):
        return subprocess.run(
            [*command, *words], cwd=tmp_path, capture_output=True, text=True, timeout=120,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    with contextlib.closing(stand_in_bases.TurtleBot3(graph.domain)):
        done = run('new', 'tb3', *domain)
        assert done.returncode == 0, done.stderr
        assert 'wrote tb3.yaml and tb3_task.yaml' in done.stdout and 'TODO: ' in done.stdout
        again = run('new', 'tb3', *domain)
        assert again.returncode == 2 and 'tb3.yaml: exists already' in again.stderr
        checked = run('check', '--task', 'tb3_task.yaml', *domain)
        assert checked.returncode == 0 and 'armed, but see the warnings' in checked.stdout
        listed = [line for line in checked.stdout.splitlines() if 'TODO: ' in line]
        in_files = [
            line for file in ('tb3.yaml', 'tb3_task.yaml')
            for line in (tmp_path / file).read_text().splitlines() if 'TODO: ' in line
        ]  # fmt: skip
        assert len(listed) == len(in_files) > 3
    assert 'wheel' not in str(yaml.safe_load((tmp_path / 'tb3.yaml').read_text()))
    with contextlib.closing(Silent(graph.domain)):
        silent = run('new', 'other', *domain)
        assert silent.returncode == 2 and not (tmp_path / 'other.yaml').exists()
        assert 'no terminal to answer in: give --joints arm/commands:=velocity:' in silent.stderr
    with contextlib.closing(TwoControllers(graph.domain)):
        both = run('new', 'other', *domain)
        assert both.returncode == 2 and 'give --topics' in both.stderr
        assert 'forward_position_controller/commands, joint_trajectory_controller' in both.stderr


class Silent(stand_ins.Arm):
    """A driver that takes commands in a node without parameters of a controller."""

    joints = ('a', 'b')

    def take_commands(self):
        self.driver.create_subscription(Float64MultiArray, 'arm/commands', self.take_numbers, 10)


class TwoControllers(stand_ins.So101):
    """ros2_control with two controllers configured, of which one is active."""

    def take_commands(self):
        super().take_commands()
        node = self.node('joint_trajectory_controller', joints=list(self.joints))
        node.create_subscription(JointTrajectory, '~/joint_trajectory', lambda _: None, 10)


def stamped(message, age=0.0):
    set_stamp(message, time.time_ns() - round(age * 1e9))
    return message


def trajectory(names, positions, age=None):
    """Of one point, 0.1 s away; ``age``: with a stamp, else "now"."""
    point = JointTrajectoryPoint(positions=positions)
    point.time_from_start.nanosec = 100_000_000
    message = JointTrajectory(joint_names=names, points=[point])
    return message if age is None else stamped(message, age)


@pytest.mark.parametrize(
    ('stand_in', 'take', 'wrong', 'words'),
    [
        (stand_ins.UrVelocity, 'take_numbers', Float64MultiArray(data=[0.1] * 5), 'command size'),
        (stand_ins.UrVelocity, 'take_numbers', Float64MultiArray(data=[np.nan] * 6), 'NaN'),
        (stand_ins.UrServo, 'take_twist', stamped(TwistStamped(), 1.0), "frame ''"),
        (
            stand_ins.UrServo,
            'take_twist',
            stamped(TwistStamped(header=Header(frame_id='base')), 1.0),
            'stale',
        ),
        (stand_ins.XArm, 'take_trajectory', trajectory(['joint1'], [0.1]), 'do not match'),
        (
            stand_ins.XArm,
            'take_trajectory',
            trajectory(stand_ins.XARM, [0.1] * 7, age=5.0),
            'ends in the past',
        ),
        (
            stand_ins.So101LeRobot,
            'take_states',
            JointState(name=['shoulder_pan'], position=[1.0]),
            'unknown joints',
        ),
    ],
)
def test_a_stand_in_refuses_what_its_driver_would_refuse(graph, stand_in, take, wrong, words):
    with contextlib.closing(stand_in(graph.domain)) as robot:
        before = robot.place.copy()
        getattr(robot, take)(wrong)
        assert len(robot.refused) == 1 and words in robot.refused[0]
        time.sleep(0.1)
        np.testing.assert_allclose(robot.place, before)
