"""Schema of task files: observation and action, success, phases, evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from mbarl_ros.schema.base import Strict, check_known, check_unique


class Entry(Strict):
    """One entry of the observation or action vector and the range that is scaled to [-1, 1].

    ``binary`` says that the entry takes only the values ``low`` and ``high`` (a contact, a grasp).
    Entries with the same ``axis`` are positions along one line in one frame: networks also see
    their differences (where the gripper is, seen from the mug), the goal's included.
    """

    name: str
    low: float
    high: float
    binary: bool = False
    axis: str | None = None

    @model_validator(mode='after')
    def _ordered(self) -> Entry:
        if not self.low < self.high:
            raise ValueError(f'{self.name}: low ({self.low}) must be less than high ({self.high})')
        return self


class Success(Strict):
    """Success: the Euclidean distance of ``entries`` to ``target`` is at most ``tolerance``.

    Without ``target`` the distance is taken to the goal part of the observation.
    """

    entries: list[str] = Field(min_length=1)
    target: list[float] | None = None
    tolerance: float = Field(gt=0)


class Phases(Strict):
    """Step limits of the forward and the backward phase."""

    forward_limit: int = Field(gt=0)
    backward_limit: int = Field(gt=0)

    @property
    def limits(self) -> tuple[int, int, int]:
        """Of the forward, backward and exploration phase; exploration lasts as long as forward."""
        return self.forward_limit, self.backward_limit, self.forward_limit


class Wide(Strict):
    """Evaluation from starts all over the place, every so many environment steps.

    Observation entries in ``ranges`` start uniformly in them, all others as the world places them.
    """

    episodes: int = Field(gt=0)
    every: int = Field(gt=0)
    ranges: dict[str, tuple[float, float]] = Field(min_length=1)

    @field_validator('ranges')
    @classmethod
    def _ordered(cls, ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for name, (low, high) in ranges.items():
            if not low < high:
                raise ValueError(f'{name}: low ({low}) must be less than high ({high})')
        return ranges


class Evaluation(Strict):
    """The deployed protocol and the end of a run; ``every`` and ``budget`` in environment steps."""

    episodes: int = Field(default=50, gt=0)
    horizon: int = Field(gt=0)
    every: int = Field(gt=0)
    target: float = Field(default=0.9, gt=0, le=1)
    budget: int = Field(gt=0)
    wide: Wide | None = None


class TaskConfig(Strict):
    """A task: observation and action layout, goals, reward and success, phase limits."""

    name: str
    description: str = ''
    robot: str
    world: str | None = Field(default=None, pattern=r'^[\w.]+:\w+$')
    observation: list[Entry] = Field(min_length=1)
    action: list[Entry] = Field(min_length=1)
    goals: list[list[float]] = Field(default=[])
    success: Success
    reward: Literal['success'] | str = Field(default='success', pattern=r'^(success|topic:.+)$')
    phases: Phases
    evaluation: Evaluation
    demonstrations: str | None = None

    @model_validator(mode='after')
    def _consistent(self) -> TaskConfig:
        names = [entry.name for entry in self.observation]
        check_unique('action', [entry.name for entry in self.action])
        check_known('success.entries', self.success.entries, 'observation', names)
        if self.success.target is None and not self.goals:
            raise ValueError('success.target: is needed where the task has no goals')
        if self.success.target is not None and len(self.success.target) != len(
            self.success.entries
        ):
            raise ValueError('success.target: needs one number for each of success.entries')
        if self.evaluation.wide:
            check_known('evaluation.wide.ranges', self.evaluation.wide.ranges, 'observation', names)
        for goal in self.goals:
            if len(goal) != len(self.observation):
                raise ValueError(
                    f'goals: each needs {len(self.observation)} numbers (one for each '
                    f'observation entry), got {len(goal)}'
                )
        return self

    def run_end(self, budget: int = 0, target: float = 0.0) -> tuple[int, float]:
        """Budget (environment steps) and target (success rate) that end a run of this task.

        Those of ``evaluation``, unless the arguments replace them; 0 replaces nothing.
        """
        return budget or self.evaluation.budget, target or self.evaluation.target
