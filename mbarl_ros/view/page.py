"""What the web page of a run shows: bounded curves, phases, log lines and rows. ROS-free.

One thread puts news in, another takes them out as JSON. However long a run is, it stays small.
"""

from __future__ import annotations

import itertools
import json
import threading
import time as clock
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.history import Sample
from mbarl_ros.storage.run_files import EVALUATIONS_FILE, read_json_lines
from mbarl_ros.view.rows import CONTROLLER, EVALUATOR, rows, title
from mbarl_ros.view.status import (
    GraphStatus,
    RunInfo,
    graded_problems,
    largest_model_error,
    number,
    steps_node,
    total,
    value,
)

POINTS, PHASES, LINES = 600, 400, 100
"""How many of each are kept: points of a curve, phases, lines of the log."""
LONGEST_LINE = 500
SILENT_AFTER = 10.0
"""Seconds without a report after which the page says so of a node."""
PAUSED = 'paused'
_ATTEMPTS = 20  # of which the success rate in practice is taken
_EVALUATION = ('environment_steps', 'deployed_success', 'clone_success')
_LEARNER_CURVES = {
    'updates': 'updates_per_second',
    'forward value': 'forward/value',
    'backward value': 'backward/value',
}


class Series:
    """Points of a curve over a growing x, thinned out evenly where there are too many."""

    def __init__(self) -> None:
        """Without points."""
        self.points: list[tuple[float, float]] = []
        self.spacing = 0.0  # between two points at least; the last one may be closer

    def add(self, x: float, y: float) -> None:
        """Add a point, or move the last one to it where it is close to the one before."""
        points = self.points
        if points and x <= points[-1][0]:
            points[-1] = (points[-1][0], y)
            return
        if len(points) > 1 and x - points[-2][0] < self.spacing:
            points.pop()
        points.append((x, y))
        if len(points) > POINTS:
            self.points = [*points[:-1:2], points[-1]]
            self.spacing = 2 * (points[-1][0] - points[0][0]) / POINTS


class PracticeSuccess:
    """Success rate of the last attempts, from the counters of attempts and successes."""

    def __init__(self) -> None:
        """Without attempts."""
        self._counts: deque[tuple[float, float]] = deque([(0.0, 0.0)])

    def rate(self, attempts: float, successes: float) -> float | None:
        """Rate in [0, 1]; None before the first attempt has ended."""
        if attempts < self._counts[-1][0]:  # a new controller counts from 0
            self._counts = deque([(0.0, 0.0)])
        if attempts > self._counts[-1][0]:
            self._counts.append((attempts, successes))
        while len(self._counts) > 2 and self._counts[1][0] <= attempts - _ATTEMPTS:
            self._counts.popleft()
        before, won = self._counts[0]
        return (successes - won) / (attempts - before) if attempts > before else None


