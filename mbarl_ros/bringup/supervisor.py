"""Runs a graph without ``ros2 launch``: starts its processes, watches them, ends them.

ROS-free: nodes are child processes, what they report arrives as lines from the ``monitor`` node.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol

from mbarl_ros.bringup.graphs import NodeSpec
from mbarl_ros.bringup.sros2 import enclave
from mbarl_ros.schema.exit_codes import (
    EXIT_BUDGET,
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_TARGET,
    EXIT_USAGE,
)
from mbarl_ros.storage import lifeline
from mbarl_ros.storage.files import unwritable

STOP_STAGES = ((signal.SIGINT, 5.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
"""As ``ros2 launch`` does it: signal and seconds until the next one."""

RESPAWNS, RESPAWN_WINDOW = 5, 60.0
RETRY = 60.0
"""Seconds between two tries with a node that has worked before and now does not."""


class Screen(Protocol):
    """What the supervisor tells the person; an OSError of it, a file on a full disk, is ignored."""

    def line(self, node: str, text: str) -> None:
        """Show one line of a node's output."""

    def note(self, text: str) -> None:
        """Show what the supervisor itself has to say."""

    def tick(self) -> None:
        """Called about five times a second."""


@dataclass
class _Child:
    spec: NodeSpec
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    reader: threading.Thread | None = None
    start_at: float | None = None
    started: float = 0.0
    lives: deque[float] = field(default_factory=lambda: deque(maxlen=RESPAWNS + 1))
    proven: bool = False
    last_line: str = ''

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def respawn_delay(self, code: int) -> float | None:
        """Seconds until it is started again after it ended; None: it is not."""
        if not self.spec.respawn:
            return None
        if code == EXIT_USAGE:
            return RETRY if self.lives else None
        self.lives.append(time.monotonic() - self.started)
        self.proven |= self.lives[-1] >= RESPAWN_WINDOW
        if not self.keeps_dying:
            return self.spec.respawn_delay
        return RETRY if self.proven else None

    @property
    def keeps_dying(self) -> bool:
        return len(self.lives) > RESPAWNS and sum(self.lives) < RESPAWN_WINDOW


