"""A user's environment, in a file outside the package, learns over ROS as without ROS."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mbarl_ros.schema.load import load_agent, without_demonstrations
from mbarl_ros.storage.transitions import stack
from mbarl_ros.studies.direct import DirectRun
from mbarl_ros.task import Task
from support.graph import small_agent
from support.run_data import stored

pytestmark = [pytest.mark.graph, pytest.mark.together]

STEPS = 200


def test_mbarl_up_practises_in_an_environment_of_the_current_folder(tmp_path, monkeypatch):
    shutil.copy(Path(__file__).parent / 'support' / 'user_envs.py', tmp_path)
    agent = small_agent(tmp_path, backward='none', model=None, updates_per_step=0.2)
    name = 'gymnasium:user_envs:Cart?goal=3.0,max_episode_steps=40'  # off the table
    words = ['up', 'sim', f'task:={name}', f'agent:={agent}', f'steps:={STEPS}', 'view:=none']
    root = Path(__file__).parent.parent
    environment = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')]),
        'OMP_NUM_THREADS': '1',
    }
    done = subprocess.run(
        # As the installed command: the current folder is not on its path.
        [sys.executable, '-P', '-m', 'mbarl_ros.cli', *words, f'run_dir:={tmp_path / "run"}'],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 3, done.stdout + done.stderr
    last = json.loads((tmp_path / 'run' / 'result.json').read_text())
    assert last['environment_steps'] >= STEPS and last['deployed_return'] < 0
    assert last['training_resets'] > 0 and last['deployed_success'] == 0.0
    monkeypatch.chdir(tmp_path)
    rows = stored(tmp_path, agent, str(tmp_path / 'run' / 'task.yaml'))
    assert rows['terminated'].any()

    torch.set_num_threads(1)
    task = Task.load(name)
    run = DirectRun(
        task, without_demonstrations(load_agent(agent), task.config), stack([], task), 0
    )
    parts = []
    while len(parts) * run.agent.chunk < STEPS:
        parts.append(run.collect())
        run.train(parts[-1])
    for key in ('observation', 'action', 'next_observation', 'terminated', 'truncated'):
        expected = np.concatenate([part[key] for part in parts])
        np.testing.assert_array_equal(rows[key][:STEPS], expected[:STEPS], key)
    assert run.resets > 0
