"""A timing test that fails while the host stalls the machine is repeated, and no other."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.host_stalls import HostStallMonitor

HERE = Path(__file__).parent
# A process that keeps every processor busy at the highest priority stalls all others, like a host.
TESTS = """
import os, time
import pytest

def stall(seconds):
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

@pytest.mark.timing('measures nothing')
def test_stalled_once(tmp_path_factory):
    first = tmp_path_factory.getbasetemp() / 'first'
    if not first.exists():
        first.touch()
        stall(0.1)
        assert False

@pytest.mark.timing('measures nothing')
def test_stalled_each_time():
    stall(0.1)
    assert False

def test_stalled_without_the_marker():
    stall(0.1)
    assert False

@pytest.mark.timing('measures nothing')
@pytest.mark.parametrize('number', range(5))
def test_wrong(number):
    assert False
"""

# As fast as it can, with the monitor's own function.
MANY_REPORTS = (
    'from support.host_stalls import _report; [_report(1.0 + i, 0.25) for i in range(40_000)]'
)


def _has_real_time_right() -> bool:
    claim = 'import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))'
    return subprocess.run([sys.executable, '-c', claim], capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(
    not _has_real_time_right(), reason='this user has no right to real-time scheduling'
)
def test_a_timing_test_that_failed_while_the_host_stalled_is_repeated_and_no_other(tmp_path):
    (tmp_path / 'test_it.py').write_text(TESTS)
    (tmp_path / 'conftest.py').write_text((HERE / 'conftest.py').read_text())
    (tmp_path / 'pytest.ini').write_text('[pytest]\n')
    command = [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', '-v', str(tmp_path)]
    environment = {**os.environ, 'PYTHONPATH': f'{HERE}:{HERE.parent}'}
    output = subprocess.run(command, capture_output=True, text=True, env=environment).stdout
    print(output)
    outcomes = re.findall(r'::(test_\S+) (RERUN|PASSED|FAILED) +\[', output)
    assert outcomes[:8] == [
        ('test_stalled_once', 'RERUN'),
        ('test_stalled_once', 'PASSED'),
        *[('test_stalled_each_time', 'RERUN')] * 4,
        ('test_stalled_each_time', 'FAILED'),
        ('test_stalled_without_the_marker', 'FAILED'),
    ]
    assert '7 failed, 1 passed' in output
    repeated = {test for test, outcome in outcomes[8:] if outcome == 'RERUN'}
    assert len(repeated) < 5  # the host itself may stall during one or two
    assert float(re.search(r'stalled this machine for (\S+) s', output)[1]) >= 0.09


def test_whole_lines_are_read_while_others_are_written():
    monitor = HostStallMonitor()
    try:
        command = [sys.executable, '-c', MANY_REPORTS]
        writer = subprocess.Popen(
            command, stdout=monitor._log, env={**os.environ, 'PYTHONPATH': f'{HERE}:{HERE.parent}'}
        )
        while writer.poll() is None:
            # stalls of this host may be among them
            stalls = [float(at) for at, late in monitor._read() if late == '0.25']
            assert stalls == [1.0 + i for i in range(len(stalls))]
        assert len(monitor._read()) >= 40_000
    finally:
        monitor.close()
