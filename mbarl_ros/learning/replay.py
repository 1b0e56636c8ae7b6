"""A ring of transitions in NumPy arrays; also the demonstrations and the imagined practice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from torch import Tensor

Rows = TypeVar('Rows', np.ndarray, Tensor)
OPEN = np.iinfo(np.int32).max  # the chain of this row has no end yet


class Replay:
    """The latest ``capacity`` transitions in the order in which they were added.

    They form chains: every row was reached from each earlier row of its chain. Rows of several
    robots are mixed, and each robot's form a *lane*, along which its chains go. Rows are addressed
    by age rank: 0 is the oldest row that is held.
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
            'steps_to_end': np.zeros(capacity, np.int32),  # rows of the chain that follow
        }
        self._lane_of = np.zeros(capacity, np.int32)
        self._position = np.zeros(capacity, np.int64)  # in the lane
        self._lanes: list[_Lane] = []
        self._held_out = np.zeros(capacity, bool)
        self._hidden = np.zeros(capacity, bool)

    def __len__(self) -> int:
        """Number of rows that are held."""
        return min(self.total, self.capacity)

    def add(
        self,
        transitions: Mapping[str, np.ndarray],
        ends: np.ndarray | None = None,
        held_out: np.ndarray | None = None,
        hidden: np.ndarray | None = None,
        lane: int = 0,
    ) -> None:
        """Append rows; fields that are absent stay zero, and new rows replace the oldest.

        :param ends: bool [rows], where a chain ends; without it the open chain goes on
        :param held_out: bool [rows], see :mod:`~.holdout`; without it none is held out
        :param hidden: bool [rows], which :meth:`sample` does not draw; without it none
        :param lane: of which robot the rows are, counted from 0
        """
        rows = len(transitions['observation'])
        kept = min(rows, self.capacity)
        index = (self.total + rows - kept + np.arange(kept)) % self.capacity
        for name, array in self._arrays.items():
            if name in transitions:
                array[index] = transitions[name][rows - kept :]
        self._held_out[index] = False if held_out is None else held_out[rows - kept :]
        self._hidden[index] = False if hidden is None else hidden[rows - kept :]
        first, self.total = self.total, self.total + rows
        own = self._lane(lane)
        begin = own.chain_start if ends is not None else own.count
        positions = own.append(np.arange(first, self.total))
        self._lane_of[index], self._position[index] = lane, positions[rows - kept :]
        last = positions[np.flatnonzero(ends if ends is not None else [])]
        self._set_steps_to_end(own, begin, np.append(last, OPEN + own.count))
        if len(last):
            own.chain_start = int(last[-1]) + 1

    def _lane(self, lane: int) -> _Lane:
        while len(self._lanes) <= lane:
            self._lanes.append(_Lane(self.capacity))
        return self._lanes[lane]

    def _set_steps_to_end(self, lane: _Lane, begin: int, ends: np.ndarray) -> None:
        """Of the rows from position ``begin`` on, whose chains end at the positions ``ends``."""
        positions = np.arange(max(begin, lane.count - self.capacity), lane.count)
        numbers = lane.numbers(positions)
        steps = np.minimum(ends[np.searchsorted(ends, positions)] - positions, OPEN)
        held = numbers >= self.total - self.capacity
        self._arrays['steps_to_end'][numbers[held] % self.capacity] = steps[held]

    def add_steps(
        self,
        transitions: Mapping[str, np.ndarray],
        ends: np.ndarray,
        held_out: np.ndarray,
        state_dim: int,
        hidden: np.ndarray | None = None,
        lane: int = 0,
    ) -> None:
        """Append steps of a robot; chains also end where a step begins in another state.

        Between the two somebody moved the robot or its world, or steps are missing, as where a
        person let go: the later state was not reached from the earlier one.

        :param ends: bool [rows], where a chain ends in any case
        :param held_out: bool [rows], see :mod:`~.holdout`
        :param state_dim: number of leading observation entries that are the state
        :param hidden: bool [rows], as in :meth:`add`
        :param lane: of which robot the steps are, counted from 0
        """
        if not len(ends):
            return
        state, next_state = (
            np.asarray(transitions[name], np.float32)[:, :state_dim]
            for name in ('observation', 'next_observation')
        )
        reached = self._newest(lane)
        if reached is not None and not np.array_equal(reached[:state_dim], state[0]):
            self.close_chain(lane)
        ends = ends.copy()
        ends[:-1] |= (next_state[:-1] != state[1:]).any(axis=-1)
        self.add(transitions, ends if ends.any() else None, held_out, hidden, lane)

    def _newest(self, lane: int) -> np.ndarray | None:
        """Latest ``next_observation`` of a lane; None: no row of it is held."""
        own = self._lane(lane)
        number = own.numbers(np.array([own.count - 1]))
        if not own.count or number < self.total - self.capacity:
            return None
        return self._arrays['next_observation'][number[0] % self.capacity]

    def close_chain(self, lane: int = 0) -> None:
        """End the open chain: what is added next does not follow from what was added last."""
        own = self._lane(lane)
        self._set_steps_to_end(own, own.chain_start, np.array([own.count - 1]))
        own.chain_start = own.count

    def clear(self) -> None:
        """Drop every row."""
        self.total = 0
        self._lanes.clear()

    def rows(self, order: np.ndarray) -> dict[str, np.ndarray]:
        """Rows by age rank, of any shape."""
        index = self._index(order)
        return {name: array[index] for name, array in self._arrays.items()}

    def sample(
        self, rng: np.random.Generator, size: tuple[int, ...], recent: int | None = None
    ) -> np.ndarray:
        """Age ranks, drawn uniformly, or half of them among the ``recent`` newest rows."""
        order = rng.integers(len(self), size=size)
        if recent is not None and recent < len(self):
            newest = rng.integers(len(self) - recent, len(self), size=size)
            order = np.where(rng.random(size) < 0.5, newest, order)
        hidden = self._hidden[self._index(order)]
        if hidden.any():
            shown = np.flatnonzero(~self._hidden[self._index(np.arange(len(self)))])
            if len(shown):
                order[hidden] = shown[rng.integers(len(shown), size=hidden.sum())]
        return order

    def has_rows_to_sample(self) -> bool:
        """Whether any row may be drawn."""
        return not self._hidden[self._index(np.arange(len(self)))].all()

    def later(
        self, order: np.ndarray, rng: np.random.Generator, mean_delay: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """``next_observation`` of rows that follow by an exponentially drawn delay, and the delay.

        Where the chain ends, its end. A delay across a phase switch is fine: any state is a
        valid goal for any transition (Andrychowicz et al. 2017), and what follows can be reached.
        """
        delay = rng.exponential(mean_delay, order.shape).astype(np.int64)
        delay = np.minimum(delay, self.steps_to_end(order))
        index = self._index(order)
        lanes, positions = self._lane_of[index], self._position[index] + delay
        numbers = np.empty(order.shape, np.int64)
        for number, lane in enumerate(self._lanes):
            own = lanes == number
            numbers[own] = lane.numbers(positions[own])
        return self._arrays['next_observation'][numbers % self.capacity], delay

    def steps_to_end(self, order: np.ndarray) -> np.ndarray:
        """How many held rows of the same chain follow each row."""
        index = self._index(order)
        counts = np.array([lane.count for lane in self._lanes])
        following = counts[self._lane_of[index]] - 1 - self._position[index]
        return np.minimum(self._arrays['steps_to_end'][index], following)

    def held_out(self) -> np.ndarray:
        """Whether each held row is held out from the model, bool, by age rank."""
        return self._held_out[self._index(np.arange(len(self)))]

    def since(self, total: int) -> dict[str, np.ndarray]:
        """Rows that were added after the first ``total``, as far as they are held; oldest first."""
        new = min(self.total - total, len(self))
        return self.rows(np.arange(len(self) - new, len(self)))

    def held(self) -> dict[str, np.ndarray]:
        """Copies of the rows that are held, oldest first."""
        return self.rows(np.arange(len(self)))

    def restore(self, rows: Mapping[str, np.ndarray], total: int) -> None:
        """Inverse of :meth:`held` together with ``total``, of one lane, for an exact resume."""
        self.clear()
        self.total = total - len(rows['observation'])
        self.add(rows, rows['steps_to_end'] == 0)

    def _index(self, order: np.ndarray) -> np.ndarray:
        return (max(self.total - self.capacity, 0) + order) % self.capacity


class _Lane:
    """The rows of one robot: their numbers in the replay, by their position among its own."""

    def __init__(self, capacity: int) -> None:
        self._numbers = np.zeros(capacity, np.int64)  # of the latest, by position; lazily paged
        self.count = 0
        self.chain_start = 0  # position of the open chain's first row

    def append(self, numbers: np.ndarray) -> np.ndarray:
        """Add rows by their numbers; their positions."""
        positions = self.count + np.arange(len(numbers))
        self._numbers[positions % len(self._numbers)] = numbers
        self.count += len(numbers)
        return positions

    def numbers(self, positions: np.ndarray) -> np.ndarray:
        """Numbers of the rows at some of the latest positions."""
        return self._numbers[positions % len(self._numbers)]


class Demonstrations(Replay):
    """Demonstrated transitions; unlike a replay, a full one takes no more.

    Both directions are drawn equally often: there are several times more backward rows where the
    reader repeats them for every goal.
    """

    def add_demonstrations(
        self, transitions: Mapping[str, np.ndarray], held_out: np.ndarray, state_dim: int
    ) -> None:
        """Append whole demonstrations, or what a person demonstrated during practice.

        :param held_out: bool [rows], see :mod:`~.holdout`
        """
        room = self.capacity - len(self)
        rows = {name: array[:room] for name, array in transitions.items()}
        ended = np.asarray(rows['truncated'], bool) | np.asarray(rows['terminated'], bool)
        self.add_steps(rows, ended, held_out[:room], state_dim)
        phase = self.held()['phase']
        self._rows_by_direction = [np.flatnonzero(phase == p) for p in np.unique(phase)]

    def first(self) -> np.ndarray:
        """Age ranks of the rows with which chains begin."""
        steps = self._arrays['steps_to_end'][self._index(np.arange(len(self)))]
        return np.flatnonzero(np.append(0, steps)[: len(self)] == 0)

    def sample_directions(self, rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
        """Age ranks, drawn equally often from each direction."""
        drawn = [rows[rng.integers(len(rows), size=size)] for rows in self._rows_by_direction]
        return np.stack(drawn)[rng.integers(len(drawn), size=size), *np.indices(size)]


def evenly_spaced(rows: Rows, limit: int) -> Rows:
    """At most ``limit`` of the rows, evenly spaced."""
    if len(rows) <= limit:
        return rows
    return rows[np.linspace(0, len(rows) - 1, limit).astype(int)]
