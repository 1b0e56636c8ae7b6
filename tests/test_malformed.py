"""Hostile and damaged files: each a clear error, none runs code, none touches what is there."""

import copyreg
import json
import pickle
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('h5py', reason="the formats are an extra: pip install '.[formats]'")
pytest.importorskip('pyarrow')

from test_formats import earl

from mbarl_ros.demos import importing
from mbarl_ros.demos.formats import FormatError, export_episodes
from mbarl_ros.demos.formats.earl import load_arrays
from mbarl_ros.demos.imported import save_episode
from mbarl_ros.demos.metadata import DemonstrationError
from mbarl_ros.demos.reader import read_episode
from mbarl_ros.task import Task
from support import malformed_folders, malformed_hdf5, malformed_lerobot
from support.malformed import FOLDERS, IMPORTS, Good

pytestmark = pytest.mark.slow

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
    'lerobot/data passwd',
    'lerobot/2 * 10^6 equal rows',
)
"""Also tried in the process in which importing really reads, which takes longer to start."""
WORDS = {
    'pickle/global posix system': 'it wants to load posix.system; only arrays are read',
    'pickle/deep tuple as key': r'the reader crashed \(SIGSEGV\)',
    'arrays/too few bytes': r'an array of shape \(9, 3\) and type float32 in 4 bytes',
    'arrays/NaN': 'rows 7 to .* states are not finite',
    'robomimic/10^10 zeros': 'needs 39999999996 bytes; of one file',
    'robomimic/2^62 rows': 'needs [0-9]+ bytes; of one file',
    'robomimic/huge chunk': 'needs 1200000000 bytes; of one file',
    'robomimic/many large': 'needs 240000000 bytes; of one file',
    'robomimic/external storage': '/data/demo_0/actions: has its data in another file',
    'robomimic/virtual': '/data/demo_0/actions: has its data in another file',
    'robomimic/objects': 'is object, not an array of numbers',
    'robomimic/unknown filter': 'compressed by filter 32700',
    'robomimic/name is path /etc/passwd': 'is a path, which names must not be',
    'minari/id a path': 'is no name of a dataset',
    'lerobot/2 * 10^6 equal rows': 'of one dataset 268435456 bytes are read at most',
    'lerobot/list of 4 * 10^7': 'of one dataset 268435456 bytes are read at most',
    'lerobot/action wide': 'the dataset has nothing for dx, dy, grasp',
    'lerobot/NaN': r'episode 0: states are not finite',
    'lerobot/data a pipe': 'no such file',
    'mcap/chunk of 2^60 bytes': 'claims 1152921504606846976 bytes',
    'bag/points to passwd': 'there is no .mcap file in it',
}
"""What is said about some of them, where another error could hide that a check is gone."""
# What importing runs in a process of its own, run in a fork of one that has all of it loaded.
SERVER = """
import json, os, sys, traceback
from mbarl_ros.demos import bag, imported, importing
from mbarl_ros.demos.formats import earl, lerobot_import, minari, robomimic
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
    export_episodes('lerobot', episodes, task, folder / 'good')
    (folder / 'imported').mkdir()
    save_episode(folder / 'imported', episodes[0], task)
    return Good(
        task=task,
        arrays=earl(task, episodes),
        hdf5=folder / 'good.hdf5',
        minari=folder / 'good-v0',
        lerobot=folder / 'good',
        recorded=SHIPPED / 'forward_000',
        imported=folder / 'imported',
        canary=folder / 'canary',
    )


@pytest.fixture(scope='module')
def server():
    command = [sys.executable, '-c', SERVER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.stdin.close()
        assert process.wait(10) == 0


@pytest.fixture
def forked(server, tmp_path, monkeypatch):
    """Read in forks; the list of (exit code, standard error) of all that was read."""
    seen = []

    def run_limited(given):
        server.stdin.write(json.dumps([given, str(tmp_path / 'stderr')]) + '\n')
        server.stdin.flush()
        code = int(server.stdout.readline())
        seen.append((code, (tmp_path / 'stderr').read_text(errors='replace')))
        return seen[-1]

    monkeypatch.setattr(importing, 'run_limited', run_limited)
    return seen


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
    return sentence


def build(builder, tmp_path, good):
    folder = tmp_path / 'source'
    folder.mkdir()
    return builder(folder, good)


def test_there_are_enough_of_them():
    assert malformed_hdf5.DEMO and malformed_lerobot.FRAMES and malformed_folders.FOLDERS is FOLDERS
    assert len(IMPORTS) + len(FOLDERS) >= 200


@pytest.mark.parametrize('name', IMPORTS)
def test_it_is_not_imported(name, good, forked, target, tmp_path):
    source = build(IMPORTS[name], tmp_path, good)
    sentence = refused(source, target, good)
    code, words = forked[-1]
    assert code == 2 or (code < 0 and 'the reader crashed' in sentence), words
    assert 'Traceback' not in words
    assert re.search(WORDS.get(name, ''), sentence), sentence


@pytest.mark.parametrize('name', REAL)
def test_it_is_not_imported_in_the_real_process_either(name, good, target, tmp_path):
    refused(build(IMPORTS[name], tmp_path, good), target, good)


def test_modules_that_lie_beside_a_file_are_not_run(good, target, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(good.hdf5, tmp_path / 'x.hdf5')
    for name in ('h5py', 'numpy', 'resource', 'mbarl_ros'):
        (tmp_path / f'{name}.py').write_text(f'open({str(good.canary)!r}, "w")')
    assert len(importing.import_demonstrations(Path('x.hdf5'), 'tabletop', '', target)) == 2
    assert not good.canary.exists()


@pytest.mark.parametrize('name', FOLDERS)
def test_it_is_not_read(name, good, tmp_path):
    folder = build(FOLDERS[name], tmp_path, good)
    before = contents(folder)
    with pytest.raises(DemonstrationError) as caught:
        read_episode(folder, good.task)
    sentence = str(caught.value)
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
        reach = rng.choice((150, 3000, len(data)))
        data[rng.randrange(min(reach, len(data)))] ^= 1 << rng.randrange(8)
    return bytes(data)


@pytest.mark.parametrize('kind', ['robomimic', 'minari', 'lerobot', 'earl', 'mcap'])
def test_turned_bits_are_an_error_or_leave_a_demonstration(kind, good, forked, target, tmp_path):
    # Where numbers have no checksum a turned bit may be another number; never anything else.
    rng = random.Random(kind)
    before = contents(target)
    source = tmp_path / 'x-v0'
    source.mkdir()
    path = source / {'minari': 'main_data.hdf5', 'mcap': 'x.mcap', 'earl': 'x.pkl'}.get(kind, 'x')
    if kind == 'minari':
        shutil.copy(good.minari / 'data' / 'metadata.json', source)
    if kind == 'lerobot':
        shutil.copytree(good.lerobot, source, dirs_exist_ok=True)
        path = source / malformed_lerobot.FRAMES
    data = {
        'robomimic': good.hdf5.read_bytes,
        'minari': (good.minari / 'data' / 'main_data.hdf5').read_bytes,
        'lerobot': (good.lerobot / malformed_lerobot.FRAMES).read_bytes,
        'earl': lambda: pickle.dumps(good.arrays),
        'mcap': next(good.recorded.glob('*.mcap')).read_bytes,
    }[kind]()
    errors = 0
    for _ in range(40):
        path.write_bytes(flipped(data, rng))
        try:
            made = importing.import_demonstrations(
                source if kind in ('minari', 'lerobot') else path, 'tabletop', '', target
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
