"""Clips for ``mbarl render``: a policy that tries its task, and a recorded demonstration."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mbarl_ros.control.phases import Practice
from mbarl_ros.control.planning_policy import deployed_policy
from mbarl_ros.control.policy import DEPLOYED, read_policy
from mbarl_ros.demos.replay import load_replays
from mbarl_ros.learning.evaluation import WideStarts, attempts
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.transitions import BACKWARD, FORWARD
from mbarl_ros.studies.seeds import pseudo_agent
from mbarl_ros.task import Task
from mbarl_ros.view.film import Clip, ringed


class Shot(NamedTuple):
    """How to film: size of a picture in pixels, control steps from one picture to the next."""

    width: int
    height: int
    every: int


class FilmedWorld:
    """A world whose steps are filmed; the first picture is taken when it is made."""

    def __init__(self, world: Any, shot: Shot, mark: np.ndarray | None) -> None:
        """Film from the present state on.

        :param mark: position [3] in the world (m) of a ring in each picture; None: no ring
        """
        self._world, self._shot, self._mark = world, shot, mark
        self.pictures: list[np.ndarray] = []
        self.numbers: list[int] = []  # step after which each picture was taken
        self.steps = 0
        self._take()

    def step(self, command: np.ndarray) -> np.ndarray:
        """Take a step; returns the state [S]."""
        state = self._world.step(command)
        self.passed()
        return state

    def passed(self) -> None:
        """Count one more step that the world has taken."""
        self.steps += 1
        if self.steps % self._shot.every == 0:
            self._take()

    def clip(self, title: str, about: str, rate: float, end: str, verdict: bool | None) -> Clip:
        """What was filmed, up to the present state; ``end`` tells in one word how it ended."""
        if self.numbers[-1] != self.steps:
            self._take()
        texts = [f'{about}step {number}, {number / rate:.1f} s' for number in self.numbers]
        texts[-1] = f'{end}: {texts[-1]}'
        return Clip(title, self.pictures, texts, verdict)

    def _take(self) -> None:
        picture = self._world.render(self._shot.width, self._shot.height)
        camera = getattr(picture, 'camera', None)
        if self._mark is not None and camera is not None:
            height, width, _ = picture.shape
            picture = ringed(picture, *camera.project(self._mark, width, height))
        self.pictures.append(np.asarray(picture))
        self.numbers.append(self.steps)


class PolicyClips:
    """The deployed policy of a policy file, from evaluation starts; or its backward policy."""

    def __init__(
        self, task: Task, agent: AgentConfig, path: Path, *, wide: bool, backward: bool
    ) -> None:
        """Read the policy and make a world.

        :param wide: from the wide starts of the task
        :param backward: film the backward phase that follows a forward phase from there
        :raises ConfigError: the policy, the world or its picture cannot be used.
        """
        self.task, self._agent, self._wide, self._backward = task, agent, wide, backward
        self._arrays, steps = read_policy(path, task, agent)
        if backward and agent.backward == 'none':
            raise ConfigError(f"{path}: agent '{agent.name}' has no backward policy")
        self._starts = WideStarts(task, worlds=1) if wide else None
        self._world = self._starts.worlds[0] if self._starts else task.load_world(seed=0)
        check_renders(self._world, task)
        self._title = _title(task, agent, steps) + (', backward' if backward else '')

    def clip(self, episode: int, shot: Shot) -> Clip:
        """Film the episode from start ``episode``.

        :raises ConfigError: there is no such start, or no backward phase after it.
        """
        state = self._reset(episode)
        start = f'{"wide " if self._wide else ""}start {episode}, '
        if self._backward:
            return self._way_back(episode, state, start, shot)
        task, goals = self.task, self.task.goals
        goal = goals[episode % len(goals)] if task.goal_conditioned else None
        world = FilmedWorld(self._world, shot, _place(task, goal))
        policy = deployed_policy(self._arrays, DEPLOYED, task, self._agent, seed=0)
        succeeded, _ = attempts(task, [world], policy, state[None], np.array([episode]))
        verdict = bool(succeeded[0])
        over = 'time-out' if world.steps == task.config.evaluation.horizon else 'world ended'
        rate = task.robot.control_rate
        return world.clip(self._title, start, rate, 'success' if verdict else over, verdict)

    def close(self) -> None:
        """Release the world."""
        self._world.close()

    def _reset(self, episode: int) -> np.ndarray:
        if self._starts is None:
            return self._world.reset_to_start(episode)
        if episode >= self._starts.episodes:
            raise ConfigError(
                f"task '{self.task.name}': there is no wide start {episode}; it has 0 to "
                f'{self._starts.episodes - 1} (key evaluation.wide.episodes)'
            )
        return self._starts.reset(self._world, episode)

    def _way_back(self, episode: int, state: np.ndarray, start: str, shot: Shot) -> Clip:
        task = self.task
        practice = Practice(task, self._agent, seed=episode, evaluation=True)
        practice.set_policies(self._arrays)

        def step(world: Any, state: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
            observation = practice.observe(state)
            action = practice.act(observation)
            state = world.step(task.command(action))
            return state, practice.record(observation, action, state, 0.0)

        while practice.phase == FORWARD and not practice.reset_due:
            state, _ = step(self._world, state)
        if practice.reset_due:
            raise ConfigError(f'{start}the world ended, so no backward phase follows')
        world = FilmedWorld(self._world, shot, None)
        while practice.phase == BACKWARD:
            state, row = step(world, state)
        back = bool(row['terminated'] and not task.ended(row['next_observation']))
        end, verdict = ('is back', True) if back else ('end', None)
        return world.clip(self._title, start, task.robot.control_rate, end, verdict)


class DemonstrationClips:
    """Recorded demonstrations: each picture shows a state as it was recorded."""

    def __init__(self, task: Task, paths: list[Path], what: str) -> None:
        """Make a world.

        :param paths: of the demonstrations
        :param what: they are, for messages, like ``forward demonstration of demos/push``
        :raises ConfigError: the world or its picture cannot be used.
        """
        self.task, self._paths, self._what = task, paths, what
        self._world = task.load_world(seed=0)
        check_renders(self._world, task)

    def clip(self, episode: int, shot: Shot) -> Clip:
        """Film demonstration number ``episode``.

        :raises ConfigError: there is none, or its states cannot be shown.
        :raises DemonstrationError: it cannot be read.
        """
        if episode >= len(self._paths):
            raise ConfigError(
                f'there is no {self._what} with number {episode}; there are {len(self._paths)}, '
                'numbered from 0'
            )
        path, task = self._paths[episode], self.task
        (replay,) = load_replays(path, task)
        recorded, missing = replay.episode, np.isnan(replay.states).any(axis=0)
        if missing.any():
            names = ', '.join(np.array(task.robot.state_names)[missing])
            raise ConfigError(
                f'{path}: has no {names} of robot {task.robot.name}, so its states cannot be '
                f'shown; `mbarl demos show {path}` plots them'
            )
        goal = recorded.goal(task) if recorded.is_forward else None
        self._show(path, replay.states[0])
        world = FilmedWorld(self._world, shot, _place(task, goal))
        for state in replay.states[1:]:
            self._show(path, state)
            world.passed()
        verdict = recorded.reached(task) if recorded.is_forward else None
        end = {True: 'success', False: 'no success', None: 'end'}[verdict]
        title = f'demonstration {recorded.name}'
        return world.clip(title, '', task.robot.control_rate, end, verdict)

    def close(self) -> None:
        """Release the world."""
        self._world.close()

    def _show(self, path: Path, state: np.ndarray) -> None:
        try:
            self._world.set_state(state)
        except ValueError as error:
            raise ConfigError(f'{path}: a state cannot be shown: {error}') from error


def check_renders(world: Any, task: Task) -> None:
    """Reset a world, and refuse one that makes no picture.

    :raises ConfigError: it has no method ``render``, or has no picture either.
    """
    if not hasattr(world.world, 'render'):
        raise ConfigError(
            f"task '{task.name}': its world {task.config.world} makes no pictures; give it a "
            'method render(width, height)'
        )
    world.reset()
    world.render(16, 16)


def _title(task: Task, agent: AgentConfig, steps: int) -> str:
    """Who acts: the agent and how long it has practised, in steps and robot time."""
    if pseudo_agent(agent):
        return agent.name
    if not steps:
        return f'{agent.name}, before practice'
    minutes, seconds = divmod(steps / task.robot.control_rate, 60)
    return f'{agent.name}, {steps:,} steps ({minutes:.0f} min {seconds:.0f} s)'


def _place(task: Task, goal: np.ndarray | None) -> np.ndarray | None:
    """Position [3] of a goal [state_dim]: of its last success entry on each of the axes x, y, z.

    0 on an axis that has none; None without a goal, or where it has neither x nor y.
    """
    if goal is None:
        return None
    entries = [(entry.name, entry.axis) for entry in task.config.columns]
    place: dict[str | None, float] = {}
    for name in task.config.success.entries:
        column = [entry for entry, _ in entries].index(name)
        place[entries[column][1]] = float(goal[column])
    if not {'x', 'y'} <= place.keys():
        return None
    return np.array([place['x'], place['y'], place.get('z', 0.0)])
