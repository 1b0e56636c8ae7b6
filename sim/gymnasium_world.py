"""Any Gymnasium environment as a world: registered ones, and a user's class by import path."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from mbarl_ros.schema.base import ConfigError
from mbarl_sim.gymnasium_env import action_box, make, observation_boxes, reset_counter
from mbarl_sim.worlds import SimulatorError, World

SUCCESS, ENDED, REWARD = OUTCOME = ('success', 'ended', 'reward')  # the last entries of the state
SUCCESS_NAMES = ('is_success', 'success')
DEFAULT_RATE, MAX_RATE = 20.0, 1000.0  # Hz
EVALUATION_SEED = 1_000_000  # of evaluation start 0


class GymnasiumWorld(World):
    """An environment that goes on until it ends by itself: its time limit does not apply.

    State: the flattened observation (of a Dict space ``observation`` and ``desired_goal``);
    ``success`` and ``ended``, 0 or 1; ``reward`` of the last step, 0 after a reset. Names are
    ``observation_names`` of the environment, if it has this attribute, else ``observation_0`` and
    so on, ``desired_goal_0`` and so on. Command: the flattened action in the environment's units,
    ``action_names`` or ``action_0`` and so on.

    ``success`` is a step reward of at least ``success_reward``, where that is given; else
    ``info['is_success']`` or ``info['success']``; else what a method ``is_success()`` or
    ``success()`` of the environment returns; else 0. ``ended``: the environment terminated; it
    stands still until it is reset. What it calls truncated is ignored. ``achieved_goal``: the
    flattened part of this name of the latest observation, None where there is none.
    """

    def __init__(
        self,
        *,
        env: str,
        kwargs: Mapping[str, Any] | None = None,
        success_reward: float | None = None,
        seed: int = 0,
    ) -> None:
        """Make the environment ``env``, an id or ``module:Class``, with ``kwargs``.

        :raises ConfigError: it does not exist, cannot be made, resets by itself, or has a space
            that is not supported.
        """
        super().__init__(seed=seed)
        self.name = env
        self.env = make(env, kwargs or {})
        self._boxes = observation_boxes(env, self.env.observation_space)
        self._actions = action_box(env, self.env.action_space)
        names = _own_names(self.env, 'observation') or _numbered(self._boxes)
        self.state_names = (*names, *OUTCOME)
        self.command_names = _own_names(self.env, 'action') or _numbered({'action': self._actions})
        self._check_names()
        self.control_rate = _control_rate(self.env)
        self._success_reward = success_reward
        self._success_method = _success_method(self.env)
        self._resets = reset_counter(self.env)
        self._steps = 0
        self._latest: np.ndarray | None = None
        self.achieved_goal: np.ndarray | None = None

    @property
    def observation_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest observation [n] that the environment declares; may be infinite."""
        low = [box.low.ravel() for box in self._boxes.values()]
        high = [box.high.ravel() for box in self._boxes.values()]
        return np.concatenate(low).astype(np.float64), np.concatenate(high).astype(np.float64)

    @property
    def command_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest command [C]."""
        low, high = self._actions.low.ravel(), self._actions.high.ravel()
        return low.astype(np.float64), high.astype(np.float64)

    def reset(self) -> np.ndarray:
        """Reset with a seed from the world's random stream."""
        return self._reset(int(self.rng.integers(2**31)))

    def reset_to_start(self, index: int) -> np.ndarray:
        """Reset with a seed that depends on ``index`` alone."""
        return self._reset(EVALUATION_SEED + index)

    def set_state(self, state: np.ndarray) -> np.ndarray:
        """Not possible.

        :raises ConfigError: always, since Gymnasium has no way to set a state.
        """
        raise ConfigError(
            f"environment '{self.name}': its state cannot be set; leave out the replay of "
            "demonstrations and the key 'evaluation.wide' of its task"
        )

    def step(self, command: np.ndarray) -> np.ndarray:
        """Take one step with ``command`` [C], clipped to the bounds of the action space.

        :raises SimulatorError: NaN, infinity, an observation of another size than that of the
            space, or a reset that nobody asked for.
        """
        if self._latest is not None and self._latest[self.state_names.index(ENDED)]:
            return self._latest.copy()
        box, resets = self._actions, self._resets()
        action = np.asarray(command, np.float64).reshape(box.shape).clip(box.low, box.high)
        self._steps += 1
        observation, reward, ended, _, info = self.env.step(action.astype(box.dtype))
        if self._resets() != resets:
            raise SimulatorError(
                f"environment '{self.name}': resets by itself, in step {self._steps} after its "
                'reset; only its user may reset it'
            )
        return self._state(observation, self._success(info, reward), bool(ended), float(reward))

    def render(self, width: int = 480, height: int = 480) -> np.ndarray:
        """The environment's own picture, uint8 [height, width, 3], of the size that it has.

        :raises ConfigError: it makes none, or cannot.
        """
        if self.env.unwrapped.render_mode != 'rgb_array':
            raise ConfigError(f"environment '{self.name}': has no render mode 'rgb_array'")
        try:
            return np.asarray(self.env.render(), np.uint8)
        except Exception as error:  # whatever somebody's environment raises
            raise ConfigError(
                f"environment '{self.name}': makes no picture: {type(error).__name__}: {error}; "
                'MuJoCo without a display needs the environment variable MUJOCO_GL=egl'
            ) from error

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _reset(self, seed: int) -> np.ndarray:
        observation, info = self.env.reset(seed=seed)
        self._steps = 0
        return self._state(observation, self._success(info, -np.inf), False, 0.0)

    def _state(self, observation: Any, success: bool, ended: bool, reward: float) -> np.ndarray:
        parts = [np.ravel(observation[key] if key else observation) for key in self._boxes]
        state = np.concatenate([*parts, [success, ended, reward]]).astype(np.float64)
        where = f'in step {self._steps} after its reset'
        if len(state) != len(self.state_names):
            raise SimulatorError(
                f"environment '{self.name}': an observation of {len(state) - len(OUTCOME)} numbers "
                f'{where}; its observation_space has {len(self.state_names) - len(OUTCOME)}'
            )
        if not np.isfinite(state).all():
            entry = int(np.flatnonzero(~np.isfinite(state))[0])
            raise SimulatorError(
                f"environment '{self.name}': {self.state_names[entry]} is {state[entry]} {where}"
            )
        self._latest = state
        if '' not in self._boxes and 'achieved_goal' in observation:
            self.achieved_goal = np.ravel(observation['achieved_goal'])
        return state.copy()

    def _success(self, info: Mapping[str, Any], reward: float) -> bool:
        if self._success_reward is not None:
            return bool(reward >= self._success_reward)
        for key in SUCCESS_NAMES:
            if key in info:
                return bool(np.all(info[key]))
        return bool(self._success_method()) if self._success_method else False

    def _check_names(self) -> None:
        sizes = sum(map(_size, self._boxes.values())) + len(OUTCOME), _size(self._actions)
        for key, names, size in zip(
            ('observation_names', 'action_names'),
            (self.state_names, self.command_names),
            sizes,
            strict=True,
        ):
            if len(names) != size or len(set(names)) != size:
                raise ConfigError(
                    f"environment '{self.name}': attribute {key} must be one name for each number, "
                    f'each once, and none of {", ".join(OUTCOME)}'
                )


def _size(box: Box) -> int:
    return int(np.prod(box.shape))


def _own_names(env: gymnasium.Env, what: str) -> tuple[str, ...]:
    return tuple(map(str, getattr(env.unwrapped, f'{what}_names', ())))


def _numbered(boxes: Mapping[str, Box]) -> tuple[str, ...]:
    return tuple(
        f'{key or "observation"}_{i}' for key, box in boxes.items() for i in range(_size(box))
    )


def _control_rate(env: gymnasium.Env) -> float:
    """Steps per second (Hz): by ``dt`` of the environment, else as it is rendered."""
    period = getattr(env.unwrapped, 'dt', None)
    if isinstance(period, int | float) and period > 0:
        return min(1.0 / float(period), MAX_RATE)
    rate = env.metadata.get('render_fps') or DEFAULT_RATE
    return min(float(rate), MAX_RATE)


def _success_method(env: gymnasium.Env) -> Callable[[], Any] | None:
    """A method without arguments by which the environment tells success."""
    for name in SUCCESS_NAMES:
        method = getattr(env.unwrapped, name, None)
        if callable(method) and not inspect.signature(method).parameters:
            return method
    return None
