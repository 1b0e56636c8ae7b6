"""``mbarl report``: what it says of a run is what the run's files hold."""

import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from mbarl_ros.cli.main import main
from mbarl_ros.learning import checkpoint
from mbarl_ros.reports.attempts import phases
from mbarl_ros.reports.comparison import groups, scored_run
from mbarl_ros.reports.history_data import total
from mbarl_ros.reports.intervals import bootstrap, interquartile_mean, separation, wilson
from mbarl_ros.reports.open_loop import predict, windows
from mbarl_ros.reports.paper import BROWSERS
from mbarl_ros.reports.report import first_box
from mbarl_ros.reports.run_data import read_run
from mbarl_ros.schema.load import load_agent
from mbarl_ros.storage.record_log import RecordLog
from mbarl_ros.storage.run_files import write_config
from mbarl_ros.storage.transitions import (
    BACKWARD,
    FORWARD,
    HUMAN,
    POLICY,
    SAFETY,
    pack_log_record,
    stack,
)
from mbarl_ros.task import Task
from support.graph import small_agent

STEPS = 600
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)


class Page(HTMLParser):
    """Texts of a page's table cells, row by row, its words, and what it would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.text = ''
        self._cell = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ('src', 'href', 'xlink:href')]
        if tag == 'tr':
            self.rows.append([])
        if tag in ('td', 'th'):
            self.rows[-1].append('')
            self._cell = True

    def handle_endtag(self, tag):
        if tag in ('td', 'th'):
            self._cell = False

    def handle_data(self, data):
        self.text += data
        if self._cell:
            self.rows[-1][-1] += data

    def row(self, first: str) -> list[str]:
        """The only row that begins with this cell."""
        (found,) = [row for row in self.rows if row and row[0] == first]
        return found[1:]


def report(*runs: Path, folder: Path, films: bool = False) -> Page:
    """The page that the command writes about some runs."""
    output = folder / 'report.html'
    words = [str(run) for run in runs] + ['--output', str(output), '--overwrite']
    assert main(['report', *words, *([] if films else ['--no-films'])]) == 0
    return Page(output.read_text())


@pytest.fixture(scope='module')
def real(tmp_path_factory) -> Path:
    """Folder of a short run of the whole graph."""
    folder = tmp_path_factory.mktemp('report')
    raw = Task.load('pointmass').config.model_dump(mode='json')
    raw['evaluation'].update(every=200, episodes=10, horizon=30, target=1.0)
    raw['phases'] = {'forward_limit': 40, 'backward_limit': 40}
    (folder / 'task.yaml').write_text(yaml.safe_dump(raw))
    words = [f'task:={folder / "task.yaml"}', f'agent:={small_agent(folder)}', f'steps:={STEPS}']
    command = [sys.executable, '-m', 'mbarl_ros.cli', 'up', 'sim', *words, 'view:=lines']
    done = subprocess.run(
        [*command, f'run_dir:={folder / "run"}'], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 3, done.stdout + done.stderr
    return folder / 'run'


def write_run(folder: Path, rows: list[dict], task: Task | None = None, **arguments) -> Path:
    """A run folder with its configuration and transitions, and nothing else."""
    folder.mkdir(parents=True)
    task = task or Task.load('pointmass')
    agent = load_agent(small_agent(folder))
    for name, config in (('task', task.config), ('robot', task.robot), ('agent', agent)):
        write_config(folder / f'{name}.yaml', config.model_dump(mode='json'))
    known = {'graph': 'hardware', 'version': '0.1.0', 'seed': 0, **arguments}
    (folder / 'arguments.json').write_text(json.dumps(known))
    if rows:
        log = RecordLog(folder / 'transitions.log')
        log.append(pack_log_record(stack(rows, task), task, task.spec_hash(agent), 's', 0))
        log.close()
    return folder


def step(**values) -> dict:
    zero = np.zeros(4, np.float32)
    row = {'observation': zero, 'next_observation': zero, 'action': np.zeros(2), 'reward': 0.0}
    row |= {'terminated': 0, 'truncated': 0, 'phase': FORWARD, 'source': POLICY}
    return row | {'stamp': 0.0, 'sequence': 0, 'robot': 0} | values


def score(folder: Path, *success: float, **more) -> None:
    """Evaluations of ten episodes each, every 100 steps."""
    lines = [
        {'environment_steps': 100 * i, 'deployed_success': each, 'episodes': 10, **more}
        for i, each in enumerate(success)
    ]
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (folder / 'evaluations.jsonl').write_text(text)


# --- numbers ---------------------------------------------------------------------------------


def test_intervals_are_those_that_a_hand_computes():
    # Wilson with z = 1.959964: 8 of 10, none of 10, nothing tried
    low, high = wilson(np.array([8.0, 0.0, 0.0]), np.array([10.0, 10.0, 0.0]))
    np.testing.assert_allclose(low, [0.4901625, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(high, [0.9433178, 0.2775328, 1.0], atol=1e-6)
    assert interquartile_mean(np.array([0.0, 0.5, 0.6, 1.0])) == pytest.approx(0.55)
    assert interquartile_mean(np.array([0.0, 0.5, 1.0])) == pytest.approx(0.5)
    assert interquartile_mean(np.array([9, 1, 2, 3, 4, 5, 6, -9])) == pytest.approx(3.5)


def test_the_bootstrap_draws_each_task_for_itself():
    def mean(values):
        return values.mean(-1)

    # Two runs of 0 and 1: resamples have mean 0, 1/2 and 1 in 1, 2 and 1 of 4 cases.
    assert bootstrap([np.array([0.0, 1.0])], mean) == (0.0, 1.0)
    # Each task has equal runs, so that every resample of a task is the same.
    low, high = bootstrap([np.array([0.2, 0.2]), np.array([0.8, 0.8])], mean)
    assert low == pytest.approx(0.5) and high == pytest.approx(0.5)
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap([values], mean)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_separation_is_the_chance_that_a_positive_scores_above_a_negative():
    assert separation(np.array([0.9, 0.8]), np.array([0.1, 0.8, 0.2])) == pytest.approx(5.5 / 6)
    assert np.isnan(separation(np.array([]), np.array([0.1])))


def test_a_counter_that_starts_again_goes_on():
    assert total(np.array([np.nan, 3.0, 7.0, 2.0, 4.0])) == 11.0


def drive() -> tuple[Task, dict[str, np.ndarray]]:
    """Transitions of a disc that does as it is told: v = a, x += 0.1 a, within walls."""
    task, rng, rows = Task.load('pointmass'), np.random.default_rng(0), []
    state = np.zeros(4, np.float32)
    for number in range(1200):
        action = rng.uniform(-1, 1, 2)
        (following,), _ = Disc([0, 1]).step(state[None], action[None])
        ended = number % 40 == 39
        rows.append(
            step(observation=state, action=action, next_observation=following, truncated=ended)
        )
        state = following
    return task, stack(rows, task)


class Disc:
    """A model of :func:`drive`; with the entries of the action in another order, a wrong one."""

    elites = 1

    def __init__(self, order: list[int]) -> None:
        self.order = order

    def step(self, state, action):
        """Next states [..., 4]; no reward."""
        action = action[..., self.order]
        place = np.clip(state[..., :2] + 0.1 * action, -1.9, 1.9)
        return np.concatenate([place, action], -1).astype(np.float32), None


def test_a_model_that_is_right_predicts_far_ahead_and_a_shuffled_one_does_not():
    task, rows = drive()
    horizon, starts = windows(task, rows, np.arange(1200) >= 900)
    assert horizon == 25 and starts.min() >= 900 and starts.max() + horizon <= 1200
    right, wrong = (predict(Disc(o), task, rows, starts, horizon) for o in ([0, 1], [1, 0]))
    assert right.names == ['x', 'y', 'vx', 'vy'] and right.errors.shape == (len(starts), 25, 4)
    assert right.errors.max() < 1e-4
    assert (np.median(wrong.errors[:, -1], 0) > 0.2).all()
    expected = np.abs(rows['next_observation'][starts + 24] - rows['observation'][starts])
    np.testing.assert_allclose(right.still[:, -1], expected, atol=1e-6)


def test_windows_cross_no_gap_and_no_transition_that_the_model_knows():
    task, rows = drive()
    rows['observation'][700, 0] += 1.0  # the world was reset, or steps were lost
    unseen = np.ones(1200, bool)
    unseen[800:900] = False
    horizon, starts = windows(task, rows, unseen)
    for start in starts:
        inside = range(start, start + horizon)
        assert 700 not in inside[1:] and not set(inside) & set(range(800, 900))


# --- a real run ------------------------------------------------------------------------------


@pytest.mark.graph
def test_a_run_is_told_with_its_own_numbers(real, tmp_path):
    page = report(real, folder=tmp_path)
    run = read_run(real)
    last = run.evaluations[-1]
    low, high = wilson(last['deployed_success'] * last['episodes'], last['episodes'])
    interval = f'{last["deployed_success"]:.2f} ({low:.2f} to {high:.2f})'
    assert f'success {interval} over {last["episodes"]} episodes' in page.text
    assert 'The run used up its step budget' in page.text and 'Nothing unusual found' in page.text
    found = phases(run.task, run.transitions)
    forward = found.phase == FORWARD
    told = page.rows[_below(page, 'before limit')]
    assert told[:3] == ['forward', str(forward.sum()), str(found.success[forward].sum())]
    assert page.row('git revision') and page.row('numpy') == [np.__version__]
    assert page.row('commands changed by a limit')[0].replace(',', '').isdecimal()
    rows = [row for row in page.rows if row[:1] == ['backward phases, last third']]
    assert 0.5 < float(rows[0][-1]) <= 1.0
    # The last model on windows that it was not trained on, and the same with its outputs mixed up.
    right = _errors(page)
    shutil.copytree(real, tmp_path / 'mixed')
    path = tmp_path / 'mixed' / 'checkpoint' / 'learner.safetensors'
    arrays, meta = checkpoint.load(path, print)
    last = [name for name in arrays if name.startswith('model/network/')][-2:]
    arrays |= {name: np.roll(arrays[name], 1, axis=-1) for name in last}
    checkpoint.save(path, arrays, meta)
    mixed = _errors(report(tmp_path / 'mixed', folder=tmp_path))
    assert len(right) == 4 and sum(mixed) > 1.5 * sum(right)


def _errors(page: Page) -> list[float]:
    """Open-loop errors at the end of the horizon, in % of the range of each entry."""
    return [float(row[-1]) for row in page.rows if row and row[0] in ('x', 'y', 'vx', 'vy')]


def _below(page: Page, head: str) -> int:
    """Number of the first row below a table's head that has this column."""
    (number,) = [i for i, row in enumerate(page.rows) if head in row]
    return number + 1


