"""The offline study: its reward, its pairs and its verdicts; in quick mode from end to end."""

import json

import numpy as np
import pytest
import torch

from mbarl_ros.cli.main import main
from mbarl_ros.schema.agent import SacConfig
from mbarl_ros.schema.load import load_world
from mbarl_ros.schema.model import ModelConfig
from mbarl_ros.studies import offline_training as training
from mbarl_ros.studies.offline import SEEDS, Offline
from mbarl_ros.studies.offline_report import judge
from mbarl_ros.studies.offline_results import DEMONSTRATIONS, NARROW, Key, Table
from mbarl_ros.task import Task


@pytest.fixture(scope='module')
def task():
    return Task.load('pointmass')


def at(x, y):
    return np.array([x, y, 0.0, 0.0], np.float32)


def test_the_way_to_the_goal_leads_through_the_gap(task):
    goal = np.array([-0.9, 0.8])
    assert training.way_to_goal(task, at(*goal)) == pytest.approx(0, abs=1e-6)
    assert training.way_to_goal(task, at(1.0, 0.8)) == pytest.approx(1.9)
    corner = training.way_to_goal(task, at(-1.6, -1.6))
    assert corner == pytest.approx(np.hypot(2.45, 1.6) + np.hypot(1.75, 0.8))
    # in the gap it goes on without a jump, at the closed wall it does not
    for x, jump in ((0.9, False), (1.1, False), (0.0, True)):
        below, above = (training.way_to_goal(task, at(x, y)) for y in (-1e-4, 1e-4))
        assert (abs(below - above) > 0.5) == jump
    # a straight line where there is one
    assert training.way_to_goal(task, at(1.85, -0.5)) > np.hypot(2.75, 1.3) - 1e-6


def test_the_reward_is_progress_and_success_and_a_jump_through_the_wall_is_no_gain(task):
    steps = np.array([[at(1.0, 0.8), at(0.9, 0.8)], [at(0.0, -0.1), at(0.0, 0.1)]])
    reward = training.dense_reward(task, steps[:, 0], steps[:, 1])
    assert reward == pytest.approx([0.1 / training.WAY, training.MAX_PROGRESS / training.WAY])
    reached = training.dense_reward(task, at(-0.6, 0.8), at(-0.7, 0.8))
    assert reached == pytest.approx(1 + 0.1 / training.WAY)


def test_uniform_data_are_true_single_steps_and_a_small_set_is_the_start_of_a_large_one(task):
    world = load_world(task.config, seed=3)
    small, large = (
        training.uniform_transitions(task, world, count, np.random.default_rng([3, 1]))
        for count in (20, 60)
    )
    for name, rows in small.items():
        assert np.array_equal(rows, large[name][:20])
    before, after = large['observation'], large['next_observation']
    assert np.abs(before[:, :2]).max() <= 1.85 and np.abs(after - before)[:, :2].max() < 0.15
    assert (np.abs(before).max(0) > [1.5, 1.5, 0.8, 0.8]).all()
    again = task.observation(world.step(task.command(large['action'][-1])))
    assert not np.array_equal(again, after[-1])  # the world has moved on
    world.set_state(before[-1].astype(np.float64))
    assert world.step(task.command(large['action'][-1])) == pytest.approx(after[-1], abs=1e-5)


def small_policy(task, seed):
    config = ModelConfig(members=2, elites=1, hidden=[8], max_gradient_steps=20)
    world = load_world(task.config, seed=0)
    rows = training.uniform_transitions(task, world, 200, np.random.default_rng(0))
    settings = training.Training(
        sac=SacConfig(hidden=[8], batch_size=16, cloning_weight=0.0),
        discount=0.9,
        rollout_length=5,
        iterations=3,
        transitions=50,
        updates=4,
        kept_iterations=2,
    )
    shares = []
    policy, visited = training.train_policy(
        task,
        training.fit_model(task, config, rows, 0),
        np.array([at(-1.6, -1.6)]),
        settings,
        seed,
        shares.append,
    )
    assert shares == pytest.approx([1 / 3, 2 / 3, 1])
    return policy.mean_action(rows['observation']), visited


