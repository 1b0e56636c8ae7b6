"""``mbarl bench`` as its users see it: the same numbers however it is run, and an honest report."""

import contextlib
import functools
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from mbarl_ros.cli.main import main
from mbarl_ros.control.phases import Practice
from mbarl_ros.control.policy import DEPLOYED, Policy, read_policy, unpack_policy
from mbarl_ros.demos.reader import load_demonstrations
from mbarl_ros.learning.evaluation import WideStarts, attempt, attempts, evaluate
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import find, load_agent, load_task, load_world
from mbarl_ros.storage.run_files import kept_policies
from mbarl_ros.storage.transitions import FORWARD
from mbarl_ros.studies import seeds, worker
from mbarl_ros.studies.report import published, write_report
from mbarl_ros.task import Task

AGENT = 'medal:name=small,sac.hidden=[16,16],sac.batch_size=16,updates_per_step=0.5'
SECONDS = {'wall_seconds', 'practice_seconds'}


@pytest.fixture(scope='module')
def task(tmp_path_factory):
    """Path of the point mass with few and short evaluations."""
    path = tmp_path_factory.mktemp('task') / 'brief.yaml'
    raw = yaml.safe_load(find('tasks', 'pointmass').read_text())
    raw['evaluation'] = {'episodes': 3, 'horizon': 20, 'every': 50, 'budget': 200}
    raw['demonstrations'] = load_task('pointmass').demonstrations
    path.write_text(yaml.safe_dump(raw))
    return path


def command(task, out, *more):
    words = [sys.executable, '-m', 'mbarl_ros.cli', 'bench', '--task', task, '--out', out]
    return [*map(str, words), '--agents', AGENT, '--seeds', '2', *more]


def lines(out, seed):
    found = seeds.read_evaluations(out / 'pointmass' / 'small' / f'seed_{seed}')
    return [{key: line[key] for key in line if key not in SECONDS} for line in found]


@pytest.fixture(scope='module')
def done(task, tmp_path_factory):
    """A bench of two seeds side by side."""
    out = tmp_path_factory.mktemp('done')
    subprocess.run(command(task, out, '--jobs', '2'), check=True, timeout=120)
    return out


@pytest.mark.slow
def test_lines_have_the_form_of_a_ros_run_and_end_at_the_budget(done):
    found = lines(done, 1)
    assert [line['environment_steps'] for line in found] == list(range(0, 201, 50))
    expected = {'task': 'pointmass', 'agent': 'small', 'seed': 1, 'robot_seconds': 20.0}
    assert expected.items() <= found[-1].items()
    assert found[-1]['wide_success'] is None and found[-1]['episodes'] == 3
    assert lines(done, 0) != found
    assert (done / 'pointmass' / 'curves.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('text', ['0', ',', '-1', 'x'])
def test_a_bench_of_no_seed_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        main(['bench', f'--seeds={text}'])
    assert '--seeds' in capsys.readouterr().err


def session(leader):
    """Processes of a session that are alive."""
    found = []
    for folder in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):
            state, _, _, sid = (folder / 'stat').read_text().rpartition(')')[2].split()[:4]
            if int(sid) == leader and state != 'Z':
                found.append(int(folder.name))
    return found


@pytest.mark.slow
def test_killed_and_run_again_alone_a_seed_gives_the_same(task, done, tmp_path):
    words = command(task, tmp_path, '--jobs', '1', '--seeds', '0,', '--evaluators', '3')
    process = subprocess.Popen(words, start_new_session=True)
    while len(session(process.pid)) < 5:  # bench, the seed, its evaluators
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while left := session(process.pid):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    assert not (tmp_path / 'pointmass' / 'table.md').exists()
    subprocess.run(words, check=True, timeout=120)
    assert lines(tmp_path, 0) == lines(done, 0)


@pytest.mark.slow
def test_what_is_finished_is_not_run_again_and_other_settings_are_refused(task, done, capsys):
    words = command(task, done)[3:]
    before = {path: path.stat().st_mtime_ns for path in done.rglob('policy.safetensors')}
    assert main(words) == 0
    assert 'small seed 1: already finished' in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in before}
    words[words.index(AGENT)] = AGENT + ',sac.tau=0.5'
    assert main(words) == 2
    message = capsys.readouterr().err
    assert 'seed_0' in message and "agent.yaml, key 'sac'" in message and '--out' in message


