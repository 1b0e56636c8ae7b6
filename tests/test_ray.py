"""Sweeps on Ray: two real nodes on this machine, real kills. The nodes do not have our files."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from mbarl_ros.cli.main import main
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.studies import remote_job, seeds
from mbarl_ros.studies.luggage import named_files, seed_luggage
from mbarl_ros.studies.ray_engine import RayEngine, Request
from support.brief_task import write_brief_task

ROOT = Path(__file__).parent.parent
AGENT = 'medal:name=small,sac.hidden=[16,16],sac.batch_size=16,updates_per_step=0.5'
SECONDS = {'wall_seconds', 'practice_seconds'}
CELLS, SEEDS = 'mbarl_ros.studies.cells', 'mbarl_ros.studies.worker'
TIMEOUT = 120


@pytest.fixture(scope='module')
def switches(tmp_path_factory):
    """Folder of the switches of the toy study (support/toy_study.py)."""
    return tmp_path_factory.mktemp('switches')


@pytest.fixture(scope='module')
def cluster(switches):
    """Address of a cluster of two nodes of one core, which know the package and the switches."""
    utils = pytest.importorskip('ray.cluster_utils', reason='Ray is not installed (extra scale)')
    node = {'num_cpus': 1, 'object_store_memory': 80 * 2**20}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHONPATH', str(ROOT))
        patch.setenv('MBARL_TOY', str(switches))
        patch.setenv('RAY_USAGE_STATS_ENABLED', '0')
        nodes = utils.Cluster(
            initialize_head=True, head_node_args={**node, 'include_dashboard': False}
        )
        nodes.add_node(**node)
        yield nodes.address
        nodes.shutdown()


def bench(task, out, *more):
    words = [sys.executable, '-m', 'mbarl_ros.cli', 'bench', '--task', task, '--out', out]
    return [*map(str, words), '--agents', AGENT, '--seeds', '2', *more]


def study(out, address, *more):
    words = [sys.executable, '-m', 'mbarl_ros.cli', 'study', 'support.toy_study:Toy', '--out', out]
    return [*map(str, words), *on(address), *more]


def on(address):
    return ['--engine', 'ray', '--address', address, '--memory', '0.2']


def start(words):
    environment = {**os.environ, 'PYTHONPATH': f'{ROOT}:{ROOT / "tests"}'}
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def finish(words):
    process = start(words)
    output = process.communicate(timeout=TIMEOUT)[0]
    return process.returncode, output


def jobs(module):
    """Processes of jobs on the nodes."""
    found = []
    for folder in Path('/proc').glob('[0-9]*'):
        with contextlib.suppress(OSError):
            words = (folder / 'cmdline').read_bytes().decode().split('\0')
            if module in words and '/mbarl-job-' in os.readlink(folder / 'cwd'):
                found.append(int(folder.name))
    return found


def until(condition):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def contents(out):
    """Evaluations without times, metrics, policies and configuration of each seed."""
    found = {}
    for path in out.rglob('seed_*/*'):
        name = str(path.relative_to(out))
        if path.name == 'evaluations.jsonl':
            lines = seeds.read_evaluations(path.parent)
            found[name] = [{key: line[key] for key in line.keys() - SECONDS} for line in lines]
        elif path.suffix in ('.safetensors', '.yaml') or path.name == 'metrics.jsonl':
            found[name] = path.read_bytes()
    return found


def runs(switches, cell):
    with contextlib.suppress(FileNotFoundError):
        return len((switches / f'{cell}.runs').read_text())
    return 0


@pytest.mark.alone
@pytest.mark.slow
def test_two_nodes_give_the_bytes_of_the_local_engine(cluster, tmp_path):
    task = write_brief_task(tmp_path / 'brief.yaml')
    local, far = tmp_path / 'local', tmp_path / 'far'
    assert finish(bench(task, local))[0] == 0
    code, output = finish(bench(task, far, *on(cluster)))
    assert code == 0, output
    assert 'small seed 1: 100 steps, deployed' in output
    found = contents(far)
    assert found == contents(local) and len(found) == 2 * 10
    assert (far / 'pointmass' / 'table.md').exists()
    assert 'small seed 1: already finished' in finish(bench(task, far, *on(cluster)))[1]


@pytest.mark.alone
@pytest.mark.slow
def test_a_killed_worker_is_run_again_and_its_folder_reaches_the_next_cell(
    cluster, switches, tmp_path
):
    (switches / 'one.hang').touch()
    before = runs(switches, 'one')
    process = start(study(tmp_path, cluster, '--quick'))
    until(lambda: runs(switches, 'one') == before + 1)
    (job,) = jobs(CELLS)
    worker = int(Path(f'/proc/{job}/stat').read_text().rpartition(')')[2].split()[1])
    os.kill(worker, signal.SIGKILL)
    until(lambda: runs(switches, 'one') == before + 2)
    (switches / 'one.hang').unlink()
    output = process.communicate(timeout=TIMEOUT)[0]
    assert process.returncode == 0, output
    assert 'one: lost on ' in output and 'runs again, 1 of at most 3 times' in output
    assert 'holds: Twice three is six' in output  # cell `double` has read what `one` wrote
    assert (tmp_path / 'toy-quick' / 'cells' / 'one' / 'number').read_text() == '3.0'


@pytest.mark.alone
@pytest.mark.slow
def test_a_cell_that_fails_by_itself_is_not_repeated_and_its_log_comes_back(
    cluster, switches, tmp_path
):
    (switches / 'one.fail').touch()
    before = runs(switches, 'one')
    code, output = finish(study(tmp_path, cluster, '--quick'))
    (switches / 'one.fail').unlink()
    log = tmp_path / 'toy-quick' / 'cells' / 'one' / 'cell.log'
    assert code == 1 and 'the toy broke' in log.read_text()
    assert f'cell one failed: RuntimeError: the toy broke; see {log}' in output
    assert runs(switches, 'one') == before + 1


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL])
def test_a_driver_that_ends_leaves_no_process_and_goes_on(cluster, switches, tmp_path, number):
    (switches / 'one.hang').touch()
    before = runs(switches, 'one'), runs(switches, 'other')
    process = start(study(tmp_path, cluster))
    result = tmp_path / 'toy' / 'cells' / 'other' / 'result.json'
    until(lambda: result.exists() and runs(switches, 'one') == before[0] + 1)
    process.send_signal(number)
    output = process.communicate(timeout=TIMEOUT)[0]
    if number == signal.SIGINT:
        assert output.rstrip().endswith('interrupted; the same command continues')
        assert not jobs(CELLS)
    until(lambda: not jobs(CELLS))
    (switches / 'one.hang').unlink()
    code, output = finish(study(tmp_path, cluster))
    assert code == 0 and 'holds: Twice three is six' in output, output
    assert runs(switches, 'one') == before[0] + 2 and runs(switches, 'other') == before[1] + 1


def test_what_ray_needs_is_said(tmp_path, capsys, monkeypatch):
    words = ['bench', '--agents', 'bc', '--seeds', '1', '--out', str(tmp_path)]
    assert main([*words, '--cpus', '2']) == 2
    assert '--cpus is for --engine ray' in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, 'ray', None)
    assert main([*words, '--engine', 'ray']) == 2
    assert "pip install 'mbarl_ros[scale]'" in capsys.readouterr().err


@pytest.mark.parametrize('words', [['--memory', 'much'], ['--gpus', '-1'], ['--jobs', 'all']])
def test_an_amount_that_is_none_is_named(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(['bench', '--engine', 'ray', *words])
    assert ended.value.code == 2
    assert f'argument {words[0]}: {words[1]} is not a' in capsys.readouterr().err


def test_a_ray_client_address_is_refused(tmp_path, capsys):
    pytest.importorskip('ray', reason='Ray is not installed (extra scale)')
    words = ['bench', '--out', str(tmp_path), '--engine', 'ray', '--address', 'ray://host:10001']
    assert main(words) == 2
    assert 'run this command on a machine of the cluster' in capsys.readouterr().err


def test_an_address_at_which_nobody_listens_is_refused_at_once(tmp_path, capsys):
    pytest.importorskip('ray', reason='Ray is not installed (extra scale)')
    words = ['bench', '--task', 'pointmass', '--agents', 'bc', '--seeds', '1']
    words += ['--out', str(tmp_path), '--engine', 'ray', '--address', '127.0.0.1:1']
    start = time.monotonic()
    assert main(words) == 2
    assert "no Ray cluster at '127.0.0.1:1'" in capsys.readouterr().err
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ('amount', 'said'),
    [({'cpus': 1e-5}, '--cpus 1e-05: Ray counts in steps'), ({'gpus': 1.5}, '--gpus 1.5: a share')],
)
def test_amounts_that_ray_cannot_share_out_are_refused(amount, said):
    with pytest.raises(ConfigError, match=said):
        Request(**amount)


def test_ctrl_c_while_ray_starts_is_not_lost(monkeypatch):
    ray = pytest.importorskip('ray', reason='Ray is not installed (extra scale)')

    def init(**_):
        with contextlib.suppress(KeyboardInterrupt):  # as callbacks of Ray do at times
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)

    monkeypatch.setattr(ray, 'init', init)
    monkeypatch.setattr(RayEngine, '_check_request', lambda *_: None)
    with pytest.raises(KeyboardInterrupt), RayEngine('local'):
        pass


def test_own_modules_and_relative_files_are_sent_and_installed_ones_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'my_worlds').mkdir()
    for name in ('__init__.py', 'room.urdf', 'notes/.hidden'):
        path = tmp_path / 'my_worlds' / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / 'my_world.py').touch()
    (tmp_path / 'beside.py').touch()
    (tmp_path / 'map.png').touch()
    monkeypatch.setattr(sys, 'path', [*sys.path, str(tmp_path)])
    assert set(named_files('my_worlds.rooms:Room')) == {
        'my_worlds/__init__.py',
        'my_worlds/room.urdf',
    }
    options = {'env': 'my_world:World', 'kwargs': {'map': 'map.png', 'size': 3}}
    assert set(named_files(options)) == {'my_world.py', 'beside.py', 'map.png'}
    installed = ['mbarl_sim.pointmass:PointMass', 'numpy:array', 'json:loads', '/etc/hostname']
    assert not named_files(installed)


def test_a_package_without_init_file_is_sent_and_a_long_text_names_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'plain_worlds').mkdir()
    (tmp_path / 'plain_worlds' / 'room.py').touch()
    monkeypatch.setattr(sys, 'path', [*sys.path, str(tmp_path)])
    assert set(named_files('plain_worlds.room:Room')) == {'plain_worlds/room.py'}
    assert not named_files(['plain_worlds:Room', 'plain_worlds.hall:Hall'])
    assert not named_files({'model': '<mujoco>' + '<body/>' * 1000 + '</mujoco>'})


def test_a_job_that_begins_is_not_taken_for_an_abandoned_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    lock = remote_job.lock_file

    def late(*arguments):
        remote_job._remove_abandoned()  # as another job of this node may at this moment
        return lock(*arguments)

    monkeypatch.setattr(remote_job, 'lock_file', late)
    with remote_job.own_folder() as folder:
        remote_job._remove_abandoned()
        assert folder.is_dir()
    assert not list(tmp_path.iterdir())


def test_luggage_of_a_seed_has_no_path_of_this_machine(tmp_path):
    run = seeds.SeedRun(out=str(tmp_path), task='pointmass', agent=AGENT, seed=0, budget=10)
    luggage = seed_luggage(run, vars(run), tmp_path / 'pointmass' / 'small' / 'seed_0')
    task = yaml.safe_load(luggage.files['task.yaml'])
    assert (task['robot'], task['demonstrations']) == ('robot.yaml', 'demonstrations')
    assert any(name.startswith('demonstrations/forward_000/') for name in luggage.files)
    assert str(tmp_path) not in str(luggage.argument) and luggage.argument['seed'] == 0
    assert luggage.folder == 'out/pointmass/small/seed_0'
