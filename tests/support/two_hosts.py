"""Two hosts on this machine: network namespaces, and between them a line that can be cut.

Each host has its own network, temporary folder and, on request, clocks. All traffic stays in the
namespaces. It takes root, ``ip`` and a kernel with namespaces: see :func:`obstacle`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, Self

ROBOT, LEARNER = 'robot', 'learner'
ADDRESSES = {ROBOT: '10.77.0.1', LEARNER: '10.77.0.2'}
ROOT = Path(__file__).parent.parent.parent
_CLOCK = Path(__file__).with_name('shifted_clock.c')
_RELAY = Path(__file__).with_name('frame_relay.py')
# Frames that pass the relay need checksums, which a virtual interface leaves to the hardware.
_CHECKSUMS_OFF = """
import ctypes, fcntl, socket, struct, sys
ETHTOOL_STXCSUM, SIOCETHTOOL = 0x17, 0x8946
value = ctypes.create_string_buffer(struct.pack('II', ETHTOOL_STXCSUM, 0))
request = struct.pack('16sP', sys.argv[1].encode(), ctypes.addressof(value)) + bytes(16)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, SIOCETHTOOL, request)
"""


def obstacle() -> str:
    """Why there cannot be two hosts here; empty: there can."""
    if os.geteuid():
        return 'network namespaces need root'
    if not shutil.which('ip'):
        return 'there is no program ip (package iproute2)'
    name = f'mbarl-{uuid.uuid4().hex[:6]}'
    made = subprocess.run(['ip', 'netns', 'add', name], capture_output=True, text=True)
    subprocess.run(['ip', 'netns', 'del', name], capture_output=True)
    return made.stderr.strip()


class TwoHosts:
    """The hosts and their line; the processes started here end with it."""

    def __init__(self, folder: Path) -> None:
        """``folder`` gets the logs and temporary folders of the hosts."""
        self._folder = folder
        tag = uuid.uuid4().hex[:6]
        self._spaces = {name: f'mbarl-{tag}-{name}' for name in (ROBOT, LEARNER, 'line')}
        self._processes: list[subprocess.Popen] = []
        self._clock: dict[str, dict[str, str]] = {}

    def __enter__(self) -> Self:
        for space in self._spaces.values():
            _ip('netns', 'add', space)
            _ip('-n', space, 'link', 'set', 'lo', 'up')
        line = self._spaces['line']
        for name, address in ADDRESSES.items():
            own = self._spaces[name]
            _ip('-n', own, 'link', 'add', 'net0', 'type', 'veth', 'peer', 'name', name,
                'netns', line)  # fmt: skip
            self._run_in(name, [sys.executable, '-c', _CHECKSUMS_OFF, 'net0'])
            _ip('-n', own, 'address', 'add', f'{address}/24', 'dev', 'net0')
            _ip('-n', line, 'link', 'set', name, 'up')
            self.plug(name)
        self._relay = subprocess.Popen(
            self.inside('line', [sys.executable, str(_RELAY), ROBOT, LEARNER]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._processes.append(self._relay)
        self.line()
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for space in self._spaces.values():
            _ip('netns', 'del', space)

    def line(self, **trouble: Any) -> dict[str, list[int]]:
        """Set ``delay`` (s), ``loss`` (share), ``cut`` or ``multicast`` of the line.

        :returns: ``frames`` and ``bytes`` forwarded so far, from robot to learner and back
        """
        assert self._relay.stdin is not None and self._relay.stdout is not None
        print(json.dumps(trouble), file=self._relay.stdin, flush=True)
        return json.loads(self._relay.stdout.readline())

    def unplug(self, name: str) -> None:
        """Take the network interface of a host down."""
        _ip('-n', self._spaces[name], 'link', 'set', 'net0', 'down')

    def plug(self, name: str) -> None:
        """Bring the network interface of a host up; multicast goes that way."""
        own = self._spaces[name]
        _ip('-n', own, 'link', 'set', 'net0', 'up')
        _ip('-n', own, 'route', 'replace', '224.0.0.0/4', 'dev', 'net0')

    def shift_clocks(self, name: str, seconds: int) -> bool:
        """Set the clocks of a host ahead, for what is started from now on.

        :returns: False where only its steady clock can be, for want of a C compiler
        """
        library = self._folder / 'shifted_clock.so'
        self._clock[name] = {'STEADY_SHIFT': str(seconds)}
        compiler = shutil.which('cc')
        if compiler:
            words = ['-shared', '-fPIC', '-o', str(library), str(_CLOCK), '-ldl']
            subprocess.run([compiler, *words], check=True)
            self._clock[name] |= {'LD_PRELOAD': str(library), 'CLOCK_SHIFT': str(seconds)}
        return bool(compiler)

    def inside(self, name: str, command: list[str]) -> list[str]:
        """The command line that runs ``command`` on a host."""
        return ['ip', 'netns', 'exec', self._spaces[name], *command]

    def start(
        self, name: str, command: list[str], log: str, **environment: str
    ) -> subprocess.Popen:
        """Start a process on a host; its output goes to the file ``log`` in the folder."""
        clock = dict(self._clock.get(name, {}))
        if shift := clock.pop('STEADY_SHIFT', ''):
            offsets = ['--monotonic', shift, '--boottime', shift]
            command = ['unshare', '--time', *offsets, *command]
        temporary = self._folder / f'tmp-{name}'  # locks of domains are there, one set a host
        temporary.mkdir(exist_ok=True)
        with (self._folder / log).open('ab') as output:
            process = subprocess.Popen(
                self.inside(name, command),
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**_environment(), **clock, 'TMPDIR': str(temporary), **environment},
            )
        self._processes.append(process)
        return process

    def _run_in(self, name: str, command: list[str]) -> None:
        subprocess.run(self.inside(name, command), check=True)


def _environment() -> dict[str, str]:
    """Ours, without what concerns ROS on the machine that the hosts are not."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(('ROS_', 'RMW_'))}
    return {**own, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}


def _ip(*words: str) -> None:
    subprocess.run(['ip', *words], check=True)
