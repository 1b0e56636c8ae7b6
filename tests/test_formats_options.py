"""What the user can say about a file: several observation keys, and clipping."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mbarl_ros.cli import demos
from mbarl_ros.demos.formats import FormatError, Options, Reading, read_episodes
from mbarl_ros.demos.metadata import folders
from mbarl_ros.demos.reader import read_episode
from mbarl_ros.task import Task
from support.two_joints import write_arm

h5py = pytest.importorskip('h5py', reason="the formats are an extra: pip install '.[formats]'")


STEPS = 6


@pytest.fixture
def task(tmp_path):
    """Observation lift, pan; action pan, grip."""
    return Task.load(str(write_arm(tmp_path / 'arm')))


def write(path, keys, actions=None, after=0.0):
    """A file of robomimic with one demonstration; ``keys``: name -> rows [STEPS + 1, ...]."""
    actions = np.zeros((STEPS, 2)) if actions is None else actions
    with h5py.File(path, 'w') as file:
        file.create_group('data').attrs['env_args'] = json.dumps({'env_name': 'Lift'})
        for name, rows in keys.items():
            file[f'data/demo_0/obs/{name}'] = rows[:-1]
            file[f'data/demo_0/next_obs/{name}'] = rows[1:] + after
        file['data/demo_0/actions'] = actions
    return path


def walk(width, seed=0):
    return np.random.default_rng(seed).normal(0, 1, (STEPS + 1, width))


def read(path, task, kind='robomimic', **said):
    reading = Reading(Options(**said))
    (episode,) = read_episodes(kind, path, task, reading=reading)
    return episode, '\n'.join(reading.notes)


def refused(path, task, **said):
    with pytest.raises(FormatError) as caught:
        read(path, task, **said)
    return str(caught.value)


def test_the_only_key_that_fits_is_read_and_named(task, tmp_path):
    keys = {'joints': walk(2), 'wrench': walk(6), 'camera': np.zeros((STEPS + 1, 2, 2, 3))}
    episode, notes = read(write(tmp_path / 'x.hdf5', keys), task)
    assert np.allclose(episode.states, keys['joints'])
    assert "observations are the key 'joints'" in notes and '--key' in notes


@pytest.mark.parametrize(
    'widths',
    [{'a': 2, 'b': 2}, {'a': 2, 'b': 1, 'c': 1}, {'a': 1, 'b': 1}, {'a': 3}],
    ids=['two of the width', 'one, or two together', 'two together', 'none'],
)
def test_what_could_be_several_keys_is_refused(task, widths, tmp_path):
    keys = {name: walk(width) for name, width in widths.items()}
    sentence = refused(write(tmp_path / 'x.hdf5', keys), task)
    assert all(f'{name} ({width},)' in sentence for name, width in widths.items())
    assert '--key' in sentence and 'in the order lift, pan' in sentence


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_given_keys_are_read_in_their_order(task, data, tmp_path_factory):
    keys = {'a': walk(1, 1), 'b': walk(3, 2), 'c/d': walk(2, 3), 'e': walk(1, 4)[:, 0]}
    columns = {'a': ('a', 0), 'e': ('e', 0)}
    columns |= {
        f'{name}[{i}]': (name, i) for name in ('b', 'c/d') for i in range(keys[name].shape[1])
    }
    chosen = data.draw(st.permutations(sorted(columns)))[:2]
    path = write(tmp_path_factory.mktemp('any') / 'x.hdf5', keys)
    episode, notes = read(path, task, keys=chosen)
    for column, (name, index) in enumerate(columns[each] for each in chosen):
        expected = keys[name] if keys[name].ndim == 1 else keys[name][:, index]
        assert np.allclose(episode.states[:, column], expected)
    assert notes == ''


def test_a_part_of_a_key_is_read(task, tmp_path):
    keys = {'object': walk(10), 'flat': walk(2, 1)}
    episode, _ = read(write(tmp_path / 'x.hdf5', keys), task, keys=['object[4:6]'])
    assert np.allclose(episode.states, keys['object'][:, 4:6])


@pytest.mark.parametrize(
    ('keys', 'words'),
    [
        (['nope'], "no key 'nope', but camera, joints"),
        (['joints[2]'], r"'joints[2]': joints has shape (6, 2)"),
        (['joints[1:3]'], 'joints has shape (6, 2)'),
        (['joints[1:1]'], 'joints has shape (6, 2)'),
        (['joints[-1]'], 'is not like'),
        (['joints[x]'], 'is not like'),
        (['joints', 'joints'], 'observations have 4 entries'),
        (['../actions'], 'is missing'),
        (['camera'], 'not rows of'),
    ],
)
def test_keys_that_are_not_there_are_refused(task, keys, words, tmp_path):
    path = write(tmp_path / 'x.hdf5', {'joints': walk(2), 'camera': np.zeros((STEPS + 1, 2, 2, 3))})
    assert words in refused(path, task, keys=keys)


def test_next_observations_may_differ_by_rounding_only(task, tmp_path):
    keys = {'flat': walk(2)}
    episode, _ = read(write(tmp_path / 'x.hdf5', keys, after=1e-7), task)
    assert np.allclose(episode.states, keys['flat'], atol=2e-7)
    assert 'does not continue' in refused(write(tmp_path / 'y.hdf5', keys, after=1e-3), task)


def test_minari_reads_given_keys_of_a_dictionary(task, tmp_path):
    rows = {'joints': walk(3), 'goal': walk(2, 1)}
    folder = tmp_path / 'arm-v0' / 'data'
    folder.mkdir(parents=True)
    (folder / 'metadata.json').write_text(
        json.dumps({'data_format': 'hdf5', 'dataset_id': 'arm-v0', 'total_episodes': 1})
    )
    with h5py.File(folder / 'main_data.hdf5', 'w') as file:
        for name, values in rows.items():
            file[f'episode_0/observations/{name}'] = values
        file['episode_0/actions'] = np.zeros((STEPS, 2))
    episode, _ = read(folder.parent, task, 'minari', keys=['joints[2]', 'joints[0]'])
    assert np.allclose(episode.states, rows['joints'][:, [2, 0]])
    assert 'but goal, joints; give --key' in refused_as('minari', folder.parent, task)


def refused_as(kind, path, task, **said):
    with pytest.raises(FormatError) as caught:
        read(path, task, kind, **said)
    return str(caught.value)


def outside():
    """Actions of which the first entry is outside in two steps, the second in one."""
    actions = np.zeros((STEPS, 2))
    actions[1:3, 0], actions[4, 1], actions[5, 1] = (1.25, -1.79), 1.01, 1 + 1e-8
    return actions


def test_actions_outside_are_counted_and_clipped_on_request(task, tmp_path):
    path = write(tmp_path / 'x.hdf5', {'flat': walk(2)}, outside())
    sentence = refused(path, task)
    assert 'pan in 2 (up to -1.79, its range is [-1, 1])' in sentence
    assert 'grip in 1 (up to 1.01, its range is [-1, 1]) of 6 steps, first in demo_0' in sentence
    assert 'scale them in the file, or clip them with --clip' in sentence
    episode, notes = read(path, task, clip=True)
    assert np.array_equal(episode.actions, np.clip(outside(), -1, 1).astype(np.float32))
    assert 'actions were clipped: pan in 2 ' in notes


def test_actions_of_earl_are_clipped_on_request(task, tmp_path):
    rows = walk(2)
    arrays = {
        'observations': rows[:-1],
        'next_observations': rows[1:],
        'actions': outside(),
        'rewards': np.zeros(STEPS),
        'terminals': np.zeros(STEPS, bool),
    }
    path = tmp_path / 'x.pkl'
    path.write_bytes(pickle.dumps(arrays))
    assert 'grip in 1 (up to 1.01' in refused_as('earl', path, task)
    episode, _ = read(path, task, 'earl', clip=True)
    assert np.array_equal(episode.actions, np.clip(outside(), -1, 1).astype(np.float32))


def test_a_file_that_tells_of_lost_messages_keeps_its_gaps(task, tmp_path):
    path = write(tmp_path / 'x.hdf5', {'flat': walk(2)})
    with h5py.File(path, 'a') as file:
        file['data/demo_0/whole'] = np.arange(STEPS) != 2
    episode, _ = read(path, task)
    assert episode.whole.tolist() == [True, True, False, True, True, True]


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_clipping_makes_no_number_of_what_is_none(task, value, tmp_path):
    actions = outside()
    actions[3, 0] = value
    path = write(tmp_path / 'x.hdf5', {'flat': walk(2)}, actions)
    assert 'not finite' in refused(path, task, clip=True)


def test_options_of_another_format_are_refused(task, tmp_path):
    path = write(tmp_path / 'x.hdf5', {'flat': walk(2)})
    assert '--map does not apply' in refused(path, task, mapping={'pan': 'x'})
    assert '--scale does not apply' in refused(path, task, scales={'pan': 2.0})
    assert '--key does not apply' in refused_as('earl', path, task, keys=['x'])


def command(tmp_path, source, *said):
    into = tmp_path / 'into'
    task_file = tmp_path / 'arm' / 'task.yaml'
    given = ['import', str(source), '--task', str(task_file), '--into', str(into), *said]
    return demos.main(given), folders(into)


def test_the_command_clips_and_says_how_many(task, tmp_path, capsys):
    path = write(tmp_path / 'x.hdf5', {'a': walk(1), 'b': walk(3, 1)}, outside())
    assert command(tmp_path, path, '--key', 'b[1], a') == (2, [])
    assert 'or clip them with --clip' in capsys.readouterr().err
    code, (made,) = command(tmp_path, path, '--key', 'b[1], a', '--clip')
    assert code == 0 and 'actions were clipped: pan in 2 ' in capsys.readouterr().out
    assert np.allclose(read_episode(made, task).states, np.hstack([walk(3, 1)[:, 1:2], walk(1)]))


def test_a_bag_has_none_of_these_options(tmp_path, capsys):
    shipped = Path(__file__).resolve().parent.parent / 'demos' / 'pointmass' / 'forward_000'
    given = ['import', str(shipped), '--task', 'pointmass', '--into', str(tmp_path), '--clip']
    assert demos.main(given) == 2
    assert "--clip does not apply to format 'bag'" in capsys.readouterr().err
