"""Exports have no gaps."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mbarl_ros.cli import demos
from mbarl_ros.demos.episodes import Episode
from mbarl_ros.demos.formats import FormatError, export_episodes, read_episodes
from mbarl_ros.demos.imported import save_episode
from mbarl_ros.task import Task
from support.two_joints import write_arm

h5py = pytest.importorskip('h5py', reason="the formats are an extra: pip install '.[formats]'")


@pytest.fixture
def task(tmp_path):
    """Observation lift, pan; action pan, grip."""
    return Task.load(str(write_arm(tmp_path / 'arm')))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_exported_step_spans_a_gap(task, data, tmp_path_factory, capsys):
    """Positions count the steps: each exported step goes from one number to the next."""
    folder = tmp_path_factory.mktemp('gaps')
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    episodes, kept = [], []
    for number, n in enumerate(lengths):
        whole = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
        # A lost step is as long as ten.
        place = np.concatenate([[0], np.cumsum(np.where(whole, 1.0, 10.0))]) + 1000 * number
        states = np.stack([place, place], 1).astype(np.float32)
        actions = np.full((n, 2), 0.5, np.float32)
        episodes.append(Episode(states, actions, place / 10, whole, name=f'e{number}'))
        kept += [start for start, good in zip(place[:-1], whole, strict=True) if good]
    if not kept:
        with pytest.raises(FormatError, match='no step is without lost messages'):
            export_episodes('robomimic', episodes, task, folder / 'x.hdf5')
        return
    notes = export_episodes('robomimic', episodes, task, folder / 'x.hdf5')
    lost = sum(lengths) - len(kept)
    assert [note.endswith(f'left out: {lost}') for note in notes] == [True] * (lost > 0)
    starts = []
    with h5py.File(folder / 'x.hdf5') as file:
        for index in range(len(file['data'])):
            before = file[f'data/demo_{index}/obs/flat'][:, 0]
            after = file[f'data/demo_{index}/next_obs/flat'][:, 0]
            assert (after - before == 1).all() and (before[1:] == after[:-1]).all()
            starts += before.tolist()
    assert starts == kept


@pytest.mark.parametrize('kind', ['lerobot', 'minari', 'robomimic'])
def test_convert_says_that_it_cut(task, kind, tmp_path, capsys):
    whole = np.array([True, True, False, True])
    states = np.zeros((5, 2), np.float32)
    stamps = np.array([0, 0.1, 0.2, 2.2, 2.3])
    gap = Episode(states, np.zeros((4, 2), np.float32), stamps, whole, verdict='success')
    for name in ('with_gap', 'without'):
        (tmp_path / 'demos' / name).mkdir(parents=True)
    save_episode(tmp_path / 'demos' / 'with_gap', gap, task)
    rest = Episode(states[:2], gap.actions[:1], stamps[:2], whole[:1], verdict='success')
    save_episode(tmp_path / 'demos' / 'without', rest, task)
    given = ['--task', str(tmp_path / 'arm' / 'task.yaml'), '--output', str(tmp_path / 'x-v0')]
    assert demos.main(['convert', str(tmp_path / 'demos'), '--to', kind, *given]) == 0
    printed = capsys.readouterr().out
    assert '2 demonstrations (2 with verdict success), 4 steps' in printed
    assert printed.count('gaps') == 1
    assert '1 of 2 demonstrations, into 2 episodes; steps left out: 1\n' in printed
    if kind != 'lerobot':
        back = read_episodes(kind, tmp_path / 'x-v0', task)
        assert [(episode.name, episode.verdict) for episode in back] == [
            ('with_gap_part1', 'unknown'),
            ('with_gap_part2', 'success'),
            ('without', 'success'),
        ]