@pytest.mark.graph
def test_a_page_loads_nothing_and_films_are_inside(real, tmp_path):
    page = report(real, folder=tmp_path, films=True)
    assert (tmp_path / 'report.html').stat().st_size < 5e6
    outside = [each for each in page.loads if not each.startswith(('#', 'data:image/'))]
    assert not outside and 'script' not in page.tags and 'link' not in page.tags
    assert 'url(http' not in (tmp_path / 'report.html').read_text()
    assert sum(each.startswith('data:image/gif') for each in page.loads) == 1
    assert page.tags.count('svg') >= 5


@pytest.mark.graph
@pytest.mark.skipif(BROWSER is None, reason='no Chromium on the PATH')
def test_a_browser_prints_it(real, tmp_path):
    words = ['report', str(real), '--no-films', '--output', str(tmp_path / 'a.html')]
    assert main([*words, '--pdf', str(tmp_path / 'a.pdf')]) == 0
    assert (tmp_path / 'a.pdf').read_bytes().startswith(b'%PDF')


@pytest.mark.graph
@pytest.mark.parametrize('part', ['data', 'checkpoints'])
def test_a_damaged_file_costs_its_own_part_only(real, tmp_path, part):
    copy = shutil.copytree(real, tmp_path / 'run')
    if part == 'data':
        (copy / 'demonstrations.safetensors').unlink()
        damaged = list(copy.glob('demonstrations/*/demonstration.json'))
        damaged += [copy / 'result.json', copy / 'history.jsonl']
        (copy / 'transitions.log').unlink()
        log = RecordLog(copy / 'transitions.log')
        log.append(b'something else')
        log.close()
        told = [
            'is not a transition log',
            'result.json: is damaged; remove it',
            'demonstration.json: ',
        ]
        told.append('has no history of its safety gate')
    else:
        damaged = list(copy.glob('checkpoint/*'))
        told = ['no usable checkpoint: ' + str(copy / f'checkpoint/{name}.safetensors')
                for name in ('learner', 'classifier')]  # fmt: skip
    for path in damaged:
        path.write_bytes(b'{"torn": ')
    page = report(copy, folder=tmp_path)
    for sentence in (*told, 'Last evaluation, after', 'Configuration as used'):
        assert sentence in page.text


