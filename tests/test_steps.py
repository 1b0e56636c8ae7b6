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


def test_in_real_time_a_command_belongs_to_the_step_of_the_state_that_it_answers():
    steps = RealtimeSteps(teleop_timeout=0.5)
    assert steps.tick(state(0), 100, 0.0) is None
    steps.execute(state(5), 'policy', 100, 0.01)
    steps.execute(state(6), 'policy', 200, 0.1)  # answers the next state already
    assert told([steps.tick(state(1), 200, 0.11)]) == [(0, 100, 5, 'policy', 1)]
    assert told([steps.tick(state(2), 300, 0.21)]) == [(1, 200, 6, 'policy', 2)]


def test_in_real_time_the_last_of_several_commands_counts():
    steps = RealtimeSteps(teleop_timeout=0.5)
    steps.tick(state(0), 100, 0.0)
    steps.execute(state(5), 'policy', 100, 0.01)
    steps.execute(state(9), 'teleop', 150, 0.05)
    assert told([steps.tick(state(1), 200, 0.1)]) == [(0, 100, 9, 'teleop', 1)]


def test_in_real_time_a_persons_command_stays_in_force_until_the_policy_may_go_on():
    steps = RealtimeSteps(teleop_timeout=0.5)
    steps.tick(state(0), 0, 0.0)
    steps.execute(state(9), 'teleop', 0, 0.01)
    found = [steps.tick(state(i), i, 0.1 * i) for i in range(1, 9)]
    assert [step is not None for step in found] == [True] * 5 + [False] * 3
    assert all(step.command[0] == 9 for step in found[:5])


def test_in_real_time_a_policys_lost_command_is_not_made_up():
    steps = RealtimeSteps(teleop_timeout=0.5)
    steps.tick(state(0), 0, 0.0)
    steps.execute(state(5), 'policy', 0, 0.01)
    assert steps.tick(state(1), 1, 0.1) is not None
    assert steps.tick(state(2), 2, 0.2) is None
    assert steps.tick(state(2), 2, 0.3) is None  # no new state: the period goes on
