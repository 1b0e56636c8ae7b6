"""Phases and transitions: what the robot does between one learner message and the next."""

import itertools

import numpy as np
import pytest

from mbarl_ros.control.noise import PinkNoise
from mbarl_ros.control.phases import Practice
from mbarl_ros.control.policy import Policy, check_policy, policy_names, policy_shapes
from mbarl_ros.demos.reader import load_demonstrations
from mbarl_ros.learning.learner import Learner
from mbarl_ros.schema.load import load_agent
from mbarl_ros.storage.transitions import BACKWARD, FORWARD, POLICY, SAFETY, stack
from mbarl_ros.storage.wire import WireError
from mbarl_ros.task import Task

TASK = Task.load('pointmass')
AGENT = load_agent('mbarl')
GOAL = np.array([*TASK.config.success.target, 0.0, 0.0])
CORNER = np.array([-1.7, -1.7, 0.0, 0.0])


def step(practice: Practice, state, next_state, **options):
    observation = practice.observe(state)
    return practice.record(observation, practice.act(observation), next_state, 0.0, **options)


def test_success_terminates_the_forward_phase_and_starts_the_backward_phase():
    practice = Practice(TASK, AGENT, seed=0)
    row = step(practice, CORNER, GOAL)
    assert (row['terminated'], row['truncated'], row['phase']) == (True, False, FORWARD)
    assert practice.phase == BACKWARD and practice.successes == 1


def test_a_phase_limit_is_a_truncation_and_never_a_termination():
    practice = Practice(TASK, AGENT, seed=0)
    phases = TASK.config.phases
    rows = [step(practice, CORNER, CORNER) for _ in range(phases.forward_limit)]
    assert rows[-1]['truncated'] and not rows[-1]['terminated']
    assert not any(row['truncated'] for row in rows[:-1])
    rows = [step(practice, CORNER, CORNER) for _ in range(phases.backward_limit)]
    assert {row['phase'] for row in rows} == {BACKWARD}
    assert rows[-1]['truncated'] and practice.phase == FORWARD


def test_a_turn_truncates_the_phase_with_the_next_step_and_no_other():
    practice = Practice(TASK, AGENT, seed=0)
    step(practice, CORNER, CORNER)
    practice.turn()
    row = step(practice, CORNER, CORNER)
    assert (row['terminated'], row['truncated'], row['phase']) == (False, True, FORWARD)
    assert practice.phase == BACKWARD and (practice.attempts, practice.successes) == (1, 0)
    row = step(practice, CORNER, CORNER)
    assert (row['truncated'], row['phase']) == (False, BACKWARD)


def test_a_success_in_the_step_of_a_turn_is_a_success_and_the_turn_is_used_up():
    practice = Practice(TASK, AGENT, seed=0)
    practice.turn()
    row = step(practice, CORNER, GOAL)
    assert (row['terminated'], row['truncated']) == (True, False) and practice.successes == 1
    assert not step(practice, CORNER, CORNER)['truncated'] and practice.phase == BACKWARD


def test_passing_the_goal_in_a_backward_phase_does_not_end_it():
    practice = Practice(TASK, AGENT, seed=0)
    step(practice, CORNER, GOAL)
    row = step(practice, CORNER, GOAL)
    assert row['phase'] == BACKWARD and not row['terminated']


def test_a_safety_stop_ends_nothing_so_that_values_bootstrap_through_it():
    practice = Practice(TASK, AGENT, seed=0)
    row = step(practice, CORNER, CORNER, source=SAFETY)
    assert not row['truncated'] and not row['terminated']
    assert practice.phase == FORWARD and practice.phase_steps == 1


def test_a_phase_limit_during_a_safety_stop_is_a_truncation():
    practice = Practice(TASK, AGENT, seed=0)
    limit = TASK.config.phases.forward_limit
    rows = [step(practice, CORNER, CORNER, source=SAFETY) for _ in range(limit)]
    assert [row['truncated'] for row in rows] == [False] * (limit - 1) + [True]
    assert practice.phase == BACKWARD


