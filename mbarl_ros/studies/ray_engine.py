"""Jobs as tasks of a Ray cluster; what they write is sent back while they run."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import signal
import socket
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, Any, Self

from mbarl_ros import __version__
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.files import lock_file, write_file
from mbarl_ros.storage.run_files import LOCK_FILE, RESULT_FILE
from mbarl_ros.studies.jobs import Engine, Job, Luggage, Run
from mbarl_ros.studies.remote_job import run_job

RETRIES = 3
"""How often a job is run again whose worker or node was lost."""
_KILLED = (-9, -15)  # exit codes of a process that was ended from outside
_NEVER_STARTED = 1
_CANCEL_TIMEOUT = 10.0  # s
_CONNECT_TIMEOUT = 5.0  # s
_DECIMALS = 4  # of an amount of cores or GPUs
_LOCAL_STORE = 256 * 2**20  # bytes of shared memory for what is sent, in a cluster of our own


@dataclass(frozen=True)
class Request:
    """What one job asks of a node: CPU cores, memory in GiB (0: no request), share of GPUs.

    :raises ConfigError: an amount that Ray cannot share out.
    """

    cpus: float = 1.0
    memory: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        for name, amount in (('cpus', self.cpus), ('gpus', self.gpus)):
            if amount != round(amount, _DECIMALS):
                raise ConfigError(f'--{name} {amount:g}: Ray counts in steps of 0.0001; round it')
        if self.gpus > 1 and self.gpus % 1:
            raise ConfigError(f'--gpus {self.gpus:g}: a share is below 1; else give a whole number')

    def options(self) -> dict[str, Any]:
        """As Ray takes it."""
        return {
            'num_cpus': self.cpus,
            'num_gpus': self.gpus,
            'memory': int(self.memory * 2**30) or None,
        }


class RayEngine(Engine):
    """Runs jobs on a Ray cluster, or on one that it starts on this machine and ends again."""

    def __init__(self, address: str = '', request: Request = Request(), jobs: int = 0) -> None:
        """Nothing is connected yet.

        :param address: ``auto``, ``local`` or HOST:PORT; empty: RAY_ADDRESS, or ``local``
        :param jobs: how many may be started at a time; 0: what the cluster holds, and as many again
            that wait, so that nodes which join get some
        :raises ConfigError: Ray is not installed, or its address is one of Ray Client.
        """
        self._ray = _import_ray()
        self._address = address or os.environ.get('RAY_ADDRESS', '') or 'local'
        if '://' in self._address:
            raise ConfigError(
                f"--address: '{self._address}': files cannot be sent back through Ray Client; run "
                'this command on a machine of the cluster with --address auto'
            )
        self._request, self._jobs = request, jobs
        self._runs: list[_Task] = []
        self._packed: dict[bytes, Any] = {}

    def __enter__(self) -> Self:
        own = self._address == 'local'
        options: dict[str, Any] = {'log_to_driver': False, 'logging_level': 'ERROR'}
        if own:
            # Neither statistics sent elsewhere nor a web page, in a cluster that we start.
            os.environ['RAY_USAGE_STATS_ENABLED'] = '0'
            options |= {'include_dashboard': False, 'object_store_memory': _LOCAL_STORE}
        try:
            with _interrupted_after():
                self._connect(options)
            self._check_request(own)
        except BaseException:
            self._ray.shutdown()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for run in self._runs:
            run.cancel()
        deadline = time.monotonic() + _CANCEL_TIMEOUT
        while any(run.code() is None for run in self._runs) and time.monotonic() < deadline:
            time.sleep(0.05)
        for run in self._runs:
            run.close()
        self._runs.clear()
        self._packed.clear()  # references end with the connection
        self._ray.shutdown()  # the workers of this driver end with it

    @property
    def slots(self) -> int:
        """How many jobs may be started at a time."""
        return self._jobs or 2 * self.capacity

    @property
    def capacity(self) -> int:
        """How many jobs the cluster holds at present, at least 1."""
        room = sum(self._room(node['Resources']) for node in self._nodes())
        return max(1, min(room, self._jobs or room))

    def start(self, job: Job) -> Run:
        """Submit a job.

        :raises ConfigError: another process uses its folder.
        """
        job.folder.mkdir(parents=True, exist_ok=True)
        lock = lock_file(job.folder / LOCK_FILE, f'{job.folder}: another process uses it')
        self._runs = [run for run in self._runs if run.code() is None]
        run = _Task(self, job, job.pack(), lock)
        self._runs.append(run)
        return run

    def _connect(self, options: dict[str, Any]) -> None:
        """Connect to the cluster, or start one.

        :raises ConfigError: there is none at the address.
        """
        host, colon, port = self._address.rpartition(':')
        try:
            if colon and port.isdecimal():  # Ray tries for minutes where nobody listens
                socket.create_connection((host, int(port)), _CONNECT_TIMEOUT).close()
            self._ray.init(address=self._address, **options)
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"--address: no Ray cluster at '{self._address}' ({_first_line(error)}); start one "
                'with `ray start --head`, or leave --address out'
            ) from error

    def submit(self, job: Job, luggage: Luggage) -> Any:
        """Start the task of a job; returns the generator of what it yields."""
        packed = _zip(luggage)
        # Seeds of one task and agent take the same luggage: it is sent once to each node.
        digest = hashlib.sha256(packed).digest()
        if digest not in self._packed:
            self._packed[digest] = self._ray.put(packed)
        task = self._ray.remote(num_returns='streaming', max_retries=0)(run_job)
        return task.options(name=job.title, **self._request.options()).remote(
            self._packed[digest],
            job.module,
            json.dumps(luggage.argument),
            luggage.folder,
            job.log.name,
            __version__,
        )

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node['Alive']]

    def _room(self, resources: dict[str, float]) -> int:
        """How many jobs a node with these resources holds."""
        request = self._request
        wanted = {'CPU': request.cpus, 'memory': request.memory * 2**30, 'GPU': request.gpus}
        shares = [
            resources.get(name, 0.0) / amount for name, amount in wanted.items() if amount > 0
        ]
        return math.floor(min(shares) + 1e-6) if shares else 1

    def _check_request(self, own: bool) -> None:
        """Refuse, or announce, that a job fits on no node."""
        nodes = self._nodes()
        if any(self._room(node['Resources']) for node in nodes):
            return
        request = self._request
        offers = ', '.join(
            f'{node["NodeManagerHostname"]} {resources.get("CPU", 0):g} CPUs, '
            f'{resources.get("memory", 0) / 2**30:.1f} GiB, {resources.get("GPU", 0):g} GPUs'
            for node in nodes
            for resources in [node['Resources']]
        )
        sentence = (
            f'no node holds a seed with {request.cpus:g} CPUs, {request.memory:g} GiB and '
            f'{request.gpus:g} GPUs ({offers}); lower --cpus, --memory or --gpus'
        )
        if own:
            raise ConfigError(sentence)
        say(f'{sentence}, or add a node: the seeds wait for one')


class _Task(Run):
    """A job on the cluster, and what has come back from it."""

    def __init__(self, engine: RayEngine, job: Job, luggage: Luggage, lock: IO[str]) -> None:
        self._engine, self._job, self._luggage, self._lock = engine, job, luggage, lock
        self._ray = _import_ray()
        self._attempts, self._cancelled, self._node = 0, False, 'a node'
        self._received: set[str] = set()
        self._code: int | None = None
        self._generator = engine.submit(job, luggage)

    def code(self) -> int | None:
        """Exit code; None while it runs. Takes what has come back."""
        while self._code is None and self._ray.wait([self._generator], timeout=0)[0]:
            self._take_next()
        return self._code

    def stop(self) -> None:
        """Cancel it; its process is killed on the node."""
        self.cancel()
        self.close()

    def cancel(self) -> None:
        """Ask the node to end it; :meth:`code` tells when that has happened."""
        if self._code is None:
            self._cancelled = True
            self._ray.cancel(self._generator)

    def close(self) -> None:
        """Take nothing any more."""
        if self._code is None:
            self._end(_KILLED[0])

    def _take_next(self) -> None:
        errors = self._ray.exceptions
        try:
            self._take(self._ray.get(next(self._generator)))
        except StopIteration:
            self._end(_NEVER_STARTED)
        except errors.RayTaskError as error:  # of our own code, on the node
            if self._cancelled:
                self._end(_KILLED[0])
            else:
                self._fail(_first_line(error.cause or error))
        except errors.RayError as error:
            self._lost(type(error).__name__)

    def _take(self, message: dict[str, Any]) -> None:
        self._node = message.get('node', self._node)
        self._write(message.get('files', {}))
        code = message.get('code')
        if code in _KILLED and self._attempts < RETRIES:
            self._lost('its process was killed')
        elif code is not None:
            self._end(code)

    def _write(self, files: dict[str, bytes]) -> None:
        for name in sorted(files, key=lambda name: name == RESULT_FILE):
            pure = PurePath(name)
            if pure.is_absolute() or '..' in pure.parts or name in self._luggage.stays:
                continue
            path = self._job.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, files[name])
            self._received.add(name)

    def _lost(self, why: str) -> None:
        """Run it again, from its beginning."""
        if self._cancelled:
            self._end(_KILLED[0])
            return
        if self._attempts >= RETRIES:
            self._fail(f'lost {self._attempts + 1} times, last on {self._node}: {why}')
            return
        self._attempts += 1
        say(
            f'{self._job.title}: lost on {self._node} ({why}); runs again, {self._attempts} of '
            f'at most {RETRIES} times'
        )
        for name in self._received:
            (self._job.folder / name).unlink(missing_ok=True)
        self._received.clear()
        self._generator = self._engine.submit(self._job, self._luggage)

    def _fail(self, sentence: str) -> None:
        with contextlib.suppress(OSError), self._job.log.open('a') as log:
            log.write(f'{sentence}\n')
        self._end(_NEVER_STARTED)

    def _end(self, code: int) -> None:
        self._code = code
        self._lock.close()


@contextlib.contextmanager
def _interrupted_after() -> Iterator[None]:
    """Raise what the first Ctrl-C raises at the end of the context; the second one at once.

    While Ray starts, it may swallow a Ctrl-C, and leaves processes behind for a minute.
    """
    noted: list[int] = []

    def note(number: int, _: object) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if noted:
        raise KeyboardInterrupt


def say(sentence: str) -> None:
    """Tell the user something about the cluster."""
    print(sentence, file=sys.stderr, flush=True)


def _import_ray() -> Any:
    # It says so at each start otherwise; jobs without a GPU see none, as before.
    os.environ.setdefault('RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO', '0')
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise ConfigError(
            f"--engine ray: {error}; install the extra with pip install 'mbarl_ros[scale]'"
        ) from error
    return ray


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _zip(luggage: Luggage) -> bytes:
    """The files of a luggage as a zip file; the same files give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as packed:
        for name in sorted(luggage.files):
            content = luggage.files[name]
            data = content.read_bytes() if isinstance(content, Path) else content
            packed.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()
