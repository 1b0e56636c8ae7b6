"""`mbarl robot check` against robots that lie, and the refusal to arm, over real DDS."""

import contextlib
import os
import subprocess
import sys
import threading
import time

import pytest
import rclpy
from geometry_msgs.msg import PoseStamped, Twist, TwistStamped
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Bool, Float64MultiArray

from mbarl_ros.control.topic_health import TopicHealth
from mbarl_ros.nodes.support.robot_check import Listener
from mbarl_ros.schema.load import load_robot
from mbarl_ros.schema.message_fields import set_stamp
from mbarl_ros.schema.robot import Limit, TeleopMap
from mbarl_ros.schema.switches import JOY
from support.graph import Graph

pytestmark = pytest.mark.paced

ROBOT = load_robot('arm_servo')
BUTTON = ROBOT.model_copy(update={'estop_timeout': 0.2})
TWIST, GRIPPER = (topic.topic for topic in ROBOT.command)


class Robot:
    """Publishes the topics of arm_servo from a thread of its own; attributes make it lie."""

    def __init__(self, domain):
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = Node('driver', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.pose = self.node.create_publisher(PoseStamped, 'tip_pose', 10)
        self.joints = self.node.create_publisher(JointState, 'joint_states', 10)
        self.success = self.node.create_publisher(Bool, 'success', 10)
        self.node.create_subscription(TwistStamped, TWIST, lambda _: None, 10)
        self.node.create_subscription(Float64MultiArray, GRIPPER, lambda _: None, 10)
        self.node.create_timer(0.05, self.publish)
        self.count = 0
        self.tell_truth()
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()

    def tell_truth(self):
        self.frame, self.names, self.x, self.every, self.late = 'base_link', ['gripper'], 0.3, 1, 0
        self.jumping, self.resetting, self.seldom, self.reward_every = False, False, 1, 1
        self.zeros = False

    def publish(self):
        self.count += 1
        if self.count % self.seldom:
            return
        pose = PoseStamped()
        pose.header.frame_id, pose.pose.position.x = self.frame, self.x
        if self.zeros and self.count % 3 == 0:
            pose.pose.position.x = 0.0
        late = self.late + (self.count % 7 == 0) * (0.15 * self.jumping + 1.5 * self.resetting)
        set_stamp(pose, time.time_ns() - round(late * 1e9))
        joints = JointState(name=self.names, position=[0.0] * len(self.names))
        set_stamp(joints, time.time_ns())
        if self.every and self.count % self.every == 0:
            self.pose.publish(pose)
        self.joints.publish(joints)
        if self.count % self.reward_every == 0:
            self.success.publish(Bool(data=False))

    def close(self):
        self.executor.shutdown()
        self.thread.join()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture(scope='module')
def graph(tmp_path_factory):
    with Graph(tmp_path_factory.mktemp('check'), task='arm_servo', mode='realtime') as graph:
        yield graph


@pytest.fixture(scope='module')
def robot(graph):
    robot = Robot(graph.domain)
    yield robot
    robot.close()


@pytest.fixture
def publisher(robot):
    """Publishes on the robot's machine; gone after the test, also one that fails."""
    made = []

    yield lambda kind, topic: made.append(robot.node.create_publisher(kind, topic, 10))
    for one in made:
        robot.node.destroy_publisher(one)


@pytest.fixture
def repeats(robot):
    """Publishes a message on the robot's machine ten times a second, until the test ends."""
    ends = []

    def start(message, topic):
        publisher = robot.node.create_publisher(type(message), topic, 10)
        timer = robot.node.create_timer(0.1, lambda: publisher.publish(message))
        ends.extend([(robot.node.destroy_timer, timer), (robot.node.destroy_publisher, publisher)])

    yield start
    for end, entity in ends:
        end(entity)


@pytest.fixture
def domain(graph, monkeypatch):
    monkeypatch.setenv('ROS_DOMAIN_ID', str(graph.domain))


@pytest.fixture
def check(domain, robot):
    """Listen for a moment; levels and texts of the findings."""
    robot.tell_truth()
    with Listener('robot_check', '/') as listener:
        yield lambda profile=ROBOT: [
            (f.level, f.text) for f in listener.check(profile, 0.8).findings
        ]


def about(topic, findings):
    return [(level, text) for level, text in findings if text.startswith(f'{topic}: ')]


@pytest.mark.timing('rates, gaps and ages of messages are measured')
def test_an_honest_robot_is_fit_and_its_gripper_is_known_to_start_anywhere(check):
    ((level, text),) = check()
    assert level == 'info' and text.startswith('gripper: this position is not measured, so its')
    measured = {
        **ROBOT.limits,
        'gripper': Limit(low=0, high=1, stop='hold', rate=4, measured='gripper', tracking_error=1),
    }
    assert check(ROBOT.model_copy(update={'limits': measured})) == []


@pytest.mark.timing('rates, gaps and ages of messages are measured')
@pytest.mark.parametrize(
    ('lie', 'level', 'words'),
    [
        ({'frame': 'world'}, 'error', "header.frame_id is 'world', not 'base_link'"),
        ({'names': ['elbow']}, 'error', 'no message has position[gripper]'),
        ({'x': float('nan')}, 'error', 'tip_pose: tip_x not finite'),
        ({'x': 1.5}, 'warning', 'tip_x is 1.5, outside the workspace'),
        ({'zeros': True}, 'warning', 'tip_x jumps'),
        ({'every': 0}, 'error', 'tip_pose: no message received'),
        ({'every': 3}, 'warning', 'control runs at 20 Hz'),
        ({'seldom': 3}, 'error', 'states come too seldom for a step in each control period'),
        ({'late': 5.0}, 'error', "s behind this machine's clock; synchronise the clocks"),
        ({'jumping': True}, 'warning', 'messages came after newer ones'),
        ({'resetting': True}, 'error', 'tip_pose: stamps run back'),
    ],
)
def test_a_robot_that_lies_is_found_out(check, robot, lie, level, words):
    vars(robot).update(lie)
    findings = check()
    assert any(actual == level and words in text for actual, text in findings), findings


def test_an_age_of_the_past_does_not_hide_that_states_are_late_now():
    hearing = TopicHealth(ROBOT.state[0], ROBOT)
    values = [0.0] * len(ROBOT.state[0].fields)
    for number in range(2000):
        late = 3.0 if number >= 1900 else 0.0
        now = 0.05 * number
        hearing.receive(now, round(now * 1e9), round((now - late) * 1e9), values)
    (finding,) = [f for f in hearing.findings(now, 2.0, False) if f.level == 'error']
    assert '3 s behind' in finding.text


def test_gaps_are_said_also_of_two_messages():
    hearing = TopicHealth(ROBOT.state[0], ROBOT)
    for now in (1.0, 9.0):
        hearing.receive(now, 0, None, [0.0] * len(ROBOT.state[0].fields))
    few, gap = hearing.findings(9.0, 10.0, False)
    assert few.level == gap.level == 'warning'
    assert 'too few messages to tell a rate' in few.text and 'nothing for 8.00 s' in gap.text


@pytest.mark.parametrize(('every', 'late_after'), [(1, 2), (3, 5)])
@pytest.mark.parametrize('behind', [0, 4])
def test_a_topic_is_late_by_its_own_rate_or_that_of_control(every, late_after, behind):
    """``every``: control periods from message to message; ``behind``: those of its delay."""
    health = TopicHealth(ROBOT.state[0], ROBOT)
    period = round(1e9 / ROBOT.control_rate)
    assert not health.late(10 * period)  # it has never come
    for number in range(0, 30 * every, every):
        stalled = number % 5 == 0  # this process, so that all others came first
        health.date(number * period, (number + behind + stalled) * period)
    ages = [age for age in range(10) if health.late((number + behind + age) * period)]
    assert ages == list(range(late_after, 10))


@pytest.mark.timing('rates, gaps and ages of messages are measured')
def test_a_slow_reward_is_a_warning_and_no_more(check, robot):
    robot.reward_every = 3
    findings = check()
    slow = [level for level, text in about('success', findings) if 'control runs at 20 Hz' in text]
    assert slow == ['warning'] and not any('too seldom' in text for _, text in findings)


@pytest.mark.timing('rates, gaps and ages of messages are measured')
def test_stamps_are_late_whoever_publishes_a_clock(check, robot, publisher):
    publisher(Clock, '/clock')
    robot.late = 5.0
    findings = check()
    assert any(
        level == 'error' and "behind this machine's clock" in text for level, text in findings
    )
    assert any(
        level == 'warning' and text.startswith('/clock: somebody') for level, text in findings
    )
    robot.late, robot.seldom = 0, 3
    assert any(level == 'error' and 'too seldom' in text for level, text in check())


@pytest.mark.timing('rates, gaps and ages of messages are measured')
def test_stamps_are_compared_with_the_clock_that_is_followed(domain, robot, publisher):
    robot.tell_truth()
    publisher(Clock, '/clock')  # at which it is still 1970
    with Listener('in_simulated_time', '/', sim_time=True) as listener:
        findings = listener.check(ROBOT, 0.8).findings
    assert {f.level for f in findings if 's ahead of /clock' in f.text} == {'warning'}
    assert not [f for f in findings if f.level == 'error']


def test_an_estop_topic_that_the_gate_waits_for_is_missed(check, publisher):
    ((level, text),) = about('/safety_gate/estop', check(BUTTON))
    assert level == 'error' and 'nobody publishes it as std_msgs/msg/Bool' in text
    publisher(Bool, 'safety_gate/estop')
    assert about('/safety_gate/estop', check(BUTTON)) == []


def test_the_estop_topic_is_that_of_the_namespace(domain, publisher):
    publisher(Bool, 'safety_gate/estop')
    with Listener('elsewhere', '/robot1') as listener:
        texts = [f.text for f in listener.check(BUTTON, 0.1).findings]
    assert any(text.startswith('/robot1/safety_gate/estop: nobody publishes') for text in texts)


def test_a_leader_arm_that_speaks_already_is_a_warning_and_a_gamepad_is_not(check, publisher):
    (plain,) = ROBOT.teleop
    pad = TeleopMap(topic='joy', type=JOY, fields={'tip_vx': 'axes[0]'}, deadman='buttons[4]')
    profile = ROBOT.model_copy(update={'teleop': [plain, pad]})
    publisher(Joy, 'joy')
    findings = check(profile)
    assert about('joy', findings) == about(plain.topic, findings) == []
    publisher(Twist, plain.topic)
    ((level, text),) = about(plain.topic, check(profile))
    assert level == 'warning'
    assert "/driver publishes it: a person's commands move the robot as soon as the safety" in text


@pytest.mark.parametrize(
    ('axes', 'level', 'words'),
    [
        ([0.0, 1.0], None, ''),
        ([0.0, 0.0], None, ''),  # a trigger that was never touched
        ([0.0, -1.0], 'warning', 'the dead-man switch axes[1] reads as pressed'),
        ([0.0], 'error', 'message is not what the robot profile says (deadman)'),
        ([0.0, float('nan')], 'error', 'axes[1] is nan'),
    ],
)
def test_what_a_gamepad_sends_is_read(check, repeats, axes, level, words):
    trigger = {'field': 'axes[1]', 'pressed_below': -0.5}
    pad = TeleopMap(topic='joy', type=JOY, fields={'tip_vx': 'axes[0]'}, deadman=trigger)
    repeats(Joy(axes=axes), 'joy')
    findings = about('joy', check(ROBOT.model_copy(update={'teleop': [pad]})))
    assert [found for found, _ in findings] == ([level] if level else [])
    assert all(words in text for _, text in findings)


@pytest.mark.parametrize('held', [True, False])
def test_a_pedal_that_is_held_is_said(check, repeats, held):
    pedal = {'topic': 'pedal', 'type': 'std_msgs/msg/Bool', 'field': 'data'}
    fields = {'tip_vx': 'linear.x'}
    leader = TeleopMap(topic='leader', type='geometry_msgs/msg/Twist', fields=fields, deadman=pedal)
    repeats(Bool(data=held), 'pedal')
    findings = about('pedal', check(ROBOT.model_copy(update={'teleop': [leader]})))
    assert [level for level, _ in findings] == (['warning'] if held else [])


def test_who_else_commands_and_whose_qos_does_not_fit_is_said(check, robot, publisher):
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    publisher(Float64MultiArray, GRIPPER)
    deaf = robot.node.create_subscription(TwistStamped, TWIST, lambda _: None, latched)
    try:
        texts = '\n'.join(text for level, text in check() if level == 'error')
    finally:
        robot.node.destroy_subscription(deaf)
    assert f'{GRIPPER}: /driver commands the robot past the safety gate' in texts
    assert f'{TWIST}: QoS of /driver does not fit ours' in texts and 'transient local' in texts


def test_two_publishers_of_a_state_are_a_warning(check, publisher):
    publisher(JointState, 'joint_states')
    publishers = [one for one in about('joint_states', check()) if 'publishers' in one[1]]
    ((level, text),) = publishers
    assert level == 'warning' and '2 publishers' in text and 'stop all but one' in text


@pytest.mark.timing('rates, gaps and ages of messages are measured')
def test_the_exit_code_tells_whether_the_robot_is_fit(check, graph, robot):
    command = [sys.executable, '-m', 'mbarl_ros.cli', 'robot', 'check', '--robot', 'arm_servo']
    command += ['--seconds', '1', '--domain', str(graph.domain)]
    environment = {**os.environ, 'COLUMNS': '120'}
    fit = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert fit.returncode == 0 and 'is fit to be armed' in fit.stdout, fit.stdout + fit.stderr
    assert ('armed, but see the warnings' in fit.stdout) == ('warning: ' in fit.stdout)
    frames = {
        line.split()[0]: line.split()[5:] for line in fit.stdout.splitlines() if ' ms ' in line
    }
    assert frames == {'tip_pose': ['base_link', 'driver'], 'joint_states': ['-', 'driver']}
    robot.x, robot.frame = 1.5, 'base_link'
    warned = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert warned.returncode == 0 and 'armed, but see the warnings\n' in warned.stdout
    robot.frame = 'world'
    other = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert any(' world ' in line for line in other.stdout.splitlines() if 'tip_pose' in line)
    robot.every = 0
    unfit = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert unfit.returncode == 1 and 'is not fit to be armed' in unfit.stdout


def test_the_controller_refuses_to_activate_on_a_robot_that_is_not_fit(tmp_path):
    def refuses(words):
        assert not graph.change('activate')
        graph.spin(0.1)
        return words in (graph.folder / 'policy_controller.log').read_text().splitlines()[-1]

    def refused(words):  # as soon as the controller knows
        graph.wait_for(words, lambda: refuses(words), 10)

    fresh = Graph(tmp_path, task='arm_servo', mode='realtime')
    with fresh as graph, contextlib.closing(Robot(graph.domain)) as robot:
        graph.start('policy_controller', autostart=False)
        assert graph.change('configure')
        refused('no message from safety_gate')
        graph.start('safety_gate')
        graph.wait_for('gate', lambda: 'safety_gate' in graph.statuses)
        robot.names = ['elbow']
        graph.spin(0.5)
        refused('no message has position[gripper]')
        robot.tell_truth()
        rival = robot.node.create_publisher(Float64MultiArray, GRIPPER, 10)
        graph.spin(2.5)
        refused('/driver commands the robot past the safety gate')
        assert graph.call('safety_gate/stop').success
        refused('the e-stop is latched')
        assert graph.call('safety_gate/release').success
        robot.node.destroy_publisher(rival)
        robot.node.create_publisher(Clock, '/clock', 10)  # a leftover `ros2 bag play --clock`
        robot.late = 5.0
        graph.spin(0.5)
        refused("behind this machine's clock")
        robot.tell_truth()
        graph.wait_for('arming', lambda: graph.change('activate'), 10)
