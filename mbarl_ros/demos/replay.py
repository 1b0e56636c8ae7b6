"""Replay of demonstrations: commands to send, and the deviation from the recording."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.demos.episodes import Episode
from mbarl_ros.demos.imported import EPISODE_FILE
from mbarl_ros.demos.metadata import METADATA_FILE, DemonstrationError, folders
from mbarl_ros.demos.reader import read_demonstration, read_episode
from mbarl_ros.task import Task

REPLAY_FILE = 'replay.json'


@dataclass(frozen=True)
class Replay:
    """One demonstration to replay.

    ``commands`` [n, action_dim] in physical units; ``states`` [n + 1, robot dim], NaN for robot
    state entries that an imported demonstration lacks.
    """

    name: str
    episode: Episode
    commands: np.ndarray
    states: np.ndarray

    def start(self, default: np.ndarray) -> np.ndarray:
        """First robot state [robot dim]; unknown entries are those of ``default``."""
        return np.where(np.isnan(self.states[0]), default, self.states[0])

    def measure(self, task: Task, states: np.ndarray) -> dict[str, Any]:
        """Compare robot states [n + 1, robot dim] of the replay with the recorded ones.

        ``deviation`` is the largest difference in an entry of the success test (positions of the
        robot and its objects), as a share of the entry's range; ``other_deviation`` that in the
        other observation entries (velocities, contacts). ``success``: a forward demonstration ends
        in success; None for a backward one.
        """
        difference = np.abs(task.state(states) - self.episode.states)
        share = difference / (task.state_high - task.state_low)
        names = [entry.name for entry in task.config.observation for _ in entry.columns]
        primary = np.array([name in task.config.success.entries for name in names])
        step, column = np.unravel_index(int(share[:, primary].argmax()), share[:, primary].shape)
        success = None
        if self.episode.is_forward:
            goal = self.episode.goal(task)
            success = bool(task.success(task.observation(states[-1], goal)))
        return {
            'name': self.name,
            'direction': self.episode.direction,
            'steps': len(self.commands),
            'success': success,
            'deviation': float(share[:, primary].max()),
            'mean_deviation': float(share[:, primary].mean()),
            'entry': np.array(names)[primary][column].item(),
            'at': float(self.episode.stamps[step] - self.episode.stamps[0]),
            'other_deviation': float(share[:, ~primary].max(initial=0.0)),
        }


def load_replays(path: Path, task: Task) -> list[Replay]:
    """Replays of one demonstration, or of all in a folder.

    :raises DemonstrationError: there is none, or one cannot be read.
    """
    paths = [path] if (path / METADATA_FILE).exists() else folders(path)
    if not paths:
        raise DemonstrationError(f'{path}: there are no demonstrations in it')
    return [_load(folder, task) for folder in paths]


def _load(folder: Path, task: Task) -> Replay:
    if not (folder / EPISODE_FILE).exists():
        demonstration = read_demonstration(folder, task)
        episode = demonstration.episode(task)
        return Replay(folder.name, episode, demonstration.commands, demonstration.states)
    episode = read_episode(folder, task)
    states = np.full((len(episode.states), len(task.robot.state_names)), np.nan)
    values = task.to_entries(episode.states)
    for column, entry in enumerate(task.config.observation):
        states[:, task.robot.state_names.index(entry.name)] = values[:, column]
    return Replay(folder.name, episode, task.command(episode.actions), states)
