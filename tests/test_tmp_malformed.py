"""Hostile and damaged files: each a clear error, none runs code, none touches what is there."""

import copyreg
import json
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('h5py', reason="the formats are an extra: pip install '.[formats]'")

import malformed_files
from malformed import FOLDERS, IMPORTS, Good
from test_formats import earl

from mbarl_ros.demos import importing
from mbarl_ros.demos.formats import FormatError, export_episodes
from mbarl_ros.demos.formats.earl import load_arrays
from mbarl_ros.demos.imported import save_episode
from mbarl_ros.demos.note import DemonstrationError
from mbarl_ros.demos.reader import read_episode
from mbarl_ros.task import Task

SHIPPED = Path(__file__).resolve().parent.parent / 'demos' / 'tabletop'
REAL = (
    'pickle/global posix system',
    'pickle/deep tuple as key',
    'pickle/memo of 2^31',
    'robomimic/bomb in a chunk',
    'robomimic/10^10 zeros',
    'robomimic/passwd link for demo_0/actions',
    'minari/id a path',
    'mcap/chunk of 10^9 zeros',
    'bag/points to passwd',
)
"""Also tried in the process in which importing really reads, which takes longer to start."""
# What importing runs in a process of its own, run in a fork of one that has all of it loaded.
SERVER = """
import json, os, sys, traceback
from mbarl_ros.demos import bag, imported, importing
from mbarl_ros.demos.formats import earl, minari, robomimic
for line in sys.stdin:
    given, errors = json.loads(line)
    child = os.fork()
    if not child:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        code = 1
        try:
            code = importing.main(given)
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope='module')
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp('good')
    task = Task.load('tabletop')
    episodes = [read_episode(SHIPPED / name, task) for name in ('forward_000', 'forward_001')]
    export_episodes('robomimic', episodes, task, folder / 'good.hdf5')
    export_episodes('minari', episodes, task, folder / 'good-v0')
    (folder / 'imported').mkdir()
    save_episode(folder / 'imported', episodes[0], task)
    return Good(
        task=task,
        arrays=earl(task, episodes),
        hdf5=folder / 'good.hdf5',
        minari=folder / 'good-v0',
        recorded=SHIPPED / 'forward_000',
        imported=folder / 'imported',
        canary=folder / 'canary',
    )


@pytest.fixture(scope='module')
def forked(tmp_path_factory):
    """Reading in forks; gives the list of (exit code, standard error) of all that was read."""
    errors = tmp_path_factory.mktemp('server') / 'stderr'
    server = subprocess.Popen(
        [sys.executable, '-c', SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    seen = []

    def run_limited(given):
        server.stdin.write(json.dumps([given, str(errors)]) + '\n')
        server.stdin.flush()
        seen.append((int(server.stdout.readline()), errors.read_text(errors='replace')))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importing, 'run_limited', run_limited)
        yield seen
    server.stdin.close()
    assert server.wait(10) == 0


@pytest.fixture
def target(tmp_path):
    """A folder with a demonstration in it that must not change."""
    folder = tmp_path / 'demonstrations'
    shutil.copytree(SHIPPED / 'backward_000', folder / 'backward_000')
    return folder


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob('*')
    }


def refused(source, target, good):
    before = contents(target)
    with pytest.raises(FormatError) as caught:
        importing.import_demonstrations(source, 'tabletop', '', target)
    sentence = str(caught.value)
    assert contents(target) == before
    assert not good.canary.exists()
    assert sentence.startswith(str(source)) and len(sentence) < 2000, sentence
    assert '\n' not in sentence and 'Traceback' not in sentence
    assert sentence.isprintable() and 'root:' not in sentence
    open('/tmp/sentences.txt','a').write(sentence.replace(str(source),'SRC')+'\n'); return sentence


def build(builder, tmp_path, good):
    folder = tmp_path / 'source'
    folder.mkdir()
    return builder(folder, good)


def test_there_are_enough_of_them():
    assert malformed_files.__doc__ and len(IMPORTS) + len(FOLDERS) >= 200


@pytest.mark.parametrize('name', IMPORTS)
def test_it_is_not_imported(name, good, forked, target, tmp_path):
    source = build(IMPORTS[name], tmp_path, good)
    sentence = refused(source, target, good)
    code, words = forked[-1]
    assert code == 2 or (code < 0 and 'its reader crashed' in sentence), words
    assert 'Traceback' not in words


@pytest.mark.parametrize('name', REAL)
def test_it_is_not_imported_in_the_real_process_either(name, good, target, tmp_path):
    refused(build(IMPORTS[name], tmp_path, good), target, good)


@pytest.mark.parametrize('name', FOLDERS)
def test_it_is_not_read(name, good, tmp_path):
    folder = build(FOLDERS[name], tmp_path, good)
    before = contents(folder)
    with pytest.raises(DemonstrationError) as caught:
        read_episode(folder, good.task)
    sentence = str(caught.value)
    open('/tmp/sentences.txt','a').write('F '+sentence.replace(str(folder),'SRC')+'\n')
    assert sentence.startswith(str(folder)) and 'Traceback' not in sentence
    assert contents(folder) == before and not good.canary.exists()


def test_code_that_copyreg_knows_by_number_is_refused(tmp_path):
    path = tmp_path / 'x.pkl'
    path.write_bytes(b'\x80\x02\x82\xf0.')
    copyreg.add_extension('posix', 'system', 0xF0)
    try:
        with pytest.raises(FormatError, match=r'it wants to load posix.system; only arrays'):
            load_arrays(path)
    finally:
        copyreg.remove_extension('posix', 'system', 0xF0)


def flipped(data, rng):
    """Bytes with some bits turned, mostly in the beginning, which says what the rest is."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 4))):
        reach = rng.choice((500, 5000, len(data)))
        data[rng.randrange(min(reach, len(data)))] ^= 1 << rng.randrange(8)
    return bytes(data)


