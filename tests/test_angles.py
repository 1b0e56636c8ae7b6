"""Entries that are angles: the state has sine and cosine, and turning past pi changes nothing."""

import math

import numpy as np
import pytest
import torch

from mbarl_ros.demos.episodes import Episode, transitions
from mbarl_ros.learning.dynamics import Ensemble
from mbarl_ros.schema.load import load_robot, load_task
from mbarl_ros.schema.model import ModelConfig
from mbarl_ros.schema.robot import RobotConfig
from mbarl_ros.schema.task import Entry, TaskConfig
from mbarl_ros.task import Task

ROBOT = RobotConfig.model_validate(
    {
        'name': 'turner',
        'control_rate': 10,
        'state': [
            {
                'topic': 'joint_states',
                'type': 'sensor_msgs/msg/JointState',
                'fields': {'x': 'position[x]', 'yaw': 'position[yaw]'},
            }
        ],
        'command': [
            {
                'topic': 'cmd_vel',
                'type': 'geometry_msgs/msg/Twist',
                'fields': {'v': 'linear.x', 'w': 'angular.z'},
            }
        ],
        'limits': {
            'v': {'low': -1, 'high': 1, 'stop': 0},
            'w': {'low': -2, 'high': 2, 'stop': 0},
        },
    }
)


def task_of(**changes):
    raw = {
        'name': 'turn',
        'robot': 'unused',
        'observation': [
            {'name': 'x', 'low': -1, 'high': 1},
            {'name': 'yaw', 'low': -math.pi, 'high': math.pi, 'angle': True},
        ],
        'action': [{'name': 'v', 'low': -1, 'high': 1}, {'name': 'w', 'low': -2, 'high': 2}],
        'success': {'entries': ['x', 'yaw'], 'target': [0.5, 3.1], 'tolerance': 0.1},
        'phases': {'forward_limit': 50, 'backward_limit': 50},
        'evaluation': {'horizon': 50, 'every': 100, 'budget': 100},
    }
    return Task(TaskConfig.model_validate({**raw, **changes}), ROBOT)


def test_the_state_is_the_same_after_any_number_of_turns():
    task = task_of()
    assert task.state_dim == 3 and [c.name for c in task.config.columns] == [
        'x',
        'sin(yaw)',
        'cos(yaw)',
    ]
    states = np.array([[0.2, 1.0 + 2 * math.pi * turns] for turns in range(-3, 4)])
    observed = task.observation(states)
    np.testing.assert_allclose(
        observed, np.tile([0.2, math.sin(1), math.cos(1)], (7, 1)), atol=1e-5
    )
    np.testing.assert_allclose(task.to_entries(observed), np.tile([0.2, 1.0], (7, 1)), atol=1e-5)


@pytest.mark.parametrize(
    ('yaw', 'reached'), [(3.1, True), (-3.12, True), (-3.04, False), (3.18, True), (3.25, False)]
)
def test_success_is_measured_around_the_circle(yaw, reached):
    task = task_of()
    assert bool(task.success(task.observation(np.array([0.5, yaw])))) is reached
    by_goal = task_of(goals=[[0.5, 3.1]], success={'entries': ['x', 'yaw'], 'tolerance': 0.1})
    observed = by_goal.observation(np.array([0.5, yaw]), by_goal.goals[0])
    assert bool(by_goal.success(observed)) is reached


def rows(task, seed, count=3000):
    """Transitions of a base that turns and drives; the angle is measured within one turn."""
    rng = np.random.default_rng(seed)
    before = np.stack([rng.uniform(-1, 1, count), rng.uniform(-math.pi, math.pi, count)], 1)
    action = rng.uniform(-1, 1, (count, 2)).astype(np.float32)
    command = task.command(action)
    after = before + 0.1 * command
    after[:, 1] = (after[:, 1] + math.pi) % (2 * math.pi) - math.pi
    return {
        'observation': task.observation(before),
        'action': action,
        'next_observation': task.observation(after),
    }


def test_the_model_turns_through_pi_without_a_jump():
    task = task_of()
    ensemble = Ensemble(task, ModelConfig(), 0)
    for _ in range(4):
        ensemble.fit(rows(task, 0), rows(task, 1, 500), 300)
    near = rows(task, 2, 400)
    yaw = task.to_entries(near['observation'])[:, 1]
    after = task.to_entries(near['next_observation'])[:, 1]
    crossing = np.abs(after - yaw) > math.pi
    assert crossing.sum() > 5

    state, action = (torch.from_numpy(near[name]) for name in ('observation', 'action'))
    predicted = task.possible(ensemble.step(state, action).state.numpy())
    np.testing.assert_allclose(np.hypot(predicted[:, 1], predicted[:, 2]), 1.0, atol=1e-5)
    turned = task.to_entries(predicted)[:, 1] - after
    off = np.abs((turned + math.pi) % (2 * math.pi) - math.pi)
    assert np.median(off[crossing]) < 0.05 and np.median(off) < 0.05


def episode(task, rng, steps=20):
    values = np.cumsum(rng.uniform(-0.3, 0.6, (steps + 1, 2)), 0)
    return Episode(
        task.from_entries(values),
        rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        np.arange(steps + 1) * 0.1,
        np.ones(steps, bool),
        verdict='success',
        name='a',
    ).check(task)


def test_signals_are_in_rad_and_transitions_have_the_columns():
    task, rng = task_of(), np.random.default_rng(0)
    demonstration = episode(task, rng)
    angle = demonstration.signals(task)['yaw'][1]
    np.testing.assert_allclose(np.sin(angle), demonstration.states[:, 1], atol=1e-6)
    assert transitions(task, demonstration)['observation'].shape == (20, 3)


@pytest.mark.parametrize(
    ('entry', 'words'),
    [
        ({'low': -180, 'high': 180}, 'angles are in rad: convert degrees with scale'),
        ({'low': -1, 'high': 1, 'axis': 'x'}, 'neither binary nor a position on an axis'),
    ],
)
def test_what_an_angle_cannot_be_is_said(entry, words):
    with pytest.raises(ValueError, match=words):
        Entry(name='yaw', angle=True, **entry)


def test_tasks_without_angles_keep_their_hash_and_layout():
    """Runs and policies from before stay readable."""
    config = load_task('tabletop')
    task = Task(config, load_robot(config.robot))
    assert [column.name for column in config.columns] == [e.name for e in config.observation]
    state = np.random.default_rng(0).normal(size=(4, task.state_dim)).astype(np.float32)
    assert task.possible(state) is state
    np.testing.assert_array_equal(task.to_entries(state), state)
