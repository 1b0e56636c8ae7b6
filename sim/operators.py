"""Scripted operators: demonstrations as a person with a gamepad would give them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise

import numpy as np

from mbarl_ros.demos.episodes import episode, join, transitions
from mbarl_ros.schema.load import load_world
from mbarl_ros.storage.transitions import DIRECTIONS, Transitions
from mbarl_ros.task import Task
from mbarl_sim import pointmass, tabletop
from mbarl_sim.worlds import World

FORWARD, BACKWARD = DIRECTIONS


class Operator(ABC):
    """Drives towards waypoints like a person: tremor, changing pace, short pauses, overshoot.

    ``begin`` starts an episode; then ``command(state)`` gives a command in physical units for
    each robot state, and None once the episode has reached its end.
    """

    directions: tuple[str, ...]

    def __init__(self, task: Task, seed: int = 0) -> None:
        """Give the operator a task and a temper."""
        self.task = task
        self.rng = np.random.default_rng(seed)

    def begin(self, direction: str = FORWARD, goal: np.ndarray | None = None) -> None:
        """Start an episode; ``goal`` (of a goal-conditioned task) is where forward leads.

        :raises ValueError: a direction that this operator does not know.
        """
        if direction not in self.directions:
            raise ValueError(
                f'{type(self).__name__} drives {" and ".join(self.directions)}, not {direction}'
            )
        self.direction, self.goal = direction, goal
        self._velocity = np.zeros(2)
        self._tremor = np.zeros(2)
        self._mood = 0.0
        self._pause = 0
        self._started = False

    @abstractmethod
    def command(self, state: np.ndarray) -> np.ndarray | None:
        """Answer a robot state with a command in physical units, or None when finished."""

    def _stick(self, towards: np.ndarray, pace: float, limit: float, gain: float) -> np.ndarray:
        """Planar command [2] of at most ``limit``; slows to ``gain * distance`` at the end."""
        rng = self.rng
        self._mood = 0.95 * self._mood + 0.05 * rng.standard_normal()
        self._tremor = 0.7 * self._tremor + 0.05 * rng.standard_normal(2)
        if self._pause == 0 and rng.random() < 0.012:
            self._pause = int(rng.integers(2, 5))
        wish = np.zeros(2)
        if self._pause:
            self._pause -= 1
        else:
            distance = float(np.linalg.norm(towards))
            speed = min(pace * float(np.clip(1 + self._mood, 0.6, 1.4)), gain * distance)
            wish = towards * (speed / max(distance, 1e-9))
        # The hand follows the eye with a lag, so it swings out of curves and past corners.
        self._velocity += 0.5 * (wish - self._velocity)
        return np.clip(self._velocity + pace * self._tremor, -limit, limit)


class PointMassOperator(Operator):
    """From below the wall through the gap to the goal."""

    directions = (FORWARD,)

    def begin(self, direction: str = FORWARD, goal: np.ndarray | None = None) -> None:
        """Start an episode with a fresh pace and a fresh line through the gap."""
        super().begin(direction, goal)
        middle = sum(pointmass.GAP) / 2
        self._pace = self.rng.uniform(0.65, 0.9)  # m/s
        self._waypoints = [
            np.array([middle, y]) + self.rng.normal(0, noise, 2)
            for y, noise in ((-0.45, 0.05), (0.4, 0.04))
        ]
        self._waypoints.append(np.array(pointmass.GOAL) + self.rng.normal(0, 0.05, 2))

    def command(self, state: np.ndarray) -> np.ndarray | None:
        """Velocity command [2], m/s, for x, y, vx, vy; None inside the goal region."""
        if self.task.success(self.task.observation(state)):
            return None
        position = np.asarray(state[:2], np.float64)
        if not self._started:
            self._started = True
            if position[1] > pointmass.WALL + pointmass.RADIUS:
                del self._waypoints[:2]
        if len(self._waypoints) > 1 and np.linalg.norm(self._waypoints[0] - position) < 0.12:
            del self._waypoints[0]
        # aims a look ahead of 1 s: the pace does not drop before each waypoint
        towards = self._waypoints[0] - position
        distance = float(np.linalg.norm(towards))
        if len(self._waypoints) > 1:
            towards = towards * (max(distance, 1.2) / max(distance, 1e-9))
        return self._stick(towards, self._pace, pointmass.SPEED, gain=1.5)


class TabletopOperator(Operator):
    """Fetches the mug, carries it to its place, lets go and brings the gripper home.

    Forward the place is the goal's, backward the initial state's. Moves at most 0.12 m per step
    and axis, as in EARL's demonstrations.
    """

    directions = (FORWARD, BACKWARD)
    _LIMIT = 0.6 * tabletop.STEP

    def begin(self, direction: str = FORWARD, goal: np.ndarray | None = None) -> None:
        """Start an episode; forward needs a goal [6] of the task."""
        super().begin(direction, goal)
        names = [entry.name for entry in self.task.config.observation]
        if direction == FORWARD:
            target = dict(zip(names, np.asarray(goal, np.float64), strict=True))
        else:
            target = dict(zip(tabletop.Tabletop.state_names, tabletop.INITIAL, strict=True))
        self._home = np.array([target['gripper_x'], target['gripper_y']])
        self._place = np.array([target['mug_x'], target['mug_y']])
        self._stage = 'reach'
        self._wait = int(self.rng.integers(2, 5))
        self._offset = self.rng.normal(0, 0.05, 2)

    def finished(self, state: np.ndarray) -> bool:
        """Whether gripper and mug are where this episode should bring them."""
        gripper, mug = np.asarray(state)[[0, 1]], np.asarray(state)[[3, 4]]
        error = np.concatenate([gripper - self._home, mug - self._place])
        return bool(np.linalg.norm(error) <= self.task.config.success.tolerance)

    def command(self, state: np.ndarray) -> np.ndarray | None:
        """Command [3]: dx, dy (m per step), grasp; None when gripper and mug are in place."""
        if self.finished(state):
            return None
        gripper, mug = np.asarray(state[:2], np.float64), np.asarray(state[3:5], np.float64)
        if not self._started:
            self._started = True
            self._choose_pace(gripper, mug)
        towards = self._advance(gripper, mug, held=state[2] > -0.5)
        move = self._stick(towards, self._pace, self._LIMIT, gain=0.8)
        grip = self._stage in ('close', 'carry')
        grasp = (1 if grip else -1) * self.rng.uniform(0.5, 0.95) * tabletop.STEP
        return np.array([*move, grasp])

    def _choose_pace(self, gripper: np.ndarray, mug: np.ndarray) -> None:
        corners = (gripper, mug, self._place, self._home)
        path = sum(float(np.linalg.norm(b - a)) for a, b in pairwise(corners))
        self._pace = min(path / self.rng.uniform(88, 98), 0.115)

    def _advance(self, gripper: np.ndarray, mug: np.ndarray, *, held: bool) -> np.ndarray:
        """Move to the next stage where due; where to from here [2]."""
        waiting = np.zeros(2)
        if self._stage == 'reach':
            towards = mug + self._offset - gripper
            if np.linalg.norm(towards) > 0.15:
                return towards
            self._stage = 'close'
        if self._stage == 'close':
            self._wait -= 1
            if not held or self._wait > 0:
                return waiting
            self._stage = 'carry'
        if self._stage == 'carry':
            towards = self._place - mug
            if np.linalg.norm(towards) > 0.06:
                return towards
            self._stage, self._wait = 'open', int(self.rng.integers(2, 5))
        if self._stage == 'open':
            self._wait -= 1
            if held or self._wait > 0:
                return waiting
            self._stage = 'home'
        if np.linalg.norm(mug - self._place) > 0.17:  # it slipped: fetch it again
            self._stage, self._wait = 'reach', int(self.rng.integers(2, 5))
            return mug - gripper
        return self._home - gripper


OPERATORS: dict[str, type[Operator]] = {
    'pointmass': PointMassOperator,
    'tabletop': TabletopOperator,
}


def operator_for(task: Task, seed: int = 0) -> Operator:
    """The scripted operator of a task.

    :raises ValueError: nobody knows how to do this task.
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
    """Let an operator that has begun drive a world from ``state`` until finished.

    :returns: states [n + 1, robot dim] and executed commands [n, action_dim]
    :raises RuntimeError: not finished within ``limit`` steps.
    """
    states, commands = [state], []
    while (command := operator.command(states[-1])) is not None:
        if len(commands) == limit:
            raise RuntimeError(f"operator of task '{task.name}' is not done after {limit} steps")
        command = task.command(task.action(command))
        commands.append(command)
        states.append(world.step(command))
    return np.array(states), np.array(commands)


