"""What a task is: layouts, goals, reward and success as NumPy functions of batches.

Controller, learner, demonstrations and worlds all use this one definition.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import load_robot, load_task, load_world
from mbarl_ros.schema.robot import RobotConfig
from mbarl_ros.schema.robot_world import RobotWorld
from mbarl_ros.schema.task import Entry, TaskConfig


class Task:
    """A task on a robot: the layout of observation and action, goals, success and reward.

    An observation is the state part (``state_dim`` entries) followed, where the task has goals,
    by a goal of the same layout; ``goal_in_state``: entries of the state tell the goal instead
    (key ``success.goal_entries``). ``goal_index`` [g] are the entries of the observation that tell
    it. Observations are in physical units; networks see ``(observation - offset) / scale``. Actions
    are in [-1, 1]. ``pairwise_differences`` [pairs, observation_dim] maps normalised observations
    to differences of entries on the same axis.
    """

    def __init__(self, config: TaskConfig, robot: RobotConfig) -> None:
        """Bind a task to a robot profile.

        :raises ConfigError: an observation or action entry that the robot does not have, or a
            target outside its workspace.
        """
        self.config = config
        self.robot = robot
        for key, entries, names in (
            ('observation', config.observation, robot.state_names),
            ('action', config.action, robot.command_names),
        ):
            for entry in entries:
                if entry.name not in names:
                    raise ConfigError(
                        f"task '{config.name}': key '{key}': robot '{robot.name}' has no "
                        f"'{entry.name}'; it has {', '.join(names)}"
                    )
        if [entry.name for entry in config.action] != list(robot.command_names):
            raise ConfigError(
                f"task '{config.name}': key 'action': must list the command of robot "
                f"'{robot.name}' in its order: {', '.join(robot.command_names)}"
            )
        if text := config.out_of_reach(robot.workspace):
            raise ConfigError(
                f"task '{config.name}': {text}, the workspace of robot '{robot.name}'; correct "
                'one of them'
            )
        columns = config.columns
        self.state_dim = len(columns)
        goals = np.array(config.goals, np.float32).reshape(-1, len(config.observation))
        self.goals = self.from_entries(goals)
        self.goal_conditioned = len(self.goals) > 0
        self.observation_dim = self.state_dim * (2 if self.goal_conditioned else 1)
        self.action_dim = len(config.action)
        low = np.array([column.low for column in columns], np.float32)
        high = np.array([column.high for column in columns], np.float32)
        repeat = 2 if self.goal_conditioned else 1
        self.offset = np.tile((low + high) / 2, repeat)
        self.scale = np.tile((high - low) / 2, repeat)
        self.binary = np.array([column.binary for column in columns], bool)
        self.state_low, self.state_high = low, high
        axes = [column.axis for column in columns]
        state_scale = self.scale[: self.state_dim]
        self.state_pairwise_differences = self._pairwise_differences(axes, state_scale)
        self.pairwise_differences = self._pairwise_differences(axes * repeat, self.scale)
        self._action_offset = np.array([(e.low + e.high) / 2 for e in config.action])
        self._action_scale = np.array([(e.high - e.low) / 2 for e in config.action])
        self._state_index = [robot.state_names.index(entry.name) for entry in config.observation]
        success = config.success
        self._success_index = self._columns_of(success.entries)
        self._ended_index = None if config.ended is None else self._columns_of([config.ended])[0]
        self._target = None
        if success.target is not None:
            compared = [self._entry(name) for name in success.entries]
            self._target = _from_entries(compared, np.array(success.target, np.float32))
        self.goal_in_state = len(success.goal_entries) > 0
        self.goal_index = [self.state_dim + i for i in self._success_index]
        if self.goal_in_state:
            self.goal_index = self._columns_of(success.goal_entries)

    def _entry(self, name: str) -> Entry:
        return next(entry for entry in self.config.observation if entry.name == name)

    def _columns_of(self, names: Sequence[str]) -> list[int]:
        """Which entries of the state stand for these of the task file."""
        order = [column.name for column in self.config.columns]
        wanted = [column.name for name in names for column in self._entry(name).columns]
        return [order.index(name) for name in wanted]

    @classmethod
    def load(cls, task: str, robot: str | None = None) -> Task:
        """Load a task by name or path; ``robot`` overrides the profile that the task names."""
        config = load_task(task)
        return cls(config, load_robot(robot or config.robot))

    def load_world(self, **options: Any) -> RobotWorld:
        """The simulated world of the task, as the robot profile sees it.

        :param options: arguments of its class beside ``world_options`` of the task
        :raises ConfigError: it cannot be made, does not fit the profile, or knows that it never
            reaches the target.
        """
        world = load_world(self.config, **options)
        if text := self.config.out_of_reach(getattr(world, 'reach', {})):
            kind = type(world).__name__
            raise ConfigError(
                f"task '{self.name}': key {text}, where world {kind} ends; correct it"
            )
        return RobotWorld(world, self.robot)

    @property
    def name(self) -> str:
        """The task's name."""
        return self.config.name

    @staticmethod
    def _pairwise_differences(axes: list[str | None], scale: np.ndarray) -> np.ndarray:
        """Matrix [pairs, entries] from scaled entries to differences of those on one axis."""
        rows = []
        for (i, first), (j, second) in itertools.combinations(enumerate(axes), 2):
            if first is not None and first == second:
                row = np.zeros(len(axes), np.float32)
                row[i], row[j] = scale[[i, j]] / max(scale[i], scale[j])
                row[j] *= -1
                rows.append(row)
        return np.array(rows, np.float32).reshape(len(rows), len(axes))

    def state(self, robot_state: np.ndarray) -> np.ndarray:
        """State part of the observation from robot state [..., robot dim]."""
        return self.from_entries(np.asarray(robot_state)[..., self._state_index])

    def from_entries(self, values: np.ndarray) -> np.ndarray:
        """State [..., state_dim], float32, from values [..., entries] of the task's entries."""
        return _from_entries(self.config.observation, values)

    def to_entries(self, state: np.ndarray) -> np.ndarray:
        """Values [..., entries] of the task's entries from a state [..., state_dim]."""
        columns, values = 0, []
        for entry in self.config.observation:
            value = state[..., columns]
            if entry.angle:
                value = np.arctan2(value, state[..., columns + 1])
            values.append(value)
            columns += len(entry.columns)
        return np.stack(values, -1)

    def possible(self, state: np.ndarray) -> np.ndarray:
        """States [..., state_dim] with sines and cosines of one angle each, as drawn or predicted.

        Those of any two numbers: what comes out is on the circle.
        """
        if not any(entry.angle for entry in self.config.observation):
            return state
        return self.from_entries(self.to_entries(state))

    def observation(self, robot_state: np.ndarray, goal: np.ndarray | None = None) -> np.ndarray:
        """Observation [..., observation_dim], float32, from robot state and, if any, a goal."""
        state = self.state(robot_state)
        if not self.goal_conditioned:
            return state
        if goal is None:
            raise ValueError(f"task '{self.name}' is goal-conditioned: a goal is needed")
        return np.concatenate([state, np.broadcast_to(goal, state.shape)], -1, dtype=np.float32)

    def scaled(self, rows: np.ndarray) -> np.ndarray:
        """Observations [..., observation_dim] or states [..., state_dim] as networks see them."""
        entries = rows.shape[-1]
        return (rows - self.offset[:entries]) / self.scale[:entries]

    def with_goal(self, observation: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Copy of observations [..., observation_dim] with a state [..., state_dim] as the goal."""
        observation = np.array(observation, np.float32)
        if self.goal_in_state:
            observation[..., self.goal_index] = goal[..., self._success_index]
        else:
            observation[..., self.state_dim :] = goal
        return observation

    def following(self, observation: np.ndarray, next_state: np.ndarray) -> np.ndarray:
        """Observations [..., observation_dim] after a step to ``next_state`` [..., state_dim].

        The goal stays, also where it is part of the state, in which a model would let it drift.
        """
        following = np.array(observation, np.float32)
        following[..., : self.state_dim] = self.possible(next_state)
        if self.goal_in_state:
            following[..., self.goal_index] = observation[..., self.goal_index]
        return following

    def sample_goal(self, rng: np.random.Generator) -> np.ndarray | None:
        """One of the task's goals, or None where the task has none."""
        return self.goals[rng.integers(len(self.goals))] if self.goal_conditioned else None

    def command(self, action: np.ndarray) -> np.ndarray:
        """Robot command [..., action_dim] in physical units, float64, from actions in [-1, 1]."""
        clipped = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
        return self._action_offset + self._action_scale * clipped

    def action(self, command: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`command`, clipped to [-1, 1], float32."""
        action = (np.asarray(command, np.float64) - self._action_offset) / self._action_scale
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def distance(self, observation: np.ndarray) -> np.ndarray:
        """Distance to success [...] of observations [..., observation_dim]."""
        observation = np.asarray(observation)
        values = observation[..., self._success_index]
        return np.linalg.norm(values - self.target(observation), axis=-1)

    @property
    def success_index(self) -> list[int]:
        """Entries of the state that define success, those of :meth:`target`."""
        return list(self._success_index)

    def target(self, observation: np.ndarray) -> np.ndarray:
        """Values [..., success entries] that task or goal in observations [..., O] ask for."""
        return observation[..., self.goal_index] if self._target is None else self._target

    def state_distance(self, state: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Distance [...] of two states [..., state_dim], by the entries that define success."""
        index = self._success_index
        return np.linalg.norm(state[..., index] - other[..., index], axis=-1)

    def success(self, observation: np.ndarray) -> np.ndarray:
        """Whether each observation [..., observation_dim] is a success, bool [...]."""
        return self.distance(observation) <= self.config.success.tolerance

    def ended(self, observation: np.ndarray) -> np.ndarray:
        """Whether the world has ended and must be reset, bool [...], of observations [..., O]."""
        observation = np.asarray(observation)
        if self._ended_index is None:
            return np.zeros(observation.shape[:-1], bool)
        return observation[..., self._ended_index] > self.offset[self._ended_index]

    @property
    def reward_known(self) -> bool:
        """Whether the reward is a known function of the observation (else it comes by topic)."""
        return self.config.reward == 'success'

    def reward(self, next_observation: np.ndarray) -> np.ndarray:
        """Task reward, float32 [...]: 1 on success, else 0; or the value of the reward topic.

        :raises ConfigError: the observation does not carry the reward topic.
        """
        if self.reward_known:
            return self.success(next_observation).astype(np.float32)
        return np.asarray(next_observation, np.float32)[..., self._reward_index()]

    def _reward_index(self) -> int:
        """Index of the reward topic in the observation: it is a sensor like all others."""
        wanted = self.config.reward.removeprefix('topic:').lstrip('/')
        names = [column.name for column in self.config.columns]
        for topic in self.robot.state:
            carried = [names.index(name) for name in topic.fields if name in names]
            if topic.topic.lstrip('/') == wanted and len(carried) == 1:
                return carried[0]
        raise ConfigError(
            f"task '{self.name}': key 'reward': no single entry of the observation comes from "
            f"topic '{wanted}'; add the topic to 'state' of robot '{self.robot.name}' and its "
            "field to 'observation'"
        )

    def check_agent(self, agent: AgentConfig) -> None:
        """Refuse a preset that cannot work on this task.

        :raises ConfigError: it needs goals or a known reward, and the task has none.
        """
        if agent.shared and not (self.goal_conditioned and self._target is None):
            raise ConfigError(
                f"agent '{agent.name}' (key 'shared') has one policy, and only the goal tells it "
                f"whether to go forward or backward; task '{self.name}' has no goals. Use a task "
                'with goals and no success.target, or an agent with a policy for each phase (fbrl)'
            )
        relabels = agent.model or agent.hindsight_fraction > 0 or agent.shared
        if self.goal_conditioned and self._target is not None and relabels:
            raise ConfigError(
                f"agent '{agent.name}': imagined practice, hindsight and a shared policy count a "
                f"state as reached where it is the goal, but in task '{self.name}' success is the "
                "same for all goals (key 'success.target'). Leave it out, or set 'model: null', "
                "'hindsight_fraction: 0' and 'shared: false'"
            )
        if not self.reward_known and self.goal_conditioned and relabels:
            raise ConfigError(
                f"agent '{agent.name}': imagined practice, hindsight and a shared policy give "
                f'transitions other goals; for that the reward must be known, and task '
                f"'{self.name}' has key 'reward': {self.config.reward}. Set 'model: null', "
                "'hindsight_fraction: 0' and 'shared: false', or use reward: success"
            )
        if not self.reward_known:
            self._reward_index()

    def spec_hash(self, agent: AgentConfig) -> str:
        """Hash of layout and network shape: sides that differ in it must not exchange data."""
        spec = {
            'observation': [_layout(entry) for entry in self.config.observation],
            'goal_conditioned': self.goal_conditioned,
            'action': [entry.model_dump(exclude={'angle'}) for entry in self.config.action],
            'hidden': agent.sac.hidden,
            'classifier': agent.classifier.hidden,
        }
        if agent.planner is not None and agent.model is not None:
            spec['model'] = [agent.model.hidden, agent.model.elites, agent.model.fourier_features]
            spec['critics'] = [agent.planner.terminal_value, agent.sac.critics]
            spec['critic_features'] = agent.sac.fourier_features
        text = json.dumps(spec, sort_keys=True)
        return f'{self.name}/{agent.name}:{hashlib.sha256(text.encode()).hexdigest()[:16]}'


def _from_entries(entries: Sequence[Entry], values: np.ndarray) -> np.ndarray:
    """Columns [..., n] float32 that stand for the values [..., entries] of some entries."""
    if not any(entry.angle for entry in entries):
        return np.array(values, np.float32)
    columns: list[np.ndarray] = []
    for number, entry in enumerate(entries):
        value = np.asarray(values)[..., number]
        columns += [np.sin(value), np.cos(value)] if entry.angle else [value]
    return np.stack(columns, -1).astype(np.float32)


def _layout(entry: Entry) -> dict[str, Any]:
    """What two sides must agree on about an entry of the observation."""
    return entry.model_dump(exclude={'limited', *(() if entry.angle else ('angle',))})
