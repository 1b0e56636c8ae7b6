"""The guarantees of the safety gate, tested on its logic without ROS."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbarl_ros.control.limits import EntryLimiter
from mbarl_ros.control.safety import SafetyGate
from mbarl_ros.schema.load import load_robot
from mbarl_ros.schema.robot import Limit, RobotConfig
from support.robot_side import ROBOT as ARM
from support.robot_side import Fuzzed, RobotSide

ROBOT = load_robot('pointmass')
STATE = [0.0, 0.0, 0.0, 0.0]


def gate(lockstep: bool = False, **changes) -> SafetyGate:
    gate = SafetyGate(RobotConfig(**{**ROBOT.model_dump(), **changes}), lockstep)
    gate.receive_state(STATE, now=0.0)
    return gate


def test_no_command_passes_before_the_first_state():
    decision = SafetyGate(ROBOT, lockstep=False).request('policy', [0.5, 0.5], now=0.0)
    assert decision.source == 'stop' and 'waiting for state' in decision.reason


def test_in_lockstep_a_command_before_the_first_state_is_ignored():
    assert SafetyGate(ROBOT, lockstep=True).request('policy', [0.5, 0.5], now=0.0) is None


@pytest.mark.parametrize('bad', [[math.nan, 0.0], [math.inf, 0.0], [0.1], [0.1, 0.2, 0.3], []])
def test_a_malformed_command_becomes_a_stop(bad):
    decision = gate().request('policy', bad, now=0.0)
    assert decision.source == 'stop' and decision.values.tolist() == [0.0, 0.0]


def test_values_beyond_the_limits_are_clipped_and_named():
    decision = gate().request('policy', [9.0, -0.5], now=0.0)
    assert decision.values.tolist() == [1.0, -0.5]
    assert decision.reason == 'clipped vx'


def test_the_rate_limit_holds_and_a_pause_allows_no_jump():
    limits = {name: {'low': -1.0, 'high': 1.0, 'rate': 1.0, 'stop': 0.0} for name in ('vx', 'vy')}
    slow = gate(limits=limits)
    first = slow.request('policy', [1.0, 0.0], now=0.0).values[0]
    slow.receive_state(STATE, now=100.0)
    second = slow.request('policy', [1.0, 0.0], now=100.0).values[0]
    assert first == pytest.approx(0.1)  # rate / control_rate
    assert second - first <= 0.2 + 1e-9


def test_a_stale_command_stops_the_robot_and_the_stop_is_repeated_for_a_second():
    moving = gate()
    moving.request('policy', [0.5, 0.0], now=0.0)
    moving.receive_state(STATE, now=0.55)
    assert moving.tick(now=0.4) is None
    assert moving.tick(now=0.6).reason == 'stale command'
    assert moving.counts['stale command'] == 1
    again = moving.tick(now=1.5)  # the first message may have been lost
    assert again.repeated and again.values.tolist() == [0.0, 0.0]
    assert moving.tick(now=1.7) is None


def test_a_stale_state_stops_the_robot_until_a_state_comes():
    moving = gate()
    moving.request('policy', [0.5, 0.0], now=0.0)
    assert moving.tick(now=0.51).reason == 'stale state'
    assert moving.counts['stale state'] == 1
    assert moving.request('policy', [0.5, 0.0], now=0.6).source == 'stop'
    moving.receive_state(STATE, now=0.7)
    assert moving.request('policy', [0.5, 0.0], now=0.7).source == 'policy'


def test_an_estop_is_latched_until_it_is_released():
    stopped = gate()
    assert stopped.engage_estop('topic', now=0.0).values.tolist() == [0.0, 0.0]
    for source in ('policy', 'teleop'):
        assert stopped.request(source, [0.5, 0.0], now=1.0).source == 'stop'
    assert stopped.release(now=2.0) == ''
    stopped.receive_state(STATE, now=2.0)
    assert stopped.request('teleop', [0.5, 0.0], now=2.0).source == 'teleop'


def test_teleop_has_priority_over_the_policy_until_its_time_out():
    shared = gate()
    assert shared.request('teleop', [0.2, 0.0], now=0.0).source == 'teleop'
    assert shared.request('policy', [0.9, 0.0], now=0.1) is None
    shared.receive_state(STATE, now=0.6)
    assert shared.request('policy', [0.9, 0.0], now=0.6).source == 'policy'


def test_outside_a_workspace_bound_of_an_uncommanded_state_only_teleop_may_drive():
    limits = {name: {'low': -1.0, 'high': 1.0, 'stop': 0.0} for name in ('vx', 'vy')}
    fenced = gate(workspace={'x': (-1.0, 1.0)}, limits=limits)
    fenced.receive_state([1.5, 0.0, 0.0, 0.0], now=0.0)
    assert 'x outside' in fenced.request('policy', [0.5, 0.0], now=0.0).reason
    assert fenced.request('teleop', [-0.5, 0.0], now=0.0).source == 'teleop'


def test_entries_with_stop_hold_keep_their_last_value():
    gripper = SafetyGate(load_robot('tabletop'), lockstep=False)
    gripper.receive_state([0.0] * 5, now=0.0)
    gripper.request('policy', [0.1, 0.1, 0.2], now=0.0)
    assert gripper.stop('test', now=0.1).values.tolist() == [0.0, 0.0, 0.2]


# --- a robot with velocity, position and effort commands -------------------------------------


def arm_gate(arm=0.3, x=0.0, y=0.0, **changes) -> SafetyGate:
    gate = SafetyGate(RobotConfig(**{**ARM.model_dump(), **changes}), lockstep=False)
    gate.receive_state([x, y, arm, 1.0], now=0.0)
    return gate


def drive(gate, command, seconds, start=0.0, state=None, source='policy'):
    """Request the same command at 20 Hz; returns the decisions."""
    decisions = []
    for step in range(1, round(seconds * 20) + 1):
        now = start + step * 0.05
        before = decisions[-1].values if decisions else [0.0, 0.0, 0.3, 0.0]
        gate.receive_state(state or [0.0, 0.0, before[2], 1.0], now)
        decisions.append(gate.request(source, command, now))
    return decisions


def test_a_position_command_starts_from_the_measured_position():
    for arm in (-0.9, 0.3, 1.1):
        first = arm_gate(arm=arm).request('policy', [0.0, 0.0, 0.1, 0.0], now=0.0).values[2]
        assert 0 < abs(first - arm) <= 0.8 * 0.05 and abs(first - 0.1) < abs(arm - 0.1)


def test_a_stop_before_the_first_state_moves_no_arm():
    gate = SafetyGate(ARM, lockstep=False)
    assert math.isnan(gate.engage_estop('topic', now=0.0).values[2])
    gate.receive_state([0.0, 0.0, 0.7, 1.0], now=0.1)
    assert gate.tick(now=0.1).values[2] == 0.7


def test_a_restarted_gate_stops_the_velocity_that_the_killed_one_left_in_force():
    base = gate()
    assert base.tick(now=0.02).values.tolist() == [0.0, 0.0]
    assert arm_gate().tick(now=0.02) is None  # a stop would need a value for its gripper
    measured = {**ARM.model_dump()['limits'], 'grip': {'low': -0.2, 'high': 0.2, 'stop': 0.0}}
    stop = arm_gate(arm=0.7, limits=measured, teleop=[]).tick(now=0.02)
    assert stop.repeated and stop.values.tolist() == [0.0, 0.0, 0.7, 0.0]


def test_an_unmeasured_gripper_gets_no_message_before_its_first_command():
    robot = load_robot('arm_velocity')
    grip = robot.command_names.index('gripper')
    rest, state = [index for index in range(3) if index != grip], [0.1] * len(robot.state_names)
    gate = SafetyGate(robot, lockstep=False)
    gate.receive_state(state, now=0.0)
    stops = [gate.stop('shut down', 0.0), gate.engage_estop('topic', 0.01), gate.tick(now=0.02)]
    assert all(math.isnan(stop.values[grip]) and not any(stop.values[rest]) for stop in stops)
    assert not gate.release(now=0.03)
    command = gate.idle_command
    command[rest[0]] = 0.01  # teleop without a gripper
    by_hand = gate.request('teleop', command, now=0.04)
    assert by_hand.values[rest[0]] == 0.01 and math.isnan(by_hand.values[grip])
    assert np.isfinite(gate.fill_unknown(by_hand.values)).all() and not by_hand.clipped
    gate.receive_state(state, now=1.0)
    assert gate.request('policy', command, now=1.0).reason == 'not finite'
    command[grip] = 0.9  # its position is unknown: no rate limit
    assert gate.request('policy', command, now=1.05).values[grip] == 0.9
    command[grip] = 0.0
    assert gate.request('policy', command, now=1.1).values[grip] == pytest.approx(0.9 - 4.0 * 0.05)
    assert gate.stop('shut down', now=1.11).values[grip] == pytest.approx(0.7)


def test_no_other_stop_hides_a_latched_estop():
    latched = gate()
    latched.engage_estop('topic', now=0.0)
    latched.stop('deadman released', now=0.1)
    latched.tick(now=0.2)
    assert latched.state == 'e-stop'
    latched.release(now=0.3)
    assert latched.state == 'ok'


def test_after_a_stop_the_arm_is_held_where_it_is_measured_and_moves_on_from_there():
    gate = arm_gate()
    drive(gate, [0.0, 0.0, 1.0, 0.0], 0.5)
    gate.receive_state([0.0, 0.0, 0.5, 1.0], now=0.5)  # it lags behind its command
    assert gate.stop('test', now=0.51).values[2] == 0.5
    gate.receive_state([0.0, 0.0, 0.48, 1.0], now=0.6)  # and sinks a little under its load
    assert gate.stop('again', now=0.61).values[2] == 0.5  # else it would creep down
    assert 0.5 < gate.request('policy', [0.0, 0.0, 1.0, 0.0], now=0.62).values[2] < 0.54
    gate.stop('test', now=0.63)
    gate.receive_state([0.0, 0.0, -0.4, 1.0], now=60.0)  # moved by hand since then
    assert gate.stop('again', now=60.0).values[2] == -0.4


def test_an_arm_that_was_moved_by_hand_does_not_jump_back_at_the_next_command():
    gate = arm_gate()
    gate.receive_state([0.0, 0.0, 0.5, 1.0], now=0.0)
    for i in range(1, 31):  # within the tracking error, with its drives off, in two seconds
        gate.receive_state([0.0, 0.0, 0.5 + 0.005 * i, 1.0], now=i / 15)
        gate.tick(now=i / 15)
    first = gate.request('policy', [0.0, 0.0, 0.65, 0.0], now=2.01)
    assert first.values[2] == pytest.approx(0.65)


@pytest.mark.parametrize('estop', [False, True])
def test_one_wrong_reading_throws_no_arm(estop):
    gate = arm_gate()
    drive(gate, [0.0, 0.0, 1.0, 0.0], 0.5)
    before = gate.request('policy', [0.0, 0.0, 1.0, 0.0], now=0.5).values[2]
    if estop:
        gate.engage_estop('topic', now=0.51)
    sent = []
    for i, reading in enumerate([before, -1.7, before, before, 0.0, before]):
        now = 0.55 + 0.05 * i
        gate.receive_state([0.0, 0.0, reading, 1.0], now=now)
        decision = gate.request('policy', [0.0, 0.0, 1.0, 0.0], now=now + 0.01)
        sent += [decision.values[2], getattr(gate.tick(now + 0.02), 'values', decision.values)[2]]
    steps = np.diff([before, *sent])
    assert np.abs(steps).max() < 0.8 * 2 * 0.05 + 1e-9  # the rate limit
    assert abs(sent[-1] - before) < 0.15


def test_a_topic_that_is_alive_does_not_make_a_stale_state_whole():
    moving = gate()
    moving.receive_state(STATE, now=0.0)
    moving.request('policy', [0.1, 0.0], now=0.0)
    assert moving.tick(now=0.6).reason == 'stale state'
    moving.receive_state(STATE, now=0.7, since=0.0)  # its oldest part is as old as before
    assert moving.state == 'stale state'
    moving.receive_state(STATE, now=0.8, since=0.7)
    assert moving.state == 'ok'


def test_with_a_stale_state_the_arm_is_held_at_its_last_command():
    gate = arm_gate()
    last = drive(gate, [0.0, 0.0, 1.0, 0.0], 0.5, state=[0.0, 0.0, 0.4, 1.0])[-1].values[2]
    stop = gate.tick(now=0.9)
    assert stop.reason == 'stale state' and stop.values[2] == last != 0.4


def test_a_position_command_stays_within_the_tracking_error_of_a_blocked_arm():
    decisions = drive(arm_gate(), [0.0, 0.0, 1.0, 0.0], 3.0, state=[0.0, 0.0, 0.3, 1.0])
    commanded = [decision.values[2] for decision in decisions]
    assert max(commanded) == pytest.approx(0.5, abs=1e-3) and max(commanded) <= 0.5 + 1e-9
    assert {decision.source for decision in decisions} == {'policy'}  # it brakes, and waits there


def test_rate_and_rate_change_hold_and_the_command_arrives_without_overshoot_or_stop():
    decisions = drive(arm_gate(), [0.4, 0.0, 1.0, 0.0], 3.0)
    commanded = np.array([decision.values for decision in decisions])
    assert {decision.source for decision in decisions} == {'policy'}
    assert commanded[-1] == pytest.approx([0.4, 0.0, 1.0, 0.0], abs=1e-6)
    assert commanded.max(axis=0) == pytest.approx([0.4, 0.0, 1.0, 0.0], abs=1e-6)
    speed = np.diff(commanded[:, 2]) / 0.05
    assert 0.75 < speed.max() <= 0.8 + 1e-9
    assert np.abs(np.diff(speed)).max() / 0.05 <= 6.0 + 1e-6


def test_a_change_of_source_makes_no_jump():
    gate = arm_gate()
    drive(gate, [0.5, 0.5, 0.3, 0.0], 1.0)
    by_hand = drive(gate, [-0.5, -0.5, 0.3, 0.0], 0.1, start=1.0, source='teleop')[0].values
    assert by_hand[0] >= 0.5 - 4.0 * 0.05 - 1e-9 and by_hand[1] >= 0.5 - 8.0 * 0.05 - 1e-9
    gate.receive_state([0.0, 0.0, 0.3, 1.0], now=1.36)
    back = gate.request('policy', [1.0, 1.0, 0.3, 0.0], now=1.42)
    assert back.source == 'policy' and (np.abs(back.values[:2]) <= 0.5).all()


@pytest.mark.parametrize('source', ['policy', 'teleop'])
def test_a_robot_that_drives_at_a_bound_stays_inside_when_all_commands_end(source):
    for last_command in np.arange(0.1, 3.0, 0.1):
        gate, x, speed, now = arm_gate(), 0.0, 0.0, 0.0
        for step in range(400):
            now = step * 0.01
            x += speed * 0.01
            gate.receive_state([x, 0.0, 0.3, 1.0], now)
            decision = gate.tick(now)
            if step % 5 == 0 and now < last_command:
                decision = gate.request(source, [9.0, 0.0, 0.3, 0.0], now)
            speed = speed if decision is None else decision.values[0]
            assert x <= 1.0
        assert speed == 0.0
    assert x > 0.95  # and it can reach the bound


def test_a_robot_that_left_out_a_soon_replaced_command_stays_inside():
    """It takes commands once a period; the way back from the bound was never executed."""
    gate = arm_gate(x=0.9)
    drive(gate, [-0.4, 0.0, 0.3, 0.0], 1.0, state=[0.9, 0.0, 0.3, 1.0])  # it is still there
    back = [1.0, 0.0, 0.3, 0.0]
    values = [gate.request('policy', back, now).values for now in (1.2, 1.25, 1.299)]
    assert max(value[0] for value in values) * ARM.command_timeout <= 1.0 - 0.9


@pytest.mark.parametrize('source', ['policy', 'teleop'])
def test_outside_the_workspace_only_the_way_back_is_open(source):
    out = drive(arm_gate(x=1.3), [0.5, 0.0, 0.3, 0.0], 0.5, state=[1.3, 0, 0.3, 1], source=source)
    assert {decision.values[0] for decision in out} == {0.0}
    back = drive(arm_gate(x=1.3), [-0.5, 0, 0.3, 0], 0.5, state=[1.3, 0, 0.3, 1], source=source)
    assert back[-1].values[0] == pytest.approx(-0.5, abs=1e-6)


def test_an_arm_outside_its_workspace_may_stay_or_come_back_slowly():
    state = [0.0, 0.0, 1.4, 1.0]
    assert drive(arm_gate(arm=1.4), [0, 0, 1.5, 0], 0.5, state=state)[-1].values[2] == 1.4
    back = [d.values[2] for d in drive(arm_gate(arm=1.4), [0, 0, 0.0, 0], 0.2, state=state)]
    assert (np.diff([1.4, *back]) < 0).all() and back[0] >= 1.4 - 0.8 * 0.05


def test_late_reordered_and_future_commands_are_ignored_and_counted():
    gate = arm_gate()
    at = 1_000_000_000
    gate.receive_state([0.0, 0.0, 0.3, 1.0], now=0.0, stamp=10 * at)
    command = [0.1, 0.0, 0.3, 0.0]
    assert gate.request('policy', command, now=0.0, stamp=10 * at).source == 'policy'
    for stamp in (10 * at - 1, 9 * at, 11 * at, 2**62):
        assert gate.request('policy', command, now=0.01, stamp=stamp) is None
    assert gate.counts['policy late'] == 4
    gate.receive_state([0.0, 0.0, 0.3, 1.0], now=0.02, stamp=at)  # the robot's clock was reset
    assert gate.request('policy', command, now=0.02, stamp=at).source == 'policy'


def test_a_decision_says_what_was_clipped_and_by_how_much():
    gate = arm_gate()
    decision = gate.request('teleop', [0.0, 3.0, 0.3, 0.5], now=0.0)
    assert decision.clipped == pytest.approx({'vy': 3.0 - 8.0 * 0.05, 'grip': 0.3})
    gate.request('teleop', [math.nan] * 4, now=0.1)
    by_entry = {'clipped entry vy': 1, 'clipped entry grip': 1}
    assert gate.counts == {'teleop clipped': 1, 'teleop refused': 1, **by_entry}
    assert gate.clipped == 1


def test_a_release_is_refused_while_the_cause_persists():
    gate = arm_gate()
    gate.receive_estop(True, now=0.0)
    assert 'must publish false' in gate.release(now=0.1) and gate.estop
    gate.receive_estop(False, now=0.2)
    assert gate.estop  # a false message does not release it
    assert gate.release(now=0.3) == '' and not gate.estop


def test_an_estop_topic_with_a_time_out_stops_the_robot_when_it_is_silent():
    gate = arm_gate(estop_timeout=0.2)
    command = [0.1, 0.0, 0.3, 0.0]
    assert 'waiting for the e-stop topic' in gate.request('policy', command, now=0.0).reason
    gate.receive_estop(False, now=0.05)
    assert gate.request('policy', command, now=0.1).source == 'policy'
    assert gate.tick(now=0.24) is None
    assert gate.tick(now=0.26).reason == 'e-stop' and 'silent' in gate.release(now=0.27)
    gate.receive_estop(False, now=0.28)
    assert gate.request('policy', command, now=0.29).source == 'stop'
    assert gate.release(now=0.29) == ''


def test_a_silent_joystick_counts_as_released():
    gate = arm_gate(command_timeout=5.0, state_timeout=5.0)
    gate.request('teleop', [0.1, 0.0, 0.3, 0.0], now=0.0)
    assert gate.tick(now=0.29) is None
    assert gate.tick(now=0.31).source == 'stop'


def test_two_commands_at_the_same_instant_are_finite_and_within_the_rate():
    gate = arm_gate()
    for _ in range(3):
        values = gate.request('policy', [1.0, 1.0, 1.0, 0.2], now=0.0).values
    assert np.isfinite(values).all() and values[1] == pytest.approx(0.4)


@pytest.mark.slow
def test_100000_fuzzed_commands_through_the_gates_logic_break_no_limit():
    """1,000,000 of them: python tests/faults.py fuzz."""
    fuzzed = Fuzzed(seed=0)
    fuzzed.run(100_000)
    assert not fuzzed.robot.violations
    counts = fuzzed.gate.counts
    decided = [count for key, count in counts.items() if key.startswith(('policy', 'teleop'))]
    assert sum(decided) == 100_000
    assert min(counts['policy clipped'], counts['teleop clipped']) > 20_000
    assert min(fuzzed.gate.refused, counts['policy late'], fuzzed.robot.stops) > 1_000


def test_the_robot_side_of_these_tests_detects_broken_limits():
    """Otherwise the test above would prove nothing."""
    good = [0.1, 0.1, 0.31, 0.0]
    for name, bad in {
        'bounds 0': [1.1, 0.1, 0.31, 0.0],
        'rate 1': [0.1, 0.9, 0.31, 0.0],
        'rate change 2': [0.1, 0.1, 0.295, 0.0],
        'tracking_error': [0.1, 0.1, 0.8, 0.0],
        'malformed': [math.nan, 0.1, 0.31, 0.0],
    }.items():
        robot = RobotSide()
        robot.receive(good, 0.0)
        robot.receive(bad, 0.05)
        assert name in robot.violations
    robot.receive([0.0, 0.0, 0.75, 0.0], 0.07, stop=True)
    assert 'thrown' in robot.violations
    robot.position[0] = 0.99
    robot.receive(good, 0.1)
    assert 'ahead 0' in robot.violations


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(['policy', 'teleop']),
            st.lists(st.floats(allow_subnormal=False), max_size=3),
            st.floats(0, 2, allow_subnormal=False),
        ),
        max_size=30,
    )
)
def test_executed_commands_are_within_the_limits_whatever_is_requested(requests):
    fuzzed, now = gate(), 0.0
    for source, values, pause in requests:
        now += pause
        fuzzed.receive_state(STATE, now)
        for decision in (fuzzed.request(source, values, now), fuzzed.tick(now + 0.01)):
            if decision is not None:
                assert np.isfinite(decision.values).all()
                assert (np.abs(decision.values) <= 1.0).all()


def continuous(low=-3.1, high=3.1):
    """A joint whose driver reports angles within one turn."""
    limit = Limit(
        low=low, high=high, stop='hold', rate=2.0, measured='q', tracking_error=0.3, wraps=True
    )
    return EntryLimiter(limit, None, 0.5)


@pytest.mark.parametrize(('low', 'high', 'reading'), [(-3.1, 3.1, 3.0), (2.8, 3.4, -3.1)])
def test_a_continuous_joint_counts_in_the_turn_of_its_limits(low, high, reading):
    limiter = continuous(low, high)
    limiter.receive_position(reading)
    limiter.follow_measured(0.0, after_gap=True)
    assert low <= limiter.value <= high
    assert math.cos(limiter.value) == pytest.approx(math.cos(reading))
    for wanted in np.linspace(low - 1, high + 1, 60):
        allowed = limiter.limit(float(wanted), 0.05, paused=False)
        assert low <= allowed <= high


def test_a_hold_that_follows_an_arm_by_hand_never_leaves_the_limits():
    """Guided round several times while it is stopped: the command comes back with it."""
    limiter = continuous()
    turned = 0.0
    limiter.receive_position(0.0)
    limiter.follow_measured(0.0, after_gap=True)
    for _ in range(2000):
        turned += 0.0145  # 0.29 rad/s at 20 Hz
        limiter.receive_position(math.remainder(turned, 2 * math.pi))
        limiter.follow_measured(0.05, after_gap=False)
        assert -3.2 <= limiter.value <= 3.2
    limiter.receive_position(-0.3)  # and after the driver was started again
    limiter.follow_measured(0.05, after_gap=True)
    assert limiter.value == pytest.approx(-0.3)


def test_limits_of_a_continuous_joint_span_a_turn_at_most():
    with pytest.raises(ValueError, match='more than a turn'):
        continuous(-30, 30)
