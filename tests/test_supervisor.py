"""The supervisor with real child processes: crashes, respawn, signals, locks, exit codes."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mbarl_ros.bringup import supervisor as supervisor_module
from mbarl_ros.bringup.domain import DOMAINS, take_domain
from mbarl_ros.bringup.node_process import node_command, node_environment
from mbarl_ros.bringup.node_specs import NodeSpec
from mbarl_ros.bringup.supervisor import Supervisor
from mbarl_ros.schema.base import ConfigError

FAST_STOP = ((signal.SIGINT, 0.5), (signal.SIGTERM, 0.5), (signal.SIGKILL, 2.0))

PROGRAMS = {
    'works': 'import time\nprint("ready", flush=True)\ntime.sleep(60)',
    'succeeds': 'print("done")',
    'out_of_budget': 'raise SystemExit(3)',
    'crashes': 'print("error: cable unplugged", flush=True)\nraise SystemExit(4)',
    'misconfigured': 'print("error: no such key", flush=True)\nraise SystemExit(2)',
    'stubborn': 'import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n'
    'signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint("ready", flush=True)\ntime.sleep(60)',
    'says_goodbye': 'import time\nprint("ready", flush=True)\ntry:\n    time.sleep(60)\n'
    'except KeyboardInterrupt:\n    print("stop command", flush=True)',
    'crashes_once': 'import pathlib, sys, time\nflag = pathlib.Path(sys.argv[1]) / "flag"\n'
    'if flag.exists():\n    time.sleep(60)\nflag.write_text("")\nraise SystemExit(5)',
    'refuses_once': 'import pathlib, sys, time\nfolder = pathlib.Path(sys.argv[1])\n'
    'starts = folder / "starts"\nwith starts.open("a") as file:\n    file.write("x")\n'
    'count = len(starts.read_text())\nif count == 1:\n    raise SystemExit(5)\n'
    'if count == 2:\n    print("error: no room", flush=True)\n    raise SystemExit(2)\n'
    '(folder / "flag").write_text("")\ntime.sleep(60)',
    'fails_later': 'import pathlib, sys, time\nstarts = pathlib.Path(sys.argv[1]) / "starts"\n'
    'with starts.open("a") as file:\n    file.write("x")\n'
    'time.sleep(3.2 if len(starts.read_text()) == 1 else 0)\nraise SystemExit(5)',
    'prints_json': 'print("{not a status}")\nprint("{\\"learner\\": {}}")\nprint("done")',
    'talks': 'for _ in range(5000):\n    print("x" * 100)',
    'waits_for_flag': 'import pathlib, sys, time\nflag = pathlib.Path(sys.argv[1]) / "flag"\n'
    'while not flag.exists():\n    time.sleep(0.01)\ntime.sleep(0.6)',
}


class Recorder:
    """A screen that remembers."""

    def __init__(self):
        self.lines = []
        self.messages = []

    def line(self, node, text):
        self.lines.append((node, text))

    def message(self, text):
        self.messages.append(text)

    def tick(self):
        pass

    def wait_for(self, line, seconds=10.0):
        deadline = time.monotonic() + seconds
        while line not in self.lines:
            assert time.monotonic() < deadline, self.lines
            time.sleep(0.01)


def node(program, **options):
    options.setdefault('respawn_delay', 0.1)
    return NodeSpec(executable=program, name=options.pop('name', program), **options)


def program(spec, folder):
    # Without site-packages Python starts in a fraction of the time.
    return [sys.executable, '-S', '-c', PROGRAMS[spec.executable], str(folder)]


@pytest.fixture
def supervise(tmp_path):
    def make(*nodes):
        screen = Recorder()
        return screen, Supervisor(
            nodes,
            lambda spec: program(spec, tmp_path),
            screen,
            log_file=lambda name: tmp_path / f'{name}.log',
            stop_stages=FAST_STOP,
        )

    return make


def alive(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


def gone(pids, seconds):
    deadline = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize(('program', 'code'), [('succeeds', 0), ('out_of_budget', 3)])
def test_the_required_node_ends_the_run_and_gives_the_exit_code(supervise, program, code):
    screen, supervisor = supervise(node('works'), node(program, required=True))
    assert supervisor.run() == code
    assert not any('error' in message for message in screen.messages)


def test_a_required_node_that_crashes_is_a_failure(supervise):
    screen, supervisor = supervise(node('works'), node('crashes', required=True))
    assert supervisor.run() == 1
    assert 'crashes ended with exit code 4 (error: cable unplugged)' in screen.messages[-1]


def test_a_node_that_dies_is_noticed_and_named_with_its_log(supervise, tmp_path):
    screen, supervisor = supervise(node('works'), node('crashes'))
    started = time.monotonic()
    assert supervisor.run() == 1
    assert time.monotonic() - started < 5
    assert f'see {tmp_path}/crashes.log; the run ends' in screen.messages[-1]
    assert 'error: cable unplugged' in (tmp_path / 'crashes.log').read_text()


def test_a_node_that_is_killed_is_named_with_the_signal(supervise):
    screen, supervisor = supervise(node('works'))

    def kill():
        screen.wait_for(('works', 'ready'))
        os.kill(supervisor._children[0].process.pid, signal.SIGKILL)

    threading.Thread(target=kill).start()
    assert supervisor.run() == 1
    assert 'works was killed by SIGKILL' in screen.messages[-1]


def test_a_node_with_respawn_is_started_again(supervise):
    screen, supervisor = supervise(
        node('crashes_once', respawn=True), node('waits_for_flag', required=True)
    )
    assert supervisor.run() == 0
    assert 'crashes_once ended with exit code 5' in screen.messages[0]
    assert 'starting it again in 0.1 s' in screen.messages[0]


def test_a_node_that_keeps_dying_ends_the_run(supervise):
    screen, supervisor = supervise(node('crashes', respawn=True, respawn_delay=0.01))
    assert supervisor.run() == 1
    assert sum('starting it again' in message for message in screen.messages) == 5
    assert 'it died 6 times within 60 s' in screen.messages[-1]


def test_a_mistake_in_the_configuration_is_not_repeated(supervise):
    screen, supervisor = supervise(node('misconfigured', respawn=True))
    assert supervisor.run() == 1
    assert len(screen.messages) == 1
    assert '(error: no such key)' in screen.messages[0]


def test_a_node_that_refuses_to_start_again_is_waited_for(supervise, monkeypatch):
    monkeypatch.setattr(supervisor_module, 'RETRY_PERIOD', 0.3)
    screen, supervisor = supervise(
        node('refuses_once', respawn=True), node('waits_for_flag', required=True)
    )
    assert supervisor.run() == 0
    assert '(error: no room)' in screen.messages[1]
    assert 'starting it again in 0.3 s' in screen.messages[1]


@pytest.mark.slow
def test_a_node_that_has_worked_is_never_given_up(supervise, monkeypatch):
    monkeypatch.setattr(supervisor_module, 'RESPAWN_WINDOW', 3.0)
    monkeypatch.setattr(supervisor_module, 'RETRY_PERIOD', 0.2)
    screen, supervisor = supervise(node('fails_later', respawn=True, respawn_delay=0.0))

    def interrupt():
        deadline = time.monotonic() + 30
        while sum('again in 0.2 s' in message for message in screen.messages) < 2:
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    assert supervisor.run() == 130
    assert sum('again in 0.2 s' in message for message in screen.messages) >= 2


@pytest.mark.parametrize(
    ('lifetimes', 'delays'),
    [
        ([1.0] * 6, [0.5] * 5 + [None]),
        ([70.0] + [1.0] * 7, [0.5] * 6 + [60.0] * 2),
    ],
)
def test_only_a_node_that_has_worked_is_started_again_after_a_crash_loop(
    lifetimes, delays, monkeypatch
):
    child = supervisor_module._Child(NodeSpec('x', 'x', respawn=True, respawn_delay=0.5), [])
    clock = iter(lifetimes)
    monkeypatch.setattr(supervisor_module.time, 'monotonic', lambda: next(clock))
    assert [child.respawn_delay(code=5) for _ in lifetimes] == delays


def test_a_respawn_needs_no_disk(tmp_path):
    folder, screen = tmp_path / 'params', Recorder()

    def command(spec):
        node_command(spec, folder, 'warn')
        return program(spec, tmp_path)

    nodes = node('crashes_once', respawn=True), node('waits_for_flag', required=True)
    supervisor = Supervisor(nodes, command, screen)
    shutil.rmtree(folder)
    folder.write_text('in the way')
    assert supervisor.run() == 0


@pytest.mark.parametrize(('name', 'logged'), [('learner', 3), ('monitor', 1)])
def test_only_the_status_lines_of_the_monitor_are_left_out_of_the_logs(
    supervise, tmp_path, name, logged
):
    screen, supervisor = supervise(node('prints_json', name=name, required=True))
    assert supervisor.run() == 0
    lines = ['{not a status}', '{"learner": {}}', 'done']
    assert [text for _, text in screen.lines] == lines
    log = (tmp_path / f'{name}.log').read_text().splitlines()
    assert [line.split(' ', 2)[2] for line in log] == lines[-logged:]


@pytest.mark.parametrize('obstacle', ['a folder', 'a full disk'])
def test_a_log_that_cannot_be_written_stops_nobody_and_is_said_once(supervise, tmp_path, obstacle):
    screen, supervisor = supervise(node('talks', required=True))
    log = tmp_path / 'talks.log'
    log.mkdir() if obstacle == 'a folder' else log.symlink_to('/dev/full')
    assert supervisor.run() == 0
    assert screen.lines.count(('talks', 'x' * 100)) == 5000
    (warning,) = [text for _, text in screen.lines if not text.startswith('x')]
    assert str(log) in warning and 'on the screen only' in warning


def test_a_screen_on_a_full_disk_stops_nobody(supervise, monkeypatch):
    screen, supervisor = supervise(
        node('crashes_once', respawn=True), node('waits_for_flag', required=True), node('works')
    )

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ('line', 'message', 'tick'):
        monkeypatch.setattr(screen, name, full)
    assert supervisor.run() == 0


def test_the_run_goes_on_without_an_optional_node(supervise):
    screen, supervisor = supervise(
        node('crashes', optional=True), node('crashes_once', respawn=True, name='other'),
        node('waits_for_flag', required=True),
    )  # fmt: skip
    assert supervisor.run() == 0
    assert any('the run goes on without it' in message for message in screen.messages)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_everything(supervise, number):
    screen, supervisor = supervise(node('works'), node('works', name='too'))
    before = signal.getsignal(signal.SIGINT)

    def interrupt():
        screen.wait_for(('too', 'ready'))
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    assert supervisor.run() == 130
    pids = [child.process.pid for child in supervisor._children]
    assert gone(pids, 0.0)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_stubborn_node_is_killed_in_the_end(supervise):
    screen, supervisor = supervise(node('stubborn'))

    def interrupt():
        screen.wait_for(('stubborn', 'ready'))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    assert supervisor.run() == 130
    assert 'stubborn: still running, sending SIGTERM' in screen.messages
    assert 'stubborn: still running, sending SIGKILL' in screen.messages


def test_a_gate_that_had_to_be_killed_is_said_to_have_sent_no_stop(supervise):
    screen, supervisor = supervise(node('stubborn', name='safety_gate'))

    def interrupt():
        screen.wait_for(('safety_gate', 'ready'))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    assert supervisor.run() == 130
    assert 'safety_gate was killed by SIGKILL and sent no stop command' in screen.messages[-1]


def test_a_suspended_node_is_woken_so_that_it_can_end_by_itself(supervise):
    screen, supervisor = supervise(node('says_goodbye'))

    def interrupt():
        screen.wait_for(('says_goodbye', 'ready'))
        os.kill(supervisor._children[0].process.pid, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    assert supervisor.run() == 130
    assert screen.lines[-1] == ('says_goodbye', 'stop command')
    assert not any('still running' in message for message in screen.messages)


def test_a_second_ctrl_c_hurries(supervise):
    screen, supervisor = supervise(node('stubborn'))
    supervisor._stop_stages = tuple((number, 30.0) for number, _ in FAST_STOP)

    def interrupt():
        screen.wait_for(('stubborn', 'ready'))
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    started = time.monotonic()
    threading.Thread(target=interrupt).start()
    assert supervisor.run() == 130
    assert time.monotonic() - started < 10


KILLED = """
import sys, time
from mbarl_ros.bringup.node_specs import NodeSpec
from mbarl_ros.bringup.supervisor import Supervisor

