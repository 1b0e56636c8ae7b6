"""The controller as a managed node: what moves when, what it gives up on, how steady it is."""

import signal
import sys
import time

import numpy as np
import pytest
import yaml
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from sensor_msgs.msg import JointState

from mbarl_ros.control.loop_timing import LoopTiming
from mbarl_ros.nodes.support.robot_topics import StateListener
from mbarl_ros.schema.message_fields import set_stamp
from mbarl_ros.storage.transitions import POLICY
from mbarl_ros.task import Task
from support.graph import LEARNING, SIM, Graph, small_agent
from support.run_data import spooled
from support.steady import Base

pytestmark = pytest.mark.paced

TASK = Task.load('pointmass')


class Commands:
    """Commands of the controller and of the gate, as they arrive."""

    def __init__(self, graph):
        self.graph = graph
        self.commands = []
        self.executed = []
        graph.node.create_subscription(
            JointState, 'policy_controller/command', self._on_command, 100
        )
        graph.node.create_subscription(
            JointState, 'safety_gate/executed', self.executed.append, 100
        )

    def _on_command(self, message):
        if message.header.frame_id != 'stop':  # its last message as it deactivates
            self.commands.append(message)

    def stopped(self, why):
        """Assert that the robot received a stop before its command could get stale."""
        started = time.monotonic()
        self.graph.wait_for('stop', lambda: self.executed[-1].header.frame_id == 'stop', 5)
        assert time.monotonic() - started < 0.4 < TASK.robot.command_timeout
        counts = self.graph.statuses['safety_gate']
        self.graph.wait_for('count', lambda: counts is not self.graph.statuses['safety_gate'])
        assert int(self.graph.value('safety_gate', f'policy {why}')) >= 1

    def still(self, seconds):
        self.commands.clear()
        self.graph.spin(seconds)
        return not self.commands

    def moving(self):
        self.commands.clear()
        self.graph.wait_for('commands', lambda: len(self.commands) > 5)


def message(graph):
    return graph.statuses.get('policy_controller', {}).get('message', '')


@pytest.mark.timing('a stop comes before the time-out')
def test_nothing_moves_before_activate_and_a_stale_state_deactivates(tmp_path):
    with Graph(tmp_path, task='pointmass', mode='realtime') as graph:
        watch = Commands(graph)
        graph.start(*SIM[:2])
        graph.start('policy_controller', policy='random', autostart=False)
        graph.wait_for('the node', lambda: message(graph) == 'not configured')
        assert watch.still(1.5)
        assert graph.change('configure')
        assert watch.still(1.5)
        assert graph.change('activate')
        watch.moving()
        assert not graph.change('activate')  # a second time: refused, and nothing else
        watch.moving()

        graph.kill('robot_sim')
        graph.wait_for('the end', lambda: 'no state for 5 s' in message(graph), 20)
        assert 'ros2 lifecycle set /policy_controller activate' in message(graph)
        graph.start('robot_sim')  # its coming back is no reason to move
        graph.wait_for('its coming back', lambda: 'robot_sim' in graph.statuses)
        graph.spin(3.0)  # until the restart of its stamps is forgotten
        assert watch.still(2.0)
        assert graph.change('activate')
        watch.moving()
        assert graph.change('deactivate')
        watch.stopped('inactive')
        assert watch.still(1.5)
        assert graph.change('cleanup')
        graph.wait_for('its status', lambda: message(graph) == 'not configured')
        assert graph.change('configure')
        assert watch.still(1.0)
        assert graph.change('activate')
        watch.moving()
        assert graph.change('active_shutdown')
        assert watch.still(1.5) and 'shut down' in message(graph)


def test_cleanup_while_waiting_to_autostart_ends_the_autostart(tmp_path):
    with Graph(tmp_path, task='pointmass', mode='realtime') as graph:
        watch = Commands(graph)
        graph.start('policy_controller', policy='random')
        graph.wait_for('the wait', lambda: 'no state yet' in message(graph))
        assert graph.change('cleanup')
        graph.start(*SIM[:2])
        graph.wait_for('the rest', lambda: set(SIM) <= set(graph.statuses))
        assert graph.change('configure')
        assert watch.still(2.0)
        assert graph.change('activate')
        watch.moving()