class Supervisor:
    """Starts each node as an operating-system process of its own and answers for all of them.

    Children run in their own sessions, so that Ctrl-C on the terminal reaches the supervisor
    alone and the stopping has an order; they hold a lifeline, so that none outlives it.

    A node with ``respawn`` that dies is started again after its delay. The run ends if it refuses
    (exit code 2) at its very first start, or dies ``RESPAWNS`` + 1 times within ``RESPAWN_WINDOW``
    seconds of life and has never lived that long: that is a mistake, which would only be repeated.
    If it worked before, something around it changed that a person can mend, like a full disk: the
    others go on, and it is tried again every ``RETRY`` seconds, for ever.
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
        """Prepare to run ``nodes``; ``command`` gives the argument vector of each.

        It is asked once for each, so that a respawn needs no room on a disk.
        """
        self._children = [_Child(spec, command(spec)) for spec in nodes]
        self._screen = screen
        self._environment = dict(os.environ if environment is None else environment)
        self._log_file = log_file
        self._stop_stages = stop_stages
        # Not a SimpleQueue: CPython 3.11's get(timeout) waits for ever when a signal, such as a
        # second Ctrl-C, interrupts it just before its time is up.
        self._lines: queue.Queue[tuple[_Child, str]] = queue.Queue()
        self._interrupts = 0
        self.finished_by: str | None = None

    def run(self) -> int:
        """Run until a required node ends, one fails for good, or a signal; returns the exit code.

        0: the required node ended with 0. 3: it said the budget is used up. 130: interrupted.
        1: anything else. All children are dead on return.
        """
        previous = {
            number: signal.signal(number, self._interrupt)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN  # nohup
        }
        read_end, self._write_end = os.pipe()
        self._read_end = read_end
        try:
            try:
                return self._supervise()
            finally:
                self._stop_all()
        finally:
            os.close(self._write_end)
            os.close(read_end)
            for number, handler in previous.items():
                signal.signal(number, handler)

    # --- running ---------------------------------------------------------------------------

    def _supervise(self) -> int:
        for child in self._children:
            if self._interrupts:
                break
            self._start(child)
        while not self._interrupts:
            self._pump(0.2)
            for child in self._children:
                code = self._look_after(child)
                if code is not None:
                    return code
        self._note('stopping (Ctrl-C again to hurry)')
        return EXIT_INTERRUPTED

    def _look_after(self, child: _Child) -> int | None:
        """Respawn or judge a child that ended; an exit code of the run if it decides that."""
        if child.start_at is not None:
            if time.monotonic() >= child.start_at:
                self._start(child)
            return None
        if child.process is None or child.alive:
            return None
        self._drain(child)
        spec, code = child.spec, child.process.returncode
        child.process = None
        if spec.required and code in (EXIT_TARGET, EXIT_BUDGET):
            self.finished_by = spec.name
            return code
        story = self._obituary(child, code)
        delay = child.respawn_delay(code)
        if delay is not None:
            self._note(f'{story}; starting it again in {delay:g} s')
            child.start_at = time.monotonic() + delay
            return None
        if child.keeps_dying:
            story += f'; it died {RESPAWNS + 1} times within {RESPAWN_WINDOW:g} s'
        if spec.optional:
            self._note(f'{story}; the run goes on without it')
            return None
        self._note(f'error: {story}; the run ends')
        return EXIT_FAILURE

    def _start(self, child: _Child) -> None:
        child.start_at = None
        child.started = time.monotonic()
        child.process = subprocess.Popen(
            child.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**self._environment, lifeline.VARIABLE: str(self._read_end)},
            pass_fds=(self._read_end,),
            start_new_session=True,
        )
        child.reader = threading.Thread(target=self._read, args=(child, child.process), daemon=True)
        child.reader.start()

    def _obituary(self, child: _Child, code: int) -> str:
        if code < 0:
            how = f'was killed by {signal.Signals(-code).name}'
        else:
            how = f'ended with exit code {code}'
        story = f'{child.spec.name} {how}'
        if code > 0 and child.last_line:
            story += f' ({child.last_line})'
        if self._log_file is not None:
            story += f', see {self._log_file(child.spec.name)}'
        return story

    # --- output ----------------------------------------------------------------------------

    def _read(self, child: _Child, process: subprocess.Popen[bytes]) -> None:
        """Pass a node's output on, until it ends; a log file that fails is said once.

        Without a log too, since a pipe that nobody reads would soon block the node.
        """
        assert process.stdout is not None
        log = self._log_file(child.spec.name) if self._log_file else None
        said = ''
        with process.stdout as stream:
            for raw in stream:
                text = raw.decode(errors='replace').rstrip('\r\n')
                if log is not None and not text.startswith('{'):
                    trouble = _append(log, text)
                    if trouble and trouble != said:
                        self._lines.put((child, trouble))
                    said = trouble
                self._lines.put((child, text))

    def _pump(self, timeout: float) -> None:
        """Show what the nodes printed; waits up to ``timeout`` seconds for the first line."""
        try:
            child, text = self._lines.get(timeout=timeout)
            while True:
                if text.strip():
                    child.last_line = text.strip()
                with contextlib.suppress(OSError):
                    self._screen.line(child.spec.name, text)
                child, text = self._lines.get_nowait()
        except queue.Empty:
            pass
        with contextlib.suppress(OSError):
            self._screen.tick()

    def _note(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._screen.note(text)

    def _drain(self, child: _Child) -> None:
        if child.reader is not None:
            child.reader.join(timeout=1.0)
        self._pump(0.0)

    # --- stopping --------------------------------------------------------------------------

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._interrupts += 1

    def _stop_all(self) -> None:
        for number, patience in self._stop_stages:
            living = [child for child in self._children if child.alive]
            if not living:
                break
            if number != signal.SIGINT:
                names = ', '.join(child.spec.name for child in living)
                self._note(f'{names}: still running, sending {signal.Signals(number).name}')
            for child in living:
                self._signal(child, number)
            deadline, hurry = time.monotonic() + patience, self._interrupts
            while time.monotonic() < deadline and self._interrupts == hurry:
                if not any(child.alive for child in living):
                    break
                self._pump(0.05)
        for child in self._children:
            if child.process is not None:
                child.process.wait()
            self._drain(child)

    def _signal(self, child: _Child, number: int) -> None:
        assert child.process is not None
        try:
            if number == signal.SIGKILL:  # with everything that it started
                os.killpg(child.process.pid, number)
            else:
                child.process.send_signal(number)
        except ProcessLookupError:
            pass


def _append(log: Path, text: str) -> str:
    """Append a line to a log file; why that was not possible, or nothing.

    It is opened anew each time: once a disk has room again, the log goes on.
    """
    try:
        with log.open('a') as file:
            print(time.strftime('%Y-%m-%d %H:%M:%S'), text, file=file)
    except OSError as error:
        return f'{unwritable(log, error)}; until then its lines are on the screen only'
    return ''


# --- real nodes ------------------------------------------------------------------------------


def node_command(spec: NodeSpec, params_dir: Path, log_level: str) -> list[str]:
    """Argument vector of a node; writes its parameters, rightly typed, beside the run.

    :raises ConfigError: they cannot be written.
    """
    import yaml

    params = params_dir / f'{spec.name}.yaml'
    # With '/**/' it matches in any namespace; a bare name would not.
    values = {f'/**/{spec.name}': {'ros__parameters': dict(spec.parameters)}}
    try:
        params_dir.mkdir(parents=True, exist_ok=True)
        params.write_text(yaml.safe_dump(values, sort_keys=False))
    except OSError as error:
        raise unwritable(params, error) from None
    command = [
        sys.executable,
        '-u',
        '-m',
        'mbarl_ros.cli',
        'node',
        spec.executable,
        '--ros-args',
        '-r',
        f'__node:={spec.name}',
        '--params-file',
        str(params),
        '--log-level',
        log_level,
        # What it logs is in its output. Without its own log file, which rclpy insists on, it
        # starts on a read-only disk too.
        '--disable-external-lib-logs',
        '--enclave',
        enclave(spec.name, spec.namespace),
    ]
    if spec.namespace:
        command += ['-r', f'__ns:=/{spec.namespace}']
    for source, target in spec.remappings:
        command += ['-r', f'{source}:={target}']
    return command


def node_environment(environ: Mapping[str, str], domain: int, log_dir: Path) -> dict[str, str]:
    """Environment of the nodes, which other machines do not hear; what the person has set stays."""
    defaults = node_defaults(log_dir, private=True)
    defaults['RCUTILS_CONSOLE_OUTPUT_FORMAT'] = '{severity} {message}'
    return {**defaults, **environ, 'ROS_DOMAIN_ID': str(domain)}


def node_defaults(log_dir: Path, *, private: bool) -> dict[str, str]:
    """Variables that the nodes need where the person has not set them.

    ``private``: nothing of this run concerns other machines.
    """
    defaults = {
        'OMP_NUM_THREADS': '1',  # seven processes with a thread for each core would only fight
        'PYTHONUNBUFFERED': '1',
        'ROS_LOG_DIR': str(log_dir / 'ros'),
    }
    if private:
        defaults['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    return defaults
