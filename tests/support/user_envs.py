"""Environments of a user who knows nothing of this package; tests copy the file elsewhere."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete


class Cart(gymnasium.Env):
    """Drive to x = goal; beyond 2 it falls off the table."""

    metadata = {'render_fps': 25, 'render_modes': ['rgb_array']}  # noqa: RUF012 (gym's name)
    action_space = Box(-2.0, 2.0, (1,), np.float32)
    observation_space = Box(-np.inf, np.inf, (2,), np.float64)

    def __init__(self, goal=1.0, render_mode=None):
        self.goal, self.render_mode = goal, render_mode

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.x = float(self.np_random.uniform(-0.5, 0.5))
        return self.observation(), {}

    def observation(self):
        return np.array([self.x, self.goal])

    def step(self, action):
        self.x += 0.1 * float(action[0])
        return self.observation(), -abs(self.x - self.goal), abs(self.x) > 2, False, {}

    def is_success(self):
        return abs(self.x - self.goal) < 0.1

    def render(self):
        return np.zeros((4, 6, 3), np.uint8)


class Reach(Cart):
    observation_space = Dict(
        observation=Box(-9, 9, (1,)),
        achieved_goal=Box(-9, 9, (1,)),
        desired_goal=Box(-9, 9, (1, 1)),
    )
    is_success = None

    def observation(self):
        x = np.array([self.x])
        return {'observation': x, 'achieved_goal': x, 'desired_goal': np.array([[self.goal]])}

    def step(self, action):
        observation, reward, *_ = super().step(action)
        return observation, reward, False, True, {'is_success': self.x > self.goal}


class Place(gymnasium.Env):
    """A goal environment: push a disc in a plane to a place; it ends there."""

    action_space = Box(-1.0, 1.0, (2,), np.float32)
    observation_space = Dict(
        observation=Box(-10, 10, (3,)),
        achieved_goal=Box(-10, 10, (2,)),
        desired_goal=Box(-10, 10, (2,)),
    )

    def __init__(self, tolerance=0.1, dense=False):
        self.tolerance, self.dense = tolerance, dense

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.goal = self.np_random.uniform(-0.5, 0.5, (2, 2))
        self.clock = 0.0
        return self.observation(), {}

    def observation(self):
        return {
            'observation': np.append(self.clock, self.place),
            'achieved_goal': self.place.copy(),
            'desired_goal': self.goal,
        }

    def step(self, action):
        self.place = self.place + 0.05 * np.asarray(action, np.float64)
        self.clock += 0.1
        reward = self.compute_reward(self.place, self.goal, {})
        reached = bool(np.linalg.norm(self.place - self.goal) <= self.tolerance)
        return self.observation(), reward, reached, False, {'is_success': reached}

    def compute_reward(self, achieved, desired, info):
        distance = np.linalg.norm(achieved - desired, axis=-1)
        return -distance if self.dense else -(distance > self.tolerance).astype(np.float32)


class Corner(Place):
    """Its reward has two values, but no distance tells which."""

    def compute_reward(self, achieved, desired, info):
        return -(np.abs(achieved - desired).max(-1) > self.tolerance).astype(np.float32)


class Broken(Cart):
    def observation(self):
        return np.array([self.x if self.x < 1.5 else np.nan, self.goal])


class Restarts(Cart):
    def step(self, action):
        observation, reward, ended, _, info = super().step(action)
        if ended:
            observation, info = self.reset()
        return observation, reward, ended, False, info


class Choice(Cart):
    action_space = Discrete(3)


class Unbounded(Cart):
    action_space = Box(-np.inf, np.inf, (1,))


class Words(Cart):
    observation_space = Discrete(3)


class Parts(Cart):
    observation_space = Dict(camera=Box(0, 1, (2,)), observation=Box(0, 1, (2,)))


def wrapped():
    return gymnasium.wrappers.Autoreset(Cart())