def test_a_reading_that_no_float32_holds_is_no_state(tmp_path):
    """The learner would refuse its transition, and all that come after it, for ever."""
    with Graph(tmp_path, task='pointmass', mode='realtime') as graph:
        Base(graph, 20.0)
        odometry = graph.node.create_publisher(Odometry, 'odom', 10)
        no_reading = Odometry()
        no_reading.twist.twist.linear.x = sys.float_info.max

        def say() -> None:
            no_reading.header.stamp = graph.node.get_clock().now().to_msg()
            odometry.publish(no_reading)

        graph.node.create_timer(0.3, say)
        graph.start('safety_gate')
        graph.start('policy_controller', policy='random')
        graph.wait_for_steps(30)
        graph.kill('policy_controller', signal.SIGINT)
        rows = spooled(tmp_path, TASK)
        assert len(rows) >= 30 and np.isfinite(rows['next_observation']).all()
        assert 'more than a float32 holds' in (tmp_path / 'policy_controller.log').read_text()


def test_a_state_older_than_the_last_is_dropped(tmp_path):
    with Graph(tmp_path) as graph:
        received, sent = [], [100.0, 100.3, 100.1, 100.4, 100.35, 100.5, 50.0, 50.1]
        listener = StateListener(
            graph.node, TASK.robot, False, lambda _state, stamp: received.append(stamp * 1e-9)
        )
        odometry = graph.node.create_publisher(Odometry, 'odom', 10)
        graph.wait_for('subscription', odometry.get_subscription_count)
        for stamp in sent:
            message = Odometry()
            set_stamp(message, round(stamp * 1e9))
            odometry.publish(message)
            graph.spin(0.05)
        # a clock that is set back is another matter
        assert received == pytest.approx([100.0, 100.3, 100.4, 100.5, 50.0, 50.1])
        assert time.monotonic() - listener.since < 1.0


@pytest.mark.alone
@pytest.mark.timing('steps are compared with the motion that their commands had time for')
def test_a_controller_that_was_suspended_loses_no_step_and_makes_none_up(tmp_path):
    """Suspended for a quarter of a second, in which the gate stops the robot."""
    with Graph(tmp_path, task='pointmass', mode='realtime') as graph:
        Base(graph, 100.0)
        graph.start('safety_gate')
        graph.start('policy_controller', policy='random')
        graph.wait_for_steps(5)
        controller = graph.processes['policy_controller']
        for _ in range(8):
            controller.send_signal(signal.SIGSTOP)
            graph.spin(0.25)
            controller.send_signal(signal.SIGCONT)
            graph.spin(0.5)
        graph.kill('policy_controller', signal.SIGINT)
    rows = spooled(tmp_path, TASK)
    np.testing.assert_array_equal(rows['observation'][1:], rows['next_observation'][:-1])
    assert len(rows) >= 60
    moved = (rows['next_observation'] - rows['observation'])[:, :2]
    inside = (np.abs(rows['next_observation'][:, :2]) < 0.75).all(1)
    by_policy = rows['source'] == POLICY
    # Where the stop came in the middle of a step, it moved before; its own share of a step each.
    settled = np.append(False, by_policy[1:] == by_policy[:-1]) & inside
    off = np.abs(moved - 0.1 * rows['action'])[settled]
    assert settled.sum() >= 40 and (~by_policy).sum() >= 8
    worst = np.flatnonzero(settled)[off.max(1).argmax()]
    around = slice(max(0, worst - 2), worst + 2)
    found = [rows[key][around] for key in ('source', 'action', 'stamp')], moved[around]
    assert np.median(off) < 0.01 and off.max() < 0.06, found


