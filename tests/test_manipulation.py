"""Grasping with the Panda in PyBullet: the cube of `pick_place` and the peg of `peg`."""

import numpy as np
import pybullet
import pytest

from mbarl_ros.demos.reader import load_demonstrations
from mbarl_ros.task import Task
from mbarl_sim import peg, pick_place, tray
from mbarl_sim.operators import drive, operator_for
from mbarl_sim.panda import OPEN

TASKS = {name: Task.load(name) for name in ('pick_place', 'peg')}
STARTS = {'pick_place': pick_place.START, 'peg': peg.START}
RESTING = {'pick_place': pick_place.SIDE / 2, 'peg': peg.BALLAST}  # m, height of the object
NAMES = TASKS['peg'].robot.state_names
UPRIGHT = [0.0, 0.0, 0.0, 1.0]


def entries(state, what):
    return state[..., [NAMES.index(f'{what}_{axis}') for axis in 'xyz']]


def with_object(state, place, turn=UPRIGHT):
    """The state with the object at a place [3] (m) and an orientation."""
    return np.concatenate([state[:-7], place, turn])


def hold(world, state, steps):
    """Keep the hand where it is."""
    for _ in range(steps):
        state = world.step(np.array([0.0, 0.0, 0.0, state[NAMES.index('finger')]]))
    return state


def tilt(state):
    """Cosine of the angle between the axis of the peg and the vertical."""
    x, y = state[[NAMES.index('object_qx'), NAMES.index('object_qy')]]
    return 1 - 2 * (x * x + y * y)


@pytest.fixture(scope='module')
def worlds():
    made = {name: task.load_world(seed=0) for name, task in TASKS.items()}
    yield made
    for world in made.values():
        world.close()


def run(name, world, state, direction, index=0):
    """Whether the operator gets there from a state, and the last state."""
    task, operator = TASKS[name], operator_for(TASKS[name], seed=index)
    goal = task.goals[index % len(task.goals)] if task.goal_conditioned else None
    operator.begin(direction, goal)
    last = drive(task, world, state, operator, limit=task.config.phases.forward_limit)[0][-1]
    if direction == 'forward':
        return bool(task.success(task.observation(last, goal))), last
    thing = entries(last, 'object')
    away = np.linalg.norm(thing[:2] - STARTS[name])
    return bool(away < 0.04 and abs(thing[2] - RESTING[name]) < 0.003), last


@pytest.mark.parametrize('name', TASKS)
def test_the_operator_goes_there_and_back_without_resets(worlds, name):
    world = worlds[name]
    state = world.reset()
    for index in range(4):
        for direction in ('forward', 'backward'):
            done, state = run(name, world, state, direction, index)
            assert done, (index, direction)
    assert world.world.put_right == 0


@pytest.mark.parametrize('name', TASKS)
def test_a_grasp_leaves_nothing_behind_after_a_reset(worlds, name):
    task, world, seen = TASKS[name], worlds[name], []
    for _ in range(2):
        operator, state = operator_for(task, seed=0), world.reset_to_wide(5)
        operator.begin('forward', task.goals[0] if task.goal_conditioned else None)
        seen.append(drive(task, world, state, operator)[0])
        state = world.reset_to_wide(6)
        operator.begin('backward')
        for _ in range(45):  # the object is in the hand now
            state = world.step(operator.command(state))
    assert np.array_equal(*seen)


@pytest.mark.slow
@pytest.mark.parametrize('direction', ['forward', 'backward'])
@pytest.mark.parametrize('name', TASKS)
def test_the_operator_succeeds_from_wide_starts(worlds, name, direction):
    world = worlds[name]
    ends = [run(name, world, world.reset_to_wide(i), direction, i)[0] for i in range(20)]
    assert sum(ends) >= 19


@pytest.mark.parametrize('name', TASKS)
def test_wide_starts_lie_everywhere_and_are_settled(worlds, name):
    task, world = TASKS[name], worlds[name]
    starts = np.array([world.reset_to_wide(index) for index in range(30)])
    hand, thing = entries(starts, 'hand'), entries(starts, 'object')
    assert (np.abs(thing[:, :2] - tray.MIDDLE) < tray.HALF).all()
    assert np.abs(thing[:, 2] - RESTING[name]).max() < 0.002
    assert (np.ptp(thing[:, :2], axis=0) > tray.HALF).all() and (np.ptp(hand, axis=0) > 0.1).all()
    for goal in task.goals if task.goal_conditioned else [None]:
        assert not task.success(task.observation(starts, goal)).any()
    later = hold(world, world.reset_to_wide(3), 1)
    assert np.abs(entries(later, 'object') - thing[3]).max() < 1e-3