@pytest.mark.graph
def test_without_checkpoint_and_evaluations_the_rest_stands(real, tmp_path):
    copy = shutil.copytree(real, tmp_path / 'run')
    for name in ('evaluations.jsonl', 'result.json', 'history.jsonl'):
        (copy / name).unlink()
    shutil.rmtree(copy / 'checkpoint')
    page = report(copy, folder=tmp_path)
    for sentence in (
        'has written no result', 'No policy has been evaluated',
        'there is no checkpoint of the learner', 'there is no checkpoint of the classifier',
        'has no history of its safety gate', 'has no history.jsonl',
    ):  # fmt: skip
        assert sentence in page.text


# --- runs that are written here --------------------------------------------------------------


def test_a_run_on_hardware_tells_who_drove_and_who_stopped(tmp_path):
    rows = [step(source=HUMAN) for _ in range(7)] + [step() for _ in range(3)]
    rows += [step(truncated=1), *[step(phase=BACKWARD, source=SAFETY) for _ in range(4)]]
    rows += [step(phase=BACKWARD, truncated=1)]
    page = report(write_run(tmp_path / 'run', rows), folder=tmp_path)
    assert 'A person drove 7 of 16 steps (43.8 %), in 1 stretches' in page.text
    assert ['forward', '0', '7', '0.7'] in page.rows
    assert 'learned without demonstrations' in page.text
    assert 'No policy has been evaluated' in page.text


