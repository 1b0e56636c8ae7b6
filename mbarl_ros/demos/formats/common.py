"""Shared by the formats: their error, and conversion between episodes and plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from mbarl_ros.demos.episodes import UNKNOWN, Episode
from mbarl_ros.task import Task

MAX_BYTES = 256 << 20
"""Limit of what one import reads into memory; 100,000 steps need about 20 MiB."""
MAX_EPISODES = 10_000
MAX_TEXT = 200


class FormatError(ValueError):
    """A file that cannot be read or written; names the file and the place in it."""


def observations(task: Task, episode: Episode) -> np.ndarray:
    """Observations [n + 1, observation_dim] float32 of an episode, with its goal, if any."""
    goal = episode.goal(task)
    if goal is None:
        return episode.states
    return task.with_goal(np.hstack([episode.states, episode.states]), goal)


def succeeds(task: Task, episode: Episode) -> bool:
    """Whether the last step terminates: a forward episode whose last state is a success."""
    return episode.is_forward and episode.reached(task)


def observation_names(task: Task) -> list[str]:
    """Unique names of the observation entries; those of the goal begin with ``goal_``."""
    names: list[str] = []
    for entry in task.config.observation:
        name, number = entry.name, 2
        while name in names:
            name, number = f'{entry.name}_{number}', number + 1
        names.append(name)
    return names + [f'goal_{name}' for name in names] if task.goal_conditioned else names


def read_episode(
    task: Task,
    place: str,
    layout: np.ndarray,
    actions: np.ndarray,
    *,
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
    :param actions: [n, action_dim] in [-1, 1]
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
