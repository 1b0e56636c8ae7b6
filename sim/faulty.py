"""A robot that lies: any world, with commands that are lost or late and a sensor that drifts."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from mbarl_ros.schema.load import import_object
from mbarl_sim.worlds import World

DRIFT_STEP = 0.05  # standard deviation of a step of the bias, in its largest value


class Faulty(World):
    """Wraps a world; without a fault it is that world.

    In a slip the world does not react to a command and stands still for the step. With a delay each
    command is executed that much later. A drift adds to a state entry a bias that wanders within
    its bounds; no reset removes it.
    """

    def __init__(
        self,
        *,
        world: str,
        options: Mapping[str, Any] | None = None,
        slip: float = 0.0,
        delay: float = 0.0,
        drift: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        """Make the world.

        :param world: import path of its class (``package.module:Class``)
        :param options: its own arguments
        :param slip: share of the commands that are not executed
        :param delay: s from a command to its execution, whole control steps
        :param drift: state entry -> largest bias, in the entry's unit
        :raises ValueError: a share outside 0 to 1, a delay of no whole number of control steps, or
            an unknown state entry
        """
        super().__init__(seed=seed)
        self._world = import_object(world)(**(options or {}), seed=seed)
        self.state_names = self._world.state_names
        self.command_names = self._world.command_names
        self.control_rate = self._world.control_rate
        if not 0 <= slip < 1:
            raise ValueError(f'slip must be from 0 to below 1, not {slip}')
        steps = delay * self.control_rate
        if delay < 0 or abs(steps - round(steps)) > 1e-6:
            step = 1 / self.control_rate
            raise ValueError(f'delay must be whole control steps of {step:g} s, not {delay} s')
        bounds = dict(drift or {})
        if unknown := sorted(bounds.keys() - set(self.state_names)):
            raise ValueError(f'drift: unknown state entries: {", ".join(unknown)}')
        self._slip, self._delay = slip, round(steps)
        self._bounds = np.array([bounds.get(name, 0.0) for name in self.state_names])
        self._bias = np.zeros(len(self._bounds))
        self._waiting: deque[np.ndarray] = deque()
        self._state = np.zeros(len(self._bounds))

    @property
    def unseen(self) -> tuple[str, ...]:
        """As the world's."""
        return self._world.unseen

    @property
    def put_right(self) -> int:
        """As the world's."""
        return self._world.put_right

    @property
    def reach(self) -> Mapping[str, tuple[float, float]]:
        """As the world's."""
        return self._world.reach

    def __getattr__(self, name: str) -> Any:
        """What only some worlds have; ``reset_to_wide`` is a reset, too."""
        if name.startswith('_'):
            raise AttributeError(name)
        found = getattr(self._world, name)
        return (lambda index: self._begin(found(index))) if name == 'reset_to_wide' else found

    def reset(self) -> np.ndarray:
        """As the world's."""
        return self._begin(self._world.reset())

    def reset_to_start(self, index: int) -> np.ndarray:
        """As the world's; faults are the same for the same start."""
        self.rng = np.random.default_rng([index, 11])
        self._bias = self.rng.uniform(-self._bounds, self._bounds)
        return self._begin(self._world.reset_to_start(index))

    def set_state(self, state: np.ndarray) -> np.ndarray:
        """As the world's."""
        return self._begin(self._world.set_state(state))

    def step(self, command: np.ndarray) -> np.ndarray:
        """One control step; see the class."""
        self._waiting.append(np.array(command, np.float64))
        self._bias += self._bounds * DRIFT_STEP * self.rng.standard_normal(len(self._bias))
        self._bias = np.clip(self._bias, -self._bounds, self._bounds)
        if len(self._waiting) > self._delay:
            due = self._waiting.popleft()
            if not (self._slip and self.rng.random() < self._slip):
                self._state = self._world.step(due)
        return self._state + self._bias

    def render(self, width: int = 480, height: int = 480) -> np.ndarray:
        """As the world's: what is true, not what is measured."""
        return self._world.render(width, height)

    def close(self) -> None:
        """Free the world."""
        self._world.close()

    def _begin(self, state: np.ndarray) -> np.ndarray:
        self._waiting.clear()
        self._state = np.asarray(state, np.float64)
        return self._state + self._bias
