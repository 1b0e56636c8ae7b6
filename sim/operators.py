"""Scripted operators: they demonstrate tasks in simulation like a person with a gamepad."""

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
    """Steers to waypoints like a person: with tremor, changing pace, short pauses and overshoot.

    Call ``begin`` at the start of an episode, then ``command`` with each robot state until it
    returns None.
    """

    directions: tuple[str, ...]

    def __init__(self, task: Task, seed: int = 0) -> None:
        """``seed``: of everything in which episodes differ."""
        self.task = task
        self.rng = np.random.default_rng(seed)

    def begin(self, direction: str = FORWARD, goal: np.ndarray | None = None) -> None:
        """Start an episode.

        :param goal: of a goal-conditioned task; None for other tasks
        :raises ValueError: the operator cannot demonstrate this direction.
        """
        if direction not in self.directions:
            raise ValueError(
                f'{type(self).__name__} drives {" and ".join(self.directions)}, not {direction}'
            )
        self.direction, self.goal = direction, goal
        self._velocity = np.zeros(2)
        self._tremor = np.zeros(2)
        self._pace_drift = 0.0
        self._pause = 0
        self._started = False

    @abstractmethod
    def command(self, state: np.ndarray) -> np.ndarray | None:
        """Command in physical units for a robot state; None when the episode is finished."""

    def _steer(self, towards: np.ndarray, pace: float, limit: float, gain: float) -> np.ndarray:
        """Planar command [2] along the vector ``towards`` the waypoint, at most ``limit`` per axis.

        Its speed is about ``pace``, and at most ``gain * distance`` near the waypoint.
        """
        rng = self.rng
        self._pace_drift = 0.95 * self._pace_drift + 0.05 * rng.standard_normal()
        self._tremor = 0.7 * self._tremor + 0.05 * rng.standard_normal(2)
        if self._pause == 0 and rng.random() < 0.012:
            self._pause = int(rng.integers(2, 5))
        target = np.zeros(2)
        if self._pause:
            self._pause -= 1
        else:
            distance = float(np.linalg.norm(towards))
            speed = min(pace * float(np.clip(1 + self._pace_drift, 0.6, 1.4)), gain * distance)
            target = towards * (speed / max(distance, 1e-9))
        # The hand lags behind the eye, so the path overshoots at corners.
        self._velocity += 0.5 * (target - self._velocity)
        return np.clip(self._velocity + pace * self._tremor, -limit, limit)


class PointMassOperator(Operator):
    """Drives through the gap to the goal; above the wall, straight to the goal."""

    directions = (FORWARD,)

    def begin(self, direction: str = FORWARD, goal: np.ndarray | None = None) -> None:
        """Start an episode with a new pace and new waypoints."""
        super().begin(direction, goal)
        middle = sum(pointmass.GAP) / 2
        self._pace = self.rng.uniform(0.65, 0.9)  # m/s
        self._waypoints = [
            np.array([middle, y]) + self.rng.normal(0, noise, 2)
            for y, noise in ((-0.45, 0.05), (0.4, 0.04))
        ]
        self._waypoints.append(np.array(pointmass.GOAL) + self.rng.normal(0, 0.05, 2))

    def command(self, state: np.ndarray) -> np.ndarray | None:
        """Velocity command [2] (m/s) for state x, y, vx, vy; None inside the goal region."""
        if self.task.success(self.task.observation(state)):
            return None
        position = np.asarray(state[:2], np.float64)
        if not self._started:
            self._started = True
            if position[1] > pointmass.WALL + pointmass.RADIUS:
                del self._waypoints[:2]
        if len(self._waypoints) > 1 and np.linalg.norm(self._waypoints[0] - position) < 0.12:
            del self._waypoints[0]
        # Steer as if a passing waypoint were at least 1.2 m away, or the pace would drop before it.
        towards = self._waypoints[0] - position
        distance = float(np.linalg.norm(towards))
        if len(self._waypoints) > 1:
            towards = towards * (max(distance, 1.2) / max(distance, 1e-9))
        return self._steer(towards, self._pace, pointmass.SPEED, gain=1.5)


class TabletopOperator(Operator):
    """Fetches the mug, carries it to its target, releases it and moves the gripper home.

    Target and home come from the goal (forward) or from the initial state (backward). Moves at
    most 0.12 m per step and axis, as in EARL's demonstrations.
    """

    directions = (FORWARD, BACKWARD)
    _LIMIT = 0.6 * tabletop.STEP

    def begin(self, direction: str = FORWARD, goal: np.ndarray | None = None) -> None:
        """Start an episode; forward episodes need a goal [6] of the task."""
        super().begin(direction, goal)
        names = [entry.name for entry in self.task.config.observation]
        if direction == FORWARD:
            target = dict(zip(names, np.asarray(goal, np.float64), strict=True))
        else:
            target = dict(zip(tabletop.Tabletop.state_names, tabletop.INITIAL, strict=True))
        self._home = np.array([target['gripper_x'], target['gripper_y']])
        self._mug_target = np.array([target['mug_x'], target['mug_y']])
        self._stage = 'reach'
        self._wait = int(self.rng.integers(2, 5))
        self._offset = self.rng.normal(0, 0.05, 2)

    def finished(self, state: np.ndarray) -> bool:
        """Whether gripper and mug are at the target of this episode."""
        gripper, mug = np.asarray(state)[[0, 1]], np.asarray(state)[[3, 4]]
        error = np.concatenate([gripper - self._home, mug - self._mug_target])
        return bool(np.linalg.norm(error) <= self.task.config.success.tolerance)

    def command(self, state: np.ndarray) -> np.ndarray | None:
        """Command [3]: dx, dy (m per step), grasp; None when gripper and mug are at the target."""
        if self.finished(state):
            return None
        gripper, mug = np.asarray(state[:2], np.float64), np.asarray(state[3:5], np.float64)
        if not self._started:
            self._started = True
            self._choose_pace(gripper, mug)
        towards = self._advance(gripper, mug, held=state[2] > -0.5)
        move = self._steer(towards, self._pace, self._LIMIT, gain=0.8)
        grip = self._stage in ('close', 'carry')
        grasp = (1 if grip else -1) * self.rng.uniform(0.5, 0.95) * tabletop.STEP
        return np.array([*move, grasp])

    def _choose_pace(self, gripper: np.ndarray, mug: np.ndarray) -> None:
        corners = (gripper, mug, self._mug_target, self._home)
        path = sum(float(np.linalg.norm(b - a)) for a, b in pairwise(corners))
        self._pace = min(path / self.rng.uniform(88, 98), 0.115)

    def _advance(self, gripper: np.ndarray, mug: np.ndarray, *, held: bool) -> np.ndarray:
        """Go to the next stage if the present one is finished; the vector [2] to move along."""
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
            towards = self._mug_target - mug
            if np.linalg.norm(towards) > 0.06:
                return towards
            self._stage, self._wait = 'open', int(self.rng.integers(2, 5))
        if self._stage == 'open':
            self._wait -= 1
            if held or self._wait > 0:
                return waiting
            self._stage = 'home'
        if np.linalg.norm(mug - self._mug_target) > 0.17:  # it slipped
            self._stage, self._wait = 'reach', int(self.rng.integers(2, 5))
            return mug - gripper
        return self._home - gripper


OPERATORS: dict[str, type[Operator]] = {
    'pointmass': PointMassOperator,
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
    world = load_world(task.config, seed=seed)
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