def test_an_empty_run_is_a_report_of_sentences(tmp_path):
    page = report(write_run(tmp_path / 'run', []), folder=tmp_path, films=True)
    assert 'The run has no transitions yet.' in page.text
    assert 'The run has kept no policy yet.' in page.text


def test_the_gate_is_told_over_restarts(tmp_path):
    folder = write_run(tmp_path / 'run', [step()])
    states = [('3', 'ok', ''), ('5', 'estop', 'topic'), ('2', 'ok', '')]
    lines = [
        {
            'time': 10.0 + 2 * number,
            'status': {
                'safety_gate': {
                    'clipped': clipped, 'refused': '0', 'state': state, 'estop': estop,
                    'clipped entry vx': clipped,
                },
                'policy_controller': {
                    'period_error_max_ms': '4.5', 'period_error_p99_ms': '1.5',
                    'control_rate': '10.0', 'missed_periods': '1',
                },
            },
        }
        for number, (clipped, state, estop) in enumerate(states)
    ]  # fmt: skip
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (folder / 'history.jsonl').write_text(text)
    page = report(folder, folder=tmp_path)
    assert page.row('commands changed by a limit') == ['7']
    assert page.row('in which entries') == ['vx 7']
    assert page.row('e-stops') == ['1: by topic for about 2 s']
    assert page.row('ok') == ['2', '2 s']
    assert page.row('deviation from the period, greatest') == ['4.5 ms']
    assert page.row('periods missed') == ['1']


def test_phases_and_gates_of_several_robots_are_told_apart(tmp_path):
    """Rows come mixed; the robots' phases have 4 and 6 steps, and one of robot_2 goes on."""
    one = [*[step(robot=1)] * 3, step(robot=1, truncated=1)] * 3
    two = [*[step(robot=2, source=HUMAN)] * 5, step(robot=2, truncated=1, phase=FORWARD)] * 2
    rows = [row for pair in zip(one, two, strict=True) for row in pair] + [step(robot=2)] * 3
    folder = write_run(tmp_path / 'run', rows, graph='fleet')
    (folder / 'robots.json').write_text('{"arm_a": 1, "arm_b": 2}')
    status = {
        'arm_a/safety_gate': {'clipped': '5', 'state': 'ok', 'estop': ''},
        'arm_b/safety_gate': {'clipped': '0', 'state': 'ok', 'estop': ''},
        'arm_b/policy_controller': {
            'period_error_max_ms': '4.5',
            'period_error_p99_ms': '1.5',
            'control_rate': '10.0',
            'missed_periods': '7',
        },
        'learner': {'updates': '3'},
    }
    (folder / 'history.jsonl').write_text(json.dumps({'time': 1.0, 'status': status}) + '\n')
    run = read_run(folder)
    found = phases(run.task, run.transitions)
    assert sorted(found.steps) == [4, 4, 4, 6, 6] and sorted(found.human) == [0, 0, 0, 5, 5]
    assert len(run.transitions['robot']) == len(rows)
    page = report(folder, folder=tmp_path)
    assert page.row('steps of each robot') == ['arm_a 12, arm_b 15']
    clipped = [row[1] for row in page.rows if row and row[0] == 'commands changed by a limit']
    assert clipped == ['5', '0']
    assert page.row('periods missed') == ['7']
    assert 'in 2 stretches' in page.text


def test_what_files_say_is_text(tmp_path):
    raw = Task.load('pointmass').config
    strange = '<u>Wände & $x</u>'
    config = raw.model_copy(update={'name': strange, 'description': '<img src=x>'})
    task = Task(config, Task.load('pointmass').robot)
    ended = {'truncated': 1}
    folder = write_run(tmp_path / 'run', [step(**ended)] * 12, task, note='</td><script>')
    score(folder, 0.0, 0.5)
    page = report(folder, folder=tmp_path)
    assert page.row('task') == [f'{strange}: <img src=x>']
    assert 'img' not in page.tags and 'script' not in page.tags and 'u' not in page.tags
    assert page.row('note') == ['</td><script>']


