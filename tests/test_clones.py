"""Clones: policies begin as the demonstrations and leave them only where critics know better."""

import numpy as np
import pytest
import torch
from test_learning import SMALL, stream

from mbarl_ros.control.policy import DEPLOYED, Policy
from mbarl_ros.learning.clones import Clones
from mbarl_ros.learning.learner import Learner
from mbarl_ros.storage.transitions import BACKWARD, FORWARD
from mbarl_ros.task import Task

AGENT = SMALL.model_copy(update={'model': None})


def shown(task: Task, phase: int, sign: float) -> dict[str, np.ndarray]:
    """Ten demonstrations in a corner of the state space; the action points by ``sign``."""
    rows = stream(task, 100, seed=phase, phase=phase)
    near = 0.1 * (rows['observation'] - task.offset) + task.offset - 0.5 * task.scale
    action = np.full((100, task.action_dim), 0.5 * sign, np.float32)
    action[:, 0] *= np.sign(near[:, 0] - np.median(near[:, 0]))  # it depends on the state
    return {**rows, 'observation': near.astype(np.float32), 'action': action}


@pytest.fixture(scope='module')
def demonstrations() -> dict[str, np.ndarray]:
    task = Task.load('pointmass')
    parts = shown(task, FORWARD, 1.0), shown(task, BACKWARD, -1.0)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def error(policy: Policy, rows: dict[str, np.ndarray], phase: int) -> float:
    chosen = rows['phase'] == phase
    action = policy.mean_action(rows['observation'][chosen])
    return float(np.abs(action - rows['action'][chosen]).mean())


@pytest.mark.slow
def test_both_policies_and_the_deployed_one_begin_as_the_demonstrations(demonstrations):
    arrays = Learner(Task.load('pointmass'), AGENT, demonstrations, seed=0).policy_arrays()
    assert error(Policy(arrays, 'forward'), demonstrations, FORWARD) < 0.2
    assert error(Policy(arrays, DEPLOYED), demonstrations, FORWARD) < 0.2
    assert error(Policy(arrays, 'backward'), demonstrations, BACKWARD) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize('weight', [10.0, 0.0])
def test_critics_that_know_nothing_do_not_lead_the_policy_away(demonstrations, weight):
    """Practice without any success teaches nothing; without the pull the policy drifts off."""
    task = Task.load('pointmass')
    sac = AGENT.sac.model_copy(update={'cloning_weight': weight})
    learner = Learner(task, AGENT.model_copy(update={'sac': sac}), demonstrations, seed=0)
    learner.add(stream(task, 200, seed=5))
    learner.train(1500)
    moved = error(Policy(learner.policy_arrays(), DEPLOYED), demonstrations, FORWARD)
    assert moved < 0.2 if weight else moved > 0.3


@pytest.mark.slow
def test_a_clone_is_asked_near_the_demonstrations_and_not_far_away(demonstrations):
    task = Task.load('pointmass')
    clones = Clones(task, demonstrations, [FORWARD, BACKWARD], [16], 10, seed=0)

    def certainty(observation: np.ndarray) -> np.ndarray:
        scaled = torch.from_numpy(task.scaled(observation).astype(np.float32))
        return clones.act(scaled.expand(2, -1, -1))[1].numpy()

    forward = demonstrations['observation'][demonstrations['phase'] == FORWARD]
    assert (certainty(forward)[FORWARD] == 1.0).all()
    far = np.tile(task.offset + 0.9 * task.scale, (5, 1))
    assert certainty(far).max() < 0.05
