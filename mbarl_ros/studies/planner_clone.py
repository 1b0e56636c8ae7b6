"""A policy network of TRPO that imitates a planner: behaviour cloning and DAgger."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import torch

from mbarl_ros.control.planning_policy import PlanningPolicy
from mbarl_ros.learning.imitation import regress

DEVIATION = 0.3  # of the actions with which TRPO goes on
_PLANS = 2  # for a label; the second starts from the first


class PlannerClone:
    """TRPO's policy network, the labels that it is fitted to, and an environment to act in."""

    def __init__(self, agent: Any, planner: PlanningPolicy, seed: int) -> None:
        """Imitate ``planner`` with the network of a TRPO agent, in the agent's environment."""
        self._network, self._planner = agent.policy, planner
        self._env = gymnasium.make(agent.get_env().envs[0].spec.id)
        self._env.reset(seed=seed + 1000)
        self._entries = agent.observation_space.shape[0]
        self._rng = np.random.default_rng([seed, 12])
        self._generator = torch.Generator().manual_seed(seed)
        self._states: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def choose(self, states: np.ndarray, count: int) -> np.ndarray:
        """``count`` of the states [n, O], or all if there are fewer."""
        return states[self._rng.choice(len(states), min(count, len(states)), replace=False)]

    def label(self, states: np.ndarray) -> None:
        """Add states [n, O] with the planner's actions in them, each from a plan of its own."""
        self._states.append(states[:, : self._entries])
        self._labels.append(self._planner.label(states, _PLANS).astype(np.float32))

    def fit(self, gradient_steps: int) -> float:
        """Regression on all labels; the held-out squared error."""
        parameters = [
            *self._network.mlp_extractor.policy_net.parameters(),
            *self._network.action_net.parameters(),
        ]
        inputs = torch.from_numpy(np.concatenate(self._states).astype(np.float32))
        labels = torch.from_numpy(np.concatenate(self._labels))
        return regress(self._mean, parameters, inputs, labels, self._generator, gradient_steps)

    def _mean(self, observation: torch.Tensor) -> torch.Tensor:
        return self._network.action_net(self._network.mlp_extractor.forward_actor(observation))

    def episode(self) -> tuple[np.ndarray, float]:
        """One episode of the mean action: task observations [n, O] for the planner, and return.

        The planner's observation ends with outcome and reward of the last step, which the
        environment does not show; they are 0 here.
        """
        observation, _ = self._env.reset()
        states, total, over = [], 0.0, False
        while not over:
            states.append(observation)
            with torch.no_grad():
                action = self._mean(torch.from_numpy(observation[None].astype(np.float32)))[0]
            action = action.clamp(-1, 1).numpy()
            observation, reward, terminated, truncated, _ = self._env.step(action)
            total += float(reward)
            over = terminated or truncated
        rows = np.zeros((len(states), self._planner.observation_dim), np.float32)
        rows[:, : self._entries] = states
        return rows, total

    def prepare_fine_tuning(self) -> None:
        """Set the standard deviation of the actions with which TRPO goes on."""
        with torch.no_grad():
            self._network.log_std.fill_(math.log(DEVIATION))
