"""A test that fails while the host held the machine up is done again, and no other."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.host_stalls import Witness

HERE = Path(__file__).parent
# Who takes all processors at the highest priority is to the others as a host that does.
TESTS = """
import os, time
import pytest

def hold_up(seconds):
    start = time.monotonic() + 0.05
    for processor in os.sched_getaffinity(0):
        if os.fork() == 0:
            os.sched_setaffinity(0, {processor})
            time.sleep(max(0.0, start - time.monotonic()))
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
            while time.monotonic() < start + seconds:
                pass
            os._exit(0)
    for _ in os.sched_getaffinity(0):
        os.wait()

def test_held_up_once(tmp_path_factory):
    first = tmp_path_factory.getbasetemp() / 'first'
    if not first.exists():
        first.touch()
        hold_up(0.1)
        assert False

def test_held_up_each_time():
    hold_up(0.1)
    assert False

@pytest.mark.parametrize('number', range(5))
def test_wrong(number):
    assert False
"""

# As fast as it can, by the witness's own way of writing.
MANY_NOTES = (
    'from support import host_stalls; [host_stalls._note(1.0 + i, 0.25) for i in range(40_000)]'
)


def _may_come_first() -> bool:
    claim = 'import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))'
    return subprocess.run([sys.executable, '-c', claim], capture_output=True).returncode == 0


@pytest.mark.skipif(not _may_come_first(), reason='this user has no right to real-time scheduling')
def test_what_failed_while_the_host_held_the_machine_up_is_done_again(tmp_path):
    (tmp_path / 'test_it.py').write_text(TESTS)
    (tmp_path / 'conftest.py').write_text((HERE / 'conftest.py').read_text())
    (tmp_path / 'pytest.ini').write_text('[pytest]\n')
    command = [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', '-v', str(tmp_path)]
    environment = {**os.environ, 'PYTHONPATH': str(HERE)}
    said = subprocess.run(command, capture_output=True, text=True, env=environment).stdout
    print(said)
    ends = re.findall(r'::(test_\S+) (RERUN|PASSED|FAILED) +\[', said)
    assert ends[:7] == [
        ('test_held_up_once', 'RERUN'),
        ('test_held_up_once', 'PASSED'),
        *[('test_held_up_each_time', 'RERUN')] * 4,
        ('test_held_up_each_time', 'FAILED'),
    ]
    assert '6 failed, 1 passed' in said
    again = {test for test, end in ends[7:] if end == 'RERUN'}
    assert len(again) < 5  # the host itself may hold up one or two
    assert float(re.search(r'held this machine up for (\S+) s', said)[1]) >= 0.09


def test_notes_are_read_whole_while_others_are_written():
    witness = Witness()
    try:
        command = [sys.executable, '-c', MANY_NOTES]
        writer = subprocess.Popen(command, stdout=witness._notes, cwd=HERE)
        while writer.poll() is None:
            # beside its own of this host
            many = [float(at) for at, late in witness._read() if late == '0.25']
            assert many == [1.0 + i for i in range(len(many))]
        assert len(witness._read()) >= 40_000
    finally:
        witness.close()
