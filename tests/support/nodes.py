"""Nodes in the process of a test, and what they learn from."""

from __future__ import annotations

from mbarl_ros.control.phases import Practice
from mbarl_ros.schema.load import load_agent, load_world
from mbarl_ros.storage.transitions import Transitions, stack
from mbarl_ros.task import Task

TASK = Task.load('pointmass')
AGENT = load_agent('mbarl')


def practised(steps: int) -> Transitions:
    """Transitions of random practice in the simulated world."""
    world, practice = load_world(TASK.config, seed=0), Practice(TASK, AGENT, seed=0)
    state, rows = world.reset(), []
    for _ in range(steps):
        observation = practice.observe(state)
        action = practice.act(observation)
        state = world.step(TASK.command(action))
        rows.append(practice.record(observation, action, state, 0.0))
    return stack(rows, TASK)