class Screen:
    def line(self, node, text): print(text, flush=True)
    def message(self, text): pass
    def tick(self): pass

program = '''
import os, signal, time
from mbarl_ros.storage import lifeline
for number in (signal.SIGINT, signal.SIGTERM)[:{ignored}]:
    signal.signal(number, signal.SIG_IGN)
lifeline.hold(grace=0.3)
print(os.getpid(), flush=True)
time.sleep(60)
'''
nodes = [NodeSpec(str(i), str(i)) for i in range(3)]
command = lambda spec: [sys.executable, '-c', program.replace('{ignored}', spec.name)]
Supervisor(nodes, command, Screen()).run()
"""


def test_no_node_outlives_a_supervisor_that_was_killed():
    supervisor = subprocess.Popen(
        [sys.executable, '-c', KILLED], stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    with supervisor:
        pids = [int(supervisor.stdout.readline()) for _ in range(3)]
        assert all(alive(pid) for pid in pids)
        supervisor.kill()
        assert gone(pids, 5.0)


OFFERED = """
import os, subprocess, sys, time
from pathlib import Path
from mbarl_ros.storage import lifeline

held = lifeline.offer(Path(sys.argv[1]))
environment = {**os.environ, lifeline.VARIABLE: sys.argv[1]}
subprocess.Popen([sys.executable, '-c', sys.argv[2]], env=environment)
time.sleep(60)
"""
HOLDING = """
import os, time
from mbarl_ros.storage import lifeline

