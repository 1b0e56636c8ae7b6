"""Runs a graph without ``ros2 launch``: starts its processes, monitors them, stops them.

ROS-free: nodes are child processes; their status arrives as JSON lines from the ``monitor`` node.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol

from mbarl_ros.bringup.node_process import describe_exit
from mbarl_ros.bringup.node_specs import NodeSpec
from mbarl_ros.schema.exit_codes import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
)
from mbarl_ros.storage import lifeline
from mbarl_ros.storage.files import unwritable
from mbarl_ros.view.status import is_status

STOP_STAGES = ((signal.SIGINT, 5.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
"""Signals that stop a node, and the time-out (s) before the next one, as in ``ros2 launch``."""

MAX_RESPAWNS, RESPAWN_WINDOW = 5, 60.0
RETRY_PERIOD = 60.0
"""Seconds between two starts of a node that has worked before and now fails."""
_OUTPUT_TIMEOUT = 5.0  # s; a process that a node has left behind can keep its output open


class Screen(Protocol):
    """Shows the user what happens. Its OSErrors (output to a file on a full disk) are ignored."""

    def line(self, node: str, text: str) -> None:
        """Show one line of a node's output."""

    def message(self, text: str) -> None:
        """Show a message of the supervisor."""

    def tick(self) -> None:
        """Called about five times a second."""


@dataclass
class _Child:
    spec: NodeSpec
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    reader: threading.Thread | None = None
    restart_at: float | None = None
    started: float = 0.0
    lifetimes: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_RESPAWNS + 1))
    has_worked: bool = False
    last_line: str = ''

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def crash_looping(self) -> bool:
        return len(self.lifetimes) > MAX_RESPAWNS and sum(self.lifetimes) < RESPAWN_WINDOW

    def respawn_delay(self, code: int) -> float | None:
        """Seconds until the node is started again after it exited; None: never."""
        if not self.spec.respawn:
            return None
        if code == EXIT_USAGE:
            return RETRY_PERIOD if self.lifetimes else None
        self.lifetimes.append(time.monotonic() - self.started)
        self.has_worked |= self.lifetimes[-1] >= RESPAWN_WINDOW
        if not self.crash_looping:
            return self.spec.respawn_delay
        return RETRY_PERIOD if self.has_worked else None


