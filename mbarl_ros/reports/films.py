"""Films in a report: what the policies of the start, the middle and the end of a run do."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from mbarl_ros.control.policy import read_policy
from mbarl_ros.reports.page import Html, figure, image
from mbarl_ros.reports.run_data import RunData
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.run_files import POLICY_FILE, kept_policies
from mbarl_ros.studies.clips import PolicyClips, Shot
from mbarl_ros.view.film import Clip, frames, write_film

_WIDTH, _HEIGHT = 300, 225  # pixels of a panel
_RATE = 8.0  # pictures per second of the film, at most
_SPEED = 1.5  # times that of the robot
_PAUSE = 1.0  # s, for which the end of an episode is shown
_EPISODES = (3, 1)  # filmed; fewer where that is too large
MOST_BYTES = 2_500_000
"""Of the films of one report."""


def film_section(run: RunData, most_bytes: int) -> Html:
    """A GIF of evaluation episodes, side by side for each of the policies.

    :raises ConfigError: the task has no world, or the run has kept no policy.
    """
    if not run.task.config.world:
        raise ConfigError(f"Task '{run.task.name}' has no simulated world to film.")
    paths = _policies(run)
    for episodes in _EPISODES:
        data = _film(run, paths, episodes)
        if len(data) <= most_bytes:
            break
    else:
        raise ConfigError(
            f'The films take {len(data) / 1e6:.1f} MB, more than {most_bytes / 1e6:.1f} MB; '
            '`mbarl render` films the run into a file of its own.'
        )
    about = f'attempts of {run.agent.name} at task {run.task.name}'
    caption = (
        f'Evaluation starts 0 to {episodes - 1}, at {_SPEED:g} times the speed of the robot; green '
        'is a success, red a time-out.'
    )
    return figure(image(data, 'gif', about), caption, kind='film')


def _policies(run: RunData) -> list[Path]:
    """Policies of the start, the middle and the end of a run, as far as they were kept."""
    kept = kept_policies(run.folder)
    last = run.folder / POLICY_FILE
    if last.exists():
        kept[read_policy(last, run.task, run.agent)[1]] = last
    if not kept:
        raise ConfigError('The run has kept no policy yet.')
    steps = sorted(kept)
    middle = min(steps, key=lambda each: abs(each - steps[-1] / 2))
    return [kept[each] for each in sorted({steps[0], middle, steps[-1]})]


def _film(run: RunData, paths: list[Path], episodes: int) -> bytes:
    rate = run.task.robot.control_rate * _SPEED  # steps in a second of the film
    every = max(round(rate / _RATE), 1)
    shot, seconds = Shot(_WIDTH, _HEIGHT, every), every / rate
    clips: list[PolicyClips] = []
    try:
        for path in paths:
            clips.append(PolicyClips(run.task, run.agent, path, wide=False, backward=False))

        def filmed() -> Iterator[list[Clip]]:
            for episode in range(episodes):
                yield [each.clip(episode, shot) for each in clips]

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / 'film.gif'
            write_film(frames(filmed(), round(_PAUSE / seconds)), seconds, path, None)
            return path.read_bytes()
    finally:
        for each in clips:
            each.close()
