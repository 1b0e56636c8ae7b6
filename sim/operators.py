"""The scripted operators by task, and demonstrations that they drive without ROS."""

from __future__ import annotations

import numpy as np

from mbarl_ros.demos.episodes import episode, join, transitions
from mbarl_ros.storage.transitions import Transitions
from mbarl_ros.task import Task
from mbarl_sim.arm_operators import DoorOperator, PushOperator
from mbarl_sim.grasp_operators import PegOperator, PickPlaceOperator
from mbarl_sim.operator import BACKWARD, FORWARD, Operator
from mbarl_sim.planar_operators import PointMassOperator, TabletopOperator
from mbarl_sim.worlds import World

OPERATORS: dict[str, type[Operator]] = {
    'door': DoorOperator,
    'peg': PegOperator,
    'pick_place': PickPlaceOperator,
    'pointmass': PointMassOperator,
    'push': PushOperator,
    'tabletop': TabletopOperator,
}


def operator_for(task: Task, seed: int = 0) -> Operator:
    """The scripted operator of a task.

    :raises ValueError: there is none for this task.
    """
    if task.name not in OPERATORS:
        raise ValueError(
            f"no scripted operator for task '{task.name}' (known: {', '.join(OPERATORS)}); "
            'record demonstrations by hand with record_demos.launch.py'
        )
    return OPERATORS[task.name](task, seed)


def drive(
    task: Task, world: World, state: np.ndarray, operator: Operator, limit: int = 400
) -> tuple[np.ndarray, np.ndarray]:
    """Run an episode that the operator has begun, from ``state`` until it is finished.

    :returns: states [n + 1, robot dim] and executed commands [n, action_dim]
    :raises RuntimeError: the operator does not finish within ``limit`` steps.
    """
    states, commands = [state], []
    while (command := operator.command(states[-1])) is not None:
        if len(commands) == limit:
            raise RuntimeError(
                f"operator of task '{task.name}' has not finished after {limit} steps"
            )
        command = task.command(task.action(command))
        commands.append(command)
        states.append(world.step(command))
    return np.array(states), np.array(commands)


def collect(
    task: Task, world: World, operator: Operator, forward: int, backward: int
) -> Transitions:
    """Transitions of ``forward`` and ``backward`` demonstrations, in turns; the goals cycle.

    Each demonstration starts where the previous one of the other direction ended, as in training
    without resets. If there is none, the world is reset to its start, or to the goal before a
    backward demonstration.
    """
    episodes, time, previous = [], 0.0, None
    state = world.reset()
    for index in range(max(forward, backward)):
        goal = task.goals[index % len(task.goals)] if task.goal_conditioned else None
        for direction, number in ((FORWARD, forward), (BACKWARD, backward)):
            if index >= number:
                continue
            if direction == FORWARD and previous == FORWARD:
                state = world.reset()
            if direction == BACKWARD and previous != FORWARD:
                state = _set_to_goal(task, world, goal)
            operator.begin(direction, goal)
            states, commands = drive(task, world, state, operator)
            stamps = time + np.arange(len(commands)) / world.control_rate
            demonstration = episode(task, states, commands, stamps, direction)
            episodes.append(transitions(task, demonstration))
            time += (len(commands) + 1) / world.control_rate
            state, previous = states[-1], direction
    return join(episodes)


def scripted_demonstrations(
    task_name: str, forward: int, backward: int, seed: int = 0
) -> Transitions:
    """Collect demonstrations of a shipped task without ROS and files (see :func:`collect`)."""
    task = Task.load(task_name)
    world = task.load_world(seed=seed)
    try:
        return collect(task, world, operator_for(task, seed), forward, backward)
    finally:
        world.close()


def _set_to_goal(task: Task, world: World, goal: np.ndarray | None) -> np.ndarray:
    if goal is None:
        raise ValueError(
            f"task '{task.name}' has no goals at which a backward demonstration could start"
        )
    values = dict(zip((entry.name for entry in task.config.observation), goal, strict=True))
    return world.set_state(np.array([values.get(name, 0.0) for name in world.state_names]))
