"""Reads LeRobotDataset v3.0, v2.1 and v2.0 (Cadene et al. 2024).

Numbers are found by the names that ``meta/info.json`` gives them, in physical units. Files of
frames are found by their place, ``data/*/*.parquet``: no path in the metadata is followed. Nothing
of the package lerobot is needed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.demos.episodes import SUCCEEDED, UNKNOWN, Episode
from mbarl_ros.demos.formats.common import (
    MAX_EPISODES,
    FormatError,
    Reading,
    check_downloaded,
    plain,
    read_episode,
)
from mbarl_ros.demos.formats.lerobot import ACTION, NORMALIZED, OBSERVATION, UNDO
from mbarl_ros.demos.formats.mapping import Side, Source, check_entries, sources
from mbarl_ros.demos.formats.parquet import read_numbers, read_texts
from mbarl_ros.schema.task import Entry
from mbarl_ros.storage.transitions import DIRECTIONS
from mbarl_ros.task import Task

_MAX_METADATA = 16 << 20
_INDICES = ('episode_index', 'frame_index', 'timestamp')
_OPTIONAL = ('task_index', 'next.reward', 'next.done', 'next.success')
_BOOKKEEPING = {*_INDICES, *_OPTIONAL, 'index'}
_RATE_TOLERANCE = 0.01
_ACTIONS = ('action', 'actions')
"""What the names of features begin with that hold actions; all others are observations."""


def read(source: Path, task: Task, direction: str | None, reading: Reading) -> list[Episode]:
    """Episodes of a dataset's folder.

    A frame is an observation and the action taken in it. The state after the last action is not
    known, and this action is left out. Steps between which frames are missing are not whole.
    """
    info = _info(source / 'meta' / 'info.json')
    features = info['features']
    _check_rate(source, info, task)
    observation, action = _sides(source, features, task)
    check_entries(str(source), (observation, action), reading.options)
    states = observation.choose(str(source), reading.options)
    commands = action.choose(str(source), reading.options)
    optional = [name for name in _OPTIONAL if name in features]
    widths = dict.fromkeys((*_INDICES, *optional), 1)
    for used in (*states, *commands):
        widths[used.feature] = features[used.feature]['shape'][0]
    data = _sorted(source, read_numbers(_files(source), widths))
    _note_what_is_read(features, (*states, *commands), info, data, reading)
    numbers = _numbers(data, states) * observation.factors(reading.options)
    dataset = _Dataset(
        source,
        data,
        numbers if len(states) == task.state_dim else task.from_entries(numbers),
        _numbers(data, commands) * action.factors(reading.options),
        all(features[each.feature].get(NORMALIZED) is True for each in commands),
        _top_reward(data.get('next.reward')),
        _tasks(source / 'meta'),
    )
    _note_tasks(dataset, task, reading)
    return dataset.episodes(task, direction, reading)


@dataclass(frozen=True)
class _Dataset:
    """The frames of all episodes, in order.

    ``states`` and ``actions`` are [frames, entries], actions in physical units unless
    ``normalized``; ``top_reward`` is the reward of success, if that is known; ``tasks`` are the
    sentences of the dataset's tasks, by number.
    """

    source: Path
    data: dict[str, np.ndarray]
    states: np.ndarray
    actions: np.ndarray
    normalized: bool
    top_reward: float | None
    tasks: dict[int, str]

    def episodes(self, task: Task, direction: str | None, reading: Reading) -> list[Episode]:
        """All episodes that have a step."""
        numbers = self.data['episode_index']
        bounds = [0, *(np.flatnonzero(np.diff(numbers)) + 1), len(numbers)]
        if len(bounds) > MAX_EPISODES:
            raise FormatError(f'{self.source}: more than {MAX_EPISODES} episodes')
        spans = [slice(*span) for span in pairwise(bounds)]
        long = [span for span in spans if span.stop - span.start > 1]
        if len(long) < len(spans):
            reading.note(f'episodes of one frame, left out: {len(spans) - len(long)}')
        episodes = [self._episode(span, task, direction, reading) for span in long]
        lost = [int((~episode.whole).sum()) for episode in episodes]
        if any(lost):
            reading.note(
                f'steps over missing frames, left out: {sum(lost)} (in {np.count_nonzero(lost)} of '
                f'{len(lost)} episodes)'
            )
        return episodes

    def _episode(self, span: slice, task: Task, direction: str | None, reading: Reading) -> Episode:
        number = int(self.data['episode_index'][span.start])
        place = f'{self.source}: episode {number}'
        stamps, whole = self._times(place, span, task)
        direction = direction or self._direction(span)
        return read_episode(
            task,
            place,
            self.states[span],
            self.actions[span][:-1],
            reading,
            physical=not self.normalized,
            stamps=stamps,
            whole=whole,
            direction=direction,
            verdict=self._verdict(span, direction),
            name=f'episode_{number}',
            origin={'format': 'lerobot', 'file': self.source.name, 'episode': number},
        )

    def _times(self, place: str, span: slice, task: Task) -> tuple[np.ndarray, np.ndarray]:
        """Stamps [n], and whether each step [n - 1] is whole."""
        stamps, frames = self.data['timestamp'][span], self.data['frame_index'][span]
        steps = np.diff(stamps)
        if not (steps > 0).all():
            row = int(np.flatnonzero(~(steps > 0))[0])
            raise FormatError(f'{place}: timestamp does not increase after frame {row}')
        if not (np.diff(frames) > 0).all():
            row = int(np.flatnonzero(~(np.diff(frames) > 0))[0])
            raise FormatError(f'{place}: frame_index {frames[row]:g} is there twice')
        return stamps, (np.diff(frames) == 1) & (steps < 1.5 / task.robot.control_rate)

    def _direction(self, span: slice) -> str:
        """Backward where the episode's task is one that our export calls so."""
        numbers = self.data.get('task_index')
        sentence = '' if numbers is None else self.tasks.get(int(numbers[span.start]), '')
        forward, backward = DIRECTIONS
        return backward if sentence.startswith(UNDO) else forward

    def _verdict(self, span: slice, direction: str) -> str:
        """Success if the last frame says so; else the task's own measure decides."""
        last = span.stop - 1
        if 'next.success' in self.data:
            return SUCCEEDED if self.data['next.success'][last] > 0 else UNKNOWN
        done = self.data['next.done'][last] if 'next.done' in self.data else True
        if self.top_reward is None or not done or direction != DIRECTIONS[0]:
            return UNKNOWN
        return SUCCEEDED if self.data['next.reward'][last] == self.top_reward else UNKNOWN


