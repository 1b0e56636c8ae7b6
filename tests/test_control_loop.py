"""The control loop without ROS: what it waits for, sends, records and gives up on."""

import numpy as np
import pytest

from mbarl_ros.control.control_loop import Connections
from mbarl_ros.control.lockstep_loop import RESEND_AFTER, LockstepLoop
from mbarl_ros.control.phases import Practice
from mbarl_ros.control.realtime_loop import RealtimeLoop
from mbarl_ros.control.watchdog import GIVE_UP_AFTER
from mbarl_ros.schema.load import load_agent
from mbarl_ros.storage.transitions import BACKWARD, FORWARD, HUMAN, POLICY
from mbarl_ros.task import Task

TASK = Task.load('pointmass')
PERIOD_NS = round(1e9 / TASK.robot.control_rate)


class Learner:
    """A learner that answers as the test says."""

    def __init__(self):
        self.alive, self.has_policies, self.session_start = True, False, 0
        self.steps, self.valid_until = 0, 0

    def due_policies(self, accept_any):
        return []


class Robot:
    """A loop, what it calls, and its clock."""

    def __init__(self, loop_class, learner=None, agent='mbarl', reset_world=None, **more):
        self.now, self.sent, self.rows, self.refused = 100.0, [], [], []
        practice = Practice(TASK, load_agent(agent), seed=0)
        connections = Connections(
            send_command=lambda command, stamp: self.sent.append((command, stamp)),
            record=self.rows.append,
            refuse_policy=self.refused.append,
            learner=learner,
            reset_world=reset_world,
        )
        self.loop = loop_class(practice, connections, monotonic=lambda: self.now, **more)

    def state(self, number, seconds=0.0, late=()):
        self.now += seconds
        self.loop.receive_state(
            np.full(len(TASK.robot.state_names), 0.01 * number), self.at(number), late
        )

    def executed(self, number, source='policy'):
        self.loop.receive_executed(np.full(TASK.action_dim, 0.1), source, self.at(number))

    @staticmethod
    def at(number):
        return number * PERIOD_NS

    @property
    def answered(self):
        return [stamp // PERIOD_NS for _, stamp in self.sent]


def lockstep(**more):
    robot = Robot(LockstepLoop, **more)
    robot.loop.receive_gate_state('ok')
    robot.loop.activate()
    return robot


def realtime(errors=(), **more):
    robot = Robot(RealtimeLoop, robot_errors=lambda: list(errors), clock=lambda: 0.0, **more)
    robot.loop.receive_gate_state('ok')
    return robot


def test_in_lockstep_each_state_gets_one_answer_whichever_of_state_and_echo_comes_first():
    robot = lockstep()
    robot.state(0)
    robot.executed(0)
    robot.state(1)
    assert robot.answered == [0, 1]
    robot.state(2)  # before what the gate executed
    assert robot.answered == [0, 1]
    robot.executed(1, 'teleop')
    assert robot.answered == [0, 1, 2]
    assert [row['source'] for row in robot.rows] == [POLICY, HUMAN]
    assert [row['sequence'] for row in robot.rows] == [0, 1]


def test_in_lockstep_a_lost_command_is_sent_again_and_is_the_same():
    robot = lockstep()
    robot.state(0)
    robot.state(0, seconds=0.5 * RESEND_AFTER)
    assert robot.answered == [0]  # it may be on its way
    robot.state(0, seconds=RESEND_AFTER)
    assert robot.answered == [0, 0]
    assert (robot.sent[0][0] == robot.sent[1][0]).all()


def test_nothing_is_sent_before_activation_or_after_deactivation():
    robot = Robot(LockstepLoop)
    robot.loop.receive_gate_state('ok')
    robot.state(0)
    assert not robot.sent
    robot.loop.activate()
    robot.loop.proceed()
    assert robot.answered == [0]
    robot.executed(0)
    robot.loop.deactivate()
    robot.state(1)
    assert robot.answered == [0] and not robot.rows


def test_in_lockstep_the_loop_says_what_it_waits_for():
    learner = Learner()
    robot = Robot(LockstepLoop, learner)
    robot.loop.activate()

    def blocked():
        robot.loop.proceed()
        return robot.loop.blocked

    robot.state(0)
    assert blocked() == 'waiting for safety_gate'
    robot.loop.receive_gate_state('e-stop')
    assert blocked() == 'e-stop'
    robot.loop.receive_gate_state('ok')
    assert blocked() == 'waiting for a policy from the learner'
    learner.has_policies, learner.session_start = True, None
    assert blocked() == 'waiting for the learner to answer'
    learner.session_start = 0
    assert blocked() == 'waiting for the learner to catch up'
    learner.alive = False
    assert 'learner lost' in blocked()
    assert not robot.sent


def test_a_step_does_not_lead_across_a_reset_of_the_world():
    first_after_reset, requested = [], []

    def reset_world(stamp):
        requested.append(stamp)
        return bool(first_after_reset) and stamp >= first_after_reset[0]

    robot = lockstep(agent='oracle', reset_world=reset_world)
    robot.state(0)
    robot.loop.practice.reset_due = True  # as after the last step of an attempt
    robot.executed(0)
    robot.state(1)
    assert robot.loop.blocked == 'waiting for robot_sim/reset' and requested
    assert robot.answered == [0] and not robot.rows
    first_after_reset.append(robot.at(2))
    robot.loop.proceed()
    assert robot.answered == [0]
    robot.state(2)
    assert robot.answered == [0, 2] and not robot.rows
    robot.executed(2)
    robot.state(3)
    assert len(robot.rows) == 1 and robot.answered == [0, 2, 3]


def test_an_action_that_is_not_finite_is_refused_and_not_sent():
    robot = lockstep()
    robot.loop.practice.act = lambda observation: np.full(TASK.action_dim, np.nan)
    robot.state(0)
    assert not robot.sent and 'nan' in robot.refused[0]


def test_in_real_time_only_the_timer_acts_and_once_for_each_state():
    robot = realtime()
    robot.loop.activate()
    robot.state(0)
    assert not robot.sent
    robot.loop.tick()
    robot.loop.tick()
    assert robot.answered == [0]
    robot.executed(0)
    robot.state(1, seconds=0.1)
    robot.loop.tick()
    assert robot.answered == [0, 1] and len(robot.rows) == 1


def test_in_real_time_an_estop_pauses_practice():
    robot = realtime()
    robot.loop.activate()
    robot.state(0)
    robot.loop.tick()
    robot.executed(0)
    robot.loop.receive_gate_state('e-stop')
    robot.state(1, seconds=0.1)
    robot.loop.tick()
    robot.loop.receive_gate_state('ok')
    robot.state(2, seconds=0.1)
    robot.loop.tick()
    assert robot.answered == [0, 2] and not robot.rows


def test_a_turn_ends_the_phase_with_the_next_step_in_both_modes():
    robot = lockstep()
    for number in range(2):
        robot.state(number)
        robot.executed(number)
    assert robot.loop.turn() == ''
    robot.state(2)
    robot.executed(2)
    robot.state(3)
    assert [row['truncated'] for row in robot.rows] == [False, True, False]
    assert [row['phase'] for row in robot.rows] == [FORWARD, FORWARD, BACKWARD]

    robot = realtime()
    assert robot.loop.turn().startswith('the controller is not active')
    robot.loop.activate()
    for number in range(4):
        robot.state(number, seconds=0.1)
        robot.loop.tick()
        robot.executed(number)
        if number == 1:
            assert robot.loop.turn() == ''
    assert [row['truncated'] for row in robot.rows] == [False, True, False]
    robot.loop.receive_gate_state('e-stop')
    assert robot.loop.turn().startswith('the e-stop is latched')


def test_in_real_time_no_step_begins_or_ends_with_a_late_part_of_the_state():
    robot = realtime()
    robot.loop.activate()
    for number in range(8):
        robot.state(number, seconds=0.1, late=['odom'] if number in (3, 4) else ())
        robot.loop.tick()
        robot.executed(number)
    assert robot.answered == list(range(8))  # the gate decides for how long
    recorded = [round(row['stamp'] * TASK.robot.control_rate) for row in robot.rows]
    assert recorded == [0, 1, 5, 6]
    assert robot.loop.values()['steps_left_out'] == '2'
    assert robot.loop.warning() == 'odom: late in 2 control periods, which are not recorded'
    assert robot.loop.warning() == ''


def test_in_real_time_a_release_of_the_estop_does_not_begin_a_step_with_a_late_part():
    robot = realtime()
    robot.loop.activate()
    robot.loop.receive_gate_state('e-stop')
    robot.state(0, late=['odom'])
    robot.loop.tick()
    robot.loop.receive_gate_state('ok')
    for number in range(3):
        robot.state(number, seconds=0.1, late=() if number else ['odom'])
        robot.loop.tick()
        robot.executed(number)
    assert [round(row['stamp'] * TASK.robot.control_rate) for row in robot.rows] == [1]


def test_in_real_time_activation_needs_the_gate_and_a_robot_without_errors():
    robot = realtime(errors=['odom: nobody publishes it'])
    assert robot.loop.objections() == ['odom: nobody publishes it']
    robot.loop.receive_gate_state('e-stop')
    assert 'safety_gate/release' in robot.loop.objections()[0]
    robot.loop.receive_gate_state('')
    assert 'safety_gate' in robot.loop.objections()[0]
    assert not realtime().loop.objections()


def test_in_real_time_it_gives_up_without_states_but_only_while_active():
    robot = realtime()
    robot.loop.activate()
    robot.state(0)
    robot.now += GIVE_UP_AFTER - 0.1
    assert not robot.loop.reason_to_give_up()
    robot.now += 0.2
    assert 'no state' in robot.loop.reason_to_give_up()
    robot.loop.deactivate()
    assert not robot.loop.reason_to_give_up()


@pytest.mark.parametrize('source', ['stop', 'policy'])
def test_in_real_time_it_gives_up_where_the_gate_refuses_everything(source):
    robot = realtime()
    robot.loop.activate()
    for number in range(int((GIVE_UP_AFTER + 1.0) / 0.1)):
        robot.state(number, seconds=0.1)
        robot.loop.tick()
        robot.executed(number, source)
    assert ('refused' in robot.loop.reason_to_give_up()) == (source == 'stop')
