"""Other formats: round trips bit for bit, layouts as published, and imports that add or do not."""

import json
import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mbarl_ros.demos.episodes import Episode, transitions
from mbarl_ros.demos.formats import FormatError, detect, export_episodes, read_episodes
from mbarl_ros.demos.imported import EPISODE_FILE, load_episode, save_episode
from mbarl_ros.demos.importing import import_demonstrations
from mbarl_ros.demos.metadata import DemonstrationError, folders
from mbarl_ros.demos.reader import load_demonstrations, read_episode
from mbarl_ros.schema.load import load_world
from mbarl_ros.task import Task

h5py = pytest.importorskip('h5py', reason="the formats are an extra: pip install '.[formats]'")
minari = pytest.importorskip('minari')
pq = pytest.importorskip('pyarrow.parquet')

SHIPPED = Path(__file__).resolve().parent.parent / 'demos'
ARRAYS = ('states', 'actions', 'stamps', 'whole')
TARGETS = {'minari': 'demos-v0', 'robomimic': 'demos.hdf5'}


@pytest.fixture(scope='module', params=['pointmass', 'tabletop'])
def given(request):
    """A task, its shipped demonstrations, and one with lost messages that nobody judged."""
    task = Task.load(request.param)
    episodes = [read_episode(path, task) for path in folders(SHIPPED / task.name)]
    whole = np.ones(len(episodes[0].actions), bool)
    whole[3:5] = False
    # a robot's clock, of which a sum of periods would not be the same to the last bit
    stamps = episodes[0].stamps + 1.7e9 + 1 / 3
    lost = replace(
        episodes[0], whole=whole, stamps=stamps, verdict='unknown', operator='Ann B.', name='lost'
    )
    return task, [*episodes, lost]


def without_gaps(episodes):
    """What is exported: the last episode of ``given``, which lost steps 3 and 4, is two."""
    *others, lost = episodes
    spans = {'lost_part1': (0, 3), 'lost_part2': (5, len(lost.actions))}
    return others + [
        replace(
            lost,
            states=lost.states[first : end + 1],
            actions=lost.actions[first:end],
            stamps=lost.stamps[first : end + 1],
            whole=np.ones(end - first, bool),
            name=name,
        )
        for name, (first, end) in spans.items()
    ]


@pytest.fixture
def tabletop():
    task = Task.load('tabletop')
    names = ('backward_000', 'backward_001', 'forward_000', 'forward_001')
    return task, [read_episode(SHIPPED / 'tabletop' / name, task) for name in names]


def assert_same(ours, theirs, fields=('direction', 'verdict', 'operator', 'name')):
    for name in ARRAYS:
        a, b = getattr(ours, name), getattr(theirs, name)
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes(), name
    for name in fields:
        assert getattr(ours, name) == getattr(theirs, name)


@pytest.mark.parametrize('kind', TARGETS)
def test_a_round_trip_changes_no_bit(given, kind, tmp_path):
    task, episodes = given
    target = tmp_path / TARGETS[kind]
    (note,) = export_episodes(kind, episodes, task, target)
    assert '1 of' in note and 'into 2 episodes; steps left out: 2' in note
    assert detect(target) == kind
    back = read_episodes(kind, target, task)
    for ours, theirs in zip(without_gaps(episodes), back, strict=True):
        assert_same(ours, theirs)
        rows, again = transitions(task, ours), transitions(task, theirs)
        for name in rows:
            assert rows[name].dtype == again[name].dtype
            assert rows[name].tobytes() == again[name].tobytes(), name