def _top_reward(rewards: np.ndarray | None) -> float | None:
    """The reward of success where there are only two: 1 of 0 and 1, or 0 of -1 and 0."""
    for low, top in ((0.0, 1.0), (-1.0, 0.0)):
        if rewards is not None and np.isin(rewards, (low, top)).all():
            return top
    return None


def _info(path: Path) -> dict[str, Any]:
    """Content of ``info.json`` with the keys that are needed."""
    info = _json(path)
    version = info.get('codebase_version')
    if not isinstance(version, str) or not version.startswith(('v2.', 'v3.')):
        raise FormatError(
            f"{path}: key 'codebase_version' is {repr(version)[:50]}; v2.0, v2.1 and v3.0 are "
            'read; convert the dataset with the scripts of lerobot'
        )
    features = info.get('features')
    if not isinstance(features, dict) or not all(
        isinstance(about, dict) for about in features.values()
    ):
        raise FormatError(f"{path}: key 'features' is not a dictionary of features")
    for name in features:
        plain(f'{path}: a name in features', name)
    return info


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file() or path.stat().st_size > _MAX_METADATA:
        raise FormatError(f'{path}: no such file of at most {_MAX_METADATA} bytes')
    check_downloaded(path)
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f'{path}: cannot be read: {error}') from error
    if not isinstance(content, dict):
        raise FormatError(f'{path}: is not a dictionary')
    return content


def _check_rate(source: Path, info: dict[str, Any], task: Task) -> None:
    """Refuse another rate: a velocity or a step of a policy would mean something else."""
    fps, rate = info.get('fps'), task.robot.control_rate
    if type(fps) not in (int, float) or not math.isclose(fps, rate, rel_tol=_RATE_TOLERANCE):
        raise FormatError(
            f"{source}: key 'fps' of meta/info.json is {str(fps)[:50]}, but robot "
            f"'{task.robot.name}' is controlled at {rate:g} Hz; set 'control_rate' of its profile "
            'to that of the dataset'
        )


