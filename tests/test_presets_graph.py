"""Presets over real DDS: goals, critics and resets give the very run of the loop without ROS."""

import numpy as np
import pytest
import torch
import yaml

from mbarl_ros.demos.reader import load_demonstrations
from mbarl_ros.schema.load import find, load_agent
from mbarl_ros.storage.transitions import BACKWARD, FORWARD, HUMAN, POLICY
from mbarl_ros.studies.direct import DirectRun
from mbarl_ros.task import Task
from support.graph import LEARNING, Graph, small_agent
from support.person import Person
from support.run_data import stored

pytestmark = pytest.mark.together

STEPS = 450


def direct(task, agent, seed):
    """What the same preset does without ROS."""
    torch.set_num_threads(1)
    run = DirectRun(task, agent, load_demonstrations(task.config.demonstrations, task), seed)
    parts = []
    while len(parts) * agent.chunk < STEPS:
        parts.append(run.collect())
        run.train(parts[-1])
    return {name: np.concatenate([part[name] for part in parts])[:STEPS] for name in parts[0]}


@pytest.mark.parametrize('name', ['fbrl', 'risc', 'oracle'])
def test_the_graph_practises_a_preset_as_the_direct_loop_does(tmp_path, name):
    parts = load_agent(name)
    changes = parts.model_dump(include={'backward', 'shared', 'switching', 'resets'})
    agent = small_agent(tmp_path, **changes, model=None, updates_per_step=0.2)
    nodes = [node for node in LEARNING if node != 'state_classifier']
    with Graph(tmp_path, task='tabletop', agent=agent, seed=4) as graph:
        graph.start(*nodes)
        graph.wait_for(
            'stored steps', lambda: graph.value('learner', 'environment_steps') >= STEPS, 90
        )
        # published once a second
        least = 2 if name == 'oracle' else 0
        graph.wait_for('resets', lambda: graph.value('robot_sim', 'resets') >= least)
        resets = graph.value('robot_sim', 'resets')
    rows = stored(tmp_path, agent, 'tabletop')
    expected = direct(Task.load('tabletop'), load_agent(agent), seed=4)
    for key in ('observation', 'action', 'next_observation', 'phase', 'truncated', 'terminated'):
        np.testing.assert_array_equal(rows[key][:STEPS], expected[key], key)
    assert len(np.unique(rows['action'], axis=0)) > STEPS // 2
    if name == 'oracle':
        assert set(rows['phase']) == {FORWARD}
    else:
        assert set(rows['phase']) == {FORWARD, BACKWARD} and resets == 0


def test_the_graph_plans_and_then_imitates_the_planner_as_the_direct_loop_does(tmp_path):
    """The model reaches the controller with the policy; after the warm start the policy acts."""
    parts = load_agent('mbmf').model_dump(include={'planner', 'warm_start'})
    parts['planner'] |= {'candidates': 12, 'horizon': 4, 'elites': 3}
    parts['warm_start'] |= {'planner_steps': 200, 'rounds': 1, 'round_steps': 100, 'states': 50,
                            'gradient_steps': 20}  # fmt: skip
    model = {'members': 3, 'elites': 3, 'hidden': [32, 32], 'every': 100}
    changes = {'backward': 'none', 'updates_per_step': 0.2, 'model': model}
    agent = small_agent(tmp_path, **changes, **parts)
    nodes = [node for node in LEARNING if node != 'state_classifier']
    with Graph(tmp_path, task='tabletop', agent=agent, seed=4) as graph:
        graph.start(*nodes)
        graph.wait_for(
            'stored steps', lambda: graph.value('learner', 'environment_steps') >= STEPS, 90
        )
        plans = graph.value('policy_controller', 'plans')
    rows = stored(tmp_path, agent, 'tabletop')
    expected = direct(Task.load('tabletop'), load_agent(agent), seed=4)
    for key in ('observation', 'action', 'phase', 'truncated'):
        np.testing.assert_array_equal(rows[key][:STEPS], expected[key], key)
    assert 50 <= plans <= 200  # from the first fit of the model to the warm start


def test_a_person_who_drives_on_into_a_reset_makes_no_step_of_it(tmp_path):
    raw = yaml.safe_load(find('tasks', 'pointmass').read_text())
    raw['demonstrations'] = Task.load('pointmass').config.demonstrations
    raw['phases'] = {'forward_limit': 15, 'backward_limit': 15}
    (tmp_path / 'short.yaml').write_text(yaml.safe_dump(raw))
    agent = small_agent(tmp_path, backward='none', resets=True, model=None, updates_per_step=0.02)
    with Graph(tmp_path, task=str(tmp_path / 'short.yaml'), agent=agent) as graph:
        graph.start(*LEARNING)
        graph.wait_for_steps(30)
        person = Person(graph)
        before = graph.value('robot_sim', 'resets')
        person.drive(4.0, period=0.01)
        graph.wait_for('resets', lambda: graph.value('robot_sim', 'resets') >= before + 5)
        graph.spin(1.5)
        graph.kill('policy_controller', 2)
    rows = stored(tmp_path, agent)
    assert (rows['source'] == HUMAN).sum() > 50
    moved = np.linalg.norm(rows['observation'][:, :2] - rows['next_observation'][:, :2], axis=1)
    assert moved.max() < 0.2  # no step leads across a reset


def test_a_simulation_in_real_time_is_reset_between_attempts_as_well(tmp_path):
    task = Task.load('pointmass')
    agent = small_agent(tmp_path, backward='none', resets=True, model=None, updates_per_step=0.02)
    nodes = ('policy_controller', 'learner')
    with Graph(
        tmp_path, task='pointmass', agent=agent, mode='realtime', use_sim_time=True
    ) as graph:
        graph.start('robot_sim', real_time_factor=8.0, use_sim_time=False)
        graph.start('safety_gate', real_time_factor=8.0, use_sim_time=False)
        graph.start(*nodes)
        graph.wait_for_steps(250)
        graph.spin(1.5)
    rows = stored(tmp_path, agent)
    ends = np.flatnonzero(
        (rows['truncated'] == 1) & (rows['source'] == POLICY) | rows['terminated']
    )
    ends = ends[ends < len(rows['phase']) - 1]
    assert len(ends) >= 2 and ends[0] < task.config.phases.forward_limit
    starts = rows['observation'][ends + 1, :2]
    assert (np.abs(starts + 1.6) < 0.3).all()  # where the world places the robot
    moved = np.linalg.norm(rows['observation'][:, :2] - rows['next_observation'][:, :2], axis=1)
    assert moved.max() < 0.5  # no step leads across a reset