def test_a_policy_of_imagined_practice_is_the_same_for_the_same_seed(task):
    torch.set_num_threads(1)
    actions, visited = small_policy(task, 5)
    again, visited_again = small_policy(task, 5)
    other, _ = small_policy(task, 6)
    assert np.array_equal(actions, again) and np.array_equal(visited, visited_again)
    assert not np.array_equal(actions, other)
    assert visited.shape == (150, 2)


def test_rollouts_of_any_length_have_the_same_number_of_transitions():
    for cell in Offline().cells(quick=False):
        settings = cell.settings
        if 'rollout_length' in settings:
            assert settings['transitions'] % (3 * settings['rollout_length']) == 0


def test_full_mode_is_18_cells_of_five_seeds_after_their_models():
    cells = Offline().cells(quick=False)
    policies = [cell for cell in cells if cell.after]
    assert len(policies) == 18 * len(SEEDS) and len(cells) - len(policies) == 15
    for cell in policies:
        assert cell.after == (f'model_{cell.settings["samples"]}_seed{cell.settings["seed"]}',)


def table(rate):
    values = {}
    for samples in (1000, 20_000, 50_000):
        for length in (20, 35, 50):
            for starts in (NARROW, DEMONSTRATIONS):
                for seed in range(5):
                    key = Key(samples, length, starts, seed)
                    value = rate(samples, length, starts == DEMONSTRATIONS)
                    values[key] = {'room_success': value, 'corner_success': value, 'coverage': 0.5}
    return Table(values)


def test_pairs_differ_in_nothing_else():
    found = table(lambda samples, length, demonstrations: samples + length + 0.5 * demonstrations)
    one, other = found.pairs(
        'room_success', {'starts': DEMONSTRATIONS, 'length': 35}, {'starts': NARROW}
    )
    assert len(one) == 15 and set(one - other) == {0.5}
    one, other = found.pairs(
        'room_success', {'samples': 50_000, 'starts': NARROW}, {'samples': 1000}
    )
    assert len(one) == 15 and set(one - other) == {49_000.0}


def test_verdicts_follow_the_numbers():
    poster = table(lambda samples, length, demonstrations: (
        0.9 if demonstrations else 0.1 + length / 100 + samples / 500_000
    ))  # fmt: skip
    assert [verdict.holds for verdict in judge(poster, {})] == [True] * 6
    opposite = table(lambda samples, length, demonstrations: (
        0.1 + samples / 100_000 if demonstrations else 0.9 - length / 100
    ))  # fmt: skip
    assert not any(verdict.holds for verdict in judge(opposite, {}))
    assert 'p = ' in judge(poster, {})[0].evidence
    equal = table(lambda samples, length, demonstrations: 1.0)
    assert not any(verdict.holds for verdict in judge(equal, {}))


def test_with_cells_missing_a_verdict_stays_open():
    values = dict(list(table(lambda *_: 0.5).values.items())[::40])
    assert {verdict.holds for verdict in judge(Table(values), {})} == {None}


@pytest.mark.slow
def test_the_quick_study_runs_from_end_to_end(tmp_path, capsys):
    assert main(['study', 'offline', '--quick', '--out', str(tmp_path)]) == 0
    folder = tmp_path / 'offline-quick'
    results = json.loads((folder / 'results.json').read_text())
    assert len(results['cells']) == 10 and not results['missing']
    text = (folder / 'report.md').read_text()
    for name in ('rollout_length', 'model_size', 'model_error', 'coverage'):
        assert (folder / f'{name}.png').read_bytes().startswith(b'\x89PNG') and name in text
    model = results['cells']['model_1000_seed100']['result']
    assert 0 < model['one_step_error'] < 0.05 and len(model['open_loop_error']) == 50
