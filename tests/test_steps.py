"""States and executed commands are paired to steps, in whatever order they arrive."""

import numpy as np
import pytest

from mbarl_ros.control.step_pairing import LockstepPairing, RealtimePairing


def state(value):
    return np.array([float(value)])


def as_tuples(steps):
    """(state, stamp, command, source, next state) of each step."""
    return [
        (step.state[0], step.stamp, step.command[0], step.source, step.next_state[0])
        for step in steps
    ]


def test_in_lockstep_the_order_in_which_states_and_commands_arrive_does_not_matter():
    events = [('state', i) for i in range(5)] + [('command', i) for i in range(4)]
    expected = [(i, i, 10 + i, 'policy', i + 1) for i in range(4)]
    rng = np.random.default_rng(0)
    for _ in range(200):
        # The messages of each process arrive in order, those of the two interleaved at random.
        kinds = rng.permutation([kind for kind, _ in events])
        steps, counts, completed = LockstepPairing(period=1e-7), {'state': 0, 'command': 0}, []
        steps.receive_state(state(0), 0)
        for kind in kinds:
            number = counts[kind]
            counts[kind] += 1
            if kind == 'state':
                steps.receive_state(state(number), number)
            else:
                steps.receive_executed(state(10 + number), 'policy', number)
            completed += steps.completed()
        assert as_tuples(completed) == expected and not steps.waiting


def test_in_lockstep_a_person_may_answer_a_state_instead_of_the_policy():
    steps = LockstepPairing(period=1e-7)
    steps.receive_state(state(0), 0)
    assert not steps.waiting
    steps.receive_executed(state(7), 'teleop', 0)
    assert steps.waiting  # for the next state: the last one is answered
    steps.receive_state(state(1), 1)
    assert as_tuples(steps.completed()) == [(0, 0, 7, 'teleop', 1)] and not steps.waiting


def test_in_lockstep_a_step_with_a_lost_command_is_not_recorded():
    steps = LockstepPairing(period=1e-7)
    steps.receive_state(state(0), 0)
    steps.receive_state(state(1), 1)
    steps.receive_executed(state(5), 'policy', 1)
    # Messages of the gate arrive in order, so the command of state 0 is lost.
    assert steps.completed() == [] and not steps.incomplete
    steps.receive_state(state(2), 2)
    assert as_tuples(steps.completed()) == [(1, 1, 5, 'policy', 2)]
    steps.receive_state(state(3), 3)
    assert steps.completed() == [] and steps.incomplete
    steps.reset()
    assert not steps.waiting
    steps.receive_executed(state(6), 'policy', 3)
    steps.receive_state(state(4), 4)
    assert as_tuples(steps.completed()) == [(3, 3, 6, 'policy', 4)]


def test_in_lockstep_a_restarted_world_goes_on_at_once():
    steps = LockstepPairing(period=1e-7)
    steps.receive_state(state(0), 5000)
    steps.receive_executed(state(5), 'policy', 5000)
    steps.receive_state(state(1), 0)
    assert not steps.waiting
    steps.receive_executed(state(6), 'policy', 0)
    steps.receive_state(state(2), 100)
    assert as_tuples(steps.completed()) == [(1, 0, 6, 'policy', 2)]


def test_in_lockstep_the_time_in_which_a_sensor_had_failed_is_no_step():
    """The world went on by itself until the state was whole again."""
    steps = LockstepPairing(period=1e-7)  # 100 ns
    steps.receive_state(state(0), 0)
    steps.receive_executed(state(5), 'policy', 0)
    steps.receive_state(state(4), 400)
    assert steps.completed() == [] and steps.left_out == 1
    assert not steps.waiting  # the state can be answered
    steps.receive_executed(state(6), 'policy', 400)
    steps.receive_state(state(5), 500)
    assert as_tuples(steps.completed()) == [(4, 400, 6, 'policy', 5)] and steps.left_out == 1


START = 1_795_345_000_123_456_789  # ns: more digits than a double has


def ms(value):
    return START + round(value * 1e6)


class Realtime:
    """Control at 10 Hz, times in ms."""

    def __init__(self, start=0):
        self.steps = RealtimePairing(period=0.1, teleop_timeout=0.5)
        self.receive_states(start)
        assert self.tick(start) == []

    def receive_states(self, *times):
        for at in times:
            self.steps.receive_state(state(at), ms(at))

    def execute(self, command, source, at, now):
        self.steps.receive_executed(state(command), source, ms(at), 1e-3 * now)

    def tick(self, now):
        steps = as_tuples(self.steps.tick(1e-3 * now))
        assert all(stamp == ms(at) for at, stamp, *_ in steps)
        return [(at, *rest) for at, _, *rest in steps]


def test_in_real_time_a_command_belongs_to_the_step_in_which_it_came_into_force():
    control = Realtime(100)
    control.execute(5, 'policy', 100, 110)
    control.receive_states(200)
    control.execute(6, 'policy', 200, 200)  # an answer to the next state
    assert control.tick(201) == [(100, 5, 'policy', 200)]
    control.receive_states(300)
    assert control.tick(301) == [(200, 6, 'policy', 300)]


