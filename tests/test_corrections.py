"""Corrections: a clone brings a robot back that is off the demonstrated path."""

import numpy as np
import torch
from test_learning import stream

from mbarl_ros.learning.clones import Clones
from mbarl_ros.learning.corrections import FARTHEST, Corrections
from mbarl_ros.storage.transitions import FORWARD
from mbarl_ros.task import Task

STEP = 0.04  # m that a full action moves the robot in a step


def drives(task: Task, follow: float = 1.0) -> dict[str, np.ndarray]:
    """Twelve drives along y = 0.

    ``follow``: share of the way to the commanded place, for commands that are positions; 1: they
    are velocities.
    """
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(12):
        rows = stream(task, 30, seed=1, phase=FORWARD)
        action = np.stack([rng.normal(0.8, 0.1, 30), rng.normal(0, 0.1, 30)], 1).astype(np.float32)
        place = np.zeros((31, 2))
        place[0] = -0.5, rng.normal(0, 0.02)
        for step in range(30):
            target = action[step] if follow < 1 else place[step] + STEP * action[step]
            place[step + 1] = place[step] + follow * (target - place[step])
        for name, these in (('observation', place[:-1]), ('next_observation', place[1:])):
            rows[name] = np.zeros((30, 4), np.float32)
            rows[name][:, :2] = these
        rows['action'] = action
        rows['truncated'] = np.append(np.zeros(29, bool), True)
        rows['terminated'] = np.zeros(30, bool)
        parts.append(rows)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_a_clone_brings_the_robot_back_from_beside_the_path():
    task = Task.load('pointmass')
    clones = Clones(task, drives(task), [FORWARD], [64, 64], 2000, seed=0)
    off = 2 * STEP  # as far as two steps with the full action
    beside = np.array([[x, side * off, 0.0, 0.0] for x in (-0.3, 0.0, 0.3) for side in (-1, 1)])
    asked = clones.act(torch.from_numpy(task.scaled(beside).astype(np.float32))[None])
    back = asked.action[0, :, 1].numpy() * np.sign(-beside[:, 1])
    assert (back > 0.4).all()
    assert (asked.action[0, :, 0] > 0.4).all()  # and goes on
    assert (asked.certainty[0] > 0.5).all()  # the robot may be farther off than what it moves


def test_what_does_not_follow_the_action_is_not_displaced():
    """A velocity that is only shown, and an entry that rests most of the time."""
    task = Task.load('pointmass')
    rows = drives(task)
    moved = rows['next_observation'][:, 1] - rows['observation'][:, 1]
    rows['next_observation'][:, 1] = rows['observation'][:, 1] + moved * (np.arange(360) % 3 == 0)
    effect = Corrections(task, rows).effect
    x = STEP / task.scale[0]
    np.testing.assert_allclose(effect[:, 0], [x, 0.0], atol=0.05 * x)
    assert (effect[:, 1:] == 0).all()


def test_position_commands_are_not_corrected_like_velocities():
    """The place that they name is right from anywhere."""
    task = Task.load('pointmass')
    rows = drives(task, follow=0.5)
    corrections = Corrections(task, rows)
    assert (corrections.effect == 0).all()
    inputs, action = torch.zeros(5, 4), torch.full((5, 2), 0.7)
    same = corrections.displaced(inputs, action, torch.Generator().manual_seed(0))
    assert torch.equal(same[0], inputs) and torch.equal(same[1], action)
    assert torch.equal(corrections.discounted(inputs + 1.0), inputs + 1.0)


def test_displacements_are_those_of_whole_steps_and_actions_lead_back():
    task = Task.load('pointmass')
    corrections = Corrections(task, drives(task))
    inputs, action = torch.zeros(2000, 4), torch.zeros(2000, 2)
    off, back = corrections.displaced(inputs, action, torch.Generator().manual_seed(0))
    steps = off[:, :2] / (STEP / torch.from_numpy(task.scale[:2]))
    assert steps.abs().max() <= FARTHEST * 1.05 and steps.abs().max() > 0.8 * FARTHEST
    assert (steps * back <= 1e-6).all() and (off[:, 2:] == 0).all()
    assert steps.abs().median() < 1.0  # most are near the path
