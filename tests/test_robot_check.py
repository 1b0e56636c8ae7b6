"""`mbarl robot check` against robots that lie, and the refusal to arm, over real DDS."""

import os
import subprocess
import sys
import threading
import time

import pytest
import rclpy
from geometry_msgs.msg import PoseStamped, TwistStamped
from graph import Graph
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64MultiArray

from mbarl_ros.config import load_robot
from mbarl_ros.fields import set_stamp
from mbarl_ros.hearing import Hearing
from mbarl_ros.nodes.robot_check import Listener

ROBOT = load_robot('arm_servo')
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
        self.jumping, self.resetting, self.seldom = False, False, 1

    def publish(self):
        self.count += 1
        if self.count % self.seldom:
            return
        pose = PoseStamped()
        pose.header.frame_id, pose.pose.position.x = self.frame, self.x
        late = self.late + (self.count % 7 == 0) * (0.15 * self.jumping + 1.5 * self.resetting)
        set_stamp(pose, time.time_ns() - round(late * 1e9))
        joints = JointState(name=self.names, position=[0.0] * len(self.names))
        set_stamp(joints, time.time_ns())
        if self.every and self.count % self.every == 0:
            self.pose.publish(pose)
        self.joints.publish(joints)
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


@pytest.fixture(scope='module')
def listener(graph):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('ROS_DOMAIN_ID', str(graph.domain))
        with Listener('robot_check', '/') as listener:
            yield listener


@pytest.fixture
def check(listener, robot):
    """Listen for a moment; the levels and texts of what is found."""
    robot.tell_truth()
    return lambda: [(f.level, f.text) for f in listener.hear(ROBOT, 0.8).findings]


def test_an_honest_robot_is_fit(check):
    assert check() == []


@pytest.mark.parametrize(
    ('lie', 'level', 'words'),
    [
        ({'frame': 'world'}, 'error', "header.frame_id is 'world', not 'base_link'"),
        ({'names': ['elbow']}, 'error', "'gripper' is not in list"),
        ({'x': float('nan')}, 'error', 'tip_pose: tip_x not finite'),
        ({'x': 1.5}, 'warning', 'tip_x is 1.5, outside the workspace'),
        ({'every': 0}, 'error', 'tip_pose: nothing is heard'),
        ({'every': 3}, 'warning', 'control runs at 20 Hz'),
        ({'seldom': 3}, 'error', 'states come too seldom for a step in each control period'),
        ({'late': 5.0}, 'error', "s behind this machine's clock; synchronise the clocks"),
        ({'jumping': True}, 'warning', 'messages came after newer ones'),
        ({'resetting': True}, 'error', 'tip_pose: stamps run back'),
    ],
)
def test_a_robot_that_lies_is_found_out(check, robot, lie, level, words):
    vars(robot).update(lie)
    found = check()
    assert any(said == level and words in text for said, text in found), found


def test_an_age_of_the_past_does_not_hide_that_states_are_late_now():
    hearing = Hearing(ROBOT.state[0], ROBOT)
    values = [0.0] * len(ROBOT.state[0].fields)
    for number in range(2000):
        late = 3.0 if number >= 1900 else 0.0
        now = 0.05 * number
        hearing.hear(now, round(now * 1e9), round((now - late) * 1e9), values)
    (finding,) = [f for f in hearing.findings(now, 2.0, False) if f.level == 'error']
    assert '3 s behind' in finding.text


def test_who_else_commands_and_whose_qos_does_not_fit_is_said(check, robot):
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    rival = robot.node.create_publisher(Float64MultiArray, GRIPPER, 10)
    deaf = robot.node.create_subscription(TwistStamped, TWIST, lambda _: None, latched)
    texts = '\n'.join(text for level, text in check() if level == 'error')
    assert f'{GRIPPER}: /driver commands the robot past the safety gate' in texts
    assert f'{TWIST}: QoS of /driver does not fit ours' in texts and 'transient local' in texts
    robot.node.destroy_publisher(rival)
    robot.node.destroy_subscription(deaf)


def test_the_exit_code_tells_whether_the_robot_is_fit(check, graph, robot):
    command = [sys.executable, '-m', 'mbarl_ros', 'robot', 'check', '--robot', 'arm_servo']
    command += ['--seconds', '1', '--domain', str(graph.domain)]
    environment = {**os.environ, 'COLUMNS': '120'}
    fit = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert fit.returncode == 0 and 'is fit to be armed' in fit.stdout, fit.stdout + fit.stderr
    robot.every = 0
    unfit = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert unfit.returncode == 1 and 'is not fit to be armed' in unfit.stdout


def test_the_controller_refuses_to_activate_on_a_robot_that_is_not_fit(check, graph, robot):
    def refuses(words):
        assert not graph.change('activate')
        graph.spin(0.1)
        return words in (graph.folder / 'policy_controller.log').read_text().splitlines()[-1]

    def refused(words):  # as soon as the controller knows
        graph.wait_for(words, lambda: refuses(words), 10)

    graph.start('policy_controller', autostart=False)
    assert graph.change('configure')
    refused('safety_gate is not heard')
    graph.start('safety_gate')
    graph.wait_for('gate', lambda: 'safety_gate' in graph.statuses)
    robot.names = ['elbow']
    graph.spin(0.5)
    refused("'gripper' is not in list")
    robot.tell_truth()
    rival = robot.node.create_publisher(Float64MultiArray, GRIPPER, 10)
    graph.spin(2.5)
    refused('/driver commands the robot past the safety gate')
    assert graph.call('safety_gate/stop').success
    refused('the e-stop is latched')
    assert graph.call('safety_gate/release').success
    robot.node.destroy_publisher(rival)
    graph.wait_for('arming', lambda: graph.change('activate'), 10)