def test_minari_opens_its_export(given, tmp_path, monkeypatch):
    task, episodes = given
    export_episodes('minari', episodes, task, tmp_path / 'demos-v3')
    assert 'MINARI_DATASETS_PATH' not in os.environ
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path))
    dataset = minari.load_dataset('demos-v3')
    goals = [episode.goal(task) for episode in [*episodes, episodes[-1]]]
    episodes = without_gaps(episodes)
    assert dataset.total_episodes == len(episodes)
    assert dataset.total_steps == sum(len(episode.actions) for episode in episodes)
    for ours, goal, theirs in zip(episodes, goals, dataset.iterate_episodes(), strict=True):
        assert theirs.observations.shape == (len(ours.states), task.observation_dim)
        assert np.array_equal(theirs.observations[:, : task.state_dim], ours.states)
        assert np.array_equal(theirs.actions, ours.actions)
        assert np.array_equal(theirs.rewards, task.reward(theirs.observations[1:]))
        assert all(dataset.observation_space.contains(row) for row in theirs.observations)
        assert all(dataset.action_space.contains(row) for row in theirs.actions)
        assert not theirs.terminations[:-1].any() and not theirs.truncations[:-1].any()
        reached = ours.direction == 'forward' and theirs.rewards[-1] == 1
        assert theirs.terminations[-1] == reached and theirs.truncations[-1] == (not reached)
        if task.goal_conditioned:
            assert np.array_equal(theirs.observations[0, task.state_dim :], goal)


@pytest.mark.filterwarnings('ignore::UserWarning')  # of metadata that is not given
def test_a_dataset_of_minari_with_goals_in_a_dictionary_is_read(tabletop, tmp_path, monkeypatch):
    from gymnasium.spaces import Box, Dict
    from minari.data_collector import EpisodeBuffer

    task, episodes = tabletop
    ours = episodes[2]
    n = len(ours.actions)
    rows = ours.states.astype(np.float64)
    goals = np.broadcast_to(ours.goal(task), rows.shape)
    buffer = EpisodeBuffer(
        observations={'observation': rows, 'achieved_goal': rows, 'desired_goal': goals},
        actions=ours.actions.astype(np.float64),
        rewards=np.zeros(n),
        terminations=np.zeros(n, bool),
        truncations=np.arange(n) == n - 1,
        infos={},
    )
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path))
    box = Box(-9.0, 9.0, (6,), np.float64)
    minari.create_dataset_from_buffers(
        'lab/mug-v2',
        [buffer],
        observation_space=Dict(observation=box, achieved_goal=box, desired_goal=box),
        action_space=Box(-1.0, 1.0, (3,), np.float64),
    )
    # An environment that would be constructed to read the dataset must not be.
    path = tmp_path / 'lab' / 'mug-v2' / 'data' / 'metadata.json'
    metadata = json.loads(path.read_text())
    metadata['env_spec'] = json.dumps({'id': 'x-v0', 'entry_point': 'no_such_module:Env'})
    path.write_text(json.dumps(metadata))
    (theirs,) = read_episodes('minari', tmp_path / 'lab' / 'mug-v2', task)
    assert np.array_equal(theirs.states, ours.states)
    assert np.array_equal(theirs.actions, ours.actions)
    assert theirs.stamps[-1] == pytest.approx(n / task.robot.control_rate)
    assert theirs.direction == 'forward' and theirs.verdict == 'unknown'
    assert theirs.succeeded(task)


def test_robomimic_has_its_published_layout(given, tmp_path):
    task, episodes = given
    target = tmp_path / 'demos.hdf5'
    export_episodes('robomimic', episodes, task, target)
    goals = [episode.goal(task) for episode in [*episodes, episodes[-1]]]
    episodes = without_gaps(episodes)
    with h5py.File(target) as file:
        data = file['data']
        assert json.loads(data.attrs['env_args'])['env_name'] == task.name
        assert data.attrs['total'] == sum(len(episode.actions) for episode in episodes)
        assert sorted(data) == sorted(f'demo_{index}' for index in range(len(episodes)))
        for index, episode in enumerate(episodes):
            demo = data[f'demo_{index}']
            n = demo.attrs['num_samples']
            assert n == len(episode.actions) == len(demo['actions']) == len(demo['dones'])
            assert demo['obs/flat'].shape == demo['next_obs/flat'].shape
            assert demo['obs/flat'].shape == (n, task.observation_dim)
            assert np.array_equal(demo['states'][:], episode.states[:-1])
            rows = demo['next_obs/flat'][:]
            assert np.array_equal(demo['rewards'][:], task.reward(rows))
            if task.goal_conditioned:
                assert (rows[:, task.state_dim :] == goals[index]).all()
        forward = [name.decode() for name in file['mask/forward'][:]]
        assert forward == [
            f'demo_{i}' for i, episode in enumerate(episodes) if episode.direction == 'forward'
        ]