def test_two_agents_of_one_name_are_refused(tmp_path, capsys):
    agents = ['mbarl', str(find('agents', 'mbarl'))]
    words = ['bench', '--task', 'pointmass', '--seeds', '1', '--out', str(tmp_path / 'out')]
    assert main([*words, '--agents', *agents]) == 2
    assert 'pointmass/mbarl/seed_0: two agents, or two tasks' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_a_preset_that_does_not_fit_a_task_is_refused_before_a_seed_starts(tmp_path, capsys):
    words = ['bench', '--task', 'pointmass', '--agents', 'bc,risc', '--seeds', '1']
    assert main([*words, '--out', str(tmp_path / 'out')]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: agent 'risc'") and "'pointmass' has no goals" in message
    assert not (tmp_path / 'out').exists()


def test_a_damaged_result_is_named(tmp_path, capsys):
    result = tmp_path / 'pointmass' / 'bc' / 'seed_0' / 'result.json'
    result.parent.mkdir(parents=True)
    result.write_text('{"environ')
    words = ['bench', '--task', 'pointmass', '--agents', 'bc', '--seeds', '1']
    assert main([*words, '--out', str(tmp_path)]) == 2
    assert f'{result}: is damaged; remove it' in capsys.readouterr().err


@pytest.mark.slow
def test_a_failing_seed_is_reported_with_its_log_and_does_not_stop_the_rest(task, tmp_path, capsys):
    words = command(task, tmp_path, '--budget', '50', '--jobs', '2')[3:]
    taken = tmp_path / 'pointmass' / 'small' / 'seed_0' / 'metrics.jsonl'
    taken.mkdir(parents=True)  # where a file has to go
    assert main(words) == 1
    captured = capsys.readouterr()
    log = taken.with_name('bench.log')
    assert 'small seed 0 failed' in captured.err and str(log) in captured.err
    assert 'metrics.jsonl' in log.read_text()
    assert [line['environment_steps'] for line in lines(tmp_path, 1)] == [0, 50]


def test_a_policy_of_the_bench_is_one_for_the_robot(done):
    folder = done / 'pointmass' / 'small' / 'seed_0'
    task, agent = Task.load(str(folder / 'task.yaml')), load_agent(str(folder / 'agent.yaml'))
    arrays, meta = unpack_policy((folder / 'policy.safetensors').read_bytes(), task, agent)
    assert meta['environment_steps'] == 200
    kept = kept_policies(folder)
    assert list(kept) == [0, 50, 100, 200]  # after 0, 1, 2 and 4 evaluations
    assert kept[200].read_bytes() == (folder / 'policy.safetensors').read_bytes()
    assert read_policy(kept[50], task, agent)[1] == 50
    practice = Practice(task, agent, seed=0, evaluation=True)
    practice.set_policies(arrays)
    world = load_world(task.config, seed=0)
    assert practice.act(practice.observe(world.reset())).shape == (task.action_dim,)
    again = evaluate(task, world, Policy(arrays, DEPLOYED), 3).success
    assert again == seeds.read_evaluations(folder)[-1]['deployed_success']


def test_the_clone_has_one_line_and_a_policy_for_the_robot(task, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, 'clone', functools.partial(worker.clone, steps=50))
    run = seeds.SeedRun(str(tmp_path), str(task), 'bc', seed=3, budget=200)
    loaded = run.load()
    found = worker.run_seed(*loaded, run.seed, run.budget, tmp_path)
    assert [line['environment_steps'] for line in found] == [0]
    assert found[0]['clone_success'] == found[0]['deployed_success']
    unpack_policy((tmp_path / 'policy.safetensors').read_bytes(), *loaded[:2])
    assert seeds.is_finished(tmp_path, loaded[1], run.budget)
    assert not kept_policies(tmp_path)  # there is but one


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('mbarl:sac.bath=32', r"agent 'mbarl:sac.bath=32': key 'sac.bath': unknown key"),
        ('mbarl:modle=null', r"key 'modle': unknown key"),
        ('mbarl:sac.batch_size=0', r"key 'sac.batch_size': .*greater than 0"),
        ('mbarl:chunk', r"'chunk' is not of the form key=value"),
        ('mbarl:sac.hidden=[1', r"key 'sac.hidden': '\[1' is not valid YAML"),
        ('medal:model.rollout_length=1', r"key 'model.rollout_length': 'model' is None"),
        ('bc:chunk=1', r'bc has no settings'),
        ('nobody', r"unknown agent 'nobody'; known: .*mbarl"),
    ],
)
def test_what_cannot_be_set_is_refused_by_name(text, message):
    with pytest.raises(ConfigError, match=message):
        seeds.load_variant(text)


