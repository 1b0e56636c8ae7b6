"""Which command moves which state entry, in which direction and after which time.

The change of an entry in a step is regressed on the actions of that step, or of one some steps
earlier, and on the entry itself. What counts is the partial correlation of one action entry: it has
no unit, so that entries can be compared with each other and practice with demonstrations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mbarl_ros.storage.transitions import Transitions

LAGS = 9  # steps, from 0; an effect that comes later than that is no longer control
FEWEST = 40  # steps that a regression needs
_SAME = 1e-6  # relative: a transition goes on where the one before it ended


@dataclass(frozen=True)
class Responses:
    """``correlation`` and ``gain`` [lags, state_dim, action_dim] of ``steps`` regressed steps.

    ``correlation``: partial, from -1 to 1, 0 where the entry or the action does not change;
    ``gain``: change of the entry, in its unit, per unit of the action (half of its range).
    """

    correlation: np.ndarray
    gain: np.ndarray
    steps: int

    @property
    def strongest(self) -> np.ndarray:
        """Size of the correlation [state_dim, action_dim] at the lag where it is greatest."""
        return np.abs(self.correlation).max(0)

    def main(self, entry: int) -> tuple[int, int, float]:
        """Lag, action entry and signed correlation of what moves an entry of the state most."""
        sizes = np.abs(self.correlation[:, entry])
        lag, action = np.unravel_index(int(sizes.argmax()), sizes.shape)
        return int(lag), int(action), float(self.correlation[lag, entry, action])

    def rival(self, entry: int) -> float:
        """Greatest size of the correlation with any other action entry than the main one."""
        _, action, _ = self.main(entry)
        others = np.delete(self.strongest[entry], action)
        return float(others.max()) if len(others) else 0.0


def responses(rows: Transitions, state_dim: int) -> Responses:
    """Responses in transitions that follow each other; gaps between them are left out."""
    observation, following = rows['observation'], rows['next_observation']
    before = observation[:, :state_dim].astype(float)
    change = following[:, :state_dim].astype(float) - before
    actions = rows['action'].astype(float)
    index = np.flatnonzero(steps_before(rows, state_dim) >= LAGS - 1)
    shape = LAGS, state_dim, actions.shape[1]
    correlation, gain = np.zeros(shape), np.zeros(shape)
    if len(index) >= FEWEST:
        for lag in range(LAGS):
            for entry in range(state_dim):
                correlation[lag, entry], gain[lag, entry] = _regress(
                    change[index, entry], actions[index - lag], before[index, entry]
                )
    return Responses(correlation, gain, len(index))


def steps_before(rows: Transitions, state_dim: int) -> np.ndarray:
    """How many transitions lead without a gap to each one, int [n]."""
    before = rows['observation'][1:, :state_dim]
    after = rows['next_observation'][:-1, :state_dim]
    joined = (np.abs(before - after) <= _SAME * (1.0 + np.abs(after))).all(1)
    number = np.arange(len(rows['observation']))
    starts = np.where(np.append(False, joined)[: len(number)], 0, number)
    return number - np.maximum.accumulate(starts) if len(number) else number


def _regress(
    change: np.ndarray, actions: np.ndarray, own: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Partial correlation and gain [action_dim] of a change [n] with actions [n, action_dim]."""
    columns = np.column_stack([actions, own])
    spread, size = columns.std(0), change.std()
    nothing = np.zeros(actions.shape[1])
    if size <= 1e-9 * max(float(np.abs(own).max()), 1e-3):
        return nothing, nothing
    moving = spread > 1e-6
    x = (columns[:, moving] - columns[:, moving].mean(0)) / spread[moving]
    y = (change - change.mean()) / size
    inverse = np.linalg.inv(x.T @ x + 1e-6 * len(y) * np.eye(x.shape[1]))
    weights = inverse @ x.T @ y
    free = max(len(y) - x.shape[1] - 1, 1)
    noise = ((y - x @ weights) ** 2).sum() / free
    t = np.zeros(columns.shape[1])
    t[moving] = weights / np.sqrt(noise * np.diag(inverse) + 1e-12)
    gain = np.zeros(columns.shape[1])
    gain[moving] = weights * size / spread[moving]
    t, gain = t[:-1], gain[:-1]
    return np.sign(t) * np.sqrt(t**2 / (t**2 + free)), gain