lifeline.hold(grace=0.3)
print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_a_named_lifeline_does_the_same_for_ros2_launch(tmp_path):
    launch = subprocess.Popen(
        [sys.executable, '-c', OFFERED, str(tmp_path / 'lifeline'), HOLDING],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with launch:
        pid = int(launch.stdout.readline())
        time.sleep(0.2)
        assert alive(pid)
        launch.kill()
        assert gone([pid], 5.0)


HANGING = """
import ctypes, os, signal, time
from mbarl_ros.storage import lifeline

signal.signal(signal.SIGINT, lambda *_: ctypes.PyDLL(None).sleep(60))  # PyDLL keeps the lock
lifeline.hold(grace=0.3)
print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_a_node_whose_shutdown_hangs_with_the_interpreter_lock_ends_as_well(tmp_path):
    # Fast DDS may deadlock when a node is destroyed while the others of its graph end as well.
    launch = subprocess.Popen(
        [sys.executable, '-c', OFFERED, str(tmp_path / 'lifeline'), HANGING],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    with launch:
        pid = int(launch.stdout.readline())
        time.sleep(0.2)
        launch.kill()
        assert gone([pid], 5.0)


def test_parameters_reach_the_node_with_their_types(tmp_path):
    spec = NodeSpec('learner', 'learner', {'seed': 1, 'rate': 2.0, 'name': '3'}, namespace='r1')
    command = node_command(spec, tmp_path, 'warn')
    assert '__ns:=/r1' in command and command[command.index('--log-level') + 1] == 'warn'
    assert command[command.index('--enclave') + 1] == '/mbarl/r1/learner'
    text = (tmp_path / 'learner.yaml').read_text()
    assert text.splitlines()[0] == '/**/learner:'
    assert 'seed: 1\n' in text and 'rate: 2.0\n' in text and "name: '3'" in text


def test_parameters_that_cannot_be_written_are_one_sentence(tmp_path):
    (tmp_path / 'params').write_text('a file, where a folder should be')
    with pytest.raises(ConfigError, match=r'params/learner.yaml: cannot be written: .*make room'):
        node_command(NodeSpec('learner', 'learner'), tmp_path / 'params', 'warn')


def test_a_node_starts_where_no_log_can_be_written(tmp_path):
    spec = NodeSpec('monitor', 'monitor', {'format': 'json', 'period': 0.2})
    command = node_command(spec, tmp_path, 'info')
    environment = {**os.environ, 'ROS_LOG_DIR': '/proc/log', 'ROS_DOMAIN_ID': '99'}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as monitor:
        assert monitor.stdout.readline().startswith(b'{')
        monitor.terminate()


def test_what_the_person_has_set_in_the_environment_stays(tmp_path):
    plain = node_environment({}, 23, tmp_path, {})
    assert plain['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'
    assert plain['OMP_NUM_THREADS'] == '1' and plain['ROS_DOMAIN_ID'] == '23'
    own = {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET', 'OMP_NUM_THREADS': '4'}
    assert own.items() <= node_environment(own, 23, tmp_path, {}).items()


# --- domains ---------------------------------------------------------------------------------


@pytest.fixture
def own_tmp(tmp_path, monkeypatch):
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))


def test_two_runs_get_two_domains(own_tmp):
    first, lock = take_domain({}, '')
    second, other = take_domain({}, '')
    assert first != second and {first, second} <= set(DOMAINS)
    lock.close()
    again, third = take_domain({}, '')
    assert again == first
    other.close()
    third.close()


def test_a_domain_in_which_somebody_listens_is_passed_over(own_tmp):
    domain, lock = take_domain({}, '')
    lock.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(('', 7400 + 250 * domain + 10))
        other, lock = take_domain({}, '')
        assert other != domain
        lock.close()


def test_a_domain_of_ones_own_choice_is_kept_and_defended(own_tmp):
    domain, lock = take_domain({'ROS_DOMAIN_ID': '77'}, '')
    assert domain == 77
    with pytest.raises(ConfigError, match=r'ROS_DOMAIN_ID=77: another mbarl run uses this domain'):
        take_domain({'ROS_DOMAIN_ID': '77'}, '')
    _, second_robot = take_domain({'ROS_DOMAIN_ID': '77'}, 'robot2')
    second_robot.close()
    lock.close()
    with pytest.raises(ConfigError, match='must be a number from 0 to 232'):
        take_domain({'ROS_DOMAIN_ID': 'x'}, '')
