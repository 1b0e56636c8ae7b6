"""The Panda in PyBullet: limits, determinism, wide starts, operators."""

import numpy as np
import pybullet
import pytest

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.task import Task
from mbarl_sim import push, tray
from mbarl_sim.manipulation import SUBSTEPS
from mbarl_sim.operators import drive, operator_for
from mbarl_sim.panda import JOINT_ACCELERATION, JOINT_LIMITS, JOINT_SPEED, tip
from mbarl_sim.push import Push
from mbarl_sim.worlds import SimulatorError
from support.free_arm import FreeArm

TASK = Task.load('push')
NAMES = TASK.robot.state_names
HARD_STOP = 0.08  # rad, of the URDF beyond the limits of the drives


def entries(state, what):
    return state[[NAMES.index(f'{what}_{axis}') for axis in 'xyz']]


@pytest.fixture(scope='module')
def world():
    made = TASK.load_world(seed=0)
    yield made
    made.close()


@pytest.mark.parametrize('command', ['twist', 'joint_velocity'])
def test_the_same_seed_and_commands_give_the_same_states(command):
    worlds = [Push(seed=3, command=command), Push(seed=3, command=command)]
    worlds[1].reset()  # what was before a reset has no effect
    worlds[1].rng = np.random.default_rng(3)
    worlds[0].rng = np.random.default_rng(3)
    rng = np.random.default_rng(0)
    size = len(worlds[0].command_names)
    states = [[made.reset()] for made in worlds]
    for _ in range(60):
        wanted = rng.uniform(-0.5, 0.5, size)
        for made, seen in zip(worlds, states, strict=True):
            seen.append(made.step(wanted))
    assert np.array_equal(*states)
    for made in worlds:
        made.close()


@pytest.mark.parametrize('command', ['twist', 'joint_velocity'])
def test_joints_stay_within_the_limits_of_the_drives(command):
    made = Push(seed=0, command=command)
    rng = np.random.default_rng(1)
    size, period = len(made.command_names), 1 / made.control_rate
    before, speed, touched, free = made.reset()[:7], np.zeros(7), False, 0
    for step in range(400):
        if step % 20 == 0:
            wanted = rng.uniform(-5, 5, size)
        joints = made.step(wanted)[:7]
        now = (joints - before) / period
        # Where it leans on the table, a joint may be forced on to its hard stop, which is further.
        low, high = JOINT_LIMITS
        assert (joints > low - HARD_STOP).all() and (joints < high + HARD_STOP).all()
        assert (np.abs(now) <= JOINT_SPEED * 1.01).all()
        touches = bool(pybullet.getContactPoints(made.arm.body, physicsClientId=made._client))
        if not (touches or touched):  # contact accelerates an arm faster than its drives do
            faster = np.abs(now - speed) > 1.3 * JOINT_ACCELERATION * period
            assert not faster.any(), (step, now, speed)
            free += 1
        touched = touches
        before, speed = joints, now
    assert free > 50
    made.close()


def test_joints_move_no_faster_than_their_velocities_are_commanded():
    made = FreeArm(seed=0, command='joint_velocity')
    rng, fastest = np.random.default_rng(1), np.zeros(7)
    for _ in range(200):
        command = np.append(0.6 * rng.choice([-1, -0.5, 0, 0.5, 1], 7), 0.0)
        fastest = np.maximum(fastest, np.abs(made.step(command)[7:14]))
    assert (fastest > 0.5).all() and (fastest < 0.62).all()
    assert np.isfinite(made.step(np.full(8, 1e308))).all()
    made.close()


def test_the_hand_follows_its_target_and_keeps_pointing_down(world):
    state = world.reset()
    for _ in range(12):
        state = world.step(np.array([0.1, 0.15, 0.05, 0.04]))
        assert np.linalg.norm(entries(state, 'hand') - entries(state, 'target')) < 0.005
        assert tip(state[:7])[1][2, 2] < -0.999


def test_pushing_on_the_table_winds_nothing_up(world):
    state = world.reset()
    for _ in range(30):
        state = world.step(np.array([0.0, 0.0, -0.25, 0.0]))
    for _ in range(4):
        state = world.step(np.array([0.0, 0.0, 0.25, 0.0]))
    assert entries(state, 'hand')[2] > 0.06


def test_wide_starts_lie_everywhere_and_are_settled(world):
    starts = np.array([world.reset_to_wide(index) for index in range(40)])
    hand, puck = (
        np.array([entries(start, what) for start in starts]) for what in ('hand', 'object')
    )
    assert np.array_equal(starts[7], TASK.load_world(seed=5).reset_to_wide(7))
    flat = np.abs(puck[:, :2] - tray.MIDDLE) < tray.HALF
    assert flat.all() and np.abs(puck[:, 2] - push.HEIGHT / 2).max() < 0.002
    assert (np.ptp(puck[:, :2], axis=0) > tray.HALF).all() and (np.ptp(hand, axis=0) > 0.1).all()
    assert not TASK.success(TASK.observation(starts)).any()
    world.reset_to_wide(3)
    later = world.step(np.array([0.0, 0.0, 0.0, starts[3][NAMES.index('finger')]]))
    assert np.abs(entries(later, 'object') - puck[3]).max() < 1e-3


def test_the_puck_slides_back_from_the_edges(world):
    flat = tray.HALF + push.RADIUS
    for side in ([1, 0], [-1, 0], [0, 1], [0, -1], [1, 1]):
        state = world.reset()
        place = tray.MIDDLE + np.array(side) * (tray.HALF + 0.05)
        pose = np.array([*place, tray.edge_height(place) + 0.05, 0, 0, 0, 1])
        world.set_state(np.concatenate([state[:14], pose]))
        for _ in range(25):
            state = world.step(np.array([0.0, 0.0, 0.0, 0.0]))
        assert (np.abs(entries(state, 'object')[:2] - tray.MIDDLE) < flat).all(), side


def test_the_operator_pushes_there_and_back(world):
    operator = operator_for(TASK, seed=0)
    state, done = world.reset(), 0
    for _ in range(5):
        for direction in ('forward', 'backward'):
            operator.begin(direction)
            state = drive(TASK, world, state, operator)[0][-1]
            place = push.GOAL if direction == 'forward' else push.START
            done += np.linalg.norm(entries(state, 'object')[:2] - place) < push.GOAL_RADIUS
    assert done == 10 and world.put_right == 0


def test_a_lost_puck_is_put_back_and_counted():
    made = Push(seed=0)
    state = made.reset()
    state[-7:-5] = [0.5, 0.6]
    made.set_state(state)
    state = made.step(np.zeros(4))
    assert made.put_right == 1 and np.abs(state[-7:-5] - push.START).max() < 0.05
    made.close()


def test_physics_that_break_down_are_named():
    made = Task.load('push').load_world(seed=0)
    with pytest.raises(SimulatorError, match='Push'):
        made.step(np.full(4, np.nan))
    made.close()


def test_a_world_without_wide_starts_of_its_own_is_named():
    from mbarl_ros.learning.evaluation import WideStarts

    pointmass = Task.load('pointmass')
    wide = TASK.config.evaluation.wide
    evaluation = pointmass.config.evaluation.model_copy(update={'wide': wide})
    pointmass.config = pointmass.config.model_copy(update={'evaluation': evaluation})
    with pytest.raises(ConfigError, match='reset_to_wide'):
        WideStarts(pointmass)


def test_physics_run_at_240_hertz(world):
    assert SUBSTEPS * world.control_rate == 240
