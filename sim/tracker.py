"""A tracker that loses sight of its object now and then, as a camera behind an arm does."""

from __future__ import annotations

import numpy as np

SHORTEST, LONGEST = 0.2, 0.5  # s for which it does not see the object


class Tracker:
    """Loses its object at random moments, each time for 0.2 to 0.5 s."""

    def __init__(self, dropouts: float, control_rate: float) -> None:
        """Start seeing the object.

        :param dropouts: how often it loses the object in a second of seeing it, on average
        :raises ValueError: below 0, or more than once in a control step
        """
        if not 0 <= dropouts <= control_rate:
            raise ValueError(f'dropouts must be from 0 to {control_rate:g}, not {dropouts}')
        self._chance = dropouts / control_rate
        self._steps = round(SHORTEST * control_rate), round(LONGEST * control_rate)
        self.reset()

    def reset(self) -> None:
        """See the object."""
        self._blind = 0  # control steps from now on

    @property
    def sees(self) -> bool:
        """Whether it sees the object now."""
        return self._blind == 0

    def step(self, rng: np.random.Generator) -> None:
        """One control step."""
        if self._blind:
            self._blind -= 1
        elif self._chance and rng.random() < self._chance:
            self._blind = int(rng.integers(*self._steps, endpoint=True))
