"""Dyna-Q is the algorithm of Sutton and Barto, and the study shows what they show."""

import json

import numpy as np
import pytest

from mbarl_ros.cli.main import main
from mbarl_ros.studies.dyna_maze import first_within
from mbarl_ros.studies.dyna_q import (
    BLOCKING_MAZE,
    DYNA_MAZE,
    MAZES,
    SHORTCUT_MAZE,
    DynaQ,
    learn_maze,
    number,
)
from mbarl_ros.studies.statistics import sign_flip_p

UP, DOWN, LEFT, RIGHT = range(4)


def shortest_path(maze, time):
    """Breadth-first search."""
    reached, steps = {number(maze.start)}, 0
    while number(maze.goal) not in reached:
        reached |= {maze.step(state, action, time)[1] for state in reached for action in range(4)}
        steps += 1
    return steps


def test_the_mazes_have_the_shortest_paths_of_the_book():
    assert shortest_path(DYNA_MAZE, 0) == 14
    assert [shortest_path(BLOCKING_MAZE, time) for time in (999, 1000)] == [10, 16]
    assert [shortest_path(SHORTCUT_MAZE, time) for time in (2999, 3000)] == [16, 10]
    assert all(not {maze.start, maze.goal} & maze.walls for maze in MAZES.values())


def test_walls_and_edges_stop_a_move_and_only_the_goal_is_rewarded():
    assert DYNA_MAZE.step(number((2, 1)), RIGHT, 0) == (0.0, number((2, 1)))
    assert DYNA_MAZE.step(number((2, 0)), LEFT, 0) == (0.0, number((2, 0)))
    assert DYNA_MAZE.step(number((2, 0)), DOWN, 0) == (0.0, number((3, 0)))
    assert DYNA_MAZE.step(number((1, 8)), UP, 0) == (1.0, number((0, 8)))


def test_a_real_step_changes_one_value_and_planning_carries_it_on():
    agent = DynaQ(DYNA_MAZE, planning_steps=0, seed=0)
    before_goal, further = number((1, 8)), number((2, 8))
    agent.learn(before_goal, UP, 1.0, number((0, 8)))
    assert agent.q[before_goal][UP] == pytest.approx(0.1)
    agent.learn(further, UP, 0.0, before_goal)
    assert agent.q[further][UP] == pytest.approx(0.1 * 0.95 * 0.1)
    assert sum(map(any, agent.q)) == 2
    agent.remember(before_goal, UP, 1.0, number((0, 8)))
    agent.remember(further, UP, 0.0, before_goal)
    agent.planning_steps = 2000
    agent.plan()
    assert agent.q[before_goal][UP] == pytest.approx(1.0)
    assert agent.q[further][UP] == pytest.approx(0.95)


def test_only_dyna_q_plus_plans_with_untried_actions_and_rewards_waiting():
    for kappa, remembered in ((0.0, {UP}), (0.01, {UP, DOWN, LEFT, RIGHT})):
        agent = DynaQ(DYNA_MAZE, planning_steps=500, seed=0, kappa=kappa)
        agent.remember(number((4, 4)), UP, 0.0, number((3, 4)))
        assert set(agent.model[number((4, 4))]) == remembered
        agent.time = 10_000
        agent.plan()
        assert any(map(any, agent.q)) == (kappa > 0)


def test_planning_saves_real_steps_and_a_seed_repeats_its_run():
    steps = {n: learn_maze(DynaQ(DYNA_MAZE, n, seed=3), 8)[0] for n in (0, 5, 50)}
    assert sum(steps[50][1:]) < sum(steps[5][1:]) < sum(steps[0][1:])
    assert learn_maze(DynaQ(DYNA_MAZE, 5, seed=3), 8)[0] == steps[5]


def test_first_within_is_an_episode_counted_from_one():
    paths = np.array([[200, 30, 16, 14], [200, 16, 14, 14]])
    assert first_within(paths, 15) == 3 and first_within(paths, 13) is None


def test_sign_flip_is_the_share_of_sign_patterns():
    assert sign_flip_p([1.0, 2.0, 3.0]) == 1 / 8
    assert sign_flip_p([-1.0, 2.0, 3.0]) == 2 / 8
    assert sign_flip_p([0.0, 0.0]) == 1.0
    many = np.random.default_rng(1).normal(0.3, 1.0, 40)  # too many for all patterns
    assert sign_flip_p(many) < 0.2 < sign_flip_p(-many)


@pytest.mark.slow
def test_the_quick_study_runs_and_shows_the_shortcut(tmp_path, capsys):
    assert main(['study', 'dyna-maze', '--quick', '--out', str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert 'holds: Dyna-Q+ finds the shortcut, Dyna-Q does not' in output
    assert 'holds: The more planning, the fewer real steps' in output
    folder = tmp_path / 'dyna-maze-quick'
    results = json.loads((folder / 'results.json').read_text())
    assert len(results['cells']) == 7 and not results['missing']
    for name in ('mazes', 'learning', 'knowledge', 'changing'):
        assert (folder / f'{name}.png').read_bytes().startswith(b'\x89PNG')
