"""``mbarl tune``: what may be searched, scores, pruning, and a search with real processes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mbarl_ros.cli import tune as cli
from mbarl_ros.cli.main import main
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import load_agent
from mbarl_ros.studies import pool
from mbarl_ros.studies.jobs import Engine, Run
from mbarl_ros.studies.search_space import Choice, Range, read_space, variant
from mbarl_ros.studies.seeds import append_line, load_variant, write_result
from mbarl_ros.studies.tune import Plan, Tune
from mbarl_ros.studies.tune_scores import difference, interval, seed_score, total_score
from support.brief_task import write_brief_task

optuna = pytest.importorskip('optuna', reason='Optuna is not installed (extra scale)')
from mbarl_ros.studies.tune_trials import Trials  # noqa: E402

DOCS = Path(__file__).parent.parent / 'docs'
CONFIG = DOCS.parent / 'config'
AGENT = 'medal:name=small,sac.hidden=[16,16],sac.batch_size=16,updates_per_step=0.5'


def space(*words):
    return read_space(words, load_agent('mbarl'))


def test_the_search_file_of_the_documentation_is_one(tmp_path):
    page = (DOCS / 'scale.md').read_text()
    text = re.search(r'^```\n(# search\.yaml\n.*?)^```', page, re.MULTILINE | re.DOTALL)
    (tmp_path / 'search.yaml').write_text(text[1])
    found = space(str(tmp_path / 'search.yaml'), 'sac.hidden=[16, 16],[32]')
    assert found['sac.learning_rate'] == Range(1e-4, 3e-3, log=True)
    assert found['sac.critics'] == Range(2, 5, whole=True)
    assert found['chunk'] == Choice((25, 50, 100))
    assert found['sac.hidden'] == Choice(([16, 16], [32]))


@pytest.mark.parametrize(
    ('word', 'said'),
    [
        ('chunk', 'KEY=RANGE'),
        ('=1,2', 'KEY=RANGE'),
        ('chunk=50', 'one value alone'),
        ('chunk=int:1', 'LOW:HIGH'),
        ('chunk=int:9:3', 'the first number must be the lower'),
        ('sac.learning_rate=log:0:1', 'above 0'),
        ('sac.learnin_rate=log:1e-4:1', "'sac.learnin_rate': unknown key"),
        ('sac.learning_rate=float:-1:1', "'sac.learning_rate'"),
        ('nowhere.yaml', 'nowhere.yaml: cannot be read'),
        ('chunk=float:10:100', "'chunk': Input should be a valid integer"),
        ('sac.batch_size=log:16:256', "'sac.batch_size': Input should be a valid integer"),
        ('chunk=25,50,25', "'chunk': a value is given twice"),
        ('name=one,two', "'name' is that of a trial"),
    ],
)
def test_what_cannot_be_searched_is_said(word, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        space(word)


def test_a_variant_has_the_drawn_values():
    changes = {'sac.learning_rate': 1e-05, 'sac.hidden': [16, 32], 'model': None}
    agent = load_variant(variant('mbarl:chunk=25', 'trial_001', changes))
    assert (agent.name, agent.chunk, agent.model) == ('trial_001', 25, None)
    assert (agent.sac.learning_rate, agent.sac.hidden) == (1e-05, [16, 32])


def lines(*success, every=100):
    return [
        {'environment_steps': every * i, 'deployed_success': value}
        for i, value in enumerate(success)
    ]


def test_the_score_of_a_seed_is_its_gain_over_the_clone():
    assert seed_score(lines(0.5, 0.5, 0.5), 0.5) == 0
    assert seed_score(lines(1, 1, 1), 0.5) == 1
    assert seed_score(lines(0.5, 0, 0), 0.5) == pytest.approx(-0.75)
    assert seed_score(lines(0, 0, 0), 0.9) == -1
    assert seed_score(lines(0, 1, 1), 0) == pytest.approx(0.75)  # a quarter lost on the way
    assert seed_score(lines(0, 1, 0, 0), 0, until=100) == pytest.approx(0.5)
    assert seed_score(lines(1, 1), 0.98) == pytest.approx(0.2)  # 0.1 is the least room


def test_a_lucky_seed_does_not_decide_and_the_worst_task_counts():
    steady, lucky = {'a': [0.5] * 4}, {'a': [0.2, 0.2, 0.2, 1.0]}
    assert total_score(steady) == 0.5 and total_score(lucky) == pytest.approx(0.2)
    assert total_score({'a': [1.0] * 4, 'b': [0.0] * 4}) == pytest.approx(0.25)


def test_an_interval_is_as_wide_as_seeds_differ():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, 8)
    better, worse = {'a': list(0.5 + noise)}, {'a': list(0.3 + noise)}
    found = difference(better, worse)  # pairs share their luck
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.2, 0.2))
    assert found.p == pytest.approx(1 / 256)
    low, high = interval(better)
    assert 0.05 < high - low < 0.3 and low < total_score(better) < high
    assert difference(better, better).p == 1.0


def planted(changes):
    """A score that wants a learning rate near 1e-3; the other setting does nothing."""
    return -abs(np.log10(changes['sac.learning_rate']) + 3)


def test_trials_find_a_planted_optimum_prune_and_go_on(tmp_path):
    found = space('sac.learning_rate=log:1e-6:1', 'chunk=25,50,100')
    trials = Trials(tmp_path, found)
    for number in range(15):
        assert trials.ask() == number
        score = planted(trials.changes(number))
        trials.finish(number, score, [score] * 10)
    running = trials.ask()
    assert not trials.is_hopeless(running, [-9.0] * 3, range(3, 9))  # too early to tell
    assert trials.is_hopeless(running, [-9.0] * 4, range(3, 9))
    drawn = trials.changes(running)
    (tmp_path / 'optuna.journal.lock').touch()  # left by a driver that was killed
    trials = Trials(tmp_path, found)
    assert trials.count == 16 and trials.running() == [running]
    assert trials.changes(running) == drawn and trials.rungs(running) == 4
    trials.prune(running)
    for number in range(16, 30):
        assert trials.ask() == number
        trials.finish(number, planted(trials.changes(number)), [])
    (best,) = trials.best(1)
    assert 3e-4 < trials.changes(best)['sac.learning_rate'] < 3e-3
    importance = trials.importance()
    assert importance['sac.learning_rate'] > 0.8 > importance['chunk']


def test_without_optuna_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'optuna', None)
    assert main(['tune', '--search', 'chunk=25,50', '--out', str(tmp_path)]) == 2
    assert "pip install 'mbarl_ros[scale]'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_and_ends_in_a_preset(tmp_path, capsys):
    task = write_brief_task(tmp_path / 'brief.yaml')
    out = tmp_path / 'tune'
    words = ['tune', '--task', str(task), '--agent', AGENT, '--out', str(out), '--seeds', '1']
    words += ['--fresh-seeds', '2', '--finalists', '1', '--trials', '2']
    words += ['--search', 'sac.learning_rate=log:1e-4:1e-2', 'chunk=25,50']
    command = [sys.executable, '-m', 'mbarl_ros.cli', *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        for line in driver.stdout:
            if re.match('trial 0: score', line):
                driver.kill()
    done = out / 'search' / 'pointmass' / 'trial_000' / 'seed_0' / 'result.json'
    before = done.stat().st_mtime_ns
    assert main(words) == 0
    said = capsys.readouterr().out
    assert 'trial 1: ' in said and 'trial 0: score' not in said
    assert done.stat().st_mtime_ns == before
    data = json.loads((out / 'tune.json').read_text())
    assert [trial['state'] for trial in data['trials']] == ['COMPLETE', 'COMPLETE']
    assert {final['name'] for final in data['finals']} > {'default'}
    assert data['plan']['fresh_seeds'] == [1, 2]
    best = load_agent(str(out / 'best.yaml'))
    changes = next(f['changes'] for f in data['finals'] if f['name'] == data['best'])
    assert best == load_variant(variant(AGENT, 'small-tuned', changes))
    text = (out / 'tune.md').read_text()
    assert data['verdict'] in text and text.count('| complete |') == 2
    assert (out / 'tune.png').read_bytes().startswith(b'\x89PNG')
    assert main([*words, '--agent', 'medal']) == 2
    assert "tune.yaml, key 'agent'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ('more', 'said'),
    [
        (['--task', 'pontmass'], "unknown task 'pontmass'"),
        (['--agent', 'bc'], 'bc has no settings'),
        (['--agent', 'risc'], "task 'pointmass' has no goals"),
        (['--cpus', '2'], '--cpus is for --engine ray'),
        (['--task', 'pointmass', str(CONFIG / 'tasks/pointmass.yaml')], "both called 'pointmass'"),
    ],
)
def test_what_cannot_be_run_leaves_the_folder_to_the_corrected_command(
    tmp_path, capsys, more, said
):
    out = tmp_path / 'tune'
    assert main(['tune', '--search', 'chunk=25,50', '--out', str(out), *more]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


class Played(Engine):
    """In place of processes: each seed writes known evaluations, some at each look."""

    slots = 1

    def __init__(self, at_each_look, failing=()):
        self.at_each_look, self.failing = at_each_look, failing

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def start(self, job):
        job.folder.mkdir(parents=True, exist_ok=True)
        if job.title in self.failing:
            job.log.write_text('out of memory\n')
            return FailedSeed()
        bad = job.folder.parent.name in ('trial_005', 'trial_006')
        return PlayedSeed(job.folder, 0.2 if bad else 0.5, self.at_each_look)


class FailedSeed(Run):
    def code(self):
        return 1

    def stop(self):
        pass


class PlayedSeed(Run):
    def __init__(self, folder, success, at_each_look):
        self.folder, self.at_each_look = folder, at_each_look
        self.left = lines(*[success] * 11, every=10)

    def code(self):
        written, self.left = self.left[: self.at_each_look], self.left[self.at_each_look :]
        for line in written:
            append_line(self.folder / 'evaluations.jsonl', line)
        if self.left:
            return None
        write_result(self.folder)
        return 0

    def stop(self):
        pass


@pytest.mark.parametrize('at_each_look', [1, 11])
def test_what_is_pruned_does_not_depend_on_when_it_is_looked_at(
    tmp_path, monkeypatch, at_each_look
):
    monkeypatch.setattr(pool, '_POLL_PERIOD', 0.0)
    plan = Plan(tmp_path, ['pointmass'], 'mbarl', space('chunk=25,50,100'), 8, [0], 2, 1, 100, 10)
    trials, _ = Tune(plan).run(Played(at_each_look))
    states = [trials.state(number) for number in range(8)]
    assert states == ['COMPLETE'] * 5 + ['PRUNED'] * 2 + ['COMPLETE']
    assert [trials.rungs(number) for number in (5, 6)] == [4, 4]


def test_a_trial_whose_seeds_had_ended_when_the_search_was_killed_gets_its_score(tmp_path):
    plan = Plan(tmp_path, ['pointmass'], 'mbarl', space('chunk=25,50,100'), 2, [0], 2, 1, 100, 10)
    Tune(plan).run(Played(11))
    journal = tmp_path / 'optuna.journal'
    events = journal.read_text().splitlines(keepends=True)
    told = next(number for number, event in enumerate(events[::-1], 1) if '"state"' in event)
    journal.write_text(''.join(events[:-told]))  # killed before this line
    assert Trials(tmp_path, plan.space).running() == [1]
    trials, _ = Tune(plan).run(Played(11))
    assert trials.state(1) == 'COMPLETE' and trials.score(1) is not None


def test_settings_that_exclude_each_other_fail_their_trial_only(tmp_path, capsys):
    found = space('model.members=3,5', 'model.elites=2,4')
    plan = Plan(tmp_path, ['pointmass'], 'mbarl', found, 8, [0], 2, 1, 100, 10)
    trials, _ = Tune(plan).run(Played(11))
    assert 'elites (4) cannot exceed members (3)' in capsys.readouterr().out
    failed = [trials.state(number) == 'FAIL' for number in range(8)]
    excluded = [list(trials.changes(number).values()) == [3, 4] for number in range(8)]
    assert failed == excluded and any(failed)


def test_settings_that_do_not_fit_a_task_fail_their_trial_only(tmp_path, capsys):
    found = read_space(['shared=true,false'], load_agent('fbrl'))
    plan = Plan(tmp_path, ['pointmass'], 'fbrl', found, 4, [0], 2, 1, 100, 10)
    trials, _ = Tune(plan).run(Played(11))
    assert "task 'pointmass' has no goals" in capsys.readouterr().out
    for number in range(4):
        assert (trials.state(number) == 'FAIL') == trials.changes(number)['shared']


@pytest.mark.parametrize(
    ('failing', 'left', 'said'),
    [
        ('trial_000', ['trial_001', 'default'], 'No setting that finished beats mbarl as it is'),
        ('default', ['trial_000', 'trial_001'], 'not compared with mbarl as it is, which failed'),
        ('bc', [], 'No settings finished all fresh seeds'),
    ],
)
def test_a_fresh_seed_that_fails_leaves_a_report_of_the_others(
    failing, left, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(pool, '_POLL_PERIOD', 0.0)
    seed = f'pointmass {failing} seed 2'
    monkeypatch.setattr(cli, 'engine', lambda _: Played(11, [seed]))
    words = ['tune', '--task', 'pointmass', '--budget', '100', '--every', '10', '--seeds', '0,']
    words += ['--search', 'chunk=int:20:90', '--trials', '2', '--fresh-seeds', '2']
    words += ['--out', str(tmp_path)]
    assert main(words) == 1
    captured, text = capsys.readouterr(), (tmp_path / 'tune.md').read_text()
    log = tmp_path / 'fresh' / 'pointmass' / failing / 'seed_2' / 'bench.log'
    failure = f'{seed} failed: out of memory; see {log}'
    assert failure in text and captured.err == f'error: {failure}\n'
    data = json.loads((tmp_path / 'tune.json').read_text())
    assert sorted(final['name'] for final in data['finals']) == sorted(left)
    assert said in data['verdict'] and data['verdict'] in captured.out
    assert (tmp_path / 'tune.png').exists()
    assert (tmp_path / 'best.yaml').exists() == bool(left)
    monkeypatch.setattr(cli, 'engine', lambda _: Played(11))
    assert main(words) == 0  # the same command runs the seed again
    data = json.loads((tmp_path / 'tune.json').read_text())
    assert len(data['finals']) == 3 and data['failures'] == []