def test_settings_change_what_they_name_and_nothing_else():
    agent, plain = seeds.load_variant('mbarl:sac.hidden=[8,9],model=null'), load_agent('mbarl')
    assert agent.sac.hidden == [8, 9] and agent.model is None
    assert agent.name == 'mbarl:sac.hidden=[8,9],model=null'
    assert agent.sac.batch_size == plain.sac.batch_size and agent.chunk == plain.chunk


@pytest.mark.slow
def test_evaluations_come_as_often_as_they_are_asked_for(tmp_path):
    """Every second of them also from wide starts; the settings are part of the seed."""
    words = [*command('tabletop', tmp_path, '--budget', '100', '--every', '50')[3:], '--seeds', '1']
    assert main(words) == 0
    found = seeds.read_evaluations(tmp_path / 'tabletop' / 'small' / 'seed_0')
    assert [line['environment_steps'] for line in found] == [0, 50, 100]
    assert [line['wide_success'] is None for line in found] == [False, True, False]
    again = [*command('tabletop', tmp_path, '--budget', '100')[3:], '--seeds', '1']
    assert main(again) == 2


def test_few_demonstrations_are_so_many_forward_ones_of_each_goal():
    task = Task.load('tabletop')
    rows = load_demonstrations(task.config.demonstrations, task, per_goal=1)
    ends = rows['observation'][(rows['terminated'] == 1) & (rows['phase'] == FORWARD)]
    assert sorted(map(tuple, ends[:, task.state_dim :])) == sorted(map(tuple, task.goals))
    assert (rows['phase'] == FORWARD).all()


class Carrier:
    """Fetches the mug, carries it to its goal and goes home: succeeds where it has the time."""

    def begin(self, problems, reseed=False):
        pass

    def keep(self, mask):
        pass

    def mean_action(self, observation):
        gripper, mug, goal = observation[:, :2], observation[:, 2:4], observation[:, 8:10]
        held, there = observation[:, 4:5] > -0.5, np.abs(mug - goal).max(1, keepdims=True) < 0.1
        way = np.where(there, -gripper, np.where(held, goal - mug, mug - gripper))
        return np.concatenate([way / 0.2, np.where(there, -1.0, 1.0)], 1)


def test_wide_starts_side_by_side_are_the_same_as_one_by_one():
    config = load_task('tabletop')
    evaluation = config.evaluation.model_copy(
        update={
            'horizon': 38,
            'wide': config.evaluation.wide.model_copy(update={'episodes': 60}),
        }
    )
    task = Task.load('tabletop')
    task.config = config.model_copy(update={'evaluation': evaluation})
    wide = WideStarts(task)
    starts = wide.starts
    assert starts.shape == (60, 5) and (starts[:, 2] == -1).all()  # the mug is free
    assert (np.abs(starts[:, [0, 1, 3, 4]]).max(0) > 2).all() and np.abs(starts).max() <= 2.5
    assert np.array_equal(starts, WideStarts(task).starts)

    world = load_world(task.config, seed=0)
    world.reset_to_start = lambda index: world.set_state(starts[index])
    single = [attempt(task, world, Carrier(), index) for index in range(60)]
    worlds = [load_world(task.config, seed=0) for _ in starts]
    states = np.stack([each.set_state(s) for each, s in zip(worlds, starts, strict=True)])
    assert attempts(task, worlds, Carrier(), states, np.arange(60))[0].tolist() == single
    assert 0.2 < np.mean(single) < 0.8
    assert wide.evaluate(Carrier()) == wide.evaluate(Carrier()) == np.mean(single)


