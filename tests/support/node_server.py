"""Starts node processes quickly: each is a fork of a process that has imported the nodes' modules.

A node is a process of its own with its own DDS participant, as ever, and runs the entry point of
its executable. Only the imports of rclpy and torch, up to 2 s of processor time a node, are shared.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class NodeProcess:
    """A node's process; the methods are those of subprocess.Popen."""

    def __init__(self, server: NodeServer, pid: int) -> None:
        self._server = server
        self.pid = pid

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self._server.exit_codes.get(self.pid)

    def poll(self) -> int | None:
        """Look whether it has ended; its exit code."""
        self._server.receive(0.0)
        return self.returncode

    def wait(self, timeout: float = 60.0) -> int:
        """Wait for its end; its exit code.

        :raises subprocess.TimeoutExpired: it still runs after ``timeout`` seconds.
        """
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(f'node {self.pid}', timeout)
            self._server.receive(0.05)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.send_signal(signal.SIGKILL)


class NodeServer:
    """The test's end of the process that forks; it ends, with all nodes, when this end does."""

    def __init__(self) -> None:
        self.exit_codes: dict[int, int] = {}
        self._started: list[int] = []
        self._rest = b''
        self._process = subprocess.Popen(
            [sys.executable, '-m', __name__],
            env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)

    def start(
        self, entry_point: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> NodeProcess:
        """Start ``module:function`` with these arguments; its output is appended to ``log``."""
        request = [entry_point, list(arguments), dict(environment), str(log)]
        self._process.stdin.write(json.dumps(request).encode() + b'\n')
        self._process.stdin.flush()
        while not self._started:
            self.receive(1.0)
        pid = self._started.pop()
        self.exit_codes.pop(pid, None)  # of an earlier process with this number
        return NodeProcess(self, pid)

    def receive(self, timeout: float) -> None:
        """Take what the server reports, waiting for it up to ``timeout`` seconds."""
        if not self._selector.select(timeout):
            return
        data = os.read(self._process.stdout.fileno(), 65536)
        assert data, 'the node server has ended'
        *lines, self._rest = (self._rest + data).split(b'\n')
        for line in lines:
            kind, *values = json.loads(line)
            if kind == 'started':
                self._started.append(*values)
            else:
                self.exit_codes.update([values])


# --- the process that forks -------------------------------------------------------------------


def serve() -> list[Any] | None:
    """Fork for each request; returns the request in the fork, None in the server at the end."""
    children: set[int] = set()
    ended, wake_up = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_up)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    for source in (0, ended):
        selector.register(source, selectors.EVENT_READ)
    rest = b''
    while True:
        for key, _ in selector.select():
            data = os.read(key.fd, 65536)
            if key.fd == ended:
                _report_ends(children)
            elif not data:
                for pid in children:
                    os.kill(pid, signal.SIGKILL)
                return None
            else:
                *lines, rest = (rest + data).split(b'\n')
                for line in lines:
                    request = json.loads(line)
                    _import(request[0])
                    if (pid := os.fork()) == 0:
                        signal.set_wakeup_fd(-1)
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                        return request
                    children.add(pid)
                    _report('started', pid)


def _import(entry_point: str) -> None:
    """Import what the node needs; a mistake in it is the node's to report."""
    with contextlib.suppress(Exception):
        importlib.import_module(entry_point.partition(':')[0])
    ctypes.CDLL(None).fflush(None)  # or each fork prints the greeting of a library again
    gc.freeze()


def _report_ends(children: set[int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        children.remove(pid)
        _report('ended', pid, os.waitstatus_to_exitcode(status))


def _report(*values: Any) -> None:
    os.write(1, json.dumps(values).encode() + b'\n')


def run(entry_point: str, arguments: list[str], environment: dict[str, str], log: str) -> Any:
    """Be the node, as the executable of that entry point would."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [entry_point, *arguments]
    module, _, function = entry_point.partition(':')
    return getattr(importlib.import_module(module), function)()


if __name__ == '__main__':
    request = serve()
    sys.exit(run(*request) if request else 0)
