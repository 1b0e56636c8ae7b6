"""Gymnasium environments as worlds: their tasks, their ends, what is refused, and the bench."""

import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from mbarl_ros.cli.main import main
from mbarl_ros.control.phases import Practice
from mbarl_ros.learning.evaluation import attempts, evaluate
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import (
    generated,
    load_agent,
    load_robot,
    load_task,
    load_world,
    without_demonstrations,
)
from mbarl_ros.storage.transitions import BACKWARD, FORWARD, stack
from mbarl_ros.studies import seeds
from mbarl_ros.studies.direct import DirectRun
from mbarl_ros.task import Task
from mbarl_sim.gymnasium_world import SimulatorError

gymnasium = pytest.importorskip('gymnasium')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('user')
    shutil.copy(Path(__file__).parent / 'support' / 'user_envs.py', path)
    return path


@pytest.fixture(autouse=True)
def current_folder(folder, monkeypatch):
    """The user starts everything in the folder of the file."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, 'path', list(sys.path))


def task_of(name):
    return Task.load(f'gymnasium:{name}')


def world_of(name, seed=0):
    return load_world(load_task(f'gymnasium:{name}'), seed=seed)


def command(*values):
    return np.array(values, np.float64)


def test_a_registered_environment_is_a_task_with_its_own_time_limit_and_rate():
    task = task_of('Reacher-v5')
    assert task.name == 'Reacher-v5' and task.state_dim == 13 and task.action_dim == 2
    assert task.config.phases.forward_limit == task.config.evaluation.horizon == 50
    assert task.robot.control_rate == 50.0 and not task.reward_known
    assert load_robot(task.config.robot) == task.robot
    assert {entry.name for entry in task.config.observation if entry.binary} == {'success', 'ended'}
    world = world_of('Reacher-v5')
    world.reset()
    state = None
    for _ in range(60):  # the time limit of 50 steps neither ends nor resets it
        state = world.step(command(0.1, -0.1))
    assert not state[world.state_names.index('ended')]
    assert task.reward(task.observation(state)) == pytest.approx(state[-1])
    assert state[-1] < 0


def test_a_name_gives_the_same_configuration_whatever_happened_before():
    first = generated('gymnasium:Pusher-v5')
    generated.cache_clear()
    np.random.seed(7)
    again = generated('gymnasium:Pusher-v5')
    assert first == again
    low, high = ([getattr(e, end) for e in first[0].observation] for end in ('low', 'high'))
    world = world_of('Pusher-v5', seed=3)
    states = np.array([world.reset(), *(world.step(command(*[1.0] * 7)) for _ in range(20))])
    assert (states >= np.array(low)).all() and (states <= np.array(high)).all()


def test_a_users_class_needs_no_change_and_takes_options():
    task = task_of('user_envs:Cart?goal=0.5,max_episode_steps=30')
    assert task.config.phases.forward_limit == 30 and task.robot.control_rate == 25.0
    assert task.name == 'user_envs_Cart_goal=0.5,max_episode_steps=30'
    assert task.config.world_options == {'env': 'user_envs:Cart', 'kwargs': {'goal': 0.5}}
    assert task.command(np.ones(1)) == 2.0
    world = load_world(task.config, seed=0)
    assert world.state_names == ('observation_0', 'observation_1', 'success', 'ended', 'reward')
    assert world.render().shape == (4, 6, 3)
    assert world.reset()[1] == 0.5


def test_starts_depend_on_the_seed_in_training_and_not_in_evaluation():
    worlds = [world_of('user_envs:Cart', seed) for seed in (0, 0, 1)]
    one, same, other = (np.array([world.reset() for _ in range(3)]) for world in worlds)
    assert (one == same).all() and (one != other).any()
    starts = np.array([[world.reset_to_start(i) for i in range(3)] for world in worlds])
    assert (starts == starts[0]).all() and len(np.unique(starts[0, :, 0])) == 3
    with pytest.raises(ConfigError, match="'user_envs:Cart': its state cannot be set"):
        worlds[0].set_state(one[0])


def test_success_by_method_by_info_and_by_reward():
    outcomes = []
    for name in ('Cart', 'Reach', 'Cart?success_reward=-0.5', 'Cart?success_reward=9'):
        world = world_of(f'user_envs:{name}')
        state = world.reset()
        start, success = state[0], world.state_names.index('success')
        successes = []
        for _ in range(7):
            state = world.step(command(2.0))
            successes.append((state[0], bool(state[success])))
        outcomes.append({x for x, reached in successes if reached})
        assert start < 0.5
    by_method, by_info, by_reward, never = outcomes
    assert by_method and all(abs(x - 1) < 0.1 for x in by_method)
    assert by_info and all(x > 1 for x in by_info)
    assert by_reward and all(x >= 0.5 for x in by_reward)
    assert not never


def test_goals_of_gymnasium_robotics_are_part_of_the_observation():
    world = world_of('user_envs:Reach?goal=0.7')
    assert world.state_names[:2] == ('observation_0', 'desired_goal_0')
    assert world.reset()[1] == 0.7
    task = task_of('user_envs:Reach?goal=0.7')
    entry = task.config.observation[0]
    assert (entry.low, entry.high) == (-9, 9)  # as the environment declares
    # The achieved goal tells that x is to reach the goal: networks see the difference.
    assert task.pairwise_differences.tolist() == [[1, -1, 0, 0, 0]]


def test_success_of_a_goal_environment_is_a_distance_that_its_sparse_reward_tells():
    task = task_of('user_envs:Place?tolerance=0.08')
    success = task.config.success
    assert success.entries == ['observation_1', 'observation_2']
    assert success.goal_entries == ['desired_goal_0', 'desired_goal_1']
    assert success.tolerance == 0.08 and task.reward_known
    names = [entry.name for entry in task.config.observation]
    assert names == ['observation_0', *success.entries, *success.goal_entries, 'ended']
    world = task.load_world(seed=0)
    state = world.reset()
    for _ in range(60):
        observation = task.observation(state)
        goal, place = observation[3:5], observation[1:3]
        near = np.linalg.norm(goal - place) <= 0.08
        assert task.success(observation) == near == state[world.state_names.index('success')]
        if near:
            break
        state = world.step((goal - place).clip(-0.02, 0.02) / 0.05)
    assert near


@pytest.mark.parametrize('name', ['Place?dense=true', 'Corner', 'Place?success_reward=-0.01'])
def test_another_success_is_what_the_environment_tells(name):
    task = task_of(f'user_envs:{name}')
    assert task.config.success.entries == ['success'] and task.config.reward == 'topic:reward'
    assert not task.goal_in_state


def test_what_is_to_reach_a_goal_has_its_range_and_bounds_far_beyond_do_not_count():
    entries = {entry.name: entry for entry in task_of('user_envs:Place').config.observation}
    for number in (0, 1):
        reaching, goal = entries[f'observation_{number + 1}'], entries[f'desired_goal_{number}']
        assert (reaching.low, reaching.high) == (goal.low, goal.high)
        assert -3 < goal.low < -0.5 and 0.5 < goal.high < 3  # declared are +-10
        assert not goal.limited and goal.axis == reaching.axis == goal.name


def test_goals_in_the_state_are_replaced_in_hindsight_and_stay_in_imagination():
    task = task_of('user_envs:Place')
    agent = load_agent('mbpo')
    agent = without_demonstrations(agent, task.config).model_copy(update={'chunk': 400})
    run = DirectRun(task, agent, stack([], task), seed=0)
    rows = run.collect()
    run.learner.add(rows)
    drawn = run.learner.batches.draw_rows(run.learner._replay, FORWARD, (1, 4000))
    before = {tuple(goal) for goal in rows['observation'][:, task.goal_index]}
    goals, later = (
        drawn[name][0][:, task.goal_index] for name in ('observation', 'next_observation')
    )
    assert (goals == later).all()
    replaced = np.array([tuple(goal) not in before for goal in goals])
    assert 0.3 < replaced.mean() < 0.6  # of agent.hindsight_fraction 0.5; the last of a chain stay
    reward, ends = run.learner.batches.reward(FORWARD, {n: a[0] for n, a in drawn.items()})
    near = np.linalg.norm(drawn['next_observation'][0][:, 1:3] - later, axis=-1) <= 0.1
    assert (reward == near).all() and reward[replaced].any() and ends[near].all()
    # What the environment ended at its goal keeps that goal.
    ended = task.ended(drawn['next_observation'][0])
    assert not (ended & replaced).any()
    rng = np.random.default_rng(0)
    following = task.following(rows['observation'], rng.normal(size=(len(rows['phase']), 6)))
    assert (following[:, task.goal_index] == rows['observation'][:, task.goal_index]).all()
    assert (following[:, 1:3] != rows['observation'][:, 1:3]).all()


def test_a_world_that_has_ended_stands_still_until_it_is_reset():
    world = world_of('user_envs:Cart')
    world.reset()
    states = [world.step(command(-2.0)) for _ in range(15)]
    ended = world.state_names.index('ended')
    first = next(i for i, state in enumerate(states) if state[ended])
    assert all((state == states[first]).all() for state in states[first:])
    assert not world.reset()[ended]


def test_an_end_is_no_success_and_the_next_phase_goes_forward_in_a_reset_world():
    task = task_of('user_envs:Cart?max_episode_steps=3')
    practice = Practice(task, load_agent('medal'), seed=0)
    names = task.robot.state_names

    def step(**entries):
        state = np.array([entries.get(name, 0.0) for name in names])
        return practice.record(practice.observe(state), np.zeros(1, np.float32), state, 0.0)

    assert step(ended=1.0)['terminated'] and practice.reset_due
    assert (practice.attempts, practice.successes, practice.phase) == (1, 0, FORWARD)
    practice.reset_due = False
    for _ in range(3):
        step()
    assert practice.phase == BACKWARD and not practice.reset_due
    row = step(ended=1.0)
    assert row['terminated'] and row['phase'] == BACKWARD and not row['truncated']
    assert practice.phase == FORWARD and practice.reset_due
    step(ended=1.0, success=1.0)
    assert practice.successes == 1


def test_practice_counts_the_resets_that_the_environment_demands():
    task = task_of('user_envs:Cart?max_episode_steps=40')
    changes = {'chunk': 200, 'updates_per_step': 0.01}
    agent = without_demonstrations(load_agent('sac'), task.config).model_copy(update=changes)
    run = DirectRun(task, agent, stack([], task), seed=0)
    run.practice.act = lambda observation: np.ones(1, np.float32)  # off the table
    run.practice.task = task_without_success(task)
    rows = run.collect()
    ends = np.flatnonzero(rows['terminated'])
    assert run.resets == len(ends) >= 5
    assert (rows['observation'][ends[:-1] + 1, 0] < 0.6).all()
    run.train(rows)
    batch = run.learner.batches.draw(20)
    last = batch.next_observation[..., -2] > 0  # ended, scaled
    assert last.any() and (batch.discount[last] == 0).all() and (batch.discount[~last] > 0).all()


def task_without_success(task):
    never = task.config.success.model_copy(update={'target': [9.0]})
    return Task(task.config.model_copy(update={'success': never}), task.robot)


class Drive:
    """Always the same action."""

    def __init__(self, action):
        self._action = action

    def begin(self, problems, reseed=False):
        pass

    def keep(self, mask):
        pass

    def mean_action(self, observation):
        return np.full((len(observation), 1), self._action)


def test_the_deployed_return_is_the_sum_of_rewards_up_to_success_or_end():
    task, world = task_of('user_envs:Cart?max_episode_steps=20'), world_of('user_envs:Cart')
    x = world.reset_to_start(0)[0]
    succeeded, returns = attempts(task, [world], Drive(1.0), world.reset_to_start(0)[None], [0])
    distances = [abs(x + 0.2 * i - 1) for i in range(1, 8)]
    steps = 1 + next(i for i, distance in enumerate(distances) if distance < 0.1)
    assert succeeded.all() and returns[0] == pytest.approx(-sum(distances[:steps]))
    outcome = evaluate(task, world, Drive(-1.0), 3)
    assert outcome.success == 0.0 and -40 < outcome.deployed_return < -10
    assert evaluate(task, world, Drive(0.0), 3).deployed_return > -31  # 20 steps, no end
    assert evaluate(Task.load('pointmass'), *pointmass(), 1).deployed_return is None


def pointmass():
    return load_world(load_task('pointmass'), seed=0), Drive(0.0)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('Reacher-v7', r"unknown environment 'Reacher-v7'; the nearest known ones are Reacher-v\d"),
        ('FetchRech-v4', r'nearest known ones are .*FetchReach'),
        ('user_envs:Choice', r"'user_envs:Choice': action_space Discrete\(3\): supported are"),
        ('user_envs:Unbounded', r"'user_envs:Unbounded': action_space Box.*finite bounds"),
        ('user_envs:Words', r"'user_envs:Words': observation_space Discrete\(3\): supported are"),
        ('user_envs:Parts', r"'user_envs:Parts': observation_space Dict.*'desired_goal'"),
        ('user_envs:wrapped', r"'user_envs:wrapped': has the wrapper Autoreset"),
        ('user_envs:Cart?size=3', r"cannot be made with .*'size': 3.*unexpected keyword"),
        ('user_envs:Cart?goal', r"'goal' is not of the form key=value"),
        ('user_envs:Absent', r'cannot import user_envs:Absent'),
        ('absent_envs:Push-v3', r'cannot import absent_envs .*; install it, .*PYTHONPATH'),
        ('absent_envs:Cart', r'cannot import absent_envs .*; install it, .*PYTHONPATH'),
    ],
)  # fmt: skip
def test_what_cannot_be_a_world_is_named(name, message):
    with pytest.raises(ConfigError, match=message):
        load_task(f'gymnasium:{name}')


def test_environments_of_a_package_that_is_not_installed_are_named(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        'importlib.util.find_spec', lambda name: None if name == 'panda_gym' else find_spec(name)
    )
    monkeypatch.delitem(gymnasium.registry, 'PandaPush-v3', raising=False)
    message = r"'PandaPush-v3'.*of panda-gym are not installed \(pip install 'mbarl_ros\[studies\]'"
    with pytest.raises(ConfigError, match=message):
        load_task('gymnasium:PandaPush-v3')


@pytest.mark.parametrize('name', ['PandaPush-v3', 'panda_gym:PandaPush-v3'])
def test_panda_gym_is_found_by_id_and_by_module(name):
    pytest.importorskip('panda_gym')
    task = task_of(name)
    assert task.config.success.tolerance == 0.05 and task.robot.control_rate == 25.0
    assert task.config.phases.forward_limit == 50


def test_an_unknown_scheme_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown task 'gym:Reacher-v5'.*known: gymnasium"):
        load_task('gym:Reacher-v5')


def test_a_simulator_that_breaks_in_a_run_is_named_with_entry_and_step():
    config = load_task('gymnasium:user_envs:Cart')
    for name, message in (
        ('Broken', r"environment 'user_envs:Broken': observation_0 is nan in step \d+ after its"),
        ('Restarts', r"environment 'user_envs:Restarts': resets by itself, in step \d+"),
    ):
        options = {'env': f'user_envs:{name}'}
        world = load_world(config.model_copy(update={'world_options': options}), seed=0)
        world.reset()
        with pytest.raises(SimulatorError, match=message):
            for _ in range(20):
                world.step(command(2.0))


def test_a_wrong_option_of_the_world_in_a_yaml_file_is_named():
    config = load_task('gymnasium:user_envs:Cart').model_copy(update={'world_options': {'en': 'x'}})
    with pytest.raises(ConfigError, match="key 'world_options': .*GymnasiumWorld: .*en"):
        load_world(config, seed=0)


def test_agents_that_need_demonstrations_name_those_that_do_not(capsys):
    words = ['bench', '--task', 'gymnasium:user_envs:Cart', '--agents']
    assert main([*words, 'mbarl']) == 2
    message = capsys.readouterr().err
    assert "agent 'mbarl' learns from demonstrations" in message
    assert '(mbpo, oracle, r3l, sac)' in message
    assert main([*words, 'bc']) == 2
    assert "agent 'bc' clones demonstrations" in capsys.readouterr().err


@pytest.mark.slow
def test_the_bench_practises_and_compares_returns_with_random_actions(tmp_path, capsys):
    agent = (
        'mbpo:name=small,sac.hidden=[16,16],sac.batch_size=16,updates_per_step=0.2,model.every=50'
    )
    task = 'gymnasium:user_envs:Cart?max_episode_steps=20,success_reward=9'
    words = ['bench', '--task', task, '--agents', agent, 'random', '--seeds', '1', '--jobs', '2']
    assert main([*words, '--budget', '200', '--out', str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert output.count('no demonstrations') == 1 and ', return -' in output
    out = tmp_path / Task.load(task).name
    (record,) = seeds.read_evaluations(out / 'random' / 'seed_0')
    assert record['deployed_return'] < 0 and record['environment_steps'] == 0
    practised = seeds.read_evaluations(out / 'small' / 'seed_0')[-1]
    assert practised['training_resets'] >= 10 and practised['environment_steps'] == 200
    header = (out / 'table.md').read_text().splitlines()[2]
    assert 'return in its later half' in header and 'success' not in header
    assert (out / 'curves.png').exists()
