"""Which transitions the dynamics model is validated on, and never trained on.

Neighbours in a stream are alike, so that whole episodes are held out: every tenth phase of
practice, and every tenth demonstration. The decision is made once, by where a transition first
appears, and is kept with it: copies of it, such as a person's steps among the demonstrations, are
on the same side.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

OF, NUMBER = 10, 2  # of every ten episodes the third: soon, but not the first
BLOCK = 10  # transitions that count as an episode, in a stream that has none


def block_holdout_mask(numbers: np.ndarray) -> np.ndarray:
    """Whether each transition is held out, bool [n], by its number in a stream without episodes."""
    return numbers // BLOCK % OF == OF - 1


class PhaseHoldout:
    """Holds out phases of practice, of one robot or of several, in the order in which they begin.

    So of robots that start together not all hold out the same part of their practice.
    """

    def __init__(self) -> None:
        """Start before the first phase."""
        self._begun = 0
        self._running: dict[int, int] = {}  # robot -> number of its phase

    def mask(self, ended: np.ndarray, robots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether each of the next transitions is held out, and whether a phase begins: bool [n].

        :param ended: bool [n], where a phase ends
        :param robots: int [n]
        """
        numbers, begins = np.empty(len(ended), np.int64), np.zeros(len(ended), bool)
        for row, (end, robot) in enumerate(zip(ended.tolist(), robots.tolist(), strict=True)):
            if robot not in self._running:
                self._running[robot] = self._begun
                self._begun += 1
                begins[row] = True
            numbers[row] = self._running[robot]
            if end:
                del self._running[robot]
        return numbers % OF == NUMBER, begins


def episode_numbers(ended: np.ndarray, first: int = 0) -> np.ndarray:
    """Number of the episode of each transition, int [n]; arguments as above."""
    return first + np.cumsum(np.append(0, ended[:-1])[: len(ended)])


def demonstration_holdout_mask(
    demonstrations: Mapping[str, np.ndarray], state_dim: int
) -> np.ndarray:
    """The same for demonstrations, bool [n].

    The reader repeats backward demonstrations for every goal; such copies differ in the goal only,
    which the model does not see, and are held out together.
    """
    ended = np.asarray(demonstrations['truncated'], bool)
    ended = ended | np.asarray(demonstrations['terminated'], bool)
    episode = episode_numbers(ended)
    steps = np.concatenate(
        [
            np.asarray(demonstrations['observation'])[:, :state_dim],
            np.asarray(demonstrations['action']),
            np.asarray(demonstrations['next_observation'])[:, :state_dim],
        ],
        axis=1,
    )
    numbers: dict[bytes, int] = {}
    held_out = np.zeros(len(ended), bool)
    for one in np.unique(episode):
        rows = episode == one
        number = numbers.setdefault(steps[rows].tobytes(), len(numbers))
        held_out[rows] = number % OF == NUMBER
    return held_out
