"""The safety gate's promises, on its real logic."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbarl_ros.config import RobotConfig, load_robot
from mbarl_ros.control.safety import SafetyGate

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
    limits = {name: {'low': -1.0, 'high': 1.0, 'rate': 1.0} for name in ('vx', 'vy')}
    slow = gate(limits=limits)
    first = slow.request('policy', [1.0, 0.0], now=0.0).values[0]
    slow.observe(STATE, now=100.0)
    second = slow.request('policy', [1.0, 0.0], now=100.0).values[0]
    assert first == pytest.approx(0.1)  # rate / control_rate
    assert second - first <= 0.2 + 1e-9


def test_stale_command_stops_once():
    moving = gate()
    moving.request('policy', [0.5, 0.0], now=0.0)
    moving.observe(STATE, now=0.55)
    assert moving.tick(now=0.4) is None
    assert moving.tick(now=0.6).reason == 'stale command'
    assert moving.tick(now=0.7) is None


def test_stale_state_stops_and_refuses_until_a_state_comes():
    moving = gate()
    moving.request('policy', [0.5, 0.0], now=0.0)
    assert moving.tick(now=0.51).reason == 'stale state'
    assert moving.request('policy', [0.5, 0.0], now=0.6).source == 'stop'
    moving.observe(STATE, now=0.7)
    assert moving.request('policy', [0.5, 0.0], now=0.7).source == 'policy'


def test_estop_is_latched_until_released():
    stopped = gate()
    assert stopped.engage_estop('topic', now=0.0).values.tolist() == [0.0, 0.0]
    for source in ('policy', 'teleop'):
        assert stopped.request(source, [0.5, 0.0], now=1.0).source == 'stop'
    stopped.release()
    stopped.observe(STATE, now=2.0)
    assert stopped.request('teleop', [0.5, 0.0], now=2.0).source == 'teleop'


def test_teleop_outranks_the_policy_until_it_falls_silent():
    shared = gate()
    assert shared.request('teleop', [0.2, 0.0], now=0.0).source == 'teleop'
    assert shared.request('policy', [0.9, 0.0], now=0.1) is None
    shared.observe(STATE, now=0.6)
    assert shared.request('policy', [0.9, 0.0], now=0.6).source == 'policy'


def test_outside_the_workspace_only_a_person_may_drive():
    fenced = gate(workspace={'x': (-1.0, 1.0)})
    fenced.observe([1.5, 0.0, 0.0, 0.0], now=0.0)
    assert 'x outside' in fenced.request('policy', [0.5, 0.0], now=0.0).reason
    assert fenced.request('teleop', [-0.5, 0.0], now=0.0).source == 'teleop'


def test_hold_entries_keep_their_last_value_on_stop():
    gripper = SafetyGate(load_robot('tabletop'), lockstep=False)
    gripper.observe([0.0] * 5, now=0.0)
    gripper.request('policy', [0.1, 0.1, 0.2], now=0.0)
    assert gripper.stop('test', now=0.1).values.tolist() == [0.0, 0.0, 0.2]


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
