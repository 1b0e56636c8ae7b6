"""Gymnasium adapter: any task that has a world, as an episodic environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from mbarl_ros.task import Task


class MbarlEnv(gymnasium.Env):
    """A task in its simulated world, reset after each episode.

    Observations are the task's (physical units, the goal included), actions in [-1, 1]. An
    episode terminates on success and is truncated at the task's forward step limit. The option
    ``start`` of :meth:`reset` is the index of an evaluation start, instead of a training start.
    """

    metadata = {'render_modes': ['rgb_array'], 'render_fps': 10}  # noqa: RUF012 (gym's name)

    def __init__(
        self, task_name: str = 'pointmass', seed: int = 0, render_mode: str | None = None
    ) -> None:
        """Load a task by name or path and build its world."""
        self.task = Task.load(task_name)
        self.render_mode = render_mode
        self._world = self.task.load_world(seed=seed)
        self._goal_rng = np.random.default_rng(seed)
        self.metadata = {**self.metadata, 'render_fps': round(self._world.control_rate)}
        # A margin around the task's ranges: contact may press a disc a little beyond a limit.
        spread = 2 * self.task.scale
        self.observation_space = gymnasium.spaces.Box(
            (self.task.offset - spread).astype(np.float32),
            (self.task.offset + spread).astype(np.float32),
        )
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (self.task.action_dim,), np.float32)
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; ``seed`` seeds the training starts and goals from here on."""
        super().reset(seed=seed)
        if seed is not None:
            self._world.world.rng = np.random.default_rng(seed)
            self._goal_rng = np.random.default_rng(seed)
        start = (options or {}).get('start')
        if start is None:
            state = self._world.reset()
            self._goal = self.task.sample_goal(self._goal_rng)
        else:
            state = self._world.reset_to_start(start)
            goals = self.task.goals
            self._goal = goals[start % len(goals)] if self.task.goal_conditioned else None
        self._steps = 0
        observation = self.task.observation(state, self._goal)
        return observation, {'success': bool(self.task.success(observation))}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply an action for one control period."""
        state = self._world.step(self.task.command(action))
        observation = self.task.observation(state, self._goal)
        self._steps += 1
        success = bool(self.task.success(observation))
        truncated = not success and self._steps >= self.task.config.phases.forward_limit
        reward = float(self.task.reward(observation))
        return observation, reward, success, truncated, {'success': success}

    def render(self) -> np.ndarray | None:
        """Render a picture, uint8 [480, 480, 3], in render mode rgb_array."""
        return self._world.render() if self.render_mode == 'rgb_array' else None

    def close(self) -> None:
        """Release the world."""
        self._world.close()
