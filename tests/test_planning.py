"""Planning with the learned model, and the warm start of the forward policy from its plans."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from test_learning import SMALL, stream

from mbarl_ros.control.model import LearnedModel, LearnedValue, has_model
from mbarl_ros.control.planning import PLANNERS, OutOfTimeError, Rollouts
from mbarl_ros.control.planning_policy import PlanningPolicy, deployed_policy
from mbarl_ros.control.policy import DEPLOYED, Policy, pack_policy, unpack_policy
from mbarl_ros.learning.learner import Learner
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import load_agent, override
from mbarl_ros.schema.model import PlannerConfig, WarmStartConfig
from mbarl_ros.storage.wire import WireError
from mbarl_ros.task import Task

METHODS = tuple(PLANNERS)
PLANNER = PlannerConfig(horizon=4, candidates=12, elites=3)
PLANNING = SMALL.model_copy(update={'name': 'planning', 'planner': PLANNER})
WARM = PLANNING.model_copy(
    update={
        'name': 'warm',
        'warm_start': WarmStartConfig(
            planner_steps=100, rounds=1, round_steps=50, states=1000, gradient_steps=300
        ),
    }
)


def trained(task: Task, agent=PLANNING, chunks: int = 2, seed: int = 0) -> Learner:
    learner = Learner(task, agent, stream(task, 60, seed=100, phase=0), seed)
    for chunk in range(chunks):
        practise(learner, chunk)
    return learner


def practise(learner: Learner, chunk: int) -> dict[str, float]:
    learner.add(stream(learner.task, 50, seed=chunk))
    return learner.train(5)


class Target:
    """Stands for rollouts: a plan is the better, the closer its actions are to ``target``."""

    def __init__(self, target: np.ndarray, seconds: float = 0.0) -> None:
        self.target, self.seconds = target, seconds

    def score(self, observation, sequences, rng, proposals=0, deadline=np.inf):
        time.sleep(self.seconds)
        if time.monotonic() > deadline:
            raise OutOfTimeError
        return -np.square(sequences - self.target[:, None]).sum((2, 3))


def planner(method: str, **changes):
    iterations = 1 if method == 'random_shooting' else 6
    candidates = 3000 if method == 'random_shooting' else 200
    values = {'method': method, 'horizon': 3, 'candidates': candidates, 'iterations': iterations}
    return PLANNERS[method](PlannerConfig(**{**values, **changes}), 2, seed=0)


@pytest.mark.parametrize('method', METHODS)
def test_each_method_finds_the_best_actions_for_each_problem(method: str) -> None:
    targets = np.array([[[0.5, -0.7]] * 3, [[-0.2, 0.9]] * 3], np.float32)
    plans = planner(method)
    plans.forget(problems=2)
    plans.rollouts = Target(targets)
    for _ in range(3):
        actions = plans.plan(np.zeros((2, 4), np.float32))
    tolerance = 0.6 if method == 'random_shooting' else 0.15
    assert np.abs(actions - targets[:, 0]).max() < tolerance


@pytest.mark.parametrize('method', METHODS)
def test_the_same_seed_plans_the_same_actions(method: str) -> None:
    plans = planner(method)
    plans.rollouts = Target(np.full((1, 3, 2), 0.3, np.float32))
    first = plans.plan(np.zeros((1, 4), np.float32))
    assert not np.array_equal(plans.plan(np.zeros((1, 4), np.float32)), first)
    plans.forget(reseed=True)
    assert np.array_equal(plans.plan(np.zeros((1, 4), np.float32)), first)


def test_without_time_the_last_plan_is_continued_and_counted() -> None:
    plans = planner('cem')
    plans.rollouts = Target(np.array([[[0.9, 0.9], [0.0, 0.0], [-0.9, -0.9]]], np.float32))
    observation = np.zeros((1, 4), np.float32)
    assert plans.plan(observation)[0, 0] > 0.6
    plans.rollouts = Target(np.zeros((1, 3, 2), np.float32), seconds=0.02)
    assert abs(plans.plan(observation, seconds=0.01)[0, 0]) < 0.3  # second action of the plan
    assert plans.plan(observation, seconds=0.01)[0, 0] < -0.6  # third
    assert (plans.plans, plans.continued, plans.cut_short) == (3, 2, 0)
    plans.plan(observation, seconds=0.03)  # time for one iteration of six
    assert (plans.continued, plans.cut_short) == (2, 1)


@pytest.mark.parametrize('name', ['pointmass', 'tabletop', 'arm_velocity'])
def test_the_robots_model_predicts_what_the_learners_does(name: str) -> None:
    """Duplicate entries, flags, goals, Fourier features and a learned reward included."""
    task = Task.load(name)
    agent = PLANNING
    if not task.reward_known:
        agent = PLANNING.model_copy(update={'hindsight_fraction': 0.0})
    learner = trained(task, agent)
    ensemble, arrays = learner._imagination.ensemble, learner.policy_arrays()
    model = LearnedModel(arrays, task, agent.model)
    rows = stream(task, 6, seed=5)
    state = np.repeat(rows['observation'][None, :, : task.state_dim], model.elites, 0)
    action = np.repeat(rows['action'][None], model.elites, 0)
    next_state, reward = model.step(state, action)

    inputs = ensemble._inputs(torch.from_numpy(state[..., ensemble.index]).flatten(0, 1),
                              torch.from_numpy(action).flatten(0, 1))  # fmt: skip
    inputs = inputs.unflatten(0, (model.elites, -1))
    with torch.no_grad():
        mean, _, moves = ensemble._predict(ensemble._elite_parameters, inputs)
    change = (mean * (moves > 0) * ensemble._change_scale).numpy()[..., : len(ensemble.index)]
    low, high = task.state_low[ensemble.index], task.state_high[ensemble.index]
    expected = np.clip(state[..., ensemble.index] + change, low, high)
    flags = mean[..., : len(ensemble.index)].numpy() > 0
    expected = np.where(task.binary[ensemble.index], np.where(flags, high, low), expected)
    assert np.allclose(next_state[..., ensemble.index], expected, atol=2e-4)
    assert (reward is None) == task.reward_known
    doubled = [entry.name for entry in task.config.observation]
    for entry, other in enumerate(doubled):
        assert np.array_equal(next_state[..., entry], next_state[..., doubled.index(other)])


@pytest.mark.parametrize('name', ['pointmass', 'tabletop'])
def test_the_robots_value_is_the_learners(name: str) -> None:
    task = Task.load(name)
    learner = trained(task)
    arrays = learner.policy_arrays()
    observation = stream(task, 20, seed=6)['observation']
    value = LearnedValue(arrays, task, PLANNING).value(
        observation, Policy(arrays, 'forward').mean_action(observation)
    )
    expected = learner.sac.value(torch.from_numpy(task.scaled(observation))[None].repeat(2, 1, 1))
    assert np.allclose(value, expected[0].numpy(), atol=1e-4)


def test_a_plan_that_reaches_the_goal_is_worth_what_it_reaches_and_no_more() -> None:
    task = Task.load('pointmass')
    agent = PLANNING
    learner = trained(task, agent)
    arrays = learner.policy_arrays()
    for name in arrays:
        if name.startswith('model/') and name.endswith('weight'):
            arrays[name] = np.zeros_like(arrays[name])  # a model in which nothing moves
        if name.startswith('model/') and name.endswith('bias'):
            arrays[name] = np.zeros_like(arrays[name])
    model = LearnedModel(arrays, task, agent.model)
    policy, value = Policy(arrays, 'forward'), LearnedValue(arrays, task, agent)
    goal = np.array([*task.config.success.target, 0.0, 0.0], np.float32)
    away = np.array([-1.6, -1.6, 0.0, 0.0], np.float32)
    sequences = np.zeros((2, 4, 5, 2), np.float32)
    rng = np.random.default_rng(0)
    score = Rollouts(task, agent.planner, model, 0.9, policy, value).score(
        np.stack([goal, away]), sequences, rng
    )
    assert np.allclose(score[0], 1.0)
    worth = value.value(away[None], policy.mean_action(away[None]))[0]
    assert np.allclose(score[1], 0.9**5 * worth, atol=1e-5)


def test_a_message_carries_the_model_once_there_is_one_and_damage_is_named() -> None:
    task = Task.load('pointmass')
    learner = Learner(task, PLANNING, stream(task, 60, seed=100, phase=0), 0)

    def sent(arrays):
        return unpack_policy(pack_policy(arrays, task, PLANNING, 50, 0), task, PLANNING)[0]

    untrained = sent(learner.policy_arrays())
    assert not has_model(untrained)
    assert isinstance(deployed_policy(untrained, DEPLOYED, task, PLANNING, 0), Policy)
    practise(learner, 0)
    arrays = learner.policy_arrays()
    assert isinstance(deployed_policy(sent(arrays), DEPLOYED, task, PLANNING, 0), PlanningPolicy)
    with pytest.raises(WireError, match='critics/0/weight'):
        sent({n: a for n, a in arrays.items() if n != 'critics/0/weight'})
    arrays['model/0/weight'][0, 0, 0] = np.nan
    with pytest.raises(WireError, match='model/0/weight'):
        sent(arrays)


@pytest.mark.slow
def test_the_planner_acts_first_and_then_the_policy_that_imitates_it() -> None:
    task = Task.load('pointmass')
    learner = trained(task, WARM, chunks=1)
    assert has_model(learner.policy_arrays())  # the planner acts
    practise(learner, 1)
    assert not has_model(learner.policy_arrays())  # cloned: the policy acts, DAgger goes on
    metrics = practise(learner, 2)
    assert metrics['warm_start/round'] == 2
    assert 'warm_start/round' not in practise(learner, 3)  # MBARL goes on


@pytest.mark.slow
def test_a_policy_that_imitates_the_planner_acts_like_it() -> None:
    task = Task.load('pointmass')
    better = PlannerConfig(
        horizon=4, candidates=60, iterations=4, elites=6, objective='distance', terminal_value=False
    )
    agent = WARM.model_copy(update={'planner': better})
    learner = Learner(task, agent, stream(task, 60, seed=100, phase=0), 0)
    learner.add(stream(task, 1000, seed=1, phase=0))
    before = learner.policy_arrays()
    learner.train(5)
    arrays = learner.policy_arrays()
    observation = stream(task, 100, seed=9)['observation']
    plans = PlanningPolicy(task, agent, 0)
    plans.load(arrays | learner._planning_arrays(), 'forward')
    plans.begin(len(observation))
    labels = plans.mean_action(observation)

    def distance(weights):
        return np.abs(Policy(weights, DEPLOYED).mean_action(observation) - labels).mean()

    assert distance(arrays) < 0.7 * distance(before)


@pytest.mark.slow
def test_a_warm_start_resumes_exactly() -> None:
    task = Task.load('pointmass')
    learner = trained(task, WARM, chunks=2)
    arrays, meta = learner.state_dict()
    resumed = Learner(task, WARM, stream(task, 60, seed=100, phase=0), seed=77)
    resumed.load_state_dict(arrays, meta)
    for chunk in range(2):
        resumed.add(stream(task, 50, seed=chunk))
    for chunk in (2, 3):
        assert practise(resumed, chunk) == practise(learner, chunk)


def test_settings_that_contradict_each_other_are_named() -> None:
    mpc = load_agent('mpc')
    for changes, key in (
        ({'model': None}, 'planner'),
        ({'planner.candidates': 61}, 'planner.candidates'),
        ({'planner.method': 'random_shooting'}, 'iterations'),
        ({'planner.elites': 60}, 'elites'),
    ):
        with pytest.raises(ConfigError, match=key):
            override(mpc, changes, 'agent mpc')
    for changes, key in (
        ({'planner': None}, 'warm_start'),
        ({'model.every': 1000}, 'planner_steps'),
    ):
        with pytest.raises(ConfigError, match=key):
            override(load_agent('mbmf'), changes, 'agent mbmf')