class Page:
    """The state of the page. All methods may be called from any thread.

    Each phase, success and log line has a number, by which an update has only what is new.
    """

    def __init__(self, run: RunInfo, commands: Iterable[str]) -> None:
        """``commands``: names of the buttons; none: the page only shows."""
        self.run = run
        self._commands = list(commands)
        self._lock = threading.Lock()
        self._status: GraphStatus = {}
        self._curves: dict[str, Series] = {}
        self._practice = PracticeSuccess()
        self._phases: deque[tuple[int, float, str]] = deque(maxlen=PHASES)
        self._successes: deque[tuple[int, float, int]] = deque(maxlen=PHASES)
        self._log: deque[tuple[int, float, str, str, str]] = deque(maxlen=LINES)
        self._ids = itertools.count(1)
        self._phase, self._paused, self._won = '', False, 0.0
        self._phases_are_told = False
        self._evaluations = ''
        self._rates: list[float] = []
        self._clone: float | None = None
        self._silent: dict[str, float] = {}
        self._update_number = self._published = 0
        self._received_at = clock.monotonic()

    # --- in ------------------------------------------------------------------------------------

    def load(self, history: Iterable[Sample]) -> None:
        """What happened before this page was there, from the run folder."""
        ended = None
        for sample in history:
            self.receive_status(sample.status, sample.time)
            ended = sample.time
        with self._lock:
            self._read_evaluations()
            if ended is not None and self._phases:  # nothing is known from then until now
                self._phases.append((next(self._ids), ended, ''))

    def receive_status(
        self, status: GraphStatus, time: float, silent: Mapping[str, float] | None = None
    ) -> None:
        """What the nodes reported last.

        :param time: Unix time in s
        :param silent: node -> seconds since its last report
        """
        with self._lock:
            # A copy: who reads it in another thread must not see it grow when a robot joins.
            self._status, self._received_at = dict(status), clock.monotonic()
            # That of a robot's node is in its status, see StatusListener.
            self._silent = {
                name: seconds
                for name, seconds in (silent or {}).items()
                if seconds > SILENT_AFTER and '/' not in name
            }
            self._paused = _is_paused(status)
            reported = _field(status, CONTROLLER, 'phase')
            self._enter(self._phase if self._phases_are_told else reported, time)
            self._count_successes(time)
            self._add_points()
            evaluations = _field(status, EVALUATOR, 'evaluations')
            if evaluations != self._evaluations:
                self._evaluations = evaluations
                self._read_evaluations()

    def receive_phase(self, phase: str, time: float) -> None:
        """The controller has begun a phase at ``time``, Unix time in s."""
        with self._lock:
            self._phases_are_told = True  # sooner than in a status
            self._enter(phase, time)

    def receive_line(self, time: float, level: str, node: str, text: str) -> None:
        """A node has logged a line; ``level``: info, warning or error."""
        with self._lock:
            self._log.append((next(self._ids), time, level, node, text[:LONGEST_LINE]))

    def _enter(self, phase: str, time: float) -> None:
        self._phase = phase
        shown = PAUSED if self._paused else phase
        if shown and (not self._phases or self._phases[-1][2] != shown):
            self._phases.append((next(self._ids), time, shown))

    def _count_successes(self, time: float) -> None:
        won = total(self._status, 'successes')
        if won > self._won:
            self._successes.append((next(self._ids), time, int(won - self._won)))
        self._won = won

    def _add_points(self) -> None:
        steps = _steps(self._status)
        if steps is None:
            return
        attempts, won = total(self._status, 'attempts'), total(self._status, 'successes')
        self._add('practice', steps, self._practice.rate(attempts, won))
        worst = largest_model_error(self._status.get('learner', {}))
        self._add('model error', steps, worst[1] if worst else None)
        self._add('score', steps, number(_field(self._status, 'state_classifier', 'score')))
        for curve, key in _LEARNER_CURVES.items():
            self._add(curve, steps, number(_field(self._status, 'learner', key)))

    def _add(self, curve: str, x: float, y: float | None) -> None:
        if y is not None:
            self._curves.setdefault(curve, Series()).add(x, y)

    def _read_evaluations(self) -> None:
        """Evaluations are few; all of them are read whenever there is a new one."""
        path = self.run.run_dir / EVALUATIONS_FILE
        try:
            lines = read_json_lines(path, skip_damaged=True)
        except (OSError, ConfigError):
            return
        curve, self._rates = Series(), []
        for line in lines:
            steps, rate, clone = (number(line.get(key)) for key in _EVALUATION)
            self._clone = self._clone if clone is None else clone
            if steps is not None and rate is not None:
                curve.add(steps, rate)
                self._rates.append(rate)
        self._curves['deployed'] = curve

    # --- out -----------------------------------------------------------------------------------

    def update(self) -> tuple[int, str]:
        """Number and JSON of what is new since the last call."""
        with self._lock:
            since, self._published = self._published, next(self._ids)
            self._update_number += 1
            points = {name: each.points[-1] for name, each in self._curves.items() if each.points}
            return self._update_number, self._json(since, points=points)

    def everything(self) -> tuple[int, str]:
        """JSON of all that the page shows, and the number of the update that it includes."""
        with self._lock:
            curves = {
                name: {'points': each.points, 'spacing': each.spacing}
                for name, each in self._curves.items()
            }
            fixed = {'commands': self._commands, 'title': title(self.run), 'limit': POINTS}
            return self._update_number, self._json(0, curves=curves, **fixed)

    def _json(self, since: int, **more: Any) -> str:
        status = self._status
        problems = [*graded_problems(status)]
        problems += [(f'{node}: silent for {s:.0f} s', True) for node, s in self._silent.items()]
        return json.dumps(
            {
                'time': clock.time(),
                'age': clock.monotonic() - self._received_at,  # s; the node may hang
                'rows': rows(self.run, status, self._rates),
                'problems': problems,
                'steps': _steps(status),
                'budget': self.run.budget,
                'target': self.run.target or None,
                'clone': self._clone,
                'gate': value(status, 'safety_gate', 'state'),
                'lifecycle': value(status, CONTROLLER, 'lifecycle'),
                'phases': [each for each in self._phases if each[0] > since],
                'successes': [each for each in self._successes if each[0] > since],
                'log': [each for each in self._log if each[0] > since],
                **more,
            },
            allow_nan=False,
        )


WEB_FILES = Path(__file__).parent / 'web'
"""The static files of the page."""


def _field(status: GraphStatus, node: str, key: str) -> str:
    return status.get(node, {}).get(key, '')


def _steps(status: GraphStatus) -> float | None:
    return number(_field(status, steps_node(status), 'environment_steps'))


def _is_paused(status: GraphStatus) -> bool:
    """Whether the controller is known not to act: inactive, or the e-stop is latched."""
    lifecycle = _field(status, CONTROLLER, 'lifecycle')
    return _field(status, 'safety_gate', 'state') == 'e-stop' or lifecycle not in ('', 'active')
