"""The benchmark beside stable-baselines3: experts, and what both learn from."""

import sys
from pathlib import Path

import numpy as np
import pytest

from mbarl_ros.demos.reader import load_demonstrations
from mbarl_ros.task import Task

pytest.importorskip('gymnasium_robotics')
pytest.importorskip('stable_baselines3')
sys.path.append(str(Path(__file__).parent.parent / 'benchmarks'))
peers = pytest.importorskip('peers')


@pytest.fixture(scope='module')
def task():
    return Task.load('gymnasium:FetchPush-v4')


@pytest.fixture(scope='module')
def recorded(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp('demonstrations') / task.name
    return folder, peers.demonstrate(task, folder, 20)


@pytest.mark.parametrize('name', [name for name in peers.ENVIRONMENTS if 'Panda' in name])
def test_the_experts_of_panda_gym_reach_nine_goals_of_ten(name, tmp_path):
    pytest.importorskip('panda_gym')
    record = peers.demonstrate(Task.load(f'gymnasium:{name}'), tmp_path / name, 18)
    assert record['attempts'] <= 20


def test_demonstrations_of_the_script_end_at_their_goals(task, recorded):
    folder, record = recorded
    assert record['attempts'] <= 22
    rows = load_demonstrations(folder, task)
    ends = rows['terminated'].astype(bool)
    assert ends.sum() == 20 and (rows['reward'] == ends).all()
    goals = rows['observation'][ends][:, task.goal_index]
    assert len(np.unique(goals, axis=0)) == 20


def test_the_peer_gets_the_same_transitions_and_acts_in_the_same_evaluation(task, recorded):
    from stable_baselines3 import SAC, HerReplayBuffer

    rows = load_demonstrations(recorded[0], task)
    env = peers.gymnasium_env(task)
    model = SAC('MultiInputPolicy', env, replay_buffer_class=HerReplayBuffer, **peers.SETTINGS)
    dictionaries = peers.Dictionaries(task)
    peers.fill(model.replay_buffer, rows, task, dictionaries)
    buffer, count = model.replay_buffer, len(rows['reward'])
    assert buffer.size() == count
    assert (buffer.actions[:count, 0] == rows['action']).all()
    assert (buffer.rewards[:count, 0] == rows['reward'] - 1).all()
    # FetchPush does not end at its goal: values bootstrap there.
    assert (buffer.dones[:count, 0] * (1 - buffer.timeouts[:count, 0])).sum() == 0
    drawn = buffer.sample(2000)
    away = (drawn.observations['achieved_goal'] - drawn.observations['desired_goal']).norm(dim=1)
    after = (
        drawn.next_observations['achieved_goal'] - drawn.next_observations['desired_goal']
    ).norm(dim=1)
    assert ((drawn.rewards[:, 0] == 0) == (after <= 0.05)).all()
    assert 0.2 < (drawn.rewards == 0).float().mean() < 0.9 and away.max() > 0.05
    observation, _ = env.reset(seed=0)
    world = task.load_world(seed=0)
    seen = dictionaries(task.observation(world.world._reset(0)))
    for key, values in observation.items():
        np.testing.assert_allclose(seen[key], values, rtol=1e-6)
    action = peers.Deployed(model, dictionaries).mean_action(rows['observation'][:3])
    assert action.shape == (3, task.action_dim) and np.abs(action).max() <= 1