def test_a_file_of_robomimic_without_next_observations_loses_one_step(tabletop, tmp_path):
    task, episodes = tabletop
    ours = episodes[2]
    with h5py.File(tmp_path / 'low_dim.hdf5', 'w') as file:
        for index in (0, 10, 2):  # numbers count, not their order as text
            demo = file.create_group(f'data/demo_{index}')
            demo['obs/camera'] = np.zeros((len(ours.actions), 4, 4, 3), np.uint8)
            demo['obs/robot0_state'] = ours.states[:-1].astype(np.float64)
            demo['actions'] = ours.actions[:] * (0.5 if index == 10 else 1.0)
    found = read_episodes('robomimic', tmp_path / 'low_dim.hdf5', task, direction='backward')
    assert [episode.name for episode in found] == ['demo_0', 'demo_2', 'demo_10']
    assert np.array_equal(found[0].states, ours.states[:-1])
    assert np.array_equal(found[2].actions, ours.actions[:-1] * np.float32(0.5))
    assert {episode.direction for episode in found} == {'backward'}


def test_lerobot_has_its_published_layout(given, tmp_path):
    task, episodes = given
    root = tmp_path / 'lerobot'
    export_episodes('lerobot', episodes, task, root)
    episodes = without_gaps(episodes)
    files = {str(path.relative_to(root)) for path in root.rglob('*') if path.is_file()}
    assert files == {
        'meta/info.json',
        'meta/stats.json',
        'meta/tasks.parquet',
        'meta/episodes/chunk-000/file-000.parquet',
        'data/chunk-000/file-000.parquet',
    }
    info = json.loads((root / 'meta/info.json').read_text())
    n = sum(len(episode.actions) for episode in episodes)
    assert info['codebase_version'] == 'v3.0' and info['fps'] == task.robot.control_rate
    assert (info['total_frames'], info['total_episodes']) == (n, len(episodes))
    assert info['splits'] == {'train': f'0:{len(episodes)}'}
    data = pq.read_table(root / info['data_path'].format(chunk_index=0, file_index=0))
    assert data.column_names == list(info['features'])
    columns = {name: np.array(data[name].to_pylist()) for name in data.column_names}
    about = pq.read_table(root / 'meta/episodes/chunk-000/file-000.parquet').to_pylist()
    tasks = pq.read_table(root / 'meta/tasks.parquet')
    index = json.loads(tasks.schema.metadata[b'pandas'])['index_columns'][0]
    sentences = tasks[index].to_pylist()
    assert len(set(sentences)) == info['total_tasks'] == len({e.direction for e in episodes})
    for row, episode in zip(about, episodes, strict=True):
        frames = slice(row['dataset_from_index'], row['dataset_to_index'])
        assert row['length'] == len(episode.actions) == frames.stop - frames.start
        states = columns['observation.state'][frames].astype(np.float32)
        assert np.array_equal(states[:, : task.state_dim], episode.states[:-1])
        assert np.array_equal(columns['action'][frames].astype(np.float32), episode.actions)
        if 'part' not in episode.name:  # a part has the goal of the whole
            assert np.array_equal(columns['next.reward'][frames], episode.rewards(task))
        assert columns['next.done'][frames].tolist() == [False] * (row['length'] - 1) + [True]
        last = [row['length'] - 1] if episode.succeeded(task) else []
        assert columns['next.success'][frames].nonzero()[0].tolist() == last
        assert set(columns['episode_index'][frames]) == {row['episode_index']}
        assert np.allclose(columns['timestamp'][frames] * info['fps'], np.arange(row['length']))
        assert [sentences[columns['task_index'][frames][0]]] == row['tasks']
        assert ('Undo' in row['tasks'][0]) == (episode.direction == 'backward')
        assert np.allclose(row['stats/action/mean'], episode.actions.mean(0), atol=1e-6)
        assert row['stats/action/count'] == [row['length']]
    assert np.array_equal(columns['index'], np.arange(n))
    statistics = json.loads((root / 'meta/stats.json').read_text())
    for name, feature in info['features'].items():
        assert list(statistics[name]) == [
            'min', 'max', 'mean', 'std', 'count', 'q01', 'q10', 'q50', 'q90', 'q99',
        ]  # fmt: skip
        assert len(statistics[name]['mean']) == feature['shape'][0]
        assert statistics[name]['count'] == [n]


