"""Numbers of a run that are worth a curve, from what its nodes report on /diagnostics."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from mbarl_ros.schema import topics
from mbarl_ros.view.status import largest_model_error, number

ATTEMPTS = 20
"""Attempts that the success rate of practice is about."""
_REPORTED = {
    topics.UPDATES_PER_SECOND: 'updates_per_second',
    topics.VALUE_FORWARD: 'forward/value',
    topics.VALUE_BACKWARD: 'backward/value',
    topics.LAG_STEPS: 'lag_steps',
}
"""Topic -> what the learner reports."""
MEASURES = (topics.SUCCESS_RATE, topics.MODEL_ERROR, *_REPORTED)


def learner_measures(values: Mapping[str, str]) -> dict[str, float]:
    """Topic -> number, of those that a status of the learner has."""
    measures = {
        topic: parsed
        for topic, key in _REPORTED.items()
        if (parsed := number(values.get(key, ''))) is not None
    }
    if worst := largest_model_error(values):
        measures[topics.MODEL_ERROR] = worst[1]
    return measures


class SuccessRate:
    """Share of successes among the last :data:`ATTEMPTS` attempts of practice.

    From the totals that the controller reports once a second; where several attempts end within
    one, there are a few more.
    """

    def __init__(self) -> None:
        """No attempt is known."""
        self._totals: deque[tuple[int, int]] = deque()  # attempts, successes

    def add(self, attempts: int, successes: int) -> None:
        """Take reported totals; lower ones than before are those of a restarted controller."""
        totals = self._totals
        if not totals or attempts < totals[-1][0]:
            totals.clear()
            totals.append((0, 0) if attempts <= ATTEMPTS else (attempts, successes))
        if attempts > totals[-1][0]:
            totals.append((attempts, successes))
        while len(totals) > 1 and attempts - totals[1][0] >= ATTEMPTS:
            totals.popleft()

    @property
    def counted(self) -> tuple[int, int]:
        """Successes and attempts that it is about."""
        if not self._totals:
            return 0, 0
        (first, succeeded), (last, successes) = self._totals[0], self._totals[-1]
        return successes - succeeded, last - first