@pytest.mark.parametrize('kind', ['robomimic', 'minari', 'earl', 'mcap'])
def test_turned_bits_are_an_error_or_leave_a_demonstration(kind, good, forked, target, tmp_path):
    # Where numbers have no checksum a turned bit may be another number; never anything else.
    rng = random.Random(kind)
    before = contents(target)
    source = tmp_path / 'x-v0'
    source.mkdir()
    path = source / {'minari': 'main_data.hdf5', 'mcap': 'x.mcap', 'earl': 'x.pkl'}.get(kind, 'x')
    if kind == 'minari':
        shutil.copy(good.minari / 'data' / 'metadata.json', source)
    data = {
        'robomimic': good.hdf5.read_bytes,
        'minari': (good.minari / 'data' / 'main_data.hdf5').read_bytes,
        'earl': lambda: pickle.dumps(good.arrays),
        'mcap': next(good.recorded.glob('*.mcap')).read_bytes,
    }[kind]()
    errors = 0
    for _ in range(40):
        path.write_bytes(flipped(data, rng))
        try:
            made = importing.import_demonstrations(
                source if kind == 'minari' else path, 'tabletop', '', target
            )
        except FormatError as error:
            errors += 1
            assert '\n' not in str(error)
            assert forked[-1][0] in (0, 2) or forked[-1][0] < 0, forked[-1]
        else:
            for folder in made:
                shutil.rmtree(folder)
        assert contents(target) == before
    assert errors > 5


@pytest.mark.parametrize('kind', ['imported', 'recorded'])
def test_turned_bits_on_disk_are_an_error_or_leave_a_demonstration(kind, good, tmp_path):
    rng = random.Random(kind)
    folder = tmp_path / 'x'
    shutil.copytree(getattr(good, kind), folder)
    paths = [path for path in folder.iterdir() if path.suffix != '.yaml']
    errors = 0
    for _ in range(100):
        path = rng.choice(paths)
        data = path.read_bytes()
        path.write_bytes(flipped(data, rng))
        try:
            read_episode(folder, good.task).check(good.task)
        except DemonstrationError as error:
            errors += 1
            assert str(error).startswith(str(folder))
        path.write_bytes(data)
    assert errors > 20