def test_in_real_time_the_last_of_several_commands_is_recorded():
    control = Realtime()
    control.execute(5, 'policy', 0, 10)
    control.execute(9, 'teleop', 50, 60)
    control.receive_states(100)
    assert control.tick(101) == [(0, 9, 'teleop', 100)]
    control.execute(0, 'stop', 150, 160)
    control.execute(6, 'policy', 150, 170)
    control.receive_states(200)
    assert control.tick(201) == [(100, 6, 'policy', 200)]


def test_in_real_time_a_delayed_command_is_not_recorded_for_the_time_before_it():
    control = Realtime()
    control.receive_states(*range(10, 401, 10))
    control.execute(0, 'stop', 400, 401)
    control.execute(5, 'policy', 400, 410)
    control.receive_states(*range(410, 451, 10))
    assert [step for step in control.tick(451) if step[-1] <= 400] == []
    control.receive_states(550)
    control.execute(6, 'policy', 450, 452)
    assert control.tick(551) == [(450, 6, 'policy', 550)]


def test_in_real_time_a_teleop_command_stays_in_force_until_its_time_out():
    control = Realtime()
    control.execute(9, 'teleop', 0, 10)
    for at in range(100, 600, 100):
        control.receive_states(at)
        assert control.tick(at) == [(at - 100, 9, 'teleop', at)]
    control.receive_states(600)
    assert control.tick(600) == []


def test_in_real_time_a_command_that_comes_just_after_the_next_state_loses_no_step():
    """Control runs at the rate of the states: sometimes just before one, sometimes just after."""
    control = Realtime()
    in_force = []
    for number in range(20):
        missed = number % 3 == 2
        control.execute(number, 'policy', 100 * (number + missed), 100 * number + 99)
        control.receive_states(100 * (number + 1))
        in_force += control.tick(100 * number + 100)
    expected = []
    for number in range(20):
        missed = number % 3 == 2
        expected.append((100 * number, number - missed, 'policy', 100 * (number + 1)))
    assert in_force == expected


def test_in_real_time_a_step_with_a_lost_policy_command_is_not_recorded():
    control = Realtime()
    control.execute(5, 'policy', 0, 10)
    control.receive_states(100)
    assert control.tick(100) == [(0, 5, 'policy', 100)]
    control.receive_states(200)
    assert control.tick(200) == []


def test_in_real_time_a_step_over_a_lost_state_is_not_recorded():
    control = Realtime()
    control.execute(5, 'policy', 0, 10)
    assert control.tick(100) == []  # the state of 100 is lost
    control.receive_states(200)
    assert control.tick(200) == []
    control.execute(6, 'policy', 200, 210)
    control.receive_states(300)
    assert control.tick(300) == [(200, 6, 'policy', 300)]


@pytest.mark.parametrize('spacing', [4, 5, 8, 10, 15, 20, 30, 40, 50, 75, 80, 87, 95, 100])
def test_in_real_time_late_control_loses_no_step(spacing):
    for late in range(0, 500, 7):
        control = Realtime()
        control.execute(5, 'policy', 0, 10)
        times = range(0, 100 + late + 1, spacing)
        control.receive_states(*times[1:])
        steps = control.tick(times[-1])
        if times[-1] >= 50:
            assert [step[0] for step in steps[1:]] == [step[-1] for step in steps[:-1]]
            assert steps[0][0] == 0 and steps[-1][-1] == times[-1], (late, steps)


def test_in_real_time_states_that_come_just_after_a_control_cycle_make_steps():
    control = Realtime()
    control.execute(6, 'policy', 0, 10)
    assert control.tick(99) == []
    control.receive_states(100, 199)
    assert control.tick(199) == [(0, 6, 'policy', 100), (100, 6, 'policy', 199)]


def test_in_real_time_early_control_does_not_end_the_period():
    control = Realtime()
    control.execute(5, 'policy', 0, 10)
    control.receive_states(30)
    assert control.tick(31) == []
    control.execute(6, 'policy', 30, 35)
    control.receive_states(100)
    assert control.tick(101) == [(0, 6, 'policy', 100)]


def test_in_real_time_a_step_starts_and_ends_at_the_states_that_control_acted_on():
    """Two topics with the same stamp: the second message completes the state."""
    steps = RealtimePairing(period=0.1, teleop_timeout=0.5)
    for number in range(4):
        at = ms(100 * number)
        steps.receive_state(np.array([number, number - 1.0]), at)
        steps.receive_state(np.array([number, number + 0.0]), at)
        completed = steps.tick(0.1 * number)
        steps.receive_executed(state(5), 'policy', at, 0.1 * number)
        if number:
            (step,) = completed
            assert list(step.state) == [number - 1, number - 1]
            assert list(step.next_state) == [number, number]
    steps.receive_state(np.array([3.0, 9.0]), at)  # too late: control has acted
    steps.receive_state(np.array([4.0, 4.0]), ms(400))
    (step,) = steps.tick(0.4)
    assert list(step.state) == [3, 3]


def test_in_real_time_a_clock_that_is_set_back_starts_again():
    control = Realtime(10_000)
    control.execute(5, 'policy', 10_000, 10)
    control.receive_states(0)
    assert control.tick(100) == []
    control.execute(6, 'policy', 0, 110)
    control.receive_states(100)
    assert control.tick(200) == [(0, 6, 'policy', 100)]