def _sides(source: Path, features: dict[str, Any], task: Task) -> tuple[Side, Side]:
    described = {
        name: about
        for name, about in features.items()
        if name not in _BOOKKEEPING and not name.startswith('next.')
    }
    of_action: list[Source] = []
    of_state: list[Source] = []
    for each in sources(f'{source}/meta/info.json', described):
        (of_action if each.feature.partition('.')[0] in _ACTIONS else of_state).append(each)
    config = task.config
    # Our own exports have sines and cosines of angles, others the angles.
    columns = _entry_names(config.columns)
    of_columns = set(columns) <= {each.name for each in of_state}
    names = columns if of_columns else _entry_names(config.observation)
    return (
        Side('observation', OBSERVATION, names, tuple(of_state)),
        Side('action', ACTION, _entry_names(config.action), tuple(of_action)),
    )


def _entry_names(entries: Sequence[Entry]) -> tuple[str, ...]:
    return tuple(entry.name for entry in entries)


def _files(source: Path) -> list[Path]:
    files = sorted([*source.glob('data/*.parquet'), *source.glob('data/*/*.parquet')])
    if not files:
        raise FormatError(
            f'{source}: there is no data/*/*.parquet in it; download the whole dataset'
        )
    return files


def _sorted(source: Path, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Frames by episode and position, whatever their order in the files."""
    for name in _INDICES:
        if not np.isfinite(data[name]).all():
            raise FormatError(f'{source}: column {name} has values that are not finite')
    order = np.lexsort((data['frame_index'][:, 0], data['episode_index'][:, 0]))
    if not len(order):
        raise FormatError(f'{source}: there is no frame in it')
    scalars = (*_INDICES, *_OPTIONAL)
    return {name: rows[order, 0] if name in scalars else rows[order] for name, rows in data.items()}


def _numbers(data: dict[str, np.ndarray], chosen: list[Source]) -> np.ndarray:
    return np.stack([data[each.feature][:, each.index] for each in chosen], 1)


def _tasks(folder: Path) -> dict[int, str]:
    """Sentences of the dataset's tasks, by number; none where there is no list of them."""
    lines, table = folder / 'tasks.jsonl', folder / 'tasks.parquet'
    if table.exists():
        columns = read_texts(table)
        numbers = columns.pop('task_index', [])
        names = next((column for column in columns.values()), [])
    elif lines.is_file() and lines.stat().st_size <= _MAX_METADATA:
        check_downloaded(lines)
        rows = [json.loads(line) for line in lines.read_text().splitlines() if line.strip()]
        numbers, names = [row['task_index'] for row in rows], [row['task'] for row in rows]
    else:
        return {}
    return {
        number: name
        for number, name in zip(numbers, names, strict=True)
        if isinstance(number, int) and isinstance(name, str)
    }


def _note_what_is_read(
    features: dict[str, Any],
    used: tuple[Source, ...],
    info: dict[str, Any],
    data: dict[str, np.ndarray],
    reading: Reading,
) -> None:
    left = [
        f'{name} ({str(about.get("dtype"))[:20]})'
        for name, about in features.items()
        if name not in _BOOKKEEPING and name not in {each.feature for each in used}
    ]
    if left:
        reading.note(f'not read: {", ".join(left)}')
    said, found = info.get('total_episodes'), len(np.unique(data['episode_index']))
    if said != found:
        reading.note(f'episodes according to meta/info.json: {str(said)[:20]}; in data/: {found}')


def _note_tasks(dataset: _Dataset, task: Task, reading: Reading) -> None:
    """Say so if the dataset has several tasks, which would all be learned as one."""
    sentences = [text for text in dataset.tasks.values() if not text.startswith(UNDO)]
    if len(sentences) > 1:
        shown = '; '.join(' '.join(text.split())[:80] for text in sentences[:5])
        reading.note(
            f'the dataset has {len(sentences)} tasks ({shown}{"; ..." if sentences[5:] else ""}); '
            f'all are imported as task {task.name}'
        )