def handmade(out, agent, seed, deployed, wide, finished=True):
    folder = out / 'tabletop' / agent / f'seed_{seed}'
    folder.mkdir(parents=True)
    for number, success in enumerate(deployed):
        line = {
            'agent': agent,
            'seed': seed,
            'environment_steps': 1000 * number,
            'deployed_success': success,
            'wide_success': wide if number == len(deployed) - 1 else None,
            'practice_seconds': 60.0 * number * (seed + 1),
        }
        seeds.append_line(folder / 'evaluations.jsonl', line)
    if finished:
        seeds.write_result(folder)


def test_the_table_of_lines_made_by_hand(tmp_path):
    handmade(tmp_path, 'ours', 0, [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1], 0.9)
    handmade(tmp_path, 'ours', 1, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0], 0.7)
    handmade(tmp_path, 'ours', 2, [0, 0], 0.0, finished=False)
    handmade(tmp_path, 'bc', 0, [0.75], 0.01)
    handmade(tmp_path, 'bc', 1, [0.25], 0.01)
    assert {path.name for path in write_report(tmp_path)} == {
        'curves.png', 'table.md', 'table.json',
    }  # fmt: skip
    data = json.loads((tmp_path / 'tabletop' / 'table.json').read_text())
    ours, floor = data['agents']
    assert ours['agent'] == 'ours' and ours['seeds'] == [0, 1]
    # means over seeds: 0 0 0 0 .5 1 1 1 1 1 .5; over five around 4000: .5, 6000: .9
    assert (ours['steps_to_0.5'], ours['steps_to_0.9']) == (4000, 6000)
    assert (ours['late_from'], ours['late_to']) == (5000, 10000)
    assert ours['late_success'] == pytest.approx(5.5 / 6)
    assert ours['late_std'] == pytest.approx(1 / 6 / 2**0.5)
    assert (ours['wide_steps_to_0.8'], ours['wide_steps_to_0.95']) == (10_000, None)
    assert ours['final_wide_success'] == pytest.approx(0.8)
    assert ours['final_wide_std'] == pytest.approx(0.1 * 2**0.5)
    assert ours['practice_seconds'] == pytest.approx(900)
    assert floor['agent'] == 'bc' and floor['steps_to_0.5'] is None
    assert floor['late_success'] == 0.5 and floor['floor'] is None
    # from 2,000 steps on, the mean over seeds and any seed, each less its clone
    assert (ours['floor'], ours['floor_of_any_seed']) == (-0.5, -0.75)
    text = (tmp_path / 'tabletop' / 'table.md').read_text()
    assert (
        '| ours | 2 | 4,000 | 6,000 | 0.92 ± 0.12 (5,000 to 10,000) | -0.50, -0.75 | 10,000 | - | '
        '0.800 ± 0.141 '
        '| 15.0 |'
    ) in text
    assert '| *RISC, published* | 5 | 130,000 | 170,000 |' in text
    assert 'Not finished, left out: ours seed_2' in text


def test_the_report_names_the_entries_that_the_model_does_not_predict(tmp_path):
    for seed, drifting in enumerate((0.7, 0.9)):
        handmade(tmp_path, 'ours', seed, [0, 1], 1.0)
        folder = tmp_path / 'tabletop' / 'ours' / f'seed_{seed}'
        metrics = {'model/error/mug_x': drifting, 'model/error/mug_y': 0.3}
        for line in ({}, metrics):
            seeds.append_line(folder / 'metrics.jsonl', line)
    handmade(tmp_path, 'bc', 0, [0.75], 0.01)
    write_report(tmp_path)
    text = (tmp_path / 'tabletop' / 'table.md').read_text()
    assert 'Not to be trusted, ours: ' in text and 'change of mug_x (0.80).' in text
    assert 'mug_y' not in text and 'trusted, bc' not in text


def test_the_published_record_is_the_one_in_the_literature():
    # computed from the same files by an earlier look at them
    reached = {name: curve.steps_to(0.9) for name, curve in published('tabletop').items()}
    assert reached == {
        'RISC': 170_000, 'VaPRL': 530_000, 'MEDAL': 1_310_000, 'R3L': 1_880_000,
        'FBRL': 2_020_000, 'naive SAC': None, 'oracle': None,
    }  # fmt: skip
    assert published('pointmass') == {}


def test_a_report_of_nothing_is_an_error(tmp_path, capsys):
    assert main(['bench', '--report', str(tmp_path)]) == 2
    assert 'no finished seed' in capsys.readouterr().err
