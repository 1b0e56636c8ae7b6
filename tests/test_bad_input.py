"""A world that cannot be made, breaks down, or never gets anywhere: named, and the run is saved."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from mbarl_ros.schema.base import ConfigError, SimulatorError
from mbarl_ros.schema.load import find
from mbarl_ros.schema.robot_world import MAX_PUT_RIGHT
from mbarl_ros.task import Task
from mbarl_sim import panda
from support.broken_worlds import BLOWS_UP_AFTER
from support.graph import small_agent
from support.run_data import kept

ROOT = Path(__file__).parent.parent


def changed(tmp_path, name='pointmass', **changes):
    """Path of a shipped task with other keys."""
    raw = yaml.safe_load(find('tasks', name).read_text())
    raw['demonstrations'] = str(ROOT / 'demos' / name)
    for key, value in changes.items():
        raw[key] = {**raw[key], **value} if isinstance(value, dict) and key in raw else value
    path = tmp_path / 'mine.yaml'
    path.write_text(yaml.safe_dump(raw))
    return str(path)


def broken(tmp_path, world):
    return changed(tmp_path, world=f'support.broken_worlds:{world}')


@pytest.fixture
def no_urdf(tmp_path, monkeypatch):
    """Path of a file that is no URDF, in the environment of the worlds."""
    path = tmp_path / 'arm.urdf'
    path.write_text('<robot name="x"><link')
    monkeypatch.setenv('URDF', str(path))
    return path


# --- goals out of reach ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'changes', 'words'),
    [
        (
            'push',
            {'success': {'target': [0.9, 0.13]}},
            'mine.yaml: success.target: object_x 0.9 is out of reach: outside 0.27 to 0.73, its '
            'range in observation',
        ),
        (
            'tabletop',
            {'goals': [[0, 0, 2.5, 1, -1, 0], [0, 0, 2.5, 9, -1, 0]]},
            'goals.1: mug_y 9 is out of reach: outside -2.8 to 2.8',
        ),
    ],
)
def test_a_target_outside_the_range_of_the_observation_is_refused(tmp_path, name, changes, words):
    with pytest.raises(ConfigError, match=words):
        Task.load(changed(tmp_path, name, **changes))


def test_a_target_is_in_reach_if_the_tolerance_is(tmp_path):
    Task.load(changed(tmp_path, 'push', success={'target': [0.76, 0.13], 'tolerance': 0.04}))


def test_a_range_that_is_no_limit_puts_nothing_out_of_reach(tmp_path):
    raw = yaml.safe_load(find('tasks', 'push').read_text())
    for entry in raw['observation']:
        entry['limited'] = False
    changes = {'observation': raw['observation'], 'success': {'target': [0.9, 0.13]}}
    Task.load(changed(tmp_path, 'push', **changes))


def test_a_target_outside_the_workspace_of_the_robot_is_refused(tmp_path):
    success = {'entries': ['hand_x', 'hand_z'], 'target': [0.5, 0.0], 'tolerance': 0.004}
    words = r'success.target: hand_z 0 .* outside 0\.005 to 0\.45, the workspace of robot'
    with pytest.raises(ConfigError, match=words):
        Task.load(changed(tmp_path, 'push', success=success))


@pytest.mark.parametrize(
    ('name', 'target', 'words'),
    [
        ('push', [0.9, 0.13], 'object_x 0.9 .* outside 0.27 to 0.73, where world Push ends'),
        ('door', [0.3, 0.0], 'object_x 0.3 .* outside 0.3985.* to 0.575, where world Door ends'),
    ],
)
def test_a_target_that_the_world_never_reaches_is_refused(tmp_path, name, target, words):
    raw = yaml.safe_load(find('tasks', name).read_text())
    for entry in raw['observation']:
        entry.update(low=-2.0, high=2.0)  # the user thinks that it reaches this far
    task = Task.load(
        changed(tmp_path, name, observation=raw['observation'], success={'target': target})
    )
    with pytest.raises(ConfigError, match=words):
        task.load_world(seed=0)


# --- worlds that cannot be made --------------------------------------------------------------


@pytest.mark.parametrize('world', ['Urdf', 'OwnUrdf'])
def test_a_urdf_that_does_not_load_is_named(tmp_path, no_urdf, world):
    """Without :func:`load_urdf` by the line that loads it, which is all that is known."""
    where = str(no_urdf) if world == 'Urdf' else r'line \d+: pybullet\.loadURDF\(os.environ'
    with pytest.raises(ConfigError, match=f"key 'world': .*:{world} cannot be made: .*{where}"):
        Task.load(broken(tmp_path, world)).load_world(seed=0)


def test_a_missing_urdf_of_the_arm_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(panda.pybullet_data, 'getDataPath', lambda: str(tmp_path))
    missing = f'{tmp_path}/franka_panda/panda.urdf: no such file'
    with pytest.raises(ConfigError, match=missing):
        Task.load('push').load_world(seed=0)


def test_a_wrong_option_of_a_world_is_named(tmp_path):
    task = Task.load(changed(tmp_path, 'push', world_options={'command': 'twsit'}))
    with pytest.raises(
        ConfigError, match="cannot be made: command must be one of twist, .*'twsit'$"
    ):
        task.load_world(seed=0)


# --- worlds that break down ------------------------------------------------------------------


def test_a_state_that_is_not_finite_is_named_with_the_command_before_it(tmp_path):
    world = Task.load(broken(tmp_path, 'BlowsUp')).load_world(seed=0)
    world.reset()
    for _ in range(BLOWS_UP_AFTER):
        world.step(np.zeros(2))
    with pytest.raises(SimulatorError, match=r'BlowsUp: y nan after command \[0.1, 0.0\]'):
        world.step(np.array([0.1, 0.0]))


def test_a_state_of_another_size_is_named(tmp_path):
    world = Task.load(broken(tmp_path, 'TwoNumbers')).load_world(seed=0)
    world.reset()
    with pytest.raises(SimulatorError, match=r'shape \(2,\) after command .* 4 entries'):
        world.step(np.zeros(2))


def test_an_object_that_is_lost_whenever_it_is_put_back_is_named(tmp_path):
    world = Task.load(broken(tmp_path, 'LosesEachTime')).load_world(seed=0)
    world.reset()
    for _ in range(MAX_PUT_RIGHT - 1):
        world.step(np.zeros(2))
    with pytest.raises(SimulatorError, match='LosesEachTime: put back a lost object in 50 of 50'):
        world.step(np.zeros(2))


def test_an_object_that_is_lost_now_and_then_is_no_error(tmp_path):
    world = Task.load('pointmass').load_world(seed=0)
    world.reset()
    for step in range(1000):
        world.world.put_right += step % 5 == 0
        world.step(np.zeros(2))


# --- in the graph ----------------------------------------------------------------------------


def up(tmp_path, task, agent):
    """A run of the graph: its exit code, all that it printed, and its result."""
    words = [f'task:={task}', f'agent:={agent}', f'run_dir:={tmp_path / "run"}', 'view:=lines']
    path = os.pathsep.join([str(ROOT), str(ROOT / 'tests'), os.environ.get('PYTHONPATH', '')])
    done = subprocess.run(
        [sys.executable, '-m', 'mbarl_ros.cli', 'up', 'sim', *words],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=180,
    )
    print(done.stdout)
    return done.returncode, done.stdout, json.loads((tmp_path / 'run' / 'result.json').read_text())


@pytest.mark.graph
@pytest.mark.together
def test_when_the_physics_break_down_the_run_ends_by_name_and_can_be_resumed(tmp_path):
    task = changed(
        tmp_path,
        world='support.broken_worlds:BlowsUp',
        evaluation={'horizon': 20, 'episodes': 2},
    )
    agent = small_agent(tmp_path, backward='none', model=None, updates_per_step=0.1)
    steps = 0
    for _ in range(2):
        code, printed, result = up(tmp_path, task, agent)
        assert code == 1 and 'Traceback' not in printed
        assert 'robot_sim' in result['error'] and 'BlowsUp: y nan after' in result['error']
        assert result['reason'] == 'failed' and f'  {result["error"]}' in printed
        rows = kept(tmp_path, agent, str(tmp_path / 'run' / 'task.yaml'))  # none is missing
        new = len(rows['sequence']) - steps
        assert new in (BLOWS_UP_AFTER, BLOWS_UP_AFTER - 1)
        assert np.isfinite(rows['next_observation']).all()
        steps += new


@pytest.mark.graph
@pytest.mark.together
def test_a_graph_whose_world_cannot_be_made_ends_with_one_sentence(tmp_path, no_urdf):
    code, printed, result = up(tmp_path, broken(tmp_path, 'Urdf'), small_agent(tmp_path))
    assert code == 1 and 'Traceback' not in printed
    assert result['reason'] == 'failed' and f'{no_urdf}: is no URDF' in result['error']


@pytest.mark.graph
@pytest.mark.together
def test_a_graph_whose_world_never_measures_a_topic_again_ends_with_its_name(tmp_path):
    agent = small_agent(tmp_path, backward='none', model=None, updates_per_step=0.1)
    code, printed, result = up(tmp_path, broken(tmp_path, 'Blind'), agent)
    assert code == 1 and 'Traceback' not in printed
    assert 'robot_sim' in result['error'] and 'odom: nothing measured for 60 s' in result['error']
