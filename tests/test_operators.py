"""Scripted operators succeed, and move like people."""

import numpy as np
import pytest

from mbarl_ros.schema.load import load_world
from mbarl_ros.storage.transitions import DIRECTIONS, DTYPES, shapes
from mbarl_ros.task import Task
from mbarl_sim.operators import drive, operator_for, scripted_demonstrations


def demonstrations(name, seeds, direction='forward'):
    """Goal, states and commands of one episode for each seed."""
    task = Task.load(name)
    for seed in seeds:
        world = load_world(task.config, seed=seed)
        state = world.reset()
        goal = task.goals[seed % len(task.goals)] if task.goal_conditioned else None
        if direction == 'backward':
            values = dict(zip((e.name for e in task.config.observation), goal, strict=True))
            state = world.set_state([values[name] for name in world.state_names])
        operator = operator_for(task, seed)
        operator.begin(direction, goal)
        yield goal, *drive(task, world, state, operator)
        world.close()


@pytest.mark.parametrize('name', ['pointmass', 'tabletop'])
def test_forward_episodes_end_in_their_first_success(name):
    task = Task.load(name)
    lengths = []
    for goal, states, commands in demonstrations(name, range(20)):
        success = task.success(task.observation(states, goal))
        assert success[-1] and not success[:-1].any()
        lengths.append(len(commands))
    low, high = {'pointmass': (55, 125), 'tabletop': (75, 135)}[name]
    assert low <= min(lengths) and max(lengths) <= high
    assert len(set(lengths)) > 5


def test_backward_episodes_end_in_the_initial_state():
    initial = load_world(Task.load('tabletop').config).reset()
    for _, states, _ in demonstrations('tabletop', range(20), 'backward'):
        assert np.linalg.norm((states[-1] - initial)[[0, 1, 3, 4]]) <= 0.2


def test_tabletop_steps_are_as_small_as_in_the_public_demonstrations():
    for _, _, commands in demonstrations('tabletop', range(8)):
        assert np.abs(commands[:, :2]).max() <= 0.12 + 1e-6


@pytest.mark.parametrize('name', ['pointmass', 'tabletop'])
def test_episodes_differ_and_are_smooth(name):
    (_, _, a), (_, _, b) = list(demonstrations(name, [0, 4]))
    n = min(len(a), len(b))
    assert np.abs(a[:n, :2] - b[:n, :2]).max() > 0.02
    for commands in (a, b):
        change = np.abs(np.diff(commands[:, :2], axis=0))
        assert np.median(change) < 0.1 * np.abs(commands[:, :2]).max()  # no jumps
        assert np.median(change) > 0  # but there is a tremor


def test_scripted_demonstrations_are_reproducible_transitions():
    task = Task.load('tabletop')
    rows = scripted_demonstrations('tabletop', 4, 2, seed=1)
    for name, shape in shapes(task).items():
        assert rows[name].shape == (len(rows['reward']), *shape[1:])
        assert rows[name].dtype == DTYPES[name]
    assert rows['sequence'].tolist() == list(range(len(rows['reward'])))
    assert (rows['source'] == 2).all()
    assert rows['terminated'].sum() == 4  # forward successes alone
    assert rows['truncated'].sum() == 2 * len(task.goals)  # backward, once per goal
    assert not rows['terminated'][rows['phase'] == 1].any()
    goals = rows['observation'][rows['phase'] == 1][:, task.state_dim :]
    assert len(np.unique(goals, axis=0)) == len(task.goals)
    np.testing.assert_array_equal(rows['reward'], task.reward(rows['next_observation']))
    again = scripted_demonstrations('tabletop', 4, 2, seed=1)
    assert all((rows[name] == again[name]).all() for name in rows)
    other = scripted_demonstrations('tabletop', 4, 2, seed=2)
    assert len(other['reward']) != len(rows['reward'])


def test_an_unknown_direction_and_an_unknown_task_are_refused():
    task = Task.load('pointmass')
    with pytest.raises(ValueError, match='not backward'):
        operator_for(task).begin(DIRECTIONS[1])
    other = Task(task.config.model_copy(update={'name': 'juggling'}), task.robot)
    with pytest.raises(ValueError, match="task 'juggling'"):
        operator_for(other)
