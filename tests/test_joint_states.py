"""Joint states as drivers send them: in parts, by several publishers, with empty messages."""

import time

import numpy as np
import pytest
from sensor_msgs.msg import JointState

from mbarl_ros.nodes.support.robot_topics import StateListener
from mbarl_ros.schema.message_fields import set_stamp
from mbarl_ros.schema.robot import RobotConfig
from support.graph import Graph

ARM = ['1', '2', '3', '4']


def robot(**fields):
    fields = fields or {'pan': 'position[1]', 'lift': 'position[2]', 'jaw': 'position[jaw.pos]'}
    return RobotConfig.model_validate(
        {
            'name': 'parts',
            'control_rate': 10,
            'state': [
                {'topic': 'joint_states', 'type': 'sensor_msgs/msg/JointState', 'fields': fields}
            ],
            'command': [
                {'topic': 'jaw', 'type': 'std_msgs/msg/Float64', 'fields': {'grip': 'data'}}
            ],
            'limits': {'grip': {'low': 0, 'high': 1, 'stop': 'hold'}},
            'state_timeout': 0.4,
        }
    )


class Driver:
    """Publishes joint states on the topic that arm and gripper share."""

    def __init__(self, graph):
        self.graph, self.stamp = graph, 100_000_000_000
        self.received = []
        self.publisher = graph.node.create_publisher(JointState, 'joint_states', 10)

    def listen(self, profile):
        listener = StateListener(
            self.graph.node, profile, False, lambda state, _: self.received.append(state.tolist())
        )
        self.graph.wait_for('subscription', self.publisher.get_subscription_count)
        return listener

    def say(self, names, positions, behind=0):
        self.stamp += 10_000_000
        message = JointState(name=names, position=positions)
        set_stamp(message, self.stamp - behind)
        self.publisher.publish(message)
        self.graph.spin(0.03)


def test_parts_of_the_state_are_merged_by_joint_name(tmp_path):
    with Graph(tmp_path) as graph:
        driver = Driver(graph)
        driver.listen(robot())
        driver.say(ARM, [0.1, 0.2, 0.3, 0.4])
        driver.say([], [])
        assert driver.received == []  # the jaw is not known yet
        driver.say(['jaw.pos', 'other'], [0.9, 5.0], behind=30_000_000)  # clocks of their own
        driver.say(ARM[::-1], [0.5, 0.6, 0.7, 0.8])
        driver.say([], [])
        driver.say(['2', 'jaw.pos'], [float('nan'), 0.8], behind=30_000_000)
        assert driver.received == [[0.1, 0.2, 0.9], [0.8, 0.7, 0.9], [0.8, 0.7, 0.8]]


@pytest.mark.timing('the age of each joint is measured')
def test_a_gripper_that_falls_silent_does_not_hide_behind_the_arm(tmp_path):
    with Graph(tmp_path) as graph:
        driver = Driver(graph)
        listener = driver.listen(robot())
        driver.say(['jaw.pos'], [0.9])
        started = time.monotonic()
        while time.monotonic() < started + 0.7:
            driver.say(ARM, [0.1, 0.2, 0.3, 0.4])
        assert listener.silent() == ['joint_states (jaw)']
        assert time.monotonic() - listener.since > 0.6
        said = [finding.text for finding in listener.findings(2.0)]
        assert any('no message has position[jaw.pos] (jaw)' in text for text in said)


def test_a_joint_that_no_message_names_is_said_with_the_names_that_came(tmp_path):
    with Graph(tmp_path) as graph:
        driver = Driver(graph)
        listener = driver.listen(robot(pan='position[1]', jaw='position[gripper]'))
        driver.say([*ARM, 'jaw.pos'], np.arange(5.0).tolist())
        said = [finding.text for finding in listener.findings(1.0)]
        assert any(
            'no message has position[gripper] (jaw)' in text and '1, 2, 3, 4, jaw.pos' in text
            for text in said
        )
        assert driver.received == []


@pytest.mark.timing('the age of each joint is measured')
def test_a_driver_that_hangs_does_not_hide_behind_one_that_shares_a_joint(tmp_path):
    """It repeats its last message; the other one's stamps are new for the shared joint only."""
    with Graph(tmp_path) as graph:
        driver = Driver(graph)
        listener = driver.listen(robot())
        frozen = JointState(name=['1', '2', 'jaw.pos'], position=[0.1, 0.2, 0.3])
        set_stamp(frozen, driver.stamp)
        started = time.monotonic()
        while time.monotonic() < started + 0.8:
            driver.publisher.publish(frozen)
            driver.say(['jaw.pos'], [0.9])
        assert listener.silent() == ['joint_states (pan, lift)']
        assert driver.received[-1] == [0.1, 0.2, 0.9]


def test_values_that_come_in_other_messages_by_now_are_not_missed(tmp_path):
    """One complete message at the start, and then parts."""
    with Graph(tmp_path) as graph:
        driver = Driver(graph)
        listener = driver.listen(robot())
        driver.say([*ARM, 'jaw.pos'], [0.1, 0.2, 0.3, 0.4, 0.9])
        started = time.monotonic()
        while time.monotonic() < started + 0.8:
            driver.say(ARM, [0.1, 0.2, 0.3, 0.4])
            driver.say(['jaw.pos'], [0.9])
        said = [finding.text for finding in listener.findings(2.0)]
        assert not any('no message' in text for text in said), said