def nothing_counts_under_an_estop(graph, meanwhile):
    graph.start(*SIM[:2])
    graph.start('policy_controller', policy='random')
    graph.wait_for_steps(20)
    assert graph.call('safety_gate/stop').success
    graph.spin(2.5)  # what was under way, and diagnostics
    before = graph.value('policy_controller', 'environment_steps')
    meanwhile()
    assert graph.value('policy_controller', 'environment_steps') == before
    assert graph.call('safety_gate/release').success
    graph.wait_for_steps(int(before) + 20)


def test_an_estop_pauses_practice_until_it_is_released(tmp_path):
    with Graph(tmp_path, task='pointmass', mode='realtime') as graph:
        # longer than its time-out for a gate that refuses
        nothing_counts_under_an_estop(graph, lambda: graph.spin(7.0))


def test_nothing_is_counted_in_lockstep_either_while_a_person_pushes_on_under_an_estop(tmp_path):
    with Graph(tmp_path, task='pointmass') as graph:
        stick = graph.node.create_publisher(Twist, 'teleop/cmd_vel', 10)
        pushed = Twist()
        pushed.linear.x = 0.5

        def push():
            for _ in range(20):
                stick.publish(pushed)
                graph.spin(0.1)
            graph.spin(1.5)

        nothing_counts_under_an_estop(graph, push)


def test_refusals_by_the_gate_deactivate_the_controller(tmp_path):
    robot = TASK.robot.model_dump(mode='json', exclude_defaults=True)
    name = TASK.robot.state_names[2]  # a speed, which the gate only watches
    (tmp_path / 'boxed.yaml').write_text(
        yaml.safe_dump({**robot, 'workspace': {name: [50.0, 60.0]}})
    )
    boxed = str(tmp_path / 'boxed.yaml')
    with Graph(tmp_path, task='pointmass', robot=boxed, mode='realtime') as graph:
        watch = Commands(graph)
        graph.start(*SIM[:2])
        graph.start('policy_controller', policy='random')
        graph.wait_for('the end', lambda: 'refused all commands' in message(graph), 40)
        assert 'outside the workspace' in message(graph) and watch.still(1.5)


@pytest.mark.timing('commands are counted against the control rate')
def test_loss_of_the_learner_never_stops_control_in_real_time(tmp_path):
    agent = small_agent(tmp_path)
    rate = TASK.robot.control_rate
    with Graph(tmp_path, task='pointmass', agent=agent, mode='realtime') as graph:
        watch = Commands(graph)
        graph.start(*LEARNING)
        graph.wait_for_steps(30)
        assert graph.kill('learner', signal.SIGINT) == 0
        graph.spin(1.0)
        watch.commands.clear()
        before = graph.value('policy_controller', 'environment_steps')
        graph.spin(8.0)  # longer than learner_timeout
        assert len(watch.commands) >= 0.8 * 8.0 * rate
        assert graph.value('policy_controller', 'environment_steps') >= before + 0.5 * 8.0 * rate
        assert abs(graph.value('policy_controller', 'control_rate') / rate - 1.0) < 0.2
        assert graph.value('policy_controller', 'period_error_p99_ms') >= 0.0
        assert graph.value('policy_controller', 'missed_periods') >= 0.0
        graph.kill('policy_controller')
        graph.start('policy_controller')  # with the last policy in the run folder
        watch.moving()


def test_jitter_and_missed_periods_are_measured_correctly():
    timing = LoopTiming(0.02)
    assert timing.values() == {}
    times = np.arange(200) * 0.02
    times[100:] += 0.04  # two periods missed
    times[50] += 0.003
    for now in times:
        timing.tick(now)
    values = {key: float(value) for key, value in timing.values().items()}
    assert values['missed_periods'] == 2
    assert values['period_error_max_ms'] == pytest.approx(40.0)
    assert values['period_error_p99_ms'] == pytest.approx(3.0, abs=0.1)
    assert values['control_rate'] == pytest.approx(199 / times[-1], abs=0.01)
    timing.pause()
    timing.tick(1e6)
    assert timing.missed == 2  # paused periods are not missed
