"""Simulated worlds: their physics, resets and pictures, and the Gymnasium adapter."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from mbarl_ros.schema.load import load_world
from mbarl_ros.task import Task
from mbarl_sim import pointmass
from mbarl_sim.gym import MbarlEnv
from mbarl_sim.pointmass import PointMass
from mbarl_sim.tabletop import GOALS, INITIAL, Tabletop

TASKS = ('pointmass', 'tabletop')

ROLLOUT = """
import sys
import numpy as np
from mbarl_ros.schema.load import load_world
from mbarl_ros.task import Task
task = Task.load(sys.argv[1])
world = load_world(task.config, seed=3)
rng = np.random.default_rng(7)
states = [world.reset()]
for i in range(400):
    states.append(world.step(task.command(np.tanh(2 * rng.standard_normal(task.action_dim)))))
print(np.array(states).tobytes().hex()[-4000:])
"""


def drive(world, state, command, steps):
    states = [world.set_state(np.array(state))]
    states += [world.step(np.array(command)) for _ in range(steps)]
    return np.array(states)


@pytest.mark.parametrize('name', TASKS)
def test_same_seed_and_commands_give_bit_equal_states_in_another_process(name):
    command = [sys.executable, '-c', ROLLOUT, name]
    outputs = [subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout for _ in range(2)]
    assert outputs[0] == outputs[1] and len(outputs[0]) > 1000


@pytest.mark.parametrize('name', TASKS)
def test_what_happened_before_a_reset_does_not_matter_after_it(name):
    task = Task.load(name)
    rng = np.random.default_rng(0)
    commands = task.command(rng.uniform(-1, 1, (60, task.action_dim)))
    fresh, used = (load_world(task.config, seed=seed) for seed in (0, 1))
    for command in commands[::-1]:
        used.step(np.sign(command))  # into the walls
    for world in (fresh, used):
        world.trace = [world.reset_to_start(4), *(world.step(command) for command in commands)]
    np.testing.assert_array_equal(fresh.trace, used.trace)


@pytest.mark.parametrize('name', TASKS)
def test_world_fits_the_robot_profile_and_the_task_ranges(name):
    task = Task.load(name)
    world = load_world(task.config, seed=0)
    assert world.state_names == task.robot.state_names
    assert world.command_names == task.robot.command_names
    assert world.control_rate == task.robot.control_rate
    for i in range(50):
        state = task.state(world.reset_to_start(i))
        assert (state >= task.state_low).all() and (state <= task.state_high).all()
    picture = world.render(160, 120)
    assert picture.shape == (120, 160, 3) and picture.dtype == np.uint8
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10
    world.close()


# --- point mass ------------------------------------------------------------------------------


@pytest.mark.parametrize('x', [-1.5, 0.0, 0.5, 1.6])
def test_wall_blocks(x):
    states = drive(PointMass(), (x, -1.0, 0, 0), (0.0, 1.0), 60)
    assert states[:, 1].max() < -pointmass.WALL - pointmass.RADIUS + 0.02
    assert abs(states[-1, 3]) < 0.05  # it stands still at the wall


@pytest.mark.parametrize('x', [0.87, 1.0, 1.13])
def test_gap_lets_the_disc_pass(x):
    assert drive(PointMass(), (x, -1.0, 0, 0), (0.0, 1.0), 30)[-1, 1] > 1.0


def test_disc_slides_along_a_wall_and_outer_walls_hold():
    sliding = drive(PointMass(), (-1.0, -0.3, 0, 0), (0.6, 1.0), 15)
    assert sliding[-1, 0] == pytest.approx(-0.1, abs=0.05)
    corner = drive(PointMass(), (-1.6, -1.6, 0, 0), (-1.0, -1.0), 40)[-1]
    np.testing.assert_allclose(corner, [-1.85, -1.85, 0, 0], atol=0.02)


def test_velocity_follows_the_command_with_limited_acceleration_and_speed():
    states = drive(PointMass(), (-1.0, -1.0, -1.0, 0), (1.0, 0.0), 3)
    assert -0.1 < states[1, 0] - states[0, 0] < 0.05  # it reverses within the step, not at once
    assert states[-1, 2] == pytest.approx(1.0, abs=1e-3)
    fast = drive(PointMass(), (-1.0, -1.0, 0, 0), (5.0, 0.0), 5)
    assert np.abs(np.diff(fast[:, 0])).max() < 0.101


@pytest.mark.slow
def test_training_starts_in_the_corner_and_evaluation_covers_both_halves():
    world = PointMass(seed=0)
    starts = np.array([world.reset() for _ in range(50)])
    assert np.abs(starts[:, :2] - pointmass.CORNER).max() <= pointmass.SPREAD
    assert len(np.unique(starts[:, 0])) == 50
    evaluated = np.array([world.reset_to_start(i) for i in range(100)])
    assert (evaluated == [PointMass(seed=9).reset_to_start(i) for i in range(100)]).all()
    assert 30 < (evaluated[:, 1] > 0).sum() < 70 and 30 < (evaluated[:, 0] > 0).sum() < 70
    assert all(pointmass.free(x, y) for x, y, *_ in evaluated)
    task = Task.load('pointmass')
    assert not task.success(task.observation(evaluated)).any()
    np.testing.assert_allclose(task.config.success.target, pointmass.GOAL)
    assert task.config.success.tolerance == pointmass.GOAL_RADIUS


def test_a_state_inside_a_wall_is_refused():
    with pytest.raises(ValueError, match='overlap'):
        PointMass().set_state(np.array([0.0, 0.1, 0.0, 0.0]))


# --- tabletop --------------------------------------------------------------------------------


def test_tabletop_follows_the_rules_of_earl():
    world = Tabletop()
    np.testing.assert_array_equal(world.reset(), INITIAL)
    out_of_reach = drive(world, (2.0, 0.0, -1, 2.5, 0.0), (0.1, 0.0, 0.1), 1)[-1]
    np.testing.assert_allclose(out_of_reach, [2.1, 0, -1, 2.5, 0])
    # nearer than 0.4 before the move: it attaches, moves along, and stays while closed
    held = drive(world, (2.2, 0.0, -1, 2.5, 0.0), (-0.2, 0.1, 0.1), 2)
    np.testing.assert_allclose(held[1], [2.0, 0.1, 0, 2.3, 0.1])
    np.testing.assert_allclose(held[2], [1.8, 0.2, 0, 2.1, 0.2])
    np.testing.assert_allclose(world.step(np.array([0.2, 0, 0.0])), [2.0, 0.2, -1, 2.1, 0.2])
    # commands are clipped to 0.2, positions to 2.8; a held mug moves as far as the gripper did
    clipped = drive(world, (0, 0, -1, 2, 0), (9, 0, -1), 1)[-1]
    np.testing.assert_allclose(clipped, [0.2, 0, -1, 2, 0])
    edge = drive(world, (2.7, 0.0, -1, 2.5, 0.0), (0.2, 0.0, 0.2), 1)[-1]
    np.testing.assert_allclose(edge, [2.8, 0, 0, 2.6, 0])


def test_tabletop_marks_and_start_are_those_of_the_task():
    task = Task.load('tabletop')
    np.testing.assert_allclose(task.goals[:, 2:4], GOALS)
    np.testing.assert_array_equal(Tabletop(seed=5).reset_to_start(3), INITIAL)


# --- gymnasium -------------------------------------------------------------------------------


@pytest.mark.parametrize('name', TASKS)
def test_the_gymnasium_checker_finds_nothing(name):
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*alternative render modes.*')
        check_env(MbarlEnv(name, render_mode='rgb_array'))


def test_gymnasium_episode_ends_with_success_or_the_step_limit():
    env = MbarlEnv('pointmass', seed=0)
    env.reset(seed=1)
    ends = []
    while not any(ends):
        *_, reward, terminated, truncated, info = env.step(np.array([-1.0, 0.0]))
        ends.append(truncated)
    assert len(ends) == env.task.config.phases.forward_limit
    assert not terminated and reward == 0 and not info['success']
    env.reset(options={'start': 0})
    env._world.set_state(np.array([-0.9, 0.5, 0.0, 0.0]))
    *_, reward, terminated, truncated, info = env.step(np.array([0.0, 1.0]))
    assert terminated and not truncated and reward == 1 and info['success']
