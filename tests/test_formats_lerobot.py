"""Datasets of LeRobot that other people recorded, by the names of their numbers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip('pyarrow', reason="the formats are an extra: pip install '.[formats]'")

from mbarl_ros.cli import demos
from mbarl_ros.demos.formats import (
    FormatError,
    Options,
    Reading,
    detect,
    export_episodes,
    read_episodes,
)
from mbarl_ros.demos.metadata import folders
from mbarl_ros.demos.reader import read_episode
from mbarl_ros.task import Task
from support.lerobot_dataset import change_info, frames, write_dataset
from support.two_joints import write_arm

SHIPPED = Path(__file__).resolve().parent.parent / 'demos'
LENGTHS = (5, 3)
STATE, ACTION = 'observation.state', 'action'
SAID = Options(
    mapping={'lift': 'lift.pos', 'pan': 'pan.pos', 'grip': 'gripper.pos'},
    scales={'lift': 0.0174533, 'pan': 0.0174533, 'grip': 0.001},
)
"""What the user says about the arm of :func:`arm`, whose joints are in degrees."""


@pytest.fixture
def task(tmp_path):
    return Task.load(str(write_arm(tmp_path / 'arm')))


def arm(lengths=LENGTHS):
    """Columns of a dataset in degrees and per cent, and the names of their numbers."""
    n = sum(lengths)
    rng = np.random.default_rng(0)
    names = ['pan.pos', 'lift.pos', 'gripper.pos']
    columns = {
        ACTION: rng.uniform([-110, -110, 0], [110, 110, 100], (n, 3)).astype(np.float32),
        STATE: rng.uniform([-90, -90, 0], [90, 90, 100], (n, 3)).astype(np.float32),
        **frames(lengths),
    }
    return columns, {STATE: names, ACTION: names}


def plain(task_names=('pan', 'lift', 'grip')):
    """The same arm in the units and with the names of the task."""
    columns, _ = arm()
    columns[STATE] = columns[STATE] * np.float32(0.01)
    columns[ACTION] = columns[ACTION] * np.float32([0.01, 0.01, 0.001])
    return columns, {STATE: list(task_names), ACTION: list(task_names)}


def read(folder, task, options=None, direction=None):
    """Episodes, and what the user is told."""
    reading = Reading(options)
    episodes = read_episodes('lerobot', folder, task, direction=direction, reading=reading)
    return episodes, '\n'.join(reading.notes)


def refused(folder, task, options=None):
    with pytest.raises(FormatError) as caught:
        read(folder, task, options)
    assert str(caught.value).startswith(str(folder))
    return str(caught.value)


@pytest.mark.parametrize('version', ['v2.0', 'v2.1', 'v3.0'])
@pytest.mark.parametrize('fixed', [True, False])
def test_numbers_are_found_by_name_and_scaled(task, version, fixed, tmp_path):
    columns, names = arm()
    folder = write_dataset(tmp_path / 'so100', columns, names, version=version, fixed=fixed)
    assert detect(folder) == 'lerobot'
    episodes, notes = read(folder, task, SAID)
    assert [len(episode.actions) for episode in episodes] == [4, 2]  # the last state is unknown
    first = 0
    for episode, n in zip(episodes, LENGTHS, strict=True):
        rows = slice(first, first + n)
        degrees, commands = columns[STATE][rows], columns[ACTION][rows]
        assert np.allclose(episode.states[:, 0], np.deg2rad(degrees[:, 1]), atol=1e-5)  # lift
        assert np.allclose(episode.states[:, 1], np.deg2rad(degrees[:, 0]), atol=1e-5)  # pan
        assert np.allclose(episode.actions[:, 0] * 2, np.deg2rad(commands[:-1, 0]), atol=1e-5)
        grip = (episode.actions[:, 1] + 1) / 2 * 100
        assert np.allclose(grip, commands[:-1, 2], atol=1e-3)
        assert np.allclose(episode.stamps, np.arange(n) / 10)
        assert episode.whole.all()
        assert episode.direction == 'forward' and episode.verdict == 'unknown'
        first += n
    assert 'not read: observation.images.top (video)' in notes


NAMES = ('pan', 'lift', 'grip')
FORMS = {
    'a list': list(NAMES),
    'a dictionary of a list': {'motors': list(NAMES)},
    'a dictionary of two lists': {'arm': ['pan', 'lift'], 'hand': ['grip']},
    'lists in a list': [['pan', 'lift'], ['grip']],
    'positions': {'grip': 2, 'pan': 0, 'lift': 1},
}


@pytest.mark.parametrize('form', FORMS)
def test_every_form_of_names_is_understood(task, form, tmp_path):
    columns, _ = plain()
    names = {STATE: FORMS[form], ACTION: FORMS[form]}
    episodes, _ = read(write_dataset(tmp_path / 'x', columns, names), task)
    assert np.array_equal(episodes[1].states, columns[STATE][5:, [1, 0]])
    assert np.allclose(episodes[1].actions[:, 0], columns[ACTION][5:7, 0] / 2)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_order_of_frames_files_and_numbers_does_not_matter(task, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp('any')
    columns, names = plain()
    order = np.array(data.draw(st.permutations(range(sum(LENGTHS)))))
    cuts = sorted(data.draw(st.sets(st.integers(1, sum(LENGTHS) - 1))))
    for feature in (STATE, ACTION):
        places = data.draw(st.permutations(range(3)))
        columns[feature] = columns[feature][:, places]
        names[feature] = [NAMES[place] for place in places]
    kind = data.draw(st.sampled_from([np.float32, np.float64]))
    shuffled = {
        name: (rows[order].astype(kind) if rows.ndim == 2 else rows[order])
        for name, rows in columns.items()
    }
    write_dataset(
        folder / 'x',
        shuffled,
        names,
        version=data.draw(st.sampled_from(['v2.1', 'v3.0'])),
        files=np.split(np.arange(len(order)), cuts),
        fixed=data.draw(st.booleans()),
    )
    found, _ = read(folder / 'x', task)
    expected, _ = plain()
    first = 0
    for episode, n in zip(found, LENGTHS, strict=True):
        rows = expected[STATE][first : first + n]
        assert np.array_equal(episode.states, rows[:, [1, 0]])
        commands = expected[ACTION][first : first + n - 1].astype(float)
        assert np.allclose(episode.actions[:, 1], commands[:, 2] / 0.05 - 1, atol=1e-6)
        first += n


def test_names_of_other_features_count_where_the_main_one_lacks_them(task, tmp_path):
    columns, names = plain()
    columns['observation.velocity'] = -columns[STATE]
    columns['observation.tactile'] = np.zeros((len(columns[STATE]), 1024), np.float32)
    columns['observation.tool.lift'] = columns[STATE][:, 1] * 2  # one number is no list
    columns[STATE] = columns[STATE][:, :1]
    names |= {STATE: ['pan'], 'observation.velocity': ['pan', 'x', 'grip']}
    folder = write_dataset(tmp_path / 'x', columns, names)
    sentence = refused(folder, task)
    assert 'nothing for lift.' in sentence
    (episode, _), notes = read(folder, task, Options(mapping={'lift': 'observation.tool.lift[0]'}))
    assert np.array_equal(episode.states[:, 0], columns['observation.tool.lift'][:5])
    assert np.array_equal(episode.states[:, 1], columns[STATE][:5, 0])  # not the velocity
    assert 'observation.velocity (float32), observation.tactile (float32)' in notes


def test_what_has_no_equal_name_is_refused_with_both_lists_and_the_remedy(task, tmp_path):
    folder = write_dataset(tmp_path / 'x', *arm())
    sentence = refused(folder, task)
    assert 'observation entries of the task: lift, pan;' in sentence
    assert 'observation.state [pan.pos, lift.pos, gripper.pos]' in sentence
    assert '--map NAME:=observation.lift --map NAME:=observation.pan' in sentence
    both = Options(mapping={'lift': 'lift.pos', 'observation.pan': 'pan.pos'})
    sentence = refused(folder, task, both)
    assert 'action entries of the task: pan, grip;' in sentence
    assert '--map NAME:=action.pan --map NAME:=action.grip' in sentence
    wrong = Options(mapping={**SAID.mapping, 'lift': 'elbow'})
    assert "nothing for lift ('elbow')" in refused(folder, task, wrong)
    for options in (Options(mapping={'tilt': 'pan.pos'}), Options(scales={'tilt': 2.0})):
        sentence = refused(folder, task, options)
        assert "no entry 'tilt'" in sentence and 'observation: lift, pan' in sentence


def test_a_name_of_two_features_is_refused(task, tmp_path):
    columns, names = plain()
    for side in ('left', 'right'):
        columns[f'observation.{side}'] = columns[STATE] * (1 + (side == 'right'))
        names[f'observation.{side}'] = names[STATE]
    del columns[STATE]
    folder = write_dataset(tmp_path / 'x', columns, names)
    sentence = refused(folder, task)
    assert "'lift' can be observation.left[lift] or observation.right[lift]" in sentence
    which = {'lift': 'observation.right[lift]', 'observation.pan': 'observation.left[pan]'}
    (episode, _), _ = read(folder, task, Options(mapping=which))
    assert np.array_equal(episode.states[:, 0], columns['observation.right'][:5, 1])
    assert np.array_equal(episode.states[:, 1], columns['observation.left'][:5, 0])


@pytest.mark.parametrize('form', [None, ['dim'], {'motors': ['motor_0']}, ['a', 'b', 'c', 'd'], 3])
def test_numbers_without_names_are_not_guessed_but_mapped_by_position(task, form, tmp_path):
    columns, names = plain()
    folder = write_dataset(tmp_path / 'x', columns, {**names, STATE: form})
    assert 'observation.state [0, 1, 2]' in refused(folder, task)
    places = {'lift': 'observation.state[2]', 'observation.pan': 'observation.state[0]'}
    (episode, _), _ = read(folder, task, Options(mapping={**places, 'action.pan': 'pan'}))
    assert np.array_equal(episode.states, columns[STATE][:5, [2, 0]])


def test_numbers_as_names_are_names(task, tmp_path):
    columns, names = plain()
    columns[STATE] = columns[STATE][:, [2, 0, 1]]
    names[STATE] = ['2', '0', '1']  # in an order in which position 0 is not name 0
    mapping = {'observation.pan': '0', 'lift': 'observation.state[1]'}
    (episode, _), _ = read(
        write_dataset(tmp_path / 'x', columns, names), task, Options(mapping=mapping)
    )
    assert np.array_equal(episode.states, plain()[0][STATE][:5, [1, 0]])


def test_a_second_number_of_the_same_name_can_be_told_apart(task, tmp_path):
    columns, names = plain()
    names[STATE] = ['pan', 'gripper', 'gripper']
    folder = write_dataset(tmp_path / 'x', columns, names)
    (episode, _), _ = read(folder, task, Options(mapping={'lift': 'gripper_2'}))
    assert np.array_equal(episode.states[:, 0], columns[STATE][:5, 2])


def test_a_scale_can_hold_for_one_side(task, tmp_path):
    columns, names = plain()
    folder = write_dataset(tmp_path / 'x', columns, names)
    (episode, _), _ = read(folder, task, Options(scales={'action.pan': -0.5}))
    assert np.array_equal(episode.states[:, 1], columns[STATE][:5, 0])
    assert np.allclose(episode.actions[:, 0], columns[ACTION][:4, 0] / -4)


def test_commands_outside_their_range_are_clipped_only_if_the_user_says_so(task, tmp_path):
    columns, names = plain()
    columns[ACTION][1:4, 0] = -104.0
    folder = write_dataset(tmp_path / 'x', columns, names)
    sentence = refused(folder, task)
    assert 'pan in 3 (up to -104, its range is [-2, 2]) of 6 steps, first in episode 0' in sentence
    assert '--scale ENTRY:=FACTOR' in sentence and '--clip' in sentence
    (episode, _), notes = read(folder, task, Options(clip=True))
    assert episode.actions[1:4, 0].tolist() == [-1.0] * 3
    assert 'actions were clipped: pan in 3 ' in notes


def test_float32_may_miss_a_limit_by_rounding(task, tmp_path):
    columns, names = plain()
    columns[ACTION][:, 2] = np.float32(0.1)  # 0.10000000149
    (episode, _), notes = read(write_dataset(tmp_path / 'x', columns, names), task)
    assert episode.actions[:, 1].tolist() == [1.0] * 4 and 'clipped' not in notes


def with_flags(**flags):
    columns, names = plain()
    last = {'next.done': np.array([0, 0, 0, 0, 1, 0, 0, 1], bool)}
    return {**columns, **last, **flags}, names


VERDICTS = {
    'success said': ({'next.success': np.arange(8) == 7}, ['unknown', 'success']),
    'success lost again': ({'next.success': np.arange(8) == 3}, ['unknown', 'unknown']),
    'reward 1': ({'next.reward': np.float32([0, 0, 0, 0, 1, 0, 1, 0])}, ['success', 'unknown']),
    'reward 0 of -1': ({'next.reward': np.float32([-1] * 7 + [0])}, ['unknown', 'success']),
    'no reward': ({'next.reward': np.zeros(8, np.float32)}, ['unknown', 'unknown']),
    'dense reward': ({'next.reward': np.linspace(0, 1, 8)}, ['unknown', 'unknown']),
    'not done': (
        {'next.reward': np.ones(8, np.float32), 'next.done': np.arange(8) == 7},
        ['unknown', 'success'],
    ),
    'done only': ({}, ['unknown', 'unknown']),
}


@pytest.mark.parametrize('name', VERDICTS)
def test_success_is_what_the_last_frame_says(task, name, tmp_path):
    flags, expected = VERDICTS[name]
    folder = write_dataset(tmp_path / 'x', *with_flags(**flags))
    episodes, _ = read(folder, task)
    assert [episode.verdict for episode in episodes] == expected


def test_a_reward_says_nothing_about_the_way_back(task, tmp_path):
    rewards = {'next.reward': np.ones(8, np.float32)}
    folder = write_dataset(tmp_path / 'x', *with_flags(**rewards))
    episodes, _ = read(folder, task, direction='backward')
    assert {(e.direction, e.verdict) for e in episodes} == {('backward', 'unknown')}


@pytest.mark.parametrize('lost', ['frames', 'time'])
def test_missing_frames_make_no_step(task, lost, tmp_path):
    columns, names = plain()
    if lost == 'frames':
        columns = {name: np.delete(rows, 2, 0) for name, rows in columns.items()}
    else:
        columns['timestamp'][2:5] += 1.0
    episodes, notes = read(write_dataset(tmp_path / 'x', columns, names), task)
    assert [e.whole.tolist() for e in episodes] == (
        [[True, False, True], [True, True]]
        if lost == 'frames'
        else [[True, False, True, True], [True, True]]
    )
    assert 'missing frames, left out: 1 (in 1 of 2 episodes)' in notes


def test_frames_twice_and_clocks_that_stand_are_refused(task, tmp_path):
    columns, names = plain()
    columns['frame_index'][3] = 2
    folder = write_dataset(tmp_path / 'twice', columns, names)
    assert 'episode 0: frame_index 2 is there twice' in refused(folder, task)
    columns, names = plain()
    columns['timestamp'][7] = columns['timestamp'][6]
    folder = write_dataset(tmp_path / 'stands', columns, names)
    assert 'episode 1: timestamp does not increase after frame 1' in refused(folder, task)


def test_episodes_of_one_frame_are_left_out(task, tmp_path):
    columns, names = arm((3, 1, 4))
    episodes, notes = read(write_dataset(tmp_path / 'x', columns, names), task, SAID)
    assert [episode.name for episode in episodes] == ['episode_0', 'episode_2']
    assert 'episodes of one frame, left out: 1' in notes


def test_another_rate_is_refused(task, tmp_path):
    columns, names = plain()
    folder = write_dataset(tmp_path / 'x', columns, names, fps=30)
    sentence = refused(folder, task)
    assert "'fps' of meta/info.json is 30" in sentence and "set 'control_rate'" in sentence
    change_info(folder, fps=9.99)
    assert len(read(folder, task)[0]) == 2


def test_several_tasks_and_an_incomplete_download_are_said(task, tmp_path):
    columns, names = plain()
    folder = write_dataset(
        tmp_path / 'x', columns, names, version='v2.1', tasks=('pick', 'place', 'Undo: pick')
    )
    (folder / 'data' / 'chunk-000' / 'episode_000001.parquet').unlink()
    episodes, notes = read(folder, task)
    assert len(episodes) == 1
    assert 'has 2 tasks (pick; place); all are imported as task reach' in notes
    assert 'episodes according to meta/info.json: 2; in data/: 1' in notes


def test_a_dataset_without_its_data_says_what_to_do(task, tmp_path):
    folder = write_dataset(tmp_path / 'x', *plain())
    path = folder / 'data' / 'chunk-000' / 'file-000.parquet'
    path.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n')
    assert 'is a Git LFS pointer, not the data; run `git lfs pull`' in refused(folder, task)
    path.unlink()
    assert 'download the whole dataset' in refused(folder, task)
    change_info(folder, codebase_version='v1.6')
    assert "'codebase_version' is 'v1.6'" in refused(folder, task)


def test_paths_in_the_metadata_are_not_followed(task, tmp_path):
    folder = write_dataset(tmp_path / 'x', *plain())
    (folder / 'data').rename(tmp_path / 'data')
    change_info(folder, data_path='../data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet')
    assert 'download the whole dataset' in refused(folder, task)


def test_a_file_of_a_dataset_in_the_cache_of_the_hub_may_be_a_link(task, tmp_path):
    folder = write_dataset(tmp_path / 'x', *plain())
    path = folder / 'data' / 'chunk-000' / 'file-000.parquet'
    path.rename(tmp_path / 'blob')
    path.symlink_to(tmp_path / 'blob')
    assert len(read(folder, task)[0]) == 2


@pytest.mark.parametrize('name', ['tabletop', 'pointmass'])
def test_our_own_export_comes_back_but_for_the_last_step(name, tmp_path):
    task = Task.load(name)
    episodes = [read_episode(path, task) for path in folders(SHIPPED / name)]
    cut_short = replace(
        episodes[-1],
        states=episodes[-1].states[:4],
        actions=episodes[-1].actions[:3],
        stamps=episodes[-1].stamps[:4],
        whole=episodes[-1].whole[:3],
        verdict='unknown',
    )
    episodes.append(cut_short)
    export_episodes('lerobot', episodes, task, tmp_path / 'out')
    back, _ = read(tmp_path / 'out', task)
    for ours, theirs in zip(episodes, back, strict=True):
        assert np.array_equal(theirs.states, ours.states[:-1])
        assert np.array_equal(theirs.actions, ours.actions[:-1])
        assert theirs.direction == ours.direction
        assert (theirs.verdict == 'success') == ours.succeeded(task)
    assert {episode.succeeded(task) for episode in back} == {True, False}


def test_the_command_imports_with_a_mapping_and_says_what_it_left_out(task, tmp_path, capsys):
    folder = write_dataset(tmp_path / 'so100', *arm())
    given = ['import', str(folder), '--task', str(tmp_path / 'arm' / 'task.yaml')]
    given += ['--into', str(tmp_path / 'into')]
    assert demos.main(given) == 2
    assert '--map NAME:=observation.lift' in capsys.readouterr().err
    for entry, name in SAID.mapping.items():
        given += ['--map', f'{name}:={entry}', '--scale', f'{entry}:={SAID.scales[entry]}']
    assert demos.main(given) == 0
    printed = capsys.readouterr().out
    assert 'observation.images.top (video)' in printed and 'forward_001: 2 steps' in printed
    kept = read_episode(tmp_path / 'into' / 'forward_000', task)
    assert np.allclose(kept.states[:, 1], np.deg2rad(arm()[0][STATE][:5, 0]), atol=1e-5)


@pytest.mark.parametrize(
    ('argument', 'text', 'words'),
    [
        ('--map', 'pan', 'not of the form'),
        ('--map', ':=pan', 'not of the form'),
        ('--scale', 'pan:=0', 'not a factor'),
        ('--scale', 'pan:=nan', 'not a factor'),
        ('--scale', 'pan:=deg', 'not a factor'),
    ],
)
def test_arguments_that_say_nothing_are_refused(argument, text, words, capsys):
    with pytest.raises(SystemExit):
        demos.main(['import', 'x', '--task', 'tabletop', argument, text])
    assert words in capsys.readouterr().err


def test_an_entry_that_is_given_twice_is_refused(tmp_path, capsys):
    given = ['import', 'x', '--task', 'tabletop', '--into', str(tmp_path)]
    assert demos.main([*given, '--map', 'a:=dx', '--map', 'b:=dx']) == 2
    assert "--map: 'dx' is given 2 times" in capsys.readouterr().err


def test_the_actions_of_our_export_are_told_from_commands(tmp_path):
    task = Task.load('pointmass')
    ours = read_episode(SHIPPED / 'pointmass' / 'forward_000', task)
    export_episodes('lerobot', [ours], task, tmp_path / 'x')
    features = json.loads((tmp_path / 'x' / 'meta' / 'info.json').read_text())['features']
    assert features[ACTION].pop('normalized') is True
    change_info(tmp_path / 'x', features=features)
    (theirs,), _ = read(tmp_path / 'x', task, Options(clip=True))
    half = task.config.action[0].high  # of a range around 0
    assert np.allclose(theirs.actions[:, 0], np.clip(ours.actions[:-1, 0] / half, -1, 1), atol=1e-6)
