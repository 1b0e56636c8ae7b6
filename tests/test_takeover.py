"""A person takes over while the robot practises: real graph, real teleop, nothing lost."""

import numpy as np
import pytest
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry

from mbarl_ros.schema.message_fields import set_stamp
from mbarl_ros.storage.transitions import HUMAN, POLICY
from support.graph import LEARNING, Graph, small_agent
from support.person import VELOCITY, Person
from support.run_data import assert_continuous, stored

pytestmark = pytest.mark.paced


def human_rows(rows):
    by_hand = rows['source'] == HUMAN
    actions = rows['action'][by_hand][
        1:
    ]  # the first may still be on its way there, by the rate limit
    np.testing.assert_allclose(actions, [VELOCITY] * len(actions), atol=1e-6)
    return by_hand


@pytest.mark.parametrize(
    'mode',
    [
        pytest.param(
            'lockstep', marks=pytest.mark.timing('each message of the person answers its own state')
        ),
        pytest.param(
            'realtime', marks=pytest.mark.timing('steps are counted against the control rate')
        ),
    ],
)
def test_a_person_takes_over_and_the_policy_goes_on_by_itself(tmp_path, mode):
    agent = small_agent(tmp_path)
    with Graph(tmp_path, task='pointmass', agent=agent, mode=mode) as graph:
        person = Person(graph)
        if mode == 'realtime':
            graph.parameters['use_sim_time'] = True
            graph.start('robot_sim', real_time_factor=3.0, use_sim_time=False)
            graph.start('safety_gate', real_time_factor=3.0, use_sim_time=False)
            graph.start('policy_controller', 'learner', 'state_classifier')
        else:
            graph.start(*LEARNING)
        graph.wait_for_steps(150)
        person.drive(2.0)
        before = graph.value('policy_controller', 'environment_steps')
        graph.wait_for_steps(before + 100)  # without any action of the person
        graph.wait_for(
            'storage', lambda: graph.value('policy_controller', 'unacknowledged') < 60, 30
        )
        graph.kill('policy_controller', 2)
        graph.spin(0.5)
    rows = stored(tmp_path, agent)
    by_hand = human_rows(rows)
    if mode == 'lockstep':
        assert person.messages - 3 <= by_hand.sum() <= person.messages
        assert_continuous(rows)  # each step of the world is one transition
    else:
        assert (
            30 <= by_hand.sum() <= 80
        )  # 2 s at 30 control steps a second; a busy machine skips some
    where = np.flatnonzero(by_hand)
    assert (np.diff(where) == 1).mean() > 0.95  # in one piece
    after = rows['source'][where[-1] + 20 :]
    # three robot seconds in one: a busy machine lets the gate wait too long now and then
    assert (after != HUMAN).all() and (after == POLICY).mean() > 0.9


@pytest.mark.timing('steps are counted against the control rate')
def test_a_robot_that_reports_faster_than_control_loses_no_human_step(tmp_path):
    """State at 100 Hz, control at 10 Hz: a person's command bears a newer stamp than ours."""
    agent = small_agent(tmp_path)
    with Graph(tmp_path, task='pointmass', agent=agent, mode='realtime') as graph:
        odom = graph.node.create_publisher(Odometry, 'odom', 10)
        velocity, position = [0.0, 0.0], [-1.5, -1.5]

        def obey(message):
            velocity[:] = message.linear.x, message.linear.y

        def report():
            message = Odometry()
            for i in range(2):
                position[i] = float(np.clip(position[i] + 0.01 * velocity[i], -1.9, 1.9))
            message.pose.pose.position.x, message.pose.pose.position.y = position
            message.twist.twist.linear.x, message.twist.twist.linear.y = velocity
            set_stamp(message, graph.node.get_clock().now().nanoseconds)
            odom.publish(message)

        graph.node.create_subscription(Twist, 'cmd_vel', obey, 10)
        graph.node.create_timer(0.01, report)
        person = Person(graph)
        graph.start('safety_gate', 'learner')
        graph.start('policy_controller', policy='random')
        graph.wait_for('learner', lambda: 'learner' in graph.statuses)  # it stores the rows
        graph.wait_for_steps(20)
        person.drive(3.0)
        before = graph.value('policy_controller', 'environment_steps')
        graph.wait_for_steps(before + 15)
        graph.kill('policy_controller', 2)
        graph.spin(0.5)
    by_hand = human_rows(stored(tmp_path, agent))
    assert (
        20 <= by_hand.sum() <= 37
    )  # 3 s, and until the teleop time-out; a busy machine skips some
    assert (np.diff(np.flatnonzero(by_hand)) == 1).all()