def test_lerobot_opens_its_export(given, tmp_path):
    lerobot = pytest.importorskip('lerobot.datasets.lerobot_dataset')
    task, episodes = given
    export_episodes('lerobot', episodes, task, tmp_path / 'demos')
    episodes = without_gaps(episodes)
    dataset = lerobot.LeRobotDataset('local/demos', root=tmp_path / 'demos')
    assert dataset.num_episodes == len(episodes)
    actions = np.stack([dataset[index]['action'].numpy() for index in range(len(dataset))])
    assert np.array_equal(actions, np.concatenate([episode.actions for episode in episodes]))


def earl(task, episodes):
    """A dictionary as EARL pickles it."""
    rows = [np.hstack([e.states, np.tile(e.goal(task), (len(e.states), 1))]) for e in episodes]
    n = sum(len(episode.actions) for episode in episodes)
    ends = np.cumsum([len(episode.actions) for episode in episodes]) - 1
    last = np.isin(np.arange(n), ends)[:, None]
    return {
        'observations': np.concatenate([row[:-1] for row in rows]),
        'actions': np.concatenate([episode.actions for episode in episodes]),
        'rewards': last.astype(np.float32),
        'terminals': last,
        'next_observations': np.concatenate([row[1:] for row in rows]),
        'infos': np.array([]),
    }


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_earl_pickles_of_every_protocol_are_read(tabletop, protocol, tmp_path):
    task, episodes = tabletop
    arrays = earl(task, episodes[2:])
    arrays['observations'] = np.asfortranarray(arrays['observations'])
    arrays['actions'] = arrays['actions'].astype('>f8')
    path = tmp_path / 'demo_data.pkl'
    path.write_bytes(pickle.dumps(arrays, protocol))
    assert detect(path) == 'earl'
    found = read_episodes('earl', path, task)
    assert len(found) == 2
    for ours, theirs in zip(episodes[2:], found, strict=True):
        assert np.array_equal(theirs.states, ours.states)
        assert np.array_equal(theirs.actions, ours.actions)
        assert theirs.direction == 'forward' and theirs.verdict == 'success'


def test_earl_episodes_end_where_rows_do_not_continue_and_folders_say_the_direction(
    tabletop, tmp_path
):
    task, episodes = tabletop
    arrays = earl(task, episodes[:2])
    arrays['terminals'][:] = False
    (tmp_path / 'reverse').mkdir()
    path = tmp_path / 'reverse' / 'demo_data.pkl'
    path.write_bytes(pickle.dumps(arrays))
    found = read_episodes('earl', path, task)
    assert [len(episode.actions) for episode in found] == [len(e.actions) for e in episodes[:2]]
    assert {episode.direction for episode in found} == {'backward'}
    found = read_episodes('earl', path, task, direction='forward')
    assert {episode.direction for episode in found} == {'forward'}


def test_earl_actions_replay_in_our_world(tmp_path):
    # EARL's own files are not ours to ship; these are driven by its rules in our world.
    task = Task.load('tabletop')
    world = load_world(task.config)
    rng = np.random.default_rng(0)
    states = [world.reset()]
    actions = rng.uniform(-1, 1, (50, 3)).astype(np.float32)
    for action in actions:
        states.append(world.step(task.command(action)))
    ours = Episode(
        task.state(np.array(states)), actions, np.arange(51) / 10.0, np.ones(50, bool)
    ).check(task)
    path = tmp_path / 'demo.pkl'
    path.write_bytes(pickle.dumps(earl(task, [ours])))
    (theirs,) = read_episodes('earl', path, task)
    world.reset()
    for action, state in zip(theirs.actions, theirs.states[1:], strict=True):
        assert np.allclose(task.state(world.step(task.command(action))), state, atol=1e-6)


def test_an_imported_episode_is_kept_as_it_is(given, tmp_path):
    task, episodes = given
    for index, episode in enumerate(episodes):
        folder = tmp_path / f'{episode.direction}_{index:03d}'
        folder.mkdir()
        save_episode(folder, episode, task)
        back = load_episode(folder, task)
        assert_same(episode, back, ('direction', 'verdict', 'operator'))
        assert back.name == folder.name and back.origin['name'] == episode.name
        assert_same(episode, read_episode(folder, task), ('direction', 'verdict', 'operator'))


