"""The door of a cabinet that the Panda closes and opens."""

import numpy as np
import pybullet
import pytest

from mbarl_ros.task import Task
from mbarl_sim import door, push
from mbarl_sim.door import Door
from mbarl_sim.operators import drive, operator_for
from mbarl_sim.panda import JOINT_SPEED
from mbarl_sim.push import Push

TASK = Task.load('door')
NAMES = TASK.robot.state_names
HANDLE = [NAMES.index('object_x'), NAMES.index('object_y')]


def hold(state):
    """A command that keeps the hand and the fingers where they are."""
    return np.array([0.0, 0.0, 0.0, state[NAMES.index('finger')]])


@pytest.fixture(scope='module')
def world():
    made = TASK.load_world(seed=0)
    yield made
    made.close()


def attempts(world, number):
    """Openings (rad) and success at the end of each direction, in turns without resets."""
    operator, state = operator_for(TASK, seed=1), world.reset()
    for _ in range(number):
        for direction in ('forward', 'backward'):
            operator.begin(direction)
            state = drive(TASK, world, state, operator, limit=150)[0][-1]
            yield direction, door.opening(state[HANDLE]), TASK.success(TASK.observation(state))


@pytest.mark.parametrize('angle', [0.0, 0.3, 1.0, 1.3])
def test_the_opening_follows_from_the_place_of_the_handle(angle):
    pose = door.handle_pose(angle)
    assert door.opening(pose[:2]) == pytest.approx(angle, abs=1e-12)
    along, out = door.door_axes(angle)
    place = door.HINGE + door.BAR_AT * along + door.STANDOFF * out
    assert np.allclose(pose[:2], place)
    assert np.allclose(TASK.config.success.target, door.handle_pose(0.0)[:2])


def test_it_stays_where_it_was_left(world):
    state = world.reset()
    before = door.opening(state[HANDLE])
    assert before == pytest.approx(door.START, abs=door.SPREAD)
    for _ in range(20):
        state = world.step(hold(state))
    assert door.opening(state[HANDLE]) == pytest.approx(before, abs=1e-3)


def test_the_operator_closes_it_to_two_centimetres_and_opens_it_again(world):
    for direction, angle, success in attempts(world, 3):
        if direction == 'forward':
            assert success and angle < np.radians(5)
        else:
            assert not success and angle == pytest.approx(door.START, abs=np.radians(4))


def test_backward_the_operator_pushes_a_door_that_is_too_far_open(world):
    wide = (world.reset_to_wide(index) for index in range(100))
    state = next(state for state in wide if door.opening(state[HANDLE]) > np.radians(68))
    operator = operator_for(TASK, seed=1)
    operator.begin('backward')
    state = drive(TASK, world, state, operator, limit=150)[0][-1]
    assert door.opening(state[HANDLE]) == pytest.approx(door.START, abs=np.radians(4))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['push', 'door'])
def test_operators_succeed_from_19_of_20_starts_in_both_directions(name):
    task = Task.load(name)
    begin = push.START if name == 'push' else door.handle_pose(door.START)[:2]
    world, done = task.load_world(seed=0), {'forward': 0, 'backward': 0}
    for seed in range(20):
        operator, state = operator_for(task, seed), world.reset()
        for direction in done:
            operator.begin(direction)
            try:
                state = drive(task, world, state, operator, limit=150)[0][-1]
            except RuntimeError:
                break
            back = np.linalg.norm(state[HANDLE] - begin) < 0.04
            forth = task.success(task.observation(state))
            done[direction] += bool(back if direction == 'backward' else forth)
    world.close()
    assert min(done.values()) >= 19 and world.put_right == 0, done


def test_it_stops_at_its_frame_and_at_its_widest():
    made = Door(seed=0)
    places = [made.state_names.index(f'object_{axis}') for axis in 'xy']
    for torque, angle in ((-1.5, door.WIDEST), (1.5, 0.0)):
        made.reset()
        for _ in range(40):
            pybullet.applyExternalTorque(
                made._door, 0, (0, 0, torque), pybullet.LINK_FRAME, physicsClientId=made._client
            )
            state = made.step(np.zeros(4))
        assert door.opening(state[places]) == pytest.approx(angle, abs=0.02)
    made.close()


@pytest.mark.parametrize('name', ['door', 'push'])
def test_wide_starts_overlap_nothing_and_are_settled(name):
    task = Task.load(name)
    one, other = (task.load_world(seed=seed) for seed in (0, 5))
    starts = []
    for index in range(15):
        state = one.reset_to_wide(index)
        assert not one._touches()
        observed = task.state(state)
        assert (observed >= task.state_low).all() and (observed <= task.state_high).all()
        assert not task.success(task.observation(state))
        starts.append(state)
        later = one.step(hold(state) if name == 'door' else np.array([0, 0, 0, state[7]]))
        assert np.abs(later[HANDLE] - state[HANDLE]).max() < 2e-3
    assert np.array_equal(other.reset_to_wide(9), starts[9])
    assert np.ptp(np.array(starts)[:, NAMES.index('hand_x')]) > 0.15
    one.close()
    other.close()


@pytest.mark.parametrize('kind', [Push, Door])
def test_a_start_gives_the_same_states_whatever_the_world_has_done_before(kind):
    rng = np.random.default_rng(0)
    commands = rng.uniform([-0.25] * 3 + [0], [0.25] * 3 + [0.04], (80, 4))
    fresh, used = kind(seed=0), kind(seed=1)
    for command in commands[::-1]:
        used.step(command)
    traces = [[made.reset_to_start(3), *map(made.step, commands)] for made in (fresh, used)]
    assert np.array_equal(*traces)
    fresh.close()
    used.close()


def test_joint_velocities_of_the_profile_keep_the_hand_about_in_its_box():
    task = Task.load('door_velocity')
    world = task.load_world(seed=0)
    rng, state = np.random.default_rng(0), world.reset()
    names = world.state_names
    hand = [names.index(f'hand_{axis}') for axis in 'xyz']
    speed = [names.index(f'velocity{joint}') for joint in range(1, 8)]
    for step in range(200):
        if step % 5 == 0:
            command = task.command(rng.uniform(-1, 1, task.action_dim))
        state = world.step(command)
        low, high = Door.hand_box
        assert (state[hand] > low - 0.08).all() and (state[hand] < high + 0.08).all()
        assert (np.abs(state[speed]) <= 1.01 * JOINT_SPEED).all()
    world.close()


def test_door_is_drawn():
    made = Door(seed=0)
    picture = made.render(160, 120)
    assert picture.shape == (120, 160, 3) and len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    assert pybullet.isConnected(made._client)
    made.close()
    assert not pybullet.isConnected(made._client)