@pytest.mark.parametrize('agent', ['mbarl', 'oracle'])
def test_the_learner_sees_one_attempt_where_a_safety_stop_interrupts_it(agent):
    """No second phase start, and the state after the stop was reached from before it."""
    agent = load_agent(agent)
    demonstrations = load_demonstrations(TASK.config.demonstrations, TASK)
    learner = Learner(TASK, agent, demonstrations, seed=0)
    practice = Practice(TASK, agent, seed=0)
    states = CORNER + np.linspace(0.0, 0.2, 11)[:, None]
    rows = [
        step(practice, before, after, source=SAFETY if number == 4 else POLICY)
        for number, (before, after) in enumerate(itertools.pairwise(states))
    ]
    learner.add(stack(rows, TASK))
    assert [len(starts) for starts in learner._phase_starts][FORWARD] == 1
    assert learner._replay.steps_to_end(np.arange(10)).tolist() == list(range(9, -1, -1))


@pytest.mark.slow
def test_a_backward_phase_prepares_for_the_goal_that_comes_next():
    task = Task.load('tabletop')
    practice = Practice(task, AGENT, seed=0)
    seen = []
    for _ in range(30):
        goal = practice.goal
        state = np.array([0.0, 0.0, -1.0, goal[2], goal[3]])  # gripper, attached, mug on the goal
        step(practice, state, state)
        assert practice.phase == BACKWARD
        next_goal = practice.goal
        for _ in range(task.config.phases.backward_limit):
            step(practice, np.zeros(5), np.zeros(5))
        assert practice.phase == FORWARD and (practice.goal == next_goal).all()
        seen.append((tuple(goal), tuple(next_goal)))
    assert len({goal for goal, _ in seen}) == len(task.goals)
    assert any(goal != next_goal for goal, next_goal in seen)


def policy_arrays(rng) -> dict[str, np.ndarray]:
    shapes = policy_shapes(policy_names(AGENT), 4, 2, AGENT.sac.hidden)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    arrays['scale'] = np.ones(4, np.float32)
    return arrays


def check(arrays):
    check_policy(arrays, policy_names(AGENT), 4, 2, AGENT.sac.hidden)


def test_weights_of_another_shape_type_or_with_nan_are_refused_by_name(rng=None):
    rng = np.random.default_rng(0)
    check(policy_arrays(rng))
    name = 'forward/0/weight'
    for damage in (
        lambda a: a.pop(name),
        lambda a: a.update(extra=np.zeros(1, np.float32)),
        lambda a: a.update({name: a[name][:-1]}),
        lambda a: a.update({name: a[name].astype(np.float64)}),
        lambda a: a.update({name: a[name] * np.nan}),
    ):
        arrays = policy_arrays(rng)
        damage(arrays)
        with pytest.raises(WireError, match='forward/0/weight|extra'):
            check(arrays)


def test_policy_samples_around_its_mean_and_stays_in_range():
    policy = Policy(policy_arrays(np.random.default_rng(1)), 'forward')
    observations = np.random.default_rng(2).normal(size=(100, 4)).astype(np.float32)
    mean = policy.mean_action(observations)
    assert np.allclose(policy.sample(observations, np.zeros((100, 2), np.float32)), mean)
    assert (np.abs(policy.sample(observations, np.ones((100, 2), np.float32))) <= 1).all()


def test_pink_noise_has_unit_variance_and_reaches_further_than_white():
    noise = PinkNoise(2, np.random.default_rng(0), horizon=150)
    walks = np.array([[noise.sample() for _ in range(150)] for _ in range(300)])
    assert walks.std() == pytest.approx(1.0, abs=0.05)
    reach = np.abs(walks.cumsum(1)[:, -1]).mean()
    assert reach > 2 * np.sqrt(150 * 2 / np.pi)  # white noise: E|sum| = sqrt(2 n / pi)


def test_the_same_seed_gives_the_same_actions():
    first, second = (Practice(TASK, AGENT, seed=3) for _ in range(2))
    for _ in range(50):
        assert (first.act(CORNER) == second.act(CORNER)).all()