@pytest.mark.parametrize('name', TASKS)
def test_the_object_slides_back_from_the_edges(worlds, name):
    world = worlds[name]
    for side in ([1, 0], [-1, 0], [0, 1], [0, -1], [1, 1]):
        place = tray.MIDDLE + np.array(side) * (tray.HALF + 0.05)
        height = tray.edge_height(place) + 0.05
        state = hold(world, world.set_state(with_object(world.reset(), [*place, height])), 25)
        inside = np.abs(entries(state, 'object')[:2] - tray.MIDDLE) < tray.HALF + 0.03
        assert inside.all(), side


@pytest.mark.parametrize('name', TASKS)
def test_a_lost_object_is_put_back_and_counted(name):
    world = TASKS[name].load_world(seed=0)
    state = world.set_state(with_object(world.reset(), [0.5, 0.6, 0.02]))
    state = hold(world, state, 1)
    assert world.world.put_right == 1
    assert np.abs(entries(state, 'object')[:2] - STARTS[name]).max() < 0.03
    world.close()


@pytest.mark.parametrize('name', TASKS)
def test_only_friction_holds_the_object(worlds, name):
    task, world = TASKS[name], worlds[name]
    operator, state = operator_for(task, seed=0), world.reset()
    operator.begin('forward', task.goals[0] if task.goal_conditioned else None)
    while not (entries(state, 'object')[2] > 0.05):
        state = world.step(operator.command(state))
    client = world.world._client
    assert pybullet.getNumConstraints(physicsClientId=client) == 0
    pressing = {
        contact[3]
        for contact in pybullet.getContactPoints(
            world.world.arm.body, world.world._object, physicsClientId=client
        )
        if contact[9] > 1.0  # N
    }
    assert pressing == {9, 10}  # both fingers
    held = entries(state, 'object')[2]
    for _ in range(20):  # it does not slip
        state = world.step(np.array([0.0, 0.0, 0.0, 0.01]))
    assert abs(entries(state, 'object')[2] - held) < 0.005
    for _ in range(10):
        state = world.step(np.array([0.0, 0.0, 0.0, OPEN]))
    assert entries(state, 'object')[2] < 0.03


def test_a_cube_is_at_its_goal_only_when_it_is_let_go():
    task = TASKS['pick_place']
    goal = task.goals[0]
    held, carried = goal.copy(), goal.copy()
    names = [entry.name for entry in task.config.observation]
    held[names.index('hand_z')] = pick_place.SIDE / 2
    carried[names.index('object_z')] = goal[names.index('hand_z')]
    for state, success in ((goal, True), (held, False), (carried, False)):
        assert task.success(np.concatenate([state, goal])) == success


def test_the_goals_are_the_places_that_are_drawn():
    names = [entry.name for entry in TASKS['pick_place'].config.observation]
    columns = [names.index('object_x'), names.index('object_y')]
    assert np.allclose(TASKS['pick_place'].goals[:, columns], pick_place.PLACES)


@pytest.mark.parametrize('angle', [1.0, np.pi / 2, 2.5, 3.1])
def test_a_peg_that_fell_stands_up_by_itself(worlds, angle):
    world = worlds['peg']
    turn = [0.0, np.sin(angle / 2), 0.0, np.cos(angle / 2)]
    state = hold(world, world.set_state(with_object(world.reset(), [0.45, -0.05, 0.07], turn)), 30)
    assert tilt(state) > 0.98 and abs(entries(state, 'object')[2] - peg.BALLAST) < 0.002


def test_the_hole_leaves_the_peg_five_millimetres(worlds):
    task, world = TASKS['peg'], worlds['peg']
    place = [*(peg.HOLE + np.array([0.005, -0.005])), peg.DEPTH + peg.BALLAST]
    state = world.set_state(with_object(world.reset(), place))
    assert peg.CLEARANCE <= 0.005 and not task.success(task.observation(state))
    state = hold(world, state, 15)  # its round end slides in
    assert task.success(task.observation(state))
    moved = np.abs(entries(state, 'object')[:2] - peg.HOLE)
    assert (moved <= peg.CLEARANCE / 2 + 0.002).all()
    assert np.allclose(task.config.success.target, [*peg.HOLE, peg.BALLAST])


@pytest.mark.parametrize(('name', 'each_goal'), [('pick_place', [3, 3, 3, 3]), ('peg', [10])])
def test_shipped_demonstrations_end_in_success(name, each_goal):
    task = TASKS[name]
    rows = load_demonstrations(task.config.demonstrations, task)
    ends = rows['next_observation'][rows['terminated'] == 1]
    assert task.success(ends).all() and len(ends) == sum(each_goal)
    if task.goal_conditioned:
        goals = ends[:, task.state_dim :]
        assert [(goals == goal).all(1).sum() for goal in task.goals] == each_goal
