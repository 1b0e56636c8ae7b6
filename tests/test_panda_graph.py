"""Tasks of the Panda in the real graph, in lockstep."""

import numpy as np
import pytest
import yaml

from mbarl_ros.demos.metadata import folders
from mbarl_ros.demos.reader import read_demonstration
from mbarl_ros.schema.load import find
from mbarl_ros.storage.transitions import BACKWARD, FORWARD
from mbarl_ros.task import Task
from support.graph import LEARNING, Graph, small_agent
from support.run_data import stored

pytestmark = pytest.mark.together

STEPS = 150


@pytest.mark.parametrize('name', ['pick_place', 'peg'])
def test_a_grasping_task_is_practised_in_both_directions(tmp_path, name):
    raw = yaml.safe_load(find('tasks', name).read_text())
    raw['demonstrations'] = Task.load(name).config.demonstrations
    raw['phases'] = {'forward_limit': 50, 'backward_limit': 50}
    (tmp_path / 'short.yaml').write_text(yaml.safe_dump(raw))
    task = Task.load(str(tmp_path / 'short.yaml'))
    agent = small_agent(tmp_path, model=None, updates_per_step=0.1)
    with Graph(tmp_path, task=str(tmp_path / 'short.yaml'), agent=agent, seed=2) as graph:
        graph.start(*LEARNING)
        graph.wait_for('stored steps', lambda: graph.value('learner', 'environment_steps') >= STEPS)
        graph.wait_for('report', lambda: graph.value('robot_sim', 'steps') >= STEPS)
        assert graph.value('robot_sim', 'resets') == 0
    rows = stored(tmp_path, agent, str(tmp_path / 'short.yaml'))
    rows = {key: values[:STEPS] for key, values in rows.items()}
    world = task.load_world(seed=2)
    states = [world.reset(), *(world.step(task.command(action)) for action in rows['action'])]
    world.close()
    for key, expected in (('observation', states[:-1]), ('next_observation', states[1:])):
        # Recorded actions are those that the gate has passed, as float32; contact amplifies the
        # rounding to a millimetre or two. A step moves the hand by centimetres.
        seen = rows[key][:, : task.state_dim]
        np.testing.assert_allclose(seen, task.state(np.array(expected)), atol=5e-3, err_msg=key)
    assert set(rows['phase']) == {FORWARD, BACKWARD}
    assert len(np.unique(rows['action'], axis=0)) > STEPS // 2
    hand = rows['observation'][:, :3]
    assert (np.ptp(hand, axis=0) > 0.02).all()  # it does move
    if task.goal_conditioned:
        goals = rows['observation'][:, task.state_dim :]
        assert all((task.goals == goal).all(1).any() for goal in goals)


def test_the_operator_records_from_wide_starts_in_both_directions(tmp_path):
    task, folder = Task.load('push'), tmp_path / 'demos'
    with Graph(tmp_path, task='push', seed=3) as graph:
        graph.start('robot_sim', wide_starts=True)
        graph.start('safety_gate')
        graph.start('demo_recorder', demonstrations=str(folder))
        graph.start('scripted_operator', episodes=2, wide_starts=True)
        operator = graph.processes['scripted_operator']
        graph.wait_for('end of the episodes', lambda: operator.poll() is not None)
        assert operator.returncode == 0, graph.logs()
    found = [read_demonstration(path, task) for path in folders(folder)]
    found.sort(key=lambda demonstration: demonstration.stamps[0])
    assert [demonstration.metadata.direction for demonstration in found] == ['forward', 'backward']
    world = task.load_world(seed=0)
    for index, demonstration in enumerate(found, 1):
        np.testing.assert_array_equal(demonstration.states[0], world.reset_to_wide(index))
    world.close()
