"""A ring of transitions in NumPy arrays; also the demonstrations and the imagined practice."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

OPEN = np.iinfo(np.int32).max  # the chain of this row has no end yet


class Replay:
    """The latest ``capacity`` transitions in the order in which they were added.

    They form chains: from a row every later row of its chain was reached.
    """

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
            'left': np.zeros(capacity, np.int32),  # rows of the chain that follow
        }
        self._chain = 0  # where the open chain began, counted like ``total``

    def __len__(self) -> int:
        """Rows that are held."""
        return min(self.total, self.capacity)

    def add(self, transitions: Mapping[str, np.ndarray], ends: np.ndarray | None = None) -> None:
        """Append rows; fields that are absent stay zero, the oldest rows make room.

        :param ends: bool [rows], where a chain ends; without it the open chain goes on
        """
        rows = len(transitions['observation'])
        kept = min(rows, self.capacity)
        index = (self.total + rows - kept + np.arange(kept)) % self.capacity
        for name, array in self._arrays.items():
            if name in transitions:
                array[index] = transitions[name][rows - kept :]
        first, self.total = self.total, self.total + rows
        begun = max(self._chain if ends is not None else first, self.total - self.capacity)
        at = np.arange(begun, self.total)
        last = first + np.flatnonzero(ends if ends is not None else [])
        following = np.append(last, OPEN + self.total)[np.searchsorted(last, at)]
        self._arrays['left'][at % self.capacity] = np.minimum(following - at, OPEN)
        if len(last):
            self._chain = int(last[-1]) + 1

    def close_chain(self) -> None:
        """End the open chain: what is added next does not follow from what was added last."""
        at = np.arange(max(self._chain, self.total - self.capacity), self.total)
        self._arrays['left'][at % self.capacity] = self.total - 1 - at
        self._chain = self.total

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

    def later(
        self, order: np.ndarray, rng: np.random.Generator, mean_delay: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """``next_observation`` of rows that follow by an exponentially drawn delay, and the delay.

        Where the chain ends, its end. A delay across a phase switch is fine: any state is a
        valid goal for any transition (Andrychowicz et al. 2017), and what follows can be reached.
        """
        delay = rng.exponential(mean_delay, order.shape).astype(np.int64)
        delay = np.minimum(delay, self.left(order))
        return self._arrays['next_observation'][self._index(order + delay)], delay

    def left(self, order: np.ndarray) -> np.ndarray:
        """How many held rows of the same chain follow."""
        return np.minimum(self._arrays['left'][self._index(order)], len(self) - 1 - order)

    def first(self) -> np.ndarray:
        """Ages of the rows with which chains begin."""
        left = self._arrays['left'][self._index(np.arange(len(self)))]
        return np.flatnonzero(np.append(0, left)[: len(self)] == 0)

    def since(self, total: int) -> dict[str, np.ndarray]:
        """Rows that were added after the first ``total``, as far as they are held; oldest first."""
        fresh = min(self.total - total, len(self))
        return self.rows(np.arange(len(self) - fresh, len(self)))

    def held(self) -> dict[str, np.ndarray]:
        """Copies of the rows that are held, oldest first."""
        return self.rows(np.arange(len(self)))

    def restore(self, rows: Mapping[str, np.ndarray], total: int) -> None:
        """Inverse of :meth:`held` together with ``total``, for an exact resume."""
        self.total = self._chain = total - len(rows['observation'])
        self.add(rows, rows['left'] == 0)

    def _index(self, order: np.ndarray) -> np.ndarray:
        return (max(self.total - self.capacity, 0) + order) % self.capacity
