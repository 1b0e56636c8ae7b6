"""The safety gate's promises, on its real logic."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbarl_ros.control.safety import SafetyGate
from mbarl_ros.schema.load import load_robot
from mbarl_ros.schema.robot import RobotConfig
from support.robot_side import ROBOT as ARM
from support.robot_side import Fuzzed, RobotSide

ROBOT = load_robot('pointmass')
STATE = [0.0, 0.0, 0.0, 0.0]


def gate(lockstep: bool = False, **changes) -> SafetyGate:
    gate = SafetyGate(RobotConfig(**{**ROBOT.model_dump(), **changes}), lockstep)
    gate.observe(STATE, now=0.0)
    return gate


def test_no_command_passes_before_a_state_was_measured():
    decision = SafetyGate(ROBOT, lockstep=False).request('policy', [0.5, 0.5], now=0.0)
    assert decision.source == 'stop' and 'waiting for state' in decision.reason


def test_in_lockstep_a_command_before_the_first_state_moves_nothing():
    assert SafetyGate(ROBOT, lockstep=True).request('policy', [0.5, 0.5], now=0.0) is None


@pytest.mark.parametrize('bad', [[math.nan, 0.0], [math.inf, 0.0], [0.1], [0.1, 0.2, 0.3], []])
def test_malformed_command_becomes_a_stop(bad):
    decision = gate().request('policy', bad, now=0.0)
    assert decision.source == 'stop' and decision.values.tolist() == [0.0, 0.0]


def test_values_beyond_limits_are_clipped_and_named():
    decision = gate().request('policy', [9.0, -0.5], now=0.0)
    assert decision.values.tolist() == [1.0, -0.5]
    assert decision.reason == 'clipped vx'


def test_rate_limit_holds_and_a_pause_does_not_buy_a_jump():
    limits = {name: {'low': -1.0, 'high': 1.0, 'rate': 1.0, 'stop': 0.0} for name in ('vx', 'vy')}
    slow = gate(limits=limits)
    first = slow.request('policy', [1.0, 0.0], now=0.0).values[0]
    slow.observe(STATE, now=100.0)
    second = slow.request('policy', [1.0, 0.0], now=100.0).values[0]
    assert first == pytest.approx(0.1)  # rate / control_rate
    assert second - first <= 0.2 + 1e-9


def test_stale_command_stops_and_the_stop_is_said_again_for_a_second():
    moving = gate()
    moving.request('policy', [0.5, 0.0], now=0.0)
    moving.observe(STATE, now=0.55)
    assert moving.tick(now=0.4) is None
    assert moving.tick(now=0.6).reason == 'stale command'
    assert moving.counts['stale command'] == 1
    again = moving.tick(now=1.5)  # the first may have been lost
    assert again.restated and again.values.tolist() == [0.0, 0.0]
    assert moving.tick(now=1.7) is None


def test_stale_state_stops_and_refuses_until_a_state_comes():
    moving = gate()
    moving.request('policy', [0.5, 0.0], now=0.0)
    assert moving.tick(now=0.51).reason == 'stale state'
    assert moving.counts['stale state'] == 1
    assert moving.request('policy', [0.5, 0.0], now=0.6).source == 'stop'
    moving.observe(STATE, now=0.7)
    assert moving.request('policy', [0.5, 0.0], now=0.7).source == 'policy'


def test_estop_is_latched_until_released():
    stopped = gate()
    assert stopped.engage_estop('topic', now=0.0).values.tolist() == [0.0, 0.0]
    for source in ('policy', 'teleop'):
        assert stopped.request(source, [0.5, 0.0], now=1.0).source == 'stop'
    assert stopped.release(now=2.0) == ''
    stopped.observe(STATE, now=2.0)
    assert stopped.request('teleop', [0.5, 0.0], now=2.0).source == 'teleop'


def test_teleop_outranks_the_policy_until_it_falls_silent():
    shared = gate()
    assert shared.request('teleop', [0.2, 0.0], now=0.0).source == 'teleop'
    assert shared.request('policy', [0.9, 0.0], now=0.1) is None
    shared.observe(STATE, now=0.6)
    assert shared.request('policy', [0.9, 0.0], now=0.6).source == 'policy'


def test_outside_a_workspace_that_no_command_is_known_to_move_only_a_person_may_drive():
    limits = {name: {'low': -1.0, 'high': 1.0, 'stop': 0.0} for name in ('vx', 'vy')}
    fenced = gate(workspace={'x': (-1.0, 1.0)}, limits=limits)
    fenced.observe([1.5, 0.0, 0.0, 0.0], now=0.0)
    assert 'x outside' in fenced.request('policy', [0.5, 0.0], now=0.0).reason
    assert fenced.request('teleop', [-0.5, 0.0], now=0.0).source == 'teleop'


def test_hold_entries_keep_their_last_value_on_stop():
    gripper = SafetyGate(load_robot('tabletop'), lockstep=False)
    gripper.observe([0.0] * 5, now=0.0)
    gripper.request('policy', [0.1, 0.1, 0.2], now=0.0)
    assert gripper.stop('test', now=0.1).values.tolist() == [0.0, 0.0, 0.2]


# --- a robot with velocity, position and effort commands -------------------------------------


def arm_gate(arm=0.3, x=0.0, y=0.0, **changes) -> SafetyGate:
    gate = SafetyGate(RobotConfig(**{**ARM.model_dump(), **changes}), lockstep=False)
    gate.observe([x, y, arm, 1.0], now=0.0)
    return gate


def drive(gate, asked, seconds, start=0.0, state=None, source='policy'):
    """Ask for the same at 20 Hz; what was decided."""
    decisions = []
    for step in range(1, round(seconds * 20) + 1):
        now = start + step * 0.05
        before = decisions[-1].values if decisions else [0.0, 0.0, 0.3, 0.0]
        gate.observe(state or [0.0, 0.0, before[2], 1.0], now)
        decisions.append(gate.request(source, asked, now))
    return decisions


def test_a_position_command_starts_from_where_the_arm_is_measured():
    for arm in (-0.9, 0.3, 1.1):
        first = arm_gate(arm=arm).request('policy', [0.0, 0.0, 0.1, 0.0], now=0.0).values[2]
        assert 0 < abs(first - arm) <= 0.8 * 0.05 and abs(first - 0.1) < abs(arm - 0.1)


def test_a_stop_before_anything_was_measured_moves_no_arm():
    gate = SafetyGate(ARM, lockstep=False)
    assert math.isnan(gate.engage_estop('topic', now=0.0).values[2])
    gate.observe([0.0, 0.0, 0.7, 1.0], now=0.1)
    assert gate.tick(now=0.1).values[2] == 0.7


def test_a_gate_that_starts_stops_what_its_predecessor_left_in_force():
    base = gate()
    assert base.tick(now=0.02).values.tolist() == [0.0, 0.0]
    assert arm_gate().tick(now=0.02) is None  # its gripper may hold something, and has to be told
    measured = {**ARM.model_dump()['limits'], 'grip': {'low': -0.2, 'high': 0.2, 'stop': 0.0}}
    stop = arm_gate(arm=0.7, limits=measured, teleop=[]).tick(now=0.02)
    assert stop.restated and stop.values.tolist() == [0.0, 0.0, 0.7, 0.0]


def test_nothing_moves_a_gripper_that_may_hold_something_until_somebody_asks_for_it():
    robot = load_robot('arm_velocity')
    grip = robot.command_names.index('gripper')
    rest, state = [index for index in range(3) if index != grip], [0.1] * len(robot.state_names)
    gate = SafetyGate(robot, lockstep=False)
    gate.observe(state, now=0.0)
    stops = [gate.stop('shut down', 0.0), gate.engage_estop('topic', 0.01), gate.tick(now=0.02)]
    assert all(math.isnan(stop.values[grip]) and not any(stop.values[rest]) for stop in stops)
    assert not gate.release(now=0.03)
    asked = gate.rest
    asked[rest[0]] = 0.01  # a person drives the arm with a hand that knows no gripper
    by_hand = gate.request('teleop', asked, now=0.04)
    assert by_hand.values[rest[0]] == 0.01 and math.isnan(by_hand.values[grip])
    assert np.isfinite(gate.assumed(by_hand.values)).all() and not by_hand.clipped
    gate.observe(state, now=1.0)
    assert gate.request('policy', asked, now=1.0).reason == 'not finite'
    asked[grip] = 0.9  # where it is nobody knows: there is nothing to be limited against
    assert gate.request('policy', asked, now=1.05).values[grip] == 0.9
    asked[grip] = 0.0
    assert gate.request('policy', asked, now=1.1).values[grip] == pytest.approx(0.9 - 4.0 * 0.05)
    assert gate.stop('shut down', now=1.11).values[grip] == pytest.approx(0.7)


def test_no_other_stop_hides_a_latched_estop():
    latched = gate()
    latched.engage_estop('topic', now=0.0)
    latched.stop('dead-man released', now=0.1)
    latched.tick(now=0.2)
    assert latched.state == 'e-stop'
    latched.release(now=0.3)
    assert latched.state == 'ok'


def test_after_a_stop_the_arm_is_held_where_it_is_and_goes_on_from_there():
    gate = arm_gate()
    drive(gate, [0.0, 0.0, 1.0, 0.0], 0.5)
    gate.observe([0.0, 0.0, 0.5, 1.0], now=0.5)  # it lags behind what it was told
    assert gate.stop('test', now=0.51).values[2] == 0.5
    gate.observe([0.0, 0.0, 0.48, 1.0], now=0.6)  # and sinks a little under its load
    assert gate.stop('again', now=0.61).values[2] == 0.5  # else it would creep down
    assert 0.5 < gate.request('policy', [0.0, 0.0, 1.0, 0.0], now=0.62).values[2] < 0.54
    gate.stop('test', now=0.63)
    gate.observe([0.0, 0.0, -0.4, 1.0], now=60.0)  # somebody moved it meanwhile
    assert gate.stop('again', now=60.0).values[2] == -0.4


def test_an_arm_that_was_led_by_hand_does_not_jump_back_when_it_is_told_to_move():
    gate = arm_gate()
    gate.observe([0.0, 0.0, 0.5, 1.0], now=0.0)
    for i in range(1, 31):  # by less than its lead, with its drives off, in two seconds
        gate.observe([0.0, 0.0, 0.5 + 0.005 * i, 1.0], now=i / 15)
        gate.tick(now=i / 15)
    first = gate.request('policy', [0.0, 0.0, 0.65, 0.0], now=2.01)
    assert first.values[2] == pytest.approx(0.65)


@pytest.mark.parametrize('estop', [False, True])
def test_one_wrong_reading_throws_no_arm_that_moves_stands_or_is_under_an_estop(estop):
    gate = arm_gate()
    drive(gate, [0.0, 0.0, 1.0, 0.0], 0.5)
    before = gate.request('policy', [0.0, 0.0, 1.0, 0.0], now=0.5).values[2]
    if estop:
        gate.engage_estop('topic', now=0.51)
    sent = []
    for i, reading in enumerate([before, -1.7, before, before, 0.0, before]):
        now = 0.55 + 0.05 * i
        gate.observe([0.0, 0.0, reading, 1.0], now=now)
        asked = gate.request('policy', [0.0, 0.0, 1.0, 0.0], now=now + 0.01)
        sent += [asked.values[2], getattr(gate.tick(now + 0.02), 'values', asked.values)[2]]
    steps = np.diff([before, *sent])
    assert np.abs(steps).max() < 0.8 * 2 * 0.05 + 1e-9  # as fast as it may move at most
    assert abs(sent[-1] - before) < 0.15


def test_with_stale_states_the_arm_is_held_where_it_was_sent_not_pulled_back():
    gate = arm_gate()
    last = drive(gate, [0.0, 0.0, 1.0, 0.0], 0.5, state=[0.0, 0.0, 0.4, 1.0])[-1].values[2]
    stop = gate.tick(now=0.9)
    assert stop.reason == 'stale state' and stop.values[2] == last != 0.4


def test_a_position_command_never_runs_away_from_a_blocked_arm():
    decisions = drive(arm_gate(), [0.0, 0.0, 1.0, 0.0], 3.0, state=[0.0, 0.0, 0.3, 1.0])
    commanded = [decision.values[2] for decision in decisions]
    assert max(commanded) == pytest.approx(0.5, abs=1e-3) and max(commanded) <= 0.5 + 1e-9
    assert {decision.source for decision in decisions} == {'policy'}  # it brakes, and waits there


def test_rate_and_rate_change_are_kept_and_it_arrives_without_overshoot_or_stop():
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
    gate.observe([0.0, 0.0, 0.3, 1.0], now=1.36)
    back = gate.request('policy', [1.0, 1.0, 0.3, 0.0], now=1.42)
    assert back.source == 'policy' and (np.abs(back.values[:2]) <= 0.5).all()


@pytest.mark.parametrize('source', ['policy', 'teleop'])
def test_whoever_drives_towards_the_wall_is_still_inside_when_everybody_falls_silent(source):
    for speaks in np.arange(0.1, 3.0, 0.1):
        gate, x, speed, now = arm_gate(), 0.0, 0.0, 0.0
        for step in range(400):
            now = step * 0.01
            x += speed * 0.01
            gate.observe([x, 0.0, 0.3, 1.0], now)
            decision = gate.tick(now)
            if step % 5 == 0 and now < speaks:
                decision = gate.request(source, [9.0, 0.0, 0.3, 0.0], now)
            speed = speed if decision is None else decision.values[0]
            assert x <= 1.0
        assert speed == 0.0
    assert x > 0.95  # and the wall can be reached


@pytest.mark.parametrize('source', ['policy', 'teleop'])
def test_from_outside_the_box_only_the_way_back_is_open(source):
    out = drive(arm_gate(x=1.3), [0.5, 0.0, 0.3, 0.0], 0.5, state=[1.3, 0, 0.3, 1], source=source)
    assert {decision.values[0] for decision in out} == {0.0}
    back = drive(arm_gate(x=1.3), [-0.5, 0, 0.3, 0], 0.5, state=[1.3, 0, 0.3, 1], source=source)
    assert back[-1].values[0] == pytest.approx(-0.5, abs=1e-6)


def test_an_arm_outside_its_box_may_stay_or_come_back_and_is_not_thrown_back():
    state = [0.0, 0.0, 1.4, 1.0]
    assert drive(arm_gate(arm=1.4), [0, 0, 1.5, 0], 0.5, state=state)[-1].values[2] == 1.4
    back = [d.values[2] for d in drive(arm_gate(arm=1.4), [0, 0, 0.0, 0], 0.2, state=state)]
    assert (np.diff([1.4, *back]) < 0).all() and back[0] >= 1.4 - 0.8 * 0.05


def test_late_reordered_and_future_commands_are_ignored_and_counted():
    gate = arm_gate()
    at = 1_000_000_000
    gate.observe([0.0, 0.0, 0.3, 1.0], now=0.0, stamp=10 * at)
    command = [0.1, 0.0, 0.3, 0.0]
    assert gate.request('policy', command, now=0.0, stamp=10 * at).source == 'policy'
    for stamp in (10 * at - 1, 9 * at, 11 * at, 2**62):
        assert gate.request('policy', command, now=0.01, stamp=stamp) is None
    assert gate.counts['policy late'] == 4
    gate.observe([0.0, 0.0, 0.3, 1.0], now=0.02, stamp=at)  # the robot's clock began anew
    assert gate.request('policy', command, now=0.02, stamp=at).source == 'policy'


def test_what_was_clipped_by_how_much_and_from_whom_is_told():
    gate = arm_gate()
    decision = gate.request('teleop', [0.0, 3.0, 0.3, 0.5], now=0.0)
    assert decision.clipped == pytest.approx({'vy': 3.0 - 8.0 * 0.05, 'grip': 0.3})
    gate.request('teleop', [math.nan] * 4, now=0.1)
    assert gate.counts == {'teleop clipped': 1, 'teleop refused': 1}


def test_release_is_refused_while_the_cause_persists():
    gate = arm_gate()
    gate.hear_estop(True, now=0.0)
    assert 'must say false' in gate.release(now=0.1) and gate.estop
    gate.hear_estop(False, now=0.2)
    assert gate.estop  # false is no release
    assert gate.release(now=0.3) == '' and not gate.estop


def test_an_estop_topic_that_must_be_alive_stops_the_robot_when_it_falls_silent():
    gate = arm_gate(estop_timeout=0.2)
    ask = [0.1, 0.0, 0.3, 0.0]
    assert 'waiting for the e-stop topic' in gate.request('policy', ask, now=0.0).reason
    gate.hear_estop(False, now=0.05)
    assert gate.request('policy', ask, now=0.1).source == 'policy'
    assert gate.tick(now=0.24) is None
    assert gate.tick(now=0.26).reason == 'e-stop' and 'silent' in gate.release(now=0.27)
    gate.hear_estop(False, now=0.28)
    assert gate.request('policy', ask, now=0.29).source == 'stop'
    assert gate.release(now=0.29) == ''


def test_a_joystick_that_falls_silent_counts_as_released():
    gate = arm_gate(command_timeout=5.0, state_timeout=5.0)
    gate.request('teleop', [0.1, 0.0, 0.3, 0.0], now=0.0)
    assert gate.tick(now=0.29) is None
    assert gate.tick(now=0.31).source == 'stop'


def test_two_commands_at_the_same_instant_are_finite_and_within_the_rate():
    gate = arm_gate()
    for _ in range(3):
        values = gate.request('policy', [1.0, 1.0, 1.0, 0.2], now=0.0).values
    assert np.isfinite(values).all() and values[1] == pytest.approx(0.4)


def test_100000_fuzzed_commands_through_the_gates_logic_break_no_limit():
    """1,000,000 of them: python tests/faults.py fuzz."""
    fuzzed = Fuzzed(seed=0)
    fuzzed.run(100_000)
    assert not fuzzed.robot.violations
    counts = fuzzed.gate.counts
    judged = [count for key, count in counts.items() if key.startswith(('policy', 'teleop'))]
    assert sum(judged) == 100_000
    assert min(counts['policy clipped'], counts['teleop clipped']) > 20_000
    assert min(fuzzed.gate.refused, counts['policy late'], fuzzed.robot.stops) > 1_000


def test_the_robot_side_of_these_tests_does_see_broken_limits():
    """Else the promise above would be empty."""
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
def test_whatever_is_asked_what_is_executed_is_within_limits(requests):
    fuzzed, now = gate(), 0.0
    for source, values, pause in requests:
        now += pause
        fuzzed.observe(STATE, now)
        for decision in (fuzzed.request(source, values, now), fuzzed.tick(now + 0.01)):
            if decision is not None:
                assert np.isfinite(decision.values).all()
                assert (np.abs(decision.values) <= 1.0).all()
