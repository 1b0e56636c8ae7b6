"""Nodes that a fleet shares: whom they serve, what they count, what they show, a full disk."""

import json
import subprocess
import sys
import time
import urllib.request

import pytest
import rclpy
from std_msgs.msg import UInt8MultiArray, UInt32

from mbarl_ros.nodes.policy_evaluator import PolicyEvaluator
from mbarl_ros.nodes.state_classifier import StateClassifierNode
from mbarl_ros.nodes.support import runtime
from mbarl_ros.nodes.support.qos import TRANSITIONS_HISTORY
from mbarl_ros.schema import topics
from mbarl_ros.storage.transitions import BACKWARD, pack_transitions, select
from mbarl_ros.storage.web_address import keep_address
from support.graph import Graph
from support.nodes import AGENT, TASK, practised

pytestmark = [pytest.mark.graph, pytest.mark.together]


def test_a_busy_classifier_misses_nothing_that_comes_meanwhile(tmp_path, node):
    classifier = node(StateClassifierNode, run_dir=tmp_path, mode='realtime')
    robot = rclpy.create_node('policy_controller')
    topic = topics.TRANSITIONS
    publisher = robot.create_publisher(UInt8MultiArray, topic, TRANSITIONS_HISTORY)
    end = time.monotonic() + 20.0
    while not publisher.get_subscription_count() and time.monotonic() < end:
        time.sleep(0.05)
    rows, spec = practised(500), TASK.spec_hash(AGENT)
    for first in range(500):  # more messages than the controller keeps
        data = pack_transitions(select(rows, slice(first, first + 1)), spec, 'session', first)
        publisher.publish(runtime.bytes_message(data, 'transitions'))
    time.sleep(0.5)
    while classifier._tracker.total < 500 and time.monotonic() < end:
        rclpy.spin_once(classifier, timeout_sec=0.1)
    robot.destroy_node()
    assert classifier._trained == 500
    assert len(classifier._trainer._visited) == (rows['phase'] == BACKWARD).sum()


def test_a_fleet_leaves_a_robot_alone_whose_own_learner_has_not_started_yet(tmp_path, node):
    classifier = node(StateClassifierNode, run_dir=tmp_path, mode='realtime', fleet='true')
    robots = []
    for name, policies in (('lonely', 'learner/policy'), ('robot_1', '/learner/policy')):
        robots.append(rclpy.create_node('policy_controller', namespace=name))
        robots[-1].create_publisher(UInt8MultiArray, topics.TRANSITIONS, TRANSITIONS_HISTORY)
        robots[-1].create_subscription(UInt8MultiArray, policies, print, 1)
    end = time.monotonic() + 20.0
    while 'robot_1' not in classifier._robots.names and time.monotonic() < end:
        rclpy.spin_once(classifier, timeout_sec=0.1)
    for _ in range(15):  # looks once more
        rclpy.spin_once(classifier, timeout_sec=0.1)
    for robot in robots:
        robot.destroy_node()
    assert classifier._robots.names == ['robot_1']


def test_worlds_of_a_fleet_that_start_anew_are_counted_as_reset():
    evaluator = PolicyEvaluator.__new__(PolicyEvaluator)
    evaluator._resets, evaluator._practised = {}, {'', 'robot_1'}  # robot_2 comes new to the run
    receivers = []
    evaluator.create_subscription = lambda _type, _topic, receive, _qos: receivers.append(receive)
    for robot, published in (
        ('robot_1', (0, 1, 2, 0, 0, 1)),  # the run was resumed, and two processes were killed
        ('robot_2', (0, 1, 0)),
    ):
        evaluator._connect(robot)
        for count in published:
            receivers[-1](UInt32(data=count))
    assert evaluator._resets == {'robot_1': 1 + 3 + 1 + 1, 'robot_2': 2 + 0}


def test_curves_on_a_full_disk_are_an_error_for_their_node_and_no_traceback(tmp_path):
    script = """
import resource, sys, threading
from pathlib import Path
from mbarl_ros.nodes.support.curves import Curves
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
try:
    Curves(Path(sys.argv[1]), 'learner', print)
except OSError as error:
    print('refused:', error.strerror)
for thread in set(threading.enumerate()) - {threading.main_thread()}:
    thread.join(10)
"""
    command = [sys.executable, '-c', script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.stdout == 'refused: File too large\n'
    assert 'Traceback' not in done.stderr


def test_the_page_of_a_fleet_has_the_log_of_its_robots_with_their_names(tmp_path):
    with Graph(tmp_path, task='pointmass', mode='realtime') as graph:
        address = keep_address(tmp_path / 'run')
        graph.start('web_page', graph='fleet', fleet=True)
        for robot in ('robot_1', 'robot_2'):
            graph.start('safety_gate', of_robot=robot, fleet=True)
        graph.wait_for('the page', lambda: 'web_page' in graph.statuses)
        assert graph.call('robot_2/safety_gate/stop').success

        def shown():
            with urllib.request.urlopen(f'{address.url}events', timeout=10) as events:
                data = next(line for line in events if line.startswith(b'data: '))
            lines = json.loads(data.removeprefix(b'data: '))['log']
            return {node for _, _, _, node, text in lines if 'e-stop' in text}

        assert graph.wait_for('the line of the stop', shown) == {'robot_2/safety_gate'}