def test_an_imported_episode_is_of_one_layout(tabletop, tmp_path):
    task, episodes = tabletop
    save_episode(tmp_path, episodes[0], task)
    entries = [task.config.observation[i] for i in (1, 0, 2, 3, 4, 5)]
    other = Task(task.config.model_copy(update={'observation': entries}), task.robot)
    with pytest.raises(DemonstrationError, match=r'gripper_y.*import it again'):
        load_episode(tmp_path, other)
    with pytest.raises(DemonstrationError, match=EPISODE_FILE):
        load_episode(tmp_path, Task.load('pointmass'))


@pytest.mark.slow
def test_imports_are_numbered_on_and_learned_from(tabletop, tmp_path):
    task, episodes = tabletop
    export_episodes('minari', episodes, task, tmp_path / 'demos-v0')
    export_episodes('robomimic', episodes, task, tmp_path / 'demos.hdf5')
    (tmp_path / 'demos.pkl').write_bytes(pickle.dumps(earl(task, episodes[2:])))
    into = tmp_path / 'into'
    made = []
    for name in ('demos-v0', 'demos.hdf5', 'demos.pkl'):
        made += import_demonstrations(tmp_path / name, 'tabletop', '', into)
    made += import_demonstrations(SHIPPED / 'tabletop' / 'forward_000', 'tabletop', '', into)
    names = sorted(path.name for path in made)
    assert names == sorted(path.name for path in into.iterdir())
    assert names[0] == 'backward_000' and names[-1] == 'forward_006' and len(names) == 11
    assert_same(episodes[0], read_episode(into / 'backward_002', task), ('verdict', 'operator'))
    alone = load_demonstrations(into, task)
    assert len(alone['reward']) > sum(len(episode.actions) for episode in episodes)


def test_an_import_that_fails_in_the_end_adds_nothing(tabletop, tmp_path):
    task, episodes = tabletop
    export_episodes('robomimic', episodes, task, tmp_path / 'demos.hdf5')
    with h5py.File(tmp_path / 'demos.hdf5', 'a') as file:
        file['data/demo_3/actions'][5] = np.nan
    into = tmp_path / 'into'
    with pytest.raises(FormatError, match=r'demo_3: actions are not finite .* at step 5'):
        import_demonstrations(tmp_path / 'demos.hdf5', 'tabletop', '', into)
    assert list(into.iterdir()) == []


def test_an_export_takes_no_place_and_leaves_nothing_half_done(tabletop, tmp_path):
    task, episodes = tabletop
    target = tmp_path / 'demos.hdf5'
    target.write_text('precious')
    with pytest.raises(FormatError, match='exists already'):
        export_episodes('robomimic', episodes, task, target)
    assert target.read_text() == 'precious'
    with pytest.raises(FormatError, match=r'version, like tabletop-v0'):
        export_episodes('minari', episodes, task, tmp_path / 'new' / 'demos')
    broken = replace(episodes[1], operator='Ann\0')  # HDF5 attributes cannot hold it
    with pytest.raises(FormatError, match='cannot be written'):
        export_episodes('robomimic', [episodes[0], broken], task, tmp_path / 'new' / 'x.hdf5')
    assert list((tmp_path / 'new').iterdir()) == []
    (tmp_path / 'empty').mkdir()
    export_episodes('lerobot', episodes, task, tmp_path / 'empty')
    assert (tmp_path / 'empty' / 'meta' / 'info.json').exists()
    with pytest.raises(FormatError, match='what can: minari, robomimic, lerobot'):
        export_episodes('earl', episodes, task, tmp_path / 'x')


@pytest.mark.parametrize(
    ('kind', 'package'), [('minari', 'minari'), ('robomimic', 'h5py'), ('lerobot', 'pyarrow')]
)
def test_a_missing_library_is_named(tabletop, kind, package, tmp_path, monkeypatch):
    task, episodes = tabletop
    for name in list(sys.modules):
        if name.startswith('mbarl_ros.demos.formats.') and not name.endswith('.common'):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(FormatError, match=rf"{package}.*pip install 'mbarl_ros\[formats\]'"):
        export_episodes(kind, episodes, task, tmp_path / 'demos-v0')
