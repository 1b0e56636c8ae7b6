"""Faults that people plant in a run without noticing, one at a time, each in several ways."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mbarl_ros.control.phases import Practice
from mbarl_ros.demos.episodes import Episode, episode, join, transitions
from mbarl_ros.demos.imported import save_episode
from mbarl_ros.demos.metadata import folders
from mbarl_ros.demos.reader import read_episode
from mbarl_ros.reports.run_data import RunData
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.schema.load import load_agent
from mbarl_ros.storage.transitions import BACKWARD, Transitions, stack
from mbarl_ros.task import Task
from mbarl_sim.faulty import Faulty
from mbarl_sim.operators import OPERATORS

SUPPORT = Path(__file__).parent


class Sabotaged(Faulty):
    """Wraps a world; without a fault it is that world.

    ``order``, ``negate``, ``gain`` and ``delay`` change commands; ``sensors`` (entry -> entry that
    it shows), ``late`` (entry -> steps), ``units`` (entry -> factor), ``noise`` (entry -> standard
    deviation) and ``frozen`` change what is measured.
    """

    reach: Mapping[str, tuple[float, float]] = {}  # not told: the sensors of this world lie

    def __init__(
        self,
        *,
        world: str,
        options: Mapping[str, Any] | None = None,
        negate: Sequence[str] = (),
        order: Sequence[str] = (),
        gain: Mapping[str, float] | None = None,
        delay: int = 0,
        sensors: Mapping[str, str] | None = None,
        late: Mapping[str, int] | None = None,
        units: Mapping[str, float] | None = None,
        noise: Mapping[str, float] | None = None,
        frozen: Sequence[str] = (),
        after: int = 0,
        seed: int = 0,
    ) -> None:
        """Make the world; ``delay`` and ``late`` in steps; all faults begin ``after`` steps."""
        super().__init__(world=world, options=options, seed=seed)
        names, states = tuple(self.command_names), tuple(self.state_names)
        self._order = [names.index(name) for name in order or names]
        self._gain = np.array([(gain or {}).get(name, 1.0) for name in names])
        self._gain *= [-1.0 if name in negate else 1.0 for name in names]
        self._shown = [states.index((sensors or {}).get(name, name)) for name in states]
        self._units = np.array([(units or {}).get(name, 1.0) for name in states])
        self._noise = np.array([(noise or {}).get(name, 0.0) for name in states])
        self._late = np.array([(late or {}).get(name, 0) for name in states])
        self._frozen = np.array([name in frozen for name in states])
        self._delay, self._after, self._steps = delay, after, 0
        self._history: deque[np.ndarray] = deque(maxlen=int(self._late.max()) + 1)
        self._stuck: np.ndarray | None = None

    def step(self, command: np.ndarray) -> np.ndarray:
        """One control step; see the class."""
        self._steps += 1
        command = np.asarray(command, np.float64)
        if self._steps > self._after:
            command = (command * self._gain)[self._order]
        return self._measured(super().step(command))

    def _begin(self, state: np.ndarray) -> np.ndarray:
        self._history.clear()
        return self._measured(super()._begin(state))

    def _measured(self, state: np.ndarray) -> np.ndarray:
        self._history.append(state)
        if self._steps < self._after:
            return state.copy()
        ages = np.minimum(self._late, len(self._history) - 1)
        seen = np.array([self._history[-1 - age][i] for i, age in enumerate(ages)])
        seen = seen[self._shown] * self._units
        seen += self._noise * self.rng.standard_normal(len(seen))
        if self._stuck is None:
            self._stuck = seen.copy()
        return np.where(self._frozen, self._stuck, seen)


@dataclass
class Plan:
    """What a run is started with; faults change it in place."""

    task: dict[str, Any]
    robot: dict[str, Any]
    agent: dict[str, Any]
    world: dict[str, Any] = field(default_factory=dict)  # arguments of Sabotaged
    edit: Callable[[list[Episode], Task], list[Episode]] | None = None
    idle: bool = False  # the policy commands 0 in backward phases


def write_plan(folder: Path, task: str, change: Callable[[Plan], None]) -> tuple[list[str], Plan]:
    """Files of a sabotaged run in a new ``folder``; returns arguments of ``mbarl up sim``."""
    shipped = Task.load(task)
    plan = Plan(
        shipped.config.model_dump(mode='json'),
        shipped.robot.model_dump(mode='json'),
        load_agent('mbarl').model_dump(mode='json'),
    )
    change(plan)
    folder.mkdir(parents=True)
    source = Path(shipped.config.demonstrations)
    if plan.world:
        options = {'world': plan.task['world'], 'options': plan.task['world_options']}
        plan.task['world'] = 'support.sabotage:Sabotaged'
        plan.task['world_options'] = options | plan.world
    plan.task['robot'] = str(folder / 'robot.yaml')
    plan.task['demonstrations'] = str(source)
    if plan.edit:
        plan.task['demonstrations'] = str(folder / 'demos')
    for name in ('task', 'robot', 'agent'):
        (folder / f'{name}.yaml').write_text(yaml.safe_dump(getattr(plan, name), sort_keys=False))
    if plan.edit:
        edited = Task.load(str(folder / 'task.yaml'))
        for number, one in enumerate(plan.edit(list(shipped_episodes(task)), shipped)):
            path = folder / 'demos' / f'{one.direction}_{number:03}'
            path.mkdir(parents=True)
            save_episode(path, replace(one, verdict='success'), edited)
    arguments = [f'task:={folder / "task.yaml"}', f'agent:={folder / "agent.yaml"}']
    return arguments, plan


@cache
def shipped_episodes(task: str) -> tuple[Episode, ...]:
    """The demonstrations that come with a task."""
    loaded = Task.load(task)
    paths = folders(Path(loaded.config.demonstrations))
    return tuple(read_episode(path, loaded) for path in paths)


def environment(plan: Plan, root: Path) -> dict[str, str]:
    """Environment of ``mbarl up``, in which the worlds of this module can be imported."""
    path = [str(root), str(SUPPORT.parent), os.environ.get('PYTHONPATH', '')]
    if plan.idle:
        path.insert(0, str(SUPPORT / 'idle_site'))
    return {**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, path))}


# --- demonstrations -----------------------------------------------------------------------------


def negated(episodes: list[Episode], every: int = 2) -> list[Episode]:
    """Each second demonstration drives the other way than it says."""
    return [
        replace(one, actions=-one.actions, commands=None) if number % every == 1 else one
        for number, one in enumerate(episodes)
    ]


def scaled_column(episodes: list[Episode], task: Task, entry: str, factor: float) -> list[Episode]:
    """An entry of the state in another unit."""
    column = [each.name for each in task.config.columns].index(entry)
    factors = np.ones(task.state_dim, np.float32)
    factors[column] = factor
    return [replace(one, states=one.states * factors) for one in episodes]


def changed_actions(episodes: list[Episode], matrix: np.ndarray) -> list[Episode]:
    """Actions [n, A] times ``matrix`` [A, A], in all demonstrations."""
    return [
        replace(one, actions=(one.actions @ matrix).astype(np.float32), commands=None)
        for one in episodes
    ]


def backwards_as_forward(episodes: list[Episode], task: Task) -> list[Episode]:
    """Each way back is taken for the task, and the task for the way back."""
    turned = {'forward': 'backward', 'backward': 'forward'}
    return [replace(one, direction=turned[one.direction]) for one in episodes]


def driven_to(target: tuple[float, float]) -> Callable[[list[Episode], Task], list[Episode]]:
    """Demonstrations of the point mass that drive to another place."""

    def edit(episodes: list[Episode], task: Task) -> list[Episode]:
        world, rng, driven = task.load_world(seed=5), np.random.default_rng(5), []
        for number in range(len(episodes)):
            states, commands = [world.reset()], []
            while len(commands) < 80 and np.hypot(*(states[-1][:2] - target)) > 0.15:
                error = np.array(target) - states[-1][:2]
                speed = 0.6 * error / max(np.linalg.norm(error), 0.3)
                commands.append(np.clip(speed + rng.normal(0, 0.1, 2), -1, 1))
                states.append(world.step(commands[-1]))
            stamps = np.arange(len(states)) / world.control_rate
            driven.append(episode(task, np.array(states), np.array(commands), stamps, 'forward'))
            driven[-1] = replace(driven[-1], name=f'other_{number}')
        return driven

    return edit


def other_task(name: str) -> Callable[[list[Episode], Task], list[Episode]]:
    """Demonstrations that another task with the same layout has shipped."""

    def edit(episodes: list[Episode], task: Task) -> list[Episode]:
        names = [column.name for column in Task.load(name).config.columns]
        assert names == [column.name for column in task.config.columns]
        return list(shipped_episodes(name))

    return edit


# --- practice without ROS and without learning ---------------------------------------------------


def stand_in_run(
    folder: Path, task: str, change: Callable[[Plan], None], steps: int = 1500, seed: int = 0
) -> RunData:
    """What a run may leave whose policy is the scripted operator with noise.

    Faults of the world, the demonstrations and the files are as in a run; there is no safety gate,
    no history and no evaluation. It takes seconds.
    """
    _, plan = write_plan(folder, task, change)
    loaded = Task.load(str(folder / 'task.yaml'))
    if plan.edit:
        episodes = plan.edit(list(shipped_episodes(task)), Task.load(task))
        episodes = [replace(one, verdict='success') for one in episodes]
    else:
        episodes = list(shipped_episodes(task))
    episodes.sort(key=lambda one: not one.is_forward)
    agent = load_agent(str(folder / 'agent.yaml'))
    return RunData(
        folder=folder,
        task=loaded,
        agent=agent,
        arguments={},
        transitions=_practise(loaded, agent, task, steps, seed, plan.idle),
        demonstrations=join([transitions(loaded, one) for one in episodes]),
        evaluations=[],
        history=[],
        result={},
    )


def _practise(
    task: Task, agent: AgentConfig, name: str, steps: int, seed: int, idle: bool
) -> Transitions:
    rng, world, practice = np.random.default_rng(seed), task.load_world(seed=seed), None
    operator = OPERATORS[name](Task.load(name), seed)
    practice = Practice(task, agent, seed)
    state, rows, noise, begun = world.reset(), [], np.zeros(task.action_dim), -1
    while practice.steps < steps:
        if practice.phase_steps == 0:
            begun, drift = practice.phase, rng.uniform(-0.7, 0.7, task.action_dim)
            direction = 'backward' if begun else 'forward'
            if direction in operator.directions:
                operator.begin(direction, practice.goal)
        noise = 0.7 * noise + 0.35 * rng.standard_normal(task.action_dim)
        wanted = None
        if direction in operator.directions:
            wanted = operator.command(np.asarray(state))
        mean = drift if wanted is None else np.nan_to_num(task.action(wanted))
        action = np.tanh(np.clip(mean, -0.95, 0.95) + noise).astype(np.float32)
        if idle and begun == BACKWARD:
            action = 0 * action
        observation = practice.observe(state)
        state = world.step(task.command(action))
        stamp = practice.steps / world.control_rate
        rows.append(practice.record(observation, action, state, stamp))
    world.close()
    return stack(rows, task)
