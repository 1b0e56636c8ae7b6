"""Episodes without gaps, as other formats need them.

Their readers take each step for one control period. A step in which messages were lost may have
lasted longer, and its action is not known: episodes are cut there.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np

from mbarl_ros.demos.episodes import UNKNOWN, Episode
from mbarl_ros.task import Task


@dataclass(frozen=True)
class _Piece(Episode):
    """Steps of an episode between two gaps. Its goal [state_dim] is that of the episode."""

    of_episode: np.ndarray | None = None

    def goal(self, task: Task) -> np.ndarray | None:
        return self.of_episode


def cut_at_gaps(episodes: list[Episode], task: Task) -> tuple[list[Episode], list[str]]:
    """Episodes whose steps are all whole, and sentences for the user about what was cut.

    Only the last piece of an episode keeps its verdict, because only it ends as the episode does.
    """
    pieces = [_pieces(episode, task) for episode in episodes]
    lost = [int((~episode.whole).sum()) for episode in episodes]
    if not any(lost):
        return episodes, []
    made = sum(len(each) for each, n in zip(pieces, lost, strict=True) if n)
    note = (
        f'cut at gaps (lost messages): {np.count_nonzero(lost)} of {len(episodes)} demonstrations, '
        f'into {made} episodes; steps left out: {sum(lost)}'
    )
    return [piece for each in pieces for piece in each], [note]


def _pieces(episode: Episode, task: Task) -> list[Episode]:
    if episode.whole.all():
        return [episode]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], episode.whole, [False]])))
    runs = list(pairwise(edges))[::2]
    about = {each.name: getattr(episode, each.name) for each in fields(Episode)}
    return [
        _Piece(
            **{
                **about,
                'states': episode.states[first : end + 1],
                'actions': episode.actions[first:end],
                'stamps': episode.stamps[first : end + 1],
                'whole': episode.whole[first:end],
                'verdict': episode.verdict if number == len(runs) else UNKNOWN,
                'name': f'{episode.name}_part{number}' if len(runs) > 1 else episode.name,
            },
            of_episode=episode.goal(task),
        )
        for number, (first, end) in enumerate(runs, 1)
    ]
