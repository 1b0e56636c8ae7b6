"""A ring of transitions in NumPy arrays; also the demonstrations and the imagined practice."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


class Replay:
    """The latest ``capacity`` transitions in the order in which they were added."""

    def __init__(self, capacity: int, observation_dim: int, action_dim: int) -> None:
        """Reserve (lazily paged) room for ``capacity`` rows."""
        self.capacity = capacity
        self.total = 0
        self._arrays = {
            'observation': np.zeros((capacity, observation_dim), np.float32),
            'action': np.zeros((capacity, action_dim), np.float32),
            'next_observation': np.zeros((capacity, observation_dim), np.float32),
            'reward': np.zeros(capacity, np.float32),
            'terminated': np.zeros(capacity, np.uint8),
            'truncated': np.zeros(capacity, np.uint8),
            'phase': np.zeros(capacity, np.uint8),
        }

    def __len__(self) -> int:
        """Rows that are held."""
        return min(self.total, self.capacity)

    def add(self, transitions: Mapping[str, np.ndarray]) -> None:
        """Append rows; fields that are absent stay zero, the oldest rows make room."""
        rows = len(transitions['observation'])
        kept = min(rows, self.capacity)
        index = (self.total + rows - kept + np.arange(kept)) % self.capacity
        for name, array in self._arrays.items():
            if name in transitions:
                array[index] = transitions[name][rows - kept :]
        self.total += rows

    def rows(self, order: np.ndarray) -> dict[str, np.ndarray]:
        """Rows by age: 0 is the oldest that is held."""
        index = self._index(order)
        return {name: array[index] for name, array in self._arrays.items()}

    def sample(
        self, rng: np.random.Generator, size: tuple[int, ...], recent: int | None = None
    ) -> np.ndarray:
        """Drawn ages, to be given to :meth:`rows` or :meth:`later`: uniform, or half of them
        among the ``recent`` newest rows.
        """
        order = rng.integers(len(self), size=size)
        if recent is None or recent >= len(self):
            return order
        newest = rng.integers(len(self) - recent, len(self), size=size)
        return np.where(rng.random(size) < 0.5, newest, order)

    def later(self, order: np.ndarray, rng: np.random.Generator, mean_delay: float) -> np.ndarray:
        """``next_observation`` of rows that follow by an exponentially drawn delay.

        Where the stream ends, its end. A delay across a phase switch is fine: any state is a
        valid goal for any transition (Andrychowicz et al. 2017), and what follows can be reached.
        """
        delay = rng.exponential(mean_delay, order.shape).astype(np.int64)
        following = np.minimum(order + delay, len(self) - 1)
        return self._arrays['next_observation'][self._index(following)]

    def held(self) -> dict[str, np.ndarray]:
        """Copies of the rows that are held, oldest first."""
        return self.rows(np.arange(len(self)))

    def restore(self, rows: Mapping[str, np.ndarray], total: int) -> None:
        """Inverse of :meth:`held` together with ``total``, for an exact resume."""
        self.total = total - len(rows['observation'])
        self.add(rows)

    def _index(self, order: np.ndarray) -> np.ndarray:
        return (max(self.total - self.capacity, 0) + order) % self.capacity