def collect(
    task: Task, world: World, operator: Operator, forward: int, backward: int
) -> Transitions:
    """Transitions of ``forward`` and ``backward`` demonstrations, alternating, goals cycling.

    A backward demonstration starts where the forward one before it ended, and the other way
    round, as without resets; where there is none before it, the world is placed.
    """
    episodes, now, previous = [], 0.0, None
    state = world.reset()
    for index in range(max(forward, backward)):
        goal = task.goals[index % len(task.goals)] if task.goal_conditioned else None
        for direction, number in ((FORWARD, forward), (BACKWARD, backward)):
            if index >= number:
                continue
            if direction == FORWARD and previous == FORWARD:
                state = world.reset()
            if direction == BACKWARD and previous != FORWARD:
                state = _at_goal(task, world, goal)
            operator.begin(direction, goal)
            states, commands = drive(task, world, state, operator)
            stamps = now + np.arange(len(commands)) / world.control_rate
            shown = episode(task, states, commands, stamps, direction)
            episodes.append(transitions(task, shown))
            now += (len(commands) + 1) / world.control_rate
            state, previous = states[-1], direction
    return join(episodes)


def scripted_demonstrations(
    task_name: str, forward: int, backward: int, seed: int = 0
) -> Transitions:
    """Demonstrations of a shipped task without ROS and without files (see :func:`collect`)."""
    task = Task.load(task_name)
    world = load_world(task.config, seed=seed)
    try:
        return collect(task, world, operator_for(task, seed), forward, backward)
    finally:
        world.close()


def _at_goal(task: Task, world: World, goal: np.ndarray | None) -> np.ndarray:
    if goal is None:
        raise ValueError(f"task '{task.name}' has no goals to start a backward episode from")
    values = dict(zip((entry.name for entry in task.config.observation), goal, strict=True))
    return world.set_state(np.array([values.get(name, 0.0) for name in world.state_names]))
