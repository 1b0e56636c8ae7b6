"""Which command was executed in which state, whoever of the two is heard first."""

import numpy as np

from mbarl_ros.control.steps import LockstepSteps, RealtimeSteps


def state(value):
    return np.array([float(value)])


def told(steps):
    return [
        (step.state[0], step.stamp, step.command[0], step.source, step.next_state[0])
        for step in steps
    ]


def test_in_lockstep_the_order_in_which_states_and_echoes_are_heard_does_not_matter():
    events = [('state', i) for i in range(5)] + [('echo', i) for i in range(4)]
    expected = [(i, i, 10 + i, 'policy', i + 1) for i in range(4)]
    rng = np.random.default_rng(0)
    for _ in range(200):
        # each process is heard in its own order, the two interleaved anyhow
        kinds = rng.permutation([kind for kind, _ in events])
        steps, counts, found = LockstepSteps(), {'state': 0, 'echo': 0}, []
        steps.observe(state(0), 0)
        for kind in kinds:
            number = counts[kind]
            counts[kind] += 1
            if kind == 'state':
                steps.observe(state(number), number)
            else:
                steps.execute(state(10 + number), 'policy', number)
            found += steps.completed()
        assert told(found) == expected and not steps.waiting


def test_in_lockstep_a_person_may_answer_a_state_that_the_policy_did_not():
    steps = LockstepSteps()
    steps.observe(state(0), 0)
    assert not steps.waiting
    steps.execute(state(7), 'teleop', 0)
    assert steps.waiting  # the world is on its way: there is nothing to answer now
    steps.observe(state(1), 1)
    assert told(steps.completed()) == [(0, 0, 7, 'teleop', 1)] and not steps.waiting


def test_in_lockstep_a_step_whose_command_is_unknown_is_never_made_up():
    steps = LockstepSteps()
    steps.observe(state(0), 0)
    steps.observe(state(1), 1)
    steps.execute(state(5), 'policy', 1)
    steps.observe(state(2), 2)
    assert steps.completed() == [] and steps.waiting
    steps.forget()
    assert not steps.waiting
    steps.execute(state(6), 'policy', 2)
    steps.observe(state(3), 3)
    assert told(steps.completed()) == [(2, 2, 6, 'policy', 3)]


def ms(value):
    return round(value * 1e6)


class Realtime:
    """Control at 10 Hz, times in ms."""

    def __init__(self):
        self.steps = RealtimeSteps(period=0.1, teleop_timeout=0.5)

    def see(self, *times):
        for at in times:
            self.steps.observe(state(at), ms(at))

    def execute(self, command, source, at, now):
        self.steps.execute(state(command), source, ms(at), 1e-3 * now)

    def tick(self, now):
        found = told(self.steps.tick(1e-3 * now))
        assert all(stamp == ms(at) for at, stamp, *_ in found)
        return [(at, *rest) for at, _, *rest in found]


def test_in_real_time_a_command_belongs_to_the_step_of_the_state_that_it_answers():
    control = Realtime()
    control.see(100)
    assert control.tick(101) == []
    control.execute(5, 'policy', 100, 110)
    control.see(200)
    control.execute(6, 'policy', 200, 200)  # answers the next state already
    assert control.tick(201) == [(100, 5, 'policy', 200)]
    control.see(300)
    assert control.tick(301) == [(200, 6, 'policy', 300)]


def test_in_real_time_the_last_of_several_commands_counts():
    control = Realtime()
    control.see(0)
    control.execute(5, 'policy', 0, 10)
    control.execute(9, 'teleop', 50, 60)
    control.see(100)
    assert control.tick(101) == [(0, 9, 'teleop', 100)]


def test_in_real_time_a_persons_command_stays_in_force_until_the_policy_may_go_on():
    control = Realtime()
    control.see(0)
    control.execute(9, 'teleop', 0, 10)
    for at in range(100, 600, 100):
        control.see(at)
        assert control.tick(at) == [(at - 100, 9, 'teleop', at)]
    control.see(600)
    assert control.tick(600) == []


def test_in_real_time_a_policys_lost_command_is_not_made_up():
    control = Realtime()
    control.see(0)
    control.execute(5, 'policy', 0, 10)
    control.see(100)
    assert control.tick(100) == [(0, 5, 'policy', 100)]
    control.see(200)
    assert control.tick(200) == []


def test_in_real_time_a_step_over_a_lost_state_is_none():
    control = Realtime()
    control.see(0)
    control.execute(5, 'policy', 0, 10)
    assert control.tick(100) == []  # the state of 100 got lost
    control.see(200)
    assert control.tick(200) == []
    control.execute(6, 'policy', 200, 210)
    control.see(300)
    assert control.tick(300) == [(200, 6, 'policy', 300)]


def test_in_real_time_control_that_is_late_loses_no_step():
    control = Realtime()
    control.see(0)
    assert control.tick(1) == []
    control.execute(5, 'policy', 0, 10)
    control.see(*range(10, 301, 10))
    steps = [(0, 5, 'policy', 100), (100, 5, 'policy', 200), (200, 5, 'policy', 300)]
    assert control.tick(301) == steps
    control.execute(6, 'policy', 300, 310)
    control.see(399, 501)  # each just after the loop had looked
    assert control.tick(502) == [(300, 6, 'policy', 399), (399, 6, 'policy', 501)]


def test_in_real_time_control_that_is_early_goes_on_with_the_period():
    control = Realtime()
    control.see(0)
    control.execute(5, 'policy', 0, 10)
    control.see(30)
    assert control.tick(31) == []
    control.execute(6, 'policy', 30, 35)
    control.see(100)
    assert control.tick(101) == [(0, 6, 'policy', 100)]


def test_in_real_time_a_clock_that_is_set_back_begins_anew():
    control = Realtime()
    control.see(10_000)
    control.execute(5, 'policy', 10_000, 10)
    control.see(0)
    assert control.tick(100) == []
    control.execute(6, 'policy', 0, 110)
    control.see(100)
    assert control.tick(200) == [(0, 6, 'policy', 100)]
