"""Schema of task files: observation and action, success, phases, evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from mbarl_ros.schema.base import Strict, check_known, check_unique
from mbarl_ros.schema.show import ShownPoint, point_on_axes


class Entry(Strict):
    """One entry of the observation or action vector; its range is scaled to [-1, 1]."""

    name: str = Field(description='Name of an entry of the state or command of the robot.')
    low: float = Field(description="Lower end of the range, in the entry's unit.")
    high: float = Field(description="Upper end of the range, in the entry's unit.")
    binary: bool = Field(
        default=False,
        description='The entry takes only the values `low` and `high` (a contact, a grasp).',
    )
    limited: bool = Field(
        default=True,
        description='The range is a limit, which predictions of the model keep to; false: values '
        'may leave it, it only scales them.',
    )
    angle: bool = Field(
        default=False,
        description='The entry is an angle in rad that wraps: the state has its sine and cosine in '
        'its place, and in the success test it counts by the chord, 2 sin(difference / 2).',
    )
    axis: str | None = Field(
        default=None,
        description='Entries with the same axis are positions along one line in one frame; '
        'networks also see their pairwise differences (gripper minus mug), those to the goal '
        'included. null: no differences.',
    )

    @model_validator(mode='after')
    def _ordered(self) -> Entry:
        if not self.low < self.high:
            raise ValueError(f'{self.name}: low ({self.low}) must be less than high ({self.high})')
        if self.binary and not self.limited:
            raise ValueError(f'{self.name}: limited: a binary entry has no other values; true')
        if self.angle and (self.binary or self.axis):
            raise ValueError(f'{self.name}: angle: is neither binary nor a position on an axis')
        if self.angle and max(-self.low, self.high) > 4 * math.pi:
            raise ValueError(
                f'{self.name}: angle: {self.low:g} to {self.high:g} is more than two turns; angles '
                'are in rad: convert degrees with scale in the robot profile'
            )
        return self

    @property
    def columns(self) -> tuple[Entry, ...]:
        """The entries of the state that stand for it: itself, or sine and cosine of an angle."""
        if not self.angle:
            return (self,)
        names = (f'{function}({self.name})' for function in ('sin', 'cos'))
        return tuple(Entry(name=name, low=-1.0, high=1.0) for name in names)


class Success(Strict):
    """Success: `entries` are within Euclidean distance `tolerance` of `target`, or of the goal.

    The goal is one of the key `goals`, or what the entries `goal_entries` tell.
    """

    entries: list[str] = Field(min_length=1, description='Observation entries that are compared.')
    target: list[float] | None = Field(
        default=None,
        description='One number per entry, in its unit; null: the goal part of the observation.',
    )
    goal_entries: list[str] = Field(
        default=[],
        description='Observation entries that tell the goal, one for each of `entries`, where it '
        'is part of the state, as in a goal environment of Gymnasium. The learner may replace it '
        'by another (hindsight). Default: the goal is no part of the state.',
    )
    tolerance: float = Field(gt=0, description="Largest distance, in the entries' unit.")


class Phases(Strict):
    """Step limits of the phases; one that reaches its limit is truncated."""

    forward_limit: int = Field(gt=0, description='Control steps of a forward phase at most.')
    backward_limit: int = Field(gt=0, description='Control steps of a backward phase at most.')

    @property
    def limits(self) -> tuple[int, int, int]:
        """Of the forward, backward and exploration phase; exploration lasts as long as forward."""
        return self.forward_limit, self.backward_limit, self.forward_limit


class Wide(Strict):
    """A second, harder evaluation from a wide range of start states (`mbarl bench` only)."""

    episodes: int = Field(gt=0, description='Episodes of one evaluation.')
    every: int = Field(gt=0, description='Environment steps between two evaluations.')
    ranges: dict[str, tuple[float, float]] = Field(
        default={},
        description='Observation entry -> [low, high] in which it starts, uniformly; the other '
        'entries start as the world resets them. Default: the world chooses the starts (its method '
        '`reset_to_wide`), as one with contact must.',
    )

    @field_validator('ranges')
    @classmethod
    def _ordered(cls, ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for name, (low, high) in ranges.items():
            if not low < high:
                raise ValueError(f'{name}: low ({low}) must be less than high ({high})')
        return ranges


class Evaluation(Strict):
    """Evaluation of the deployed policy, and the end of a run."""

    episodes: int = Field(default=50, gt=0, description='Episodes of one evaluation.')
    horizon: int = Field(gt=0, description='Control steps of one episode at most.')
    every: int = Field(gt=0, description='Environment steps between two evaluations.')
    target: float = Field(
        default=0.9, gt=0, le=1, description='Success rate at which a run ends as a success.'
    )
    budget: int = Field(gt=0, description='Environment steps after which a run ends in any case.')
    wide: Wide | None = Field(default=None, description='Second evaluation; null: none.')


class TaskConfig(Strict):
    """A task: observation and action layout, goals, reward and success, phases, evaluation."""

    name: str = Field(description='Name of the task; demonstrations and runs carry it.')
    description: str = Field(default='', description='One line for people.')
    robot: str = Field(
        description='Robot profile: a shipped name, the path of a .yaml file, relative to the task '
        'file, or a generated one (`gymnasium:ID`).'
    )
    world: str | None = Field(
        default=None,
        pattern=r'^[\w.]+:\w+$',
        description='Class of the simulated world, as `package.module:Class`; null: the task '
        'cannot be simulated.',
    )
    world_options: dict[str, Any] = Field(
        default={}, description='Arguments of that class, by name. Default: none.'
    )
    observation: list[Entry] = Field(
        min_length=1, description='State part of the observation vector, in this order.'
    )
    action: list[Entry] = Field(
        min_length=1, description='Action vector: the command of the robot, in its order.'
    )
    goals: list[list[float]] = Field(
        default=[],
        description='Goals, one number per observation entry; each forward phase draws one, and '
        'the observation ends with it. Default: the task has no goals.',
    )
    success: Success = Field(description='When an observation is a success.')
    reward: Literal['success'] | str = Field(
        default='success',
        pattern=r'^(success|topic:.+)$',
        description='`success` (1 on success, else 0), or `topic:NAME` for the one observation '
        'entry that comes from this state topic.',
    )
    ended: str | None = Field(
        default=None,
        description='Binary observation entry that is high where the simulated world has ended and '
        'must be reset, such as after a fall; null: it goes on for ever.',
    )
    phases: Phases = Field(description='Step limits of the phases.')
    evaluation: Evaluation = Field(description='Evaluation, and the end of a run.')
    demonstrations: str | None = Field(
        default=None,
        description='Folder of demonstrations, relative to the task file; null: none.',
    )
    show: list[ShownPoint] = Field(
        default=[],
        max_length=3,
        description='Points that `visualizer:=true` draws: one, as `{x: mug_x, y: mug_y}`, or a '
        'list of at most three. Default: what the success entries on the axes x, y and z tell.',
    )

    @field_validator('show', mode='before')
    @classmethod
    def _one_or_several(cls, show: Any) -> Any:
        return [show] if isinstance(show, Mapping) else show

    @model_validator(mode='after')
    def _consistent(self) -> TaskConfig:
        names = [entry.name for entry in self.observation]
        for entry in self.action:
            if entry.angle:
                raise ValueError(f'action: {entry.name}: angle: is for observations')
        check_unique('action', [entry.name for entry in self.action])
        check_known('success.entries', self.success.entries, 'observation', names)
        if self.ended is not None:
            check_known('ended', [self.ended], 'observation', names)
            if not self.observation[names.index(self.ended)].binary:
                raise ValueError(f"ended: observation entry {self.ended} needs 'binary: true'")
        self._check_success(names)
        self._check_show(names)
        if self.evaluation.wide:
            check_known('evaluation.wide.ranges', self.evaluation.wide.ranges, 'observation', names)
        for goal in self.goals:
            if len(goal) != len(self.observation):
                raise ValueError(
                    f'goals: each needs {len(self.observation)} numbers (one for each '
                    f'observation entry), got {len(goal)}'
                )
        ranges = {
            entry.name: (entry.low, entry.high) for entry in self.observation if entry.limited
        }
        if text := self.out_of_reach(ranges):
            raise ValueError(f'{text}, its range in observation; correct one of them')
        return self

    def _check_success(self, names: list[str]) -> None:
        success = self.success
        if success.target is None and not self.goals and not success.goal_entries:
            raise ValueError(
                'success.target: is needed where the task has no goals (keys goals, '
                'success.goal_entries)'
            )
        if success.target is not None and len(success.target) != len(success.entries):
            raise ValueError('success.target: needs one number for each of success.entries')
        if not success.goal_entries:
            return
        check_known('success.goal_entries', success.goal_entries, 'observation', names)
        check_unique('success.goal_entries', success.goal_entries)
        angles = {entry.name: entry.angle for entry in self.observation}
        for name, goal in zip(success.entries, success.goal_entries, strict=False):
            if angles[name] != angles[goal]:
                raise ValueError(
                    f'success.goal_entries: {goal} is compared with {name}, of which only one is '
                    'an angle (key angle of observation); set it for both'
                )
        if success.target is not None or self.goals:
            raise ValueError(
                'success.goal_entries: tells the goal; leave out success.target and goals'
            )
        if len(success.goal_entries) != len(success.entries):
            raise ValueError('success.goal_entries: needs one entry for each of success.entries')

    def _check_show(self, names: list[str]) -> None:
        for point in self.show:
            check_known('show', point.entries, 'observation', names)
            for name in point.entries:
                if self.observation[names.index(name)].angle:
                    raise ValueError(f'show: {name} is an angle; give entries that are positions')

    def out_of_reach(self, bounds: Mapping[str, tuple[float, float]]) -> str:
        """Key and value of a target that no state within ``bounds`` reaches; empty: there is none.

        :param bounds: name of an entry -> [low, high]; entries without are not limited
        """
        names, success = [entry.name for entry in self.observation], self.success
        targets = {
            f'goals.{number}': [goal[names.index(name)] for name in success.entries]
            for number, goal in enumerate(self.goals)
        }
        if success.target is not None:
            targets = {'success.target': success.target}
        for key, target in targets.items():
            outside = {}
            for name, value in zip(success.entries, target, strict=True):
                if self.observation[names.index(name)].angle:
                    continue  # any turn of it will do
                low, high = bounds.get(name, (-math.inf, math.inf))
                outside[name, value, low, high] = max(low - value, value - high, 0.0)
            if math.hypot(*outside.values()) > success.tolerance:
                name, value, low, high = max(outside, key=lambda entry: outside[entry])
                return f'{key}: {name} {value:g} is out of reach: outside {low:g} to {high:g}'
        return ''

    @property
    def shown(self) -> list[ShownPoint]:
        """Points to draw: those of ``show``, else that of the success entries, if any."""
        axes = {entry.name: entry.axis for entry in self.observation}
        entries = self.success.entries
        found = point_on_axes(entries, [axes[name] for name in entries])
        return self.show or ([found] if found else [])

    @property
    def columns(self) -> tuple[Entry, ...]:
        """The entries of the state part, in their order."""
        return tuple(column for entry in self.observation for column in entry.columns)

    def run_end(self, budget: int = 0, target: float = 0.0) -> tuple[int, float]:
        """Budget (environment steps) and target (success rate) that end a run of this task.

        Those of ``evaluation``, unless the arguments replace them; 0 replaces nothing.
        """
        return budget or self.evaluation.budget, target or self.evaluation.target
