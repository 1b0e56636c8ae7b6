"""The deployed protocol: success rate and return of the deterministic policy from given starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mbarl_ros.control.planning_policy import Actor
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.task import Task

WIDE_SEED = 20220513


class Outcome(NamedTuple):
    """Deployed episodes: their success rate, and the mean sum of their rewards, undiscounted.

    The return is None where the reward is the success.
    """

    success: float
    deployed_return: float | None


def pool(one: Outcome, other: Outcome) -> Outcome:
    """Outcome of two evaluations of as many episodes each."""
    both = zip(one, other, strict=True)
    return Outcome(*(None if a is None else (a + b) / 2 for a, b in both))


def evaluate(task: Task, world: Any, policy: Actor, episodes: int, start: int = 0) -> Outcome:
    """Outcome of ``episodes`` starts ``world.reset_to_start(start + i)``.

    An episode succeeds if the goal is reached at any step within the task's evaluation horizon. It
    is over then, as a forward phase is, and rewards that would follow do not count. Episode i has
    goal i modulo their number. The world must not be the one that is trained in.
    """
    return outcome(task, attempts_in_turn(task, world, policy, range(start, start + episodes)))


def outcome(task: Task, results: np.ndarray) -> Outcome:
    """Outcome of episodes with these ``results`` [2, n]: successes and sums of rewards."""
    success, mean_return = results.mean(axis=1)
    return Outcome(float(success), None if task.reward_known else float(mean_return))


def attempts_in_turn(task: Task, world: Any, policy: Actor, indices: Sequence[int]) -> np.ndarray:
    """Deployed episodes from these evaluation starts, one after the other in one world.

    No episode depends on those before it.

    :returns: [2, n]: whether each succeeds, and the sum of its rewards
    """
    return _in_turn(task, world, policy, indices, world.reset_to_start)


def _in_turn(
    task: Task,
    world: Any,
    policy: Actor,
    indices: Sequence[int],
    reset: Callable[[int], np.ndarray],
) -> np.ndarray:
    results = [
        attempts(task, [world], policy, reset(index)[None], np.array([index])) for index in indices
    ]
    return np.array(results, float).reshape(-1, 2).T


def attempt(task: Task, world: Any, policy: Actor, index: int) -> bool:
    """One deployed episode from evaluation start ``index``: whether it succeeds."""
    return bool(attempts_in_turn(task, world, policy, [index])[0, 0])


def attempts(
    task: Task,
    worlds: Sequence[Any],
    policy: Actor,
    states: np.ndarray,
    indices: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Deployed episodes side by side, with one batched policy call a step.

    :param worlds: one for each episode, already at its start state
    :param states: robot states [n, S] of the worlds
    :param indices: number [n] of each episode, which selects its goal
    :returns: whether each succeeds, bool [n], and the sum of its rewards [n]; an episode is not
        stepped after its success, nor after its world has ended
    """
    policy.begin(len(worlds), reseed=True)
    goals = task.goals[indices % len(task.goals)] if task.goal_conditioned else None
    succeeded, returns = np.zeros(len(worlds), bool), np.zeros(len(worlds))
    running = np.arange(len(worlds))
    for step in range(task.config.evaluation.horizon + 1):
        observation = task.observation(states, None if goals is None else goals[running])
        if step:
            returns[running] += task.reward(observation)
        reached = task.success(observation)
        succeeded[running[reached]] = True
        going = ~(reached | task.ended(observation))
        running, observation = running[going], observation[going]
        policy.keep(going)
        if step == task.config.evaluation.horizon or not len(running):
            break
        commands = task.command(policy.mean_action(observation))
        rows = zip(running, commands, strict=True)
        states = np.stack([worlds[episode].step(command) for episode, command in rows])
    return succeeded, returns


class WideStarts:
    """Key ``evaluation.wide`` of a task: starts in wide ranges, the same for all agents and seeds.

    They are drawn from ``ranges``, or chosen by the world's ``reset_to_wide(index)``.
    """

    def __init__(self, task: Task, worlds: int | None = None) -> None:
        """Draw the starts and make the worlds.

        :param worlds: how many run side by side; default: as many as are fast
        :raises ConfigError: the task has no world or no wide starts, or no ranges and a world
            without ``reset_to_wide``.
        """
        self.task = task
        config = task.config.evaluation.wide
        if config is None:
            raise ConfigError(f"task '{task.name}': key 'evaluation.wide' is not set")
        # A world with physics is slow beside the policy and takes 100 MB: one is enough.
        count = config.episodes if config.ranges else 1
        self.worlds = [task.load_world(seed=0) for _ in range(worlds or count)]
        self.episodes, self.starts = config.episodes, None
        if config.ranges:
            rng = np.random.default_rng(WIDE_SEED)
            self.starts = np.tile(self.worlds[0].reset_to_start(0), (config.episodes, 1))
            for name, (low, high) in config.ranges.items():
                column = task.robot.state_names.index(name)
                self.starts[:, column] = rng.uniform(low, high, config.episodes)
        elif not hasattr(self.worlds[0].world, 'reset_to_wide'):
            raise ConfigError(
                f"task '{task.name}': key 'evaluation.wide.ranges' is empty and world "
                f"{task.config.world} has no method 'reset_to_wide'; set ranges"
            )

    def reset(self, world: Any, index: int) -> np.ndarray:
        """Put a world into wide start ``index``; returns the robot state [S]."""
        return (
            world.reset_to_wide(index)
            if self.starts is None
            else world.set_state(self.starts[index])
        )

    def evaluate(self, policy: Actor) -> float:
        """Success rate from all starts, within the task's evaluation horizon, goals in turn."""
        return float(self.attempts(policy)[0].mean())

    def attempts(self, policy: Actor, indices: Sequence[int] | None = None) -> np.ndarray:
        """Results [2, n] of the episodes from starts ``indices``, from all where it is None."""
        indices = range(self.episodes) if indices is None else indices
        if self.starts is None:
            world = self.worlds[0]
            return _in_turn(self.task, world, policy, indices, world.reset_to_wide)
        worlds = [self.worlds[index] for index in indices]
        states = np.stack([self.reset(*row) for row in zip(worlds, indices, strict=True)])
        return np.array(attempts(self.task, worlds, policy, states, np.array(indices)))


def evaluation_line(
    task: Task, agent: str, seed: int, steps: int, outcome: Outcome, **more: Any
) -> dict[str, Any]:
    """A line of ``evaluations.jsonl``, in a ROS run and in ``mbarl bench`` alike.

    :param steps: environment steps practised
    :param outcome: of the ``episodes`` of the task
    :param more: further entries, or other values of these
    """
    return {
        'task': task.name,
        'agent': agent,
        'seed': seed,
        'environment_steps': steps,
        'robot_seconds': steps / task.robot.control_rate,
        'deployed_success': outcome.success,
        'episodes': task.config.evaluation.episodes,
        'deployed_return': outcome.deployed_return,
        'wide_success': None,
        'training_resets': 0,
        'wall_seconds': 0.0,
        'clone_success': None,
        **more,
    }
