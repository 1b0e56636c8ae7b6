"""``mbarl study`` as its users see it: nothing is run twice, and what failed is named."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mbarl_ros.cli.main import main
from mbarl_ros.storage.run_files import write_config
from mbarl_ros.studies import cells
from mbarl_ros.studies.registry import STUDIES, load_study
from mbarl_ros.studies.study import Cell
from mbarl_ros.view.progress import ProgressBars

TESTS = Path(__file__).parent
TOY = 'support.toy_study:Toy'


@pytest.fixture
def switches(tmp_path, monkeypatch):
    """Folder whose files make cells of the toy hang, fail or return NaN."""
    folder = tmp_path / 'switches'
    folder.mkdir()
    monkeypatch.setenv('MBARL_TOY', str(folder))
    paths = [str(TESTS.parent), str(TESTS), os.environ.get('PYTHONPATH', '')]
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join(paths))
    return folder


def study(out, *more):
    return ['study', TOY, '--out', str(out), '--jobs', '2', *more]


def uses(folder):
    """Processes with this folder on their command line."""
    found = []
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        with contextlib.suppress(OSError):
            found += [path] if str(folder).encode() in path.read_bytes() else []
    return found


def runs(switches):
    return {path.stem: len(path.read_text()) for path in switches.glob('*.runs')}


def test_report_results_and_verdicts_of_all_cells(tmp_path, switches, capsys):
    assert main(study(tmp_path)) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith('holds: Twice three is six\n    measured')
    folder = tmp_path / 'toy'
    for name in ('report.md', 'results.json', 'toy.png'):
        assert (folder / name).exists() and str(folder / name) in captured.out
    assert 'toy 3/3: double' in captured.err or 'toy 3/3: other' in captured.err
    text = (folder / 'report.md').read_text()
    parts = ['# Toys', 'What toys do.', '**holds**', '![A toy](toy.png)', '| double | 6.0 |']
    parts += ['No more.', f'    mbarl study {TOY}\n']
    assert [part for part in parts if part not in text] == [] and 'Incomplete' not in text
    assert [text.index(part) for part in parts] == sorted(text.index(part) for part in parts)
    results = json.loads((folder / 'results.json').read_text())
    assert results['cells']['double']['result'] == {'number': 6.0}
    assert results['cells']['one']['settings'] == {'number': 3.0, 'kind': ['a', 'b']}
    assert results['verdicts'][0]['holds'] is True and results['missing'] == []


@pytest.mark.slow
def test_finished_cells_are_not_run_again_and_quick_ones_live_apart(tmp_path, switches, capsys):
    assert main(study(tmp_path, '--quick')) == 0 and main(study(tmp_path)) == 0
    assert runs(switches) == {'one': 2, 'double': 2, 'other': 1}
    assert main(study(tmp_path)) == 0
    assert runs(switches) == {'one': 2, 'double': 2, 'other': 1}
    assert '--quick' in (tmp_path / 'toy-quick' / 'report.md').read_text()


@pytest.mark.slow
def test_a_cell_with_other_settings_is_refused_by_name(tmp_path, switches, capsys, monkeypatch):
    assert main(study(tmp_path)) == 0
    monkeypatch.setenv('MBARL_TOY_NUMBER', '4')
    for more in ((), ('--report',)):
        capsys.readouterr()
        assert main(study(tmp_path, *more)) == 2
        message = capsys.readouterr().err
        assert str(tmp_path / 'toy' / 'cells' / 'one') in message and "key 'number'" in message
        assert 'remove this folder or give another --out' in message
    assert runs(switches) == {'one': 1, 'double': 1, 'other': 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ('fault', 'words'),
    [('fail', 'RuntimeError: the toy broke'), ('nan', 'ValueError: result.numbers[1] is nan')],
)
def test_a_failed_cell_is_named_and_the_same_command_continues(
    fault, words, tmp_path, switches, capsys
):
    switch = switches / f'one.{fault}'
    switch.touch()
    assert main(study(tmp_path)) == 1
    captured = capsys.readouterr()
    log = tmp_path / 'toy' / 'cells' / 'one' / 'cell.log'
    assert f'error: cell one failed: {words}; see {log}' in captured.err
    assert 'error: cell double was left out: it needs a cell that failed' in captured.err
    assert captured.out.startswith('open: Twice three is six')
    text = (tmp_path / 'toy' / 'report.md').read_text()
    assert '2 of 3 cells are missing: double, one' in text and '**open**' in text
    switch.unlink()
    assert main(study(tmp_path)) == 0
    assert runs(switches) == {'one': 2, 'double': 1, 'other': 1}
    assert 'holds: Twice three' in capsys.readouterr().out


@pytest.mark.slow
def test_where_every_cell_fails_there_is_no_report(tmp_path, switches, capsys):
    for name in ('one', 'other'):
        (switches / f'{name}.fail').touch()
    assert main(study(tmp_path)) == 1
    assert main(study(tmp_path, '--report')) == 2
    assert 'no finished cell in this folder; run mbarl study' in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_study_continues_and_leaves_no_process(number, tmp_path, switches, capsys):
    hang = switches / 'double.hang'
    hang.touch()
    words = [sys.executable, '-m', 'mbarl_ros.cli', *study(tmp_path)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    started = tmp_path / 'toy' / 'cells' / 'double' / 'progress'
    deadline = time.monotonic() + 30
    while not started.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    # A second command at the same time is refused.
    assert main(study(tmp_path)) == 2
    assert f'another process uses it (process {process.pid})' in capsys.readouterr().err
    process.send_signal(number)
    errors = process.communicate(timeout=30)[1]
    if number == signal.SIGINT:
        assert process.returncode == 130 and 'interrupted; the same command continues' in errors
    while uses(started.parent):
        assert time.monotonic() < deadline, 'a cell outlives its study'
        time.sleep(0.1)
    hang.unlink()
    assert main(study(tmp_path)) == 0
    assert runs(switches) == {'one': 1, 'double': 2, 'other': 1}


def test_without_a_name_the_studies_are_listed(capsys):
    assert main(['study']) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in STUDIES:
        (line,) = (line for line in lines if line.split()[:1] == [name])
        assert load_study(name).description in line


@pytest.mark.parametrize('name', ['ofline', 'support.toy_study:Tyo', 'no.module:Toy'])
def test_a_study_that_does_not_exist_is_named(name, capsys):
    assert main(['study', name]) == 2
    assert f"study '{name}'" in capsys.readouterr().err


@pytest.mark.parametrize('name', STUDIES)
@pytest.mark.parametrize('quick', [True, False])
def test_cells_of_the_studies_have_a_folder_each_and_settings_for_json(name, quick):
    cells = load_study(name).cells(quick)
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names) > 1
    assert all(re.fullmatch(r'[\w.+=-]+', name) for name in names)
    for cell in cells:
        assert json.loads(json.dumps(cell.settings)) == cell.settings
        assert set(cell.after) <= set(names)


def test_progress_bars_show_what_runs(capsys):
    from rich.console import Console

    console = Console(force_terminal=True, width=80, record=True)
    with ProgressBars('toy', 3, 1, console) as bars:
        bars.running({'one': 0.5, 'two': 0.0})
        bars.ended('one 3 s')
        bars.running({'two': 0.25})
    text = console.export_text()
    assert 'toy 2/3' in text and 'one 3 s' in text and '25%' in text and '75%' in text


def test_a_finished_cell_of_another_study_is_reused_only_with_the_same_settings(tmp_path):
    def finish(folder, settings):
        path = cells.cell_folder(folder, 'one')
        path.mkdir(parents=True)
        write_config(path / cells.SETTINGS_FILE, settings)
        (path / 'result.json').write_text('{"result": {"x": 1}, "seconds": 1.0}')
        (path / 'weights').write_text('kept')

    finish(tmp_path / 'first', {'seed': 0})
    cells.reuse(tmp_path / 'first', tmp_path / 'second', Cell('one', {'seed': 1}))
    assert cells.read_result(tmp_path / 'second', Cell('one', {'seed': 1})) is None
    cells.reuse(tmp_path / 'first', tmp_path / 'second', Cell('one', {'seed': 0}))
    assert cells.read_result(tmp_path / 'second', Cell('one', {'seed': 0}))['result'] == {'x': 1}
    assert (cells.cell_folder(tmp_path / 'second', 'one') / 'weights').read_text() == 'kept'
