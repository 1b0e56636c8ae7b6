"""Tasks in which the Panda grasps, practised by the real graph in lockstep."""

import numpy as np
import pytest
import yaml

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
        # Recorded actions are those that the gate has passed, as float32.
        seen = rows[key][:, : task.state_dim]
        np.testing.assert_allclose(seen, task.state(np.array(expected)), atol=1e-3, err_msg=key)
    assert set(rows['phase']) == {FORWARD, BACKWARD}
    assert len(np.unique(rows['action'], axis=0)) > STEPS // 2
    hand = rows['observation'][:, :3]
    assert (np.ptp(hand, axis=0) > 0.02).all()  # it does move
    if task.goal_conditioned:
        goals = rows['observation'][:, task.state_dim :]
        assert all((task.goals == goal).all(1).any() for goal in goals)