def test_the_first_box_has_the_causes(tmp_path):
    run = read_run(write_run(tmp_path / 'run', [step()]))
    cause = SimpleNamespace(title='A < B', evidence=['12 of 13 & more'], remedy='drive <slowly>')
    html = first_box(run, [cause])
    for part in ('A &lt; B', '12 of 13 &amp; more', 'drive &lt;slowly&gt;'):
        assert part in html
    assert 'Nothing unusual' not in html


def test_runs_are_compared_over_seeds_one_block_for_each_task(tmp_path):
    runs = []
    for seed, success in enumerate((0.6, 0.8, 0.9, 1.0)):
        runs.append(write_run(tmp_path / f'run{seed}', [step()], seed=seed))
        score(runs[-1], 0.0, success, success, clone_success=0.4, robot_seconds=20.0)
    other = write_run(tmp_path / 'other', [], Task.load('push'), seed=0)
    score(other, 0.1, 0.3)
    unscored = write_run(tmp_path / 'unscored', [], seed=9)
    page = report(*runs, other, unscored, folder=tmp_path)
    (summary,) = [row for row in page.rows if row[:2] == ['small', '0, 1, 2, 3']]
    # The middle two of four; the bootstrap can be no wider than the seeds.
    assert summary[2].startswith('0.85 (')
    # Of four runs two reach the target 0.9 after 100 steps: the median run does not.
    assert summary[3:] == ['0.40', '2 of 4', 'never', '20 s']
    assert 'Comparison: task pointmass' in page.text and 'Comparison: task push' in page.text
    assert 'unscored is not compared: No policy has been evaluated' in page.text
    assert ['small', str(runs[0]), '0', '0.60 (0.31 to 0.83)'] in [row[:4] for row in page.rows]


def test_runs_of_an_agent_with_other_settings_are_another_group(tmp_path):
    folders = [write_run(tmp_path / str(seed), [], seed=seed, mode='lockstep') for seed in (0, 1)]
    folders.append(write_run(tmp_path / '2', [], seed=2, mode='realtime'))
    for folder in folders:
        score(folder, 0.5)
    found = groups([scored_run(read_run(folder)) for folder in folders])
    assert {name: len(runs) for name, runs in found.items()} == {
        'small (mode=lockstep)': 2,
        'small (mode=realtime)': 1,
    }


def test_a_bench_folder_is_a_comparison(tmp_path):
    for seed in (0, 1):
        folder = write_run(tmp_path / f'bench/pointmass/small/seed_{seed}', [])
        (folder / 'arguments.json').unlink()
        (folder / 'seed.yaml').write_text(f'seed: {seed}\n')
        score(folder, 0.2, 0.95)
    page = report(tmp_path / 'bench', folder=tmp_path)
    (summary,) = [row for row in page.rows if row[:2] == ['small', '0, 1']]
    assert summary[2] == '0.95 (0.95 to 0.95)'


def test_what_is_no_run_is_refused_with_the_remedy(tmp_path, capsys):
    assert main(['report', str(tmp_path), '--output', str(tmp_path / 'a.html')]) == 2
    assert 'is no run folder' in capsys.readouterr().err
    (tmp_path / 'a.html').write_text('mine')
    assert main(['report', str(tmp_path), '--output', str(tmp_path / 'a.html')]) == 2
    assert '--overwrite' in capsys.readouterr().err


def test_without_a_browser_there_is_one_sentence_and_the_page(tmp_path, monkeypatch, capsys):
    folder = write_run(tmp_path / 'run', [step()])
    monkeypatch.setenv('PATH', str(tmp_path))
    output = tmp_path / 'a.html'
    words = ['report', str(folder), '--no-films', '--output', str(output)]
    assert main([*words, '--pdf', str(tmp_path / 'a.pdf')]) == 2
    assert 'needs a browser on the PATH' in capsys.readouterr().err
    assert output.exists() and not (tmp_path / 'a.pdf').exists()


def test_a_model_of_another_task_is_a_sentence(tmp_path):
    folder = write_run(tmp_path / 'run', [step()] * 20)
    path = folder / 'checkpoint' / 'learner.safetensors'
    checkpoint.save(path, {'model/error': np.ones(2, np.float32)}, {'imagination': {}})
    page = report(folder, folder=tmp_path)
    assert 'does not fit task and agent of the run' in page.text
