"""Shared by the formats: their error, and conversion between episodes and plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.demos.episodes import UNKNOWN, Episode
from mbarl_ros.task import Task

MAX_BYTES = 256 << 20
"""Limit of what one import reads into memory; 100,000 steps need about 20 MiB."""
MAX_EPISODES = 10_000
MAX_TEXT = 200
ROUNDING = 1e-6
"""Share of a range by which float32 may miss a value: no more than rounding."""


class FormatError(ValueError):
    """A file that cannot be read or written; names the file and the place in it."""


@dataclass(frozen=True)
class Options:
    """What the user says about a source.

    ``keys``: observation keys that are concatenated (robomimic, Minari). ``mapping``: entry -> its
    name in the dataset, ``scales``: entry -> factor (LeRobot). ``clip``: clip actions to their
    range. ``topics``: topic of the robot profile -> name in the bag; ``clock``: ``header`` or
    ``log``, empty: choose (bags).
    """

    keys: Sequence[str] = ()
    mapping: dict[str, str] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    clip: bool = False
    topics: dict[str, str] = field(default_factory=dict)
    clock: str = ''


@dataclass
class _Outside:
    """Values of one action entry outside its range: in how many steps, and the farthest."""

    range: str
    steps: int = 0
    farthest: float = 0.0

    def __str__(self) -> str:
        return f'{self.steps} (up to {self.farthest:.4g}, its range is {self.range})'


class Reading:
    """One reading of a source: what the user says about it, and ``notes`` for the user."""

    def __init__(self, options: Options | None = None) -> None:
        """Begin a reading; default: nothing is said about the source."""
        self.options = options or Options()
        self.notes: list[str] = []
        self._outside: dict[str, _Outside] = {}
        self._first = ''
        self._steps = 0

    def note(self, text: str) -> None:
        """Tell the user something, once."""
        if text not in self.notes:
            self.notes.append(text)

    def clipped(
        self, place: str, names: Sequence[str], values: np.ndarray, low: Any, high: Any
    ) -> np.ndarray:
        """Actions [n, action_dim] clipped to [low, high]; :meth:`finish` accepts or refuses that.

        Values that are not finite stay as they are.
        """
        low, high = np.broadcast_to(low, len(names)), np.broadcast_to(high, len(names))
        margin = ROUNDING * (high - low)
        finite = np.isfinite(values)
        outside = finite & ((values < low - margin) | (values > high + margin))
        self._steps += len(values)
        for column in np.flatnonzero(outside.any(0)):
            found = values[outside[:, column], column]
            span = f'[{low[column]:g}, {high[column]:g}]'
            entry = self._outside.setdefault(names[column], _Outside(span))
            entry.steps += len(found)
            farthest = float(found[np.abs(found).argmax()])
            entry.farthest = max(entry.farthest, farthest, key=abs)
            self._first = self._first or place
        return np.where(finite, np.clip(values, low, high), values)

    def finish(self, source: Path, remedy: str) -> None:
        """Say how many actions were clipped.

        :param remedy: what the user can do instead
        :raises FormatError: some were, and the user did not ask for it.
        """
        if not self._outside:
            return
        listed = (
            ', '.join(f'{name} in {found}' for name, found in self._outside.items())
            + f' of {self._steps} steps, first in {self._first.removeprefix(f"{source}: ")}'
        )
        if not self.options.clip:
            raise FormatError(
                f'{source}: actions lie outside their range: {listed}; {remedy}, or clip them with '
                '--clip'
            )
        self.note(f'actions were clipped: {listed}')


def observations(task: Task, episode: Episode) -> np.ndarray:
    """Observations [n + 1, observation_dim] float32 of an episode, with its goal, if any."""
    goal = episode.goal(task)
    if goal is None:
        return episode.states
    return task.with_goal(np.hstack([episode.states, episode.states]), goal)


def succeeds(task: Task, episode: Episode) -> bool:
    """Whether the last step terminates: a forward episode whose last state is a success."""
    return episode.is_forward and episode.reached(task)


def unique(names: Sequence[str]) -> list[str]:
    """Names, of which later ones of the same text get a number: ``y``, ``y_2``."""
    made: list[str] = []
    for given in names:
        name, number = given, 2
        while name in made:
            name, number = f'{given}_{number}', number + 1
        made.append(name)
    return made


def observation_names(task: Task) -> list[str]:
    """Unique names of the observation entries; those of the goal begin with ``goal_``."""
    names = unique([column.name for column in task.config.columns])
    return names + [f'goal_{name}' for name in names] if task.goal_conditioned else names


def read_episode(
    task: Task,
    place: str,
    layout: np.ndarray,
    actions: np.ndarray,
    reading: Reading,
    *,
    physical: bool = False,
    stamps: np.ndarray | None = None,
    whole: np.ndarray | None = None,
    direction: str = 'forward',
    verdict: str = UNKNOWN,
    name: str = '',
    **about: Any,
) -> Episode:
    """Episode from untrusted arrays; rewards in a file are ignored, they follow from the states.

    :param place: file and place in it, for messages
    :param layout: states [n + 1, state_dim], or observations [n + 1, observation_dim], whose goal
        is ignored, because it follows from the states
    :param actions: [n, action_dim], of which ``reading`` clips those outside their range
    :param physical: actions are commands in physical units; else they are in [-1, 1]
    :param stamps: s; None: one control period apart
    :param about: operator, origin
    :raises FormatError: not an episode of the task.
    """
    for what, array in (('observations', layout), ('actions', actions)):
        if array.dtype.kind != 'f' or array.ndim != 2:
            raise FormatError(
                f'{place}: {what} are {array.dtype} {array.shape}, not rows of floating-point '
                'numbers'
            )
    if set(name) & set('/\\') or name.startswith('.'):
        raise FormatError(f"{place}: its name '{name}' is a path, which names must not be")
    if layout.shape[1] not in (task.state_dim, task.observation_dim):
        wanted = ' or '.join(map(str, sorted({task.state_dim, task.observation_dim})))
        raise FormatError(
            f'{place}: observations have {layout.shape[1]} entries, those of task {task.name} '
            f'{wanted} ({", ".join(observation_names(task))})'
        )
    names = [entry.name for entry in task.config.action]
    if actions.shape[1] != len(names):
        raise FormatError(
            f'{place}: actions have {actions.shape[1]} entries, those of task {task.name} '
            f'{len(names)} ({", ".join(names)})'
        )
    if physical:
        low = [entry.low for entry in task.config.action]
        high = [entry.high for entry in task.config.action]
        commands = reading.clipped(place, names, actions, low, high)
        actions = np.where(np.isfinite(commands), task.action(commands), commands)
    else:
        actions = reading.clipped(place, names, actions, -1.0, 1.0)
    n = len(actions)
    if stamps is None:
        stamps = np.arange(n + 1) / task.robot.control_rate
    with np.errstate(over='ignore'):  # too large for float32: check() refuses infinite values
        states = layout[:, : task.state_dim].astype(np.float32)
        actions = actions.astype(np.float32)
    episode = Episode(
        states=states,
        actions=actions,
        stamps=stamps,
        whole=np.ones(n, bool) if whole is None else whole,
        direction=direction,
        verdict=verdict,
        name=name,
        **about,
    )
    try:
        return episode.check(task)
    except ValueError as error:
        raise FormatError(f'{place}: {error}') from error


def plain(place: str, text: object) -> str:
    """Text of an untrusted file, checked so that it can be shown.

    :raises FormatError: not text, too long, or not printable.
    """
    if not isinstance(text, str) or len(text) > MAX_TEXT or not text.isprintable():
        raise FormatError(f'{place}: is not a line of text of at most {MAX_TEXT} characters')
    return text


def check_downloaded(path: Path) -> None:
    """Refuse a file that only points to its content, as Git leaves it without LFS.

    :raises FormatError: it does.
    """
    with path.open('rb') as file:
        if file.read(24) == b'version https://git-lfs.':
            raise FormatError(f'{path}: is a Git LFS pointer, not the data; run `git lfs pull`')
