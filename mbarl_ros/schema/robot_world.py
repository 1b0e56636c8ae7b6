"""A simulated world as the robot of a profile: what a task and ``robot_sim`` drive."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np

from mbarl_ros.schema.base import ConfigError, SimulatorError
from mbarl_ros.schema.robot import RobotConfig

# A world that puts a lost object back this often in so many steps will never get anywhere.
MAX_PUT_RIGHT, PUT_RIGHT_WINDOW = 50, 200


class RobotWorld:
    """A simulated world whose states have the entries of a robot profile, in its order."""

    def __init__(self, world: Any, robot: RobotConfig) -> None:
        """Fit a world to a profile.

        :raises ConfigError: it lacks entries of the state, takes another command, or has another
            control rate.
        """
        kind = type(world).__name__
        if missing := [entry for entry in robot.state_names if entry not in world.state_names]:
            raise ConfigError(
                f"robot '{robot.name}': key 'state': world {kind} has no {', '.join(missing)}; "
                f'it has {", ".join(world.state_names)}'
            )
        if tuple(world.command_names) != robot.command_names:
            raise ConfigError(
                f"robot '{robot.name}': key 'command': world {kind} takes "
                f'{", ".join(world.command_names)}, not {", ".join(robot.command_names)}'
            )
        if world.control_rate != robot.control_rate:
            raise ConfigError(
                f"robot '{robot.name}': key 'control_rate': is {robot.control_rate:g} Hz, world "
                f'{kind} runs at {world.control_rate:g} Hz'
            )
        self.world, self.control_rate = world, world.control_rate
        self.state_names, self.command_names = robot.state_names, robot.command_names
        self._order = [world.state_names.index(entry) for entry in robot.state_names]
        self._whole = np.zeros(len(world.state_names))
        self._steps = self._put_right = 0
        self._put_right_at: deque[int] = deque(maxlen=MAX_PUT_RIGHT)  # step numbers

    def reset(self) -> np.ndarray:
        """Reset to a random training start; returns the state [S]."""
        return self._seen(self.world.reset())

    def reset_to_start(self, index: int) -> np.ndarray:
        """Reset to evaluation start ``index``, the same for every seed."""
        return self._seen(self.world.reset_to_start(index))

    def reset_to_wide(self, index: int) -> np.ndarray:
        """Reset to wide start ``index`` of a world that chooses them itself."""
        return self._seen(self.world.reset_to_wide(index))

    def set_state(self, state: np.ndarray) -> np.ndarray:
        """Reset to ``state`` [S]; what the profile lacks stays as it was last, at first 0."""
        whole = self._whole.copy()
        whole[self._order] = state
        return self._seen(self.world.set_state(whole))

    def step(self, command: np.ndarray) -> np.ndarray:
        """Apply a command [A] for one control period; returns the state [S].

        :raises SimulatorError: a state that is not finite or has another size, or an object that is
            lost again whenever it has been put back
        """
        state = self._seen(self.world.step(command), command)
        self._steps += 1
        self._check_put_right()
        return state

    def _seen(self, state: np.ndarray, command: np.ndarray | None = None) -> np.ndarray:
        """The state [S] from the world's; ``command``: the one that led to it."""
        if state.shape != self._whole.shape or not np.isfinite(state).all():
            raise SimulatorError(self._what_is_wrong(state, command))
        self._whole = state
        return state[self._order]

    def _what_is_wrong(self, state: np.ndarray, command: np.ndarray | None) -> str:
        kind, names = type(self.world).__name__, self.world.state_names
        when = (
            'after a reset' if command is None else f'after command {np.asarray(command).tolist()}'
        )
        if state.shape != self._whole.shape:
            return f'world {kind}: state of shape {state.shape} {when}, it has {len(names)} entries'
        broken = [
            f'{name} {value}'
            for name, value in zip(names, state.tolist(), strict=True)
            if not math.isfinite(value)
        ]
        return f'world {kind}: {", ".join(broken)} {when}; correct its physics'

    def _check_put_right(self) -> None:
        count, before = getattr(self.world, 'put_right', 0), self._put_right
        self._put_right = count
        if count <= before:
            return
        self._put_right_at.append(self._steps)
        since = self._steps - self._put_right_at[0]
        if len(self._put_right_at) == MAX_PUT_RIGHT and since < PUT_RIGHT_WINDOW:
            raise SimulatorError(
                f'world {type(self.world).__name__}: put back a lost object in {MAX_PUT_RIGHT} of '
                f'{since + 1} steps; it is lost again each time: correct where it is put back, or '
                'when it counts as lost'
            )

    def __getattr__(self, name: str) -> Any:
        """What else the world has: ``render``, ``close``, ``rng``."""
        return getattr(self.__dict__['world'], name)
