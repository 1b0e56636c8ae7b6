"""What all tests of a run's evidence share: its data by phase and episode, and what moves what."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mbarl_ros.reports.attempts import phases
from mbarl_ros.reports.responses import FEWEST, Responses, responses
from mbarl_ros.reports.run_data import RunData
from mbarl_ros.storage.transitions import BACKWARD, FORWARD, SAFETY, Transitions, select

# What a demonstration must show to say which command moves an entry: how much of the entry's change
# the command explains (correlation), and how much less any other command does.
CLEAR, RIVAL = 0.6, 0.7
# A command moves an entry itself, and not through something that it may miss, such as an object.
_DIRECT = 0.9
# A command varies that drives both ways, its 10 % and 90 % quantiles this far apart (half ranges):
# one that only presses on, with noise, need not move anything.
_BOTH_WAYS = 0.5
# The same in practice, where contact, walls and noise hide some of it.
SEEN = 0.35
_RECENT = 0.4  # share of the run that counts as its latest part
_LEAST_RECENT = 400  # steps


@dataclass(frozen=True)
class Cause:
    """Why a run does not learn, with its evidence and a remedy.

    ``name``: one word for programs; ``title``: what is wrong; ``evidence``: sentences with numbers
    and units; ``remedy``: what to try.
    """

    name: str
    title: str
    evidence: list[str]
    remedy: str


@dataclass(frozen=True)
class Driven:
    """A state entry that one command moves, as demonstrations show: columns, lag (steps), sign."""

    entry: int
    action: int
    lag: int
    correlation: float


class Facts:
    """A run's data, split and summarised once; arrays are computed when first used."""

    def __init__(self, run: RunData) -> None:
        """``run``: may be empty or short; every test must do without what is not there."""
        self.run, self.task = run, run.task
        self.period = 1.0 / run.task.robot.control_rate  # s
        self.columns = run.task.config.columns
        self.names = [column.name for column in self.columns]
        self.actions = [entry.name for entry in run.task.config.action]
        self.dim = run.task.state_dim
        self.half = run.task.scale[: self.dim].astype(float)  # half ranges
        self.practice, self.steps = run.transitions, len(run.transitions['action'])

    # --- states ---------------------------------------------------------------------------

    @cached_property
    def recent(self) -> Transitions:
        """The latest part of practice; all of a short run."""
        first = self.steps - max(int(_RECENT * self.steps), _LEAST_RECENT)
        return select(self.practice, slice(max(first, 0), None))

    @cached_property
    def demonstrations(self) -> list[Transitions]:
        """Demonstrations one by one; a backward one counts once, not for each goal."""
        rows = self.run.demonstrations
        ends = np.flatnonzero(rows['terminated'] | rows['truncated']) + 1
        parts, seen = [], set()
        for first, end in zip([0, *ends], ends, strict=False):
            part = select(rows, slice(first, end))
            key = part['observation'][:, : self.dim].tobytes() + part['action'].tobytes()
            if key not in seen:
                seen.add(key)
                parts.append(part)
        return parts

    @cached_property
    def demonstrated(self) -> Transitions:
        """All demonstrations, each once."""
        rows = self.run.demonstrations
        if not self.demonstrations:
            return rows
        return {key: np.concatenate([d[key] for d in self.demonstrations]) for key in rows}

    @cached_property
    def forward(self) -> list[Transitions]:
        """Demonstrations of the task."""
        return [part for part in self.demonstrations if part['phase'][0] == FORWARD]

    def states(self, rows: Transitions) -> np.ndarray:
        """All states [n, state_dim] before and after the steps of ``rows``."""
        first, last = rows['observation'][:, : self.dim], rows['next_observation'][:, : self.dim]
        return np.concatenate([first, last]).astype(float)

    @cached_property
    def demonstrated_states(self) -> np.ndarray:
        """States [n, state_dim] of demonstrations."""
        return self.states(self.demonstrated)

    # --- phases ---------------------------------------------------------------------------

    @cached_property
    def phases(self) -> list[Transitions]:
        """Finished phases of practice, in their order."""
        found = phases(self.task, self.practice)
        return [
            select(self.practice, slice(first, first + steps))
            for first, steps in zip(found.first, found.steps, strict=True)
        ]

    @property
    def attempts(self) -> list[Transitions]:
        """Finished forward phases."""
        return [phase for phase in self.phases if phase['phase'][-1] == FORWARD]

    @property
    def ways_back(self) -> list[Transitions]:
        """Finished backward phases."""
        return [phase for phase in self.phases if phase['phase'][-1] == BACKWARD]

    @property
    def successes(self) -> int:
        """Attempts that ended in the task's success."""
        return sum(bool(self.task.success(a['next_observation'][-1])) for a in self.attempts)

    @property
    def outcome(self) -> str:
        """Attempts and successes, as a sentence."""
        return f'{self.successes} of {len(self.attempts)} attempts succeeded'

    # --- what moves what ------------------------------------------------------------------

    @cached_property
    def demonstrated_responses(self) -> Responses:
        """Which command moves which entry in demonstrations."""
        return responses(self.demonstrated, self.dim)

    @cached_property
    def practised(self) -> list[Responses]:
        """The same in practice: in its latest part, and in all of it.

        Steps in which the safety gate stopped the robot say nothing about its commands.
        """
        parts = (
            [self.recent]
            if len(self.recent['action']) == self.steps
            else [
                self.recent,
                self.practice,
            ]
        )
        moved = [select(part, part['source'] != SAFETY) for part in parts]
        found = [responses(part, self.dim) for part in moved]
        return [each for each in found if each.steps >= FEWEST]

    @cached_property
    def driven(self) -> list[Driven]:
        """State entries that demonstrations clearly show to be moved by one command."""
        found, shown = [], self.demonstrated_responses
        for entry in range(self.dim):
            lag, action, correlation = shown.main(entry)
            if abs(correlation) >= CLEAR and shown.rival(entry) <= RIVAL * abs(correlation):
                found.append(Driven(entry, action, lag, correlation))
        return found

    def direct(self, one: Driven) -> bool:
        """Whether a command moves the entry itself, in whatever state the robot is."""
        return abs(one.correlation) >= _DIRECT and not self.columns[one.entry].binary

    def varies(self, action: int, steps: int) -> bool:
        """Whether a command drove both ways in the latest ``steps``."""
        low, high = np.quantile(self.practice['action'][-steps:, action], (0.1, 0.9))
        return bool(low < 0 < high and high - low > _BOTH_WAYS)

    def milliseconds(self, lag: float) -> str:
        """A number of steps as robot time."""
        return f'{1e3 * lag * self.period:.0f} ms'