class Supervisor:
    """Starts each node as a process of its own and stops all of them together.

    ``failure`` says what ended the run where :meth:`run` returns EXIT_FAILURE.

    Children run in their own sessions: Ctrl-C on the terminal reaches only the supervisor, which
    then stops them in stages. They hold a lifeline, so that none outlives the supervisor.

    A node with ``respawn`` that dies is started again after its delay. The run ends if such a node
    refuses its configuration (exit code 2) at its first start, or if it dies ``MAX_RESPAWNS`` + 1
    times within ``RESPAWN_WINDOW`` seconds and has never lived that long: a restart would only
    repeat the error. If the node has worked before, the cause is outside it and can be repaired (a
    full disk, for example): the other nodes go on, and the supervisor starts it again every
    ``RETRY_PERIOD`` seconds without limit.
    """

    def __init__(
        self,
        nodes: Sequence[NodeSpec],
        command: Callable[[NodeSpec], list[str]],
        screen: Screen,
        *,
        environment: Mapping[str, str] | None = None,
        log_file: Callable[[str], Path] | None = None,
        stop_stages: Sequence[tuple[int, float]] = STOP_STAGES,
    ) -> None:
        """Prepare to run ``nodes``.

        :param command: argument vector of a node; called here, once per node, so that a respawn
            needs no disk space
        :param log_file: path of a node's log, by its label; None: no logs
        """
        self._children = [_Child(spec, command(spec)) for spec in nodes]
        self._screen = screen
        self._environment = dict(os.environ if environment is None else environment)
        self._log_file = log_file
        self._stop_stages = stop_stages
        # Not a SimpleQueue: in CPython 3.11 its get(timeout) can block for ever when a signal, such
        # as a second Ctrl-C, interrupts it just before the time-out.
        self._lines: queue.Queue[tuple[_Child, str]] = queue.Queue()
        self._interrupts = 0
        self.failure = ''

    def run(self) -> int:
        """Run until a required node exits, a node fails for good, or a signal arrives.

        All children are dead on return.

        :returns: EXIT_SUCCESS or EXIT_BUDGET as the required node; EXIT_INTERRUPTED after a
            signal; else EXIT_FAILURE
        """
        previous = {
            number: signal.signal(number, self._interrupt)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN  # nohup
        }
        self._lifeline, write_end = os.pipe()
        try:
            try:
                return self._supervise()
            finally:
                self._stop_all()
        finally:
            os.close(write_end)
            os.close(self._lifeline)
            for number, handler in previous.items():
                signal.signal(number, handler)

    # --- running ---------------------------------------------------------------------------

    def _supervise(self) -> int:
        for child in self._children:
            if self._interrupts:
                break
            self._start(child)
        while not self._interrupts:
            self._show_output(0.2)
            for child in self._children:
                code = self._check(child)
                if code is not None:
                    return code
        self._message('stopping (Ctrl-C again to hurry)')
        return EXIT_INTERRUPTED

    def _check(self, child: _Child) -> int | None:
        """Handle the exit of a child: respawn it, or return the exit code of the run."""
        if child.restart_at is not None:
            if time.monotonic() >= child.restart_at:
                self._start(child)
            return None
        if child.process is None or child.alive:
            return None
        self._show_last_output(child)
        spec, code = child.spec, child.process.returncode
        child.process = None
        if spec.completes(code):
            return code
        report = self._describe_exit(child, code)
        delay = child.respawn_delay(code)
        if delay is not None:
            self._message(f'{report}; starting it again in {delay:g} s')
            child.restart_at = time.monotonic() + delay
            return None
        if child.crash_looping:
            report += f'; it died {MAX_RESPAWNS + 1} times within {RESPAWN_WINDOW:g} s'
        if spec.optional:
            self._message(f'{report}; the run goes on without it')
            return None
        self.failure = report
        self._message(f'error: {report}; the run ends')
        return EXIT_FAILURE

    def _start(self, child: _Child) -> None:
        child.restart_at = None
        child.started = time.monotonic()
        child.process = subprocess.Popen(
            child.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**self._environment, lifeline.VARIABLE: str(self._lifeline)},
            pass_fds=(self._lifeline,),
            start_new_session=True,
        )
        child.reader = threading.Thread(target=self._read, args=(child, child.process), daemon=True)
        child.reader.start()

    def _describe_exit(self, child: _Child, code: int) -> str:
        name = child.spec.label
        text = describe_exit(name, code)
        if code > 0 and child.last_line:
            text += f' ({child.last_line})'
        if self._log_file is not None:
            text += f', see {self._log_file(name)}'
        return text

    # --- output ----------------------------------------------------------------------------

    def _read(self, child: _Child, process: subprocess.Popen[bytes]) -> None:
        """Log and queue a node's output until it ends; an unwritable log is reported once.

        The pipe is read even if the log cannot be written, since a full pipe would block the node.
        """
        assert process.stdout is not None
        name = child.spec.label
        log = self._log_file(name) if self._log_file else None
        reported = ''
        with process.stdout as stream:
            for raw in stream:
                text = raw.decode(errors='replace').rstrip('\r\n')
                if log is not None and not is_status(name, text):
                    problem = _append_to_log(log, text)
                    if problem and problem != reported:
                        self._lines.put((child, problem))
                    reported = problem
                self._lines.put((child, text))

    def _show_output(self, timeout: float) -> None:
        """Show the nodes' output; waits for the first line for up to ``timeout`` seconds."""
        try:
            child, text = self._lines.get(timeout=timeout)
            while True:
                if text.strip():
                    child.last_line = text.strip()
                with contextlib.suppress(OSError):
                    self._screen.line(child.spec.label, text)
                child, text = self._lines.get_nowait()
        except queue.Empty:
            pass
        with contextlib.suppress(OSError):
            self._screen.tick()

    def _show_last_output(self, child: _Child) -> None:
        if child.reader is not None:
            child.reader.join(_OUTPUT_TIMEOUT)
        self._show_output(0.0)

    def _message(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._screen.message(text)

    # --- stopping --------------------------------------------------------------------------

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._interrupts += 1

    def _stop_all(self) -> None:
        for number, timeout in self._stop_stages:
            alive = [child for child in self._children if child.alive]
            if not alive:
                break
            if number != signal.SIGINT:
                names = ', '.join(child.spec.label for child in alive)
                self._message(f'{names}: still running, sending {signal.Signals(number).name}')
            for child in alive:
                self._signal(child, number)
            deadline, interrupts = time.monotonic() + timeout, self._interrupts
            while time.monotonic() < deadline and self._interrupts == interrupts:
                if not any(child.alive for child in alive):
                    break
                self._show_output(0.05)
        for child in self._children:
            killed = child.process is not None and child.process.wait() == -signal.SIGKILL
            self._show_last_output(child)
            if killed:
                self._message(describe_exit(child.spec.label, -signal.SIGKILL))

    def _signal(self, child: _Child, number: int) -> None:
        assert child.process is not None
        try:
            if number == signal.SIGKILL:  # with all processes that the node has started
                os.killpg(child.process.pid, number)
            else:
                child.process.send_signal(number)
                # One that is suspended ends only if it runs; the gate then sends its stop command.
                child.process.send_signal(signal.SIGCONT)
        except ProcessLookupError:
            pass


def _append_to_log(log: Path, text: str) -> str:
    """Append a line to a log file; returns the problem if that fails, else an empty text.

    The file is opened for each line: the log goes on as soon as the disk has room again.
    """
    try:
        with log.open('a') as file:
            print(time.strftime('%Y-%m-%d %H:%M:%S'), text, file=file)
    except OSError as error:
        return f'{unwritable(log, error)}; until then its lines are on the screen only'
    return ''
