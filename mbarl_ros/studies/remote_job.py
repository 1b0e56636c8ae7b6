"""The far side of a job on another machine: runs its process and yields what it writes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mbarl_ros import __version__
from mbarl_ros.storage.files import lock_file, try_lock
from mbarl_ros.storage.run_files import RESULT_FILE
from mbarl_ros.studies.local_engine import start_process

_PERIOD = 0.5  # s between two looks for changed files
_PREFIX, _NEW = 'mbarl-job-', 'mbarl-new-'
_LOCK = '.alive'


def run_job(
    luggage: bytes, module: str, argument: str, folder: str, log: str, version: str
) -> Iterator[dict[str, Any]]:
    """Run ``python -m module argument`` in a new folder of this machine, which is removed again.

    Yields ``{'node': name}``, then ``{'files': {path: content}}`` with what has changed in
    ``folder`` since, at last ``{'code': exit code}``. The result file comes last of all files:
    where it is, all others are complete. The process ends with the one that runs this generator.

    :param luggage: zip file, unpacked into the folder that the process starts in
    :param argument: JSON
    :param folder: relative to that folder
    :param log: file in ``folder`` that takes the output of the process
    :param version: of the package at the sender
    :raises RuntimeError: this machine has another version of the package.
    """
    if version != __version__:
        raise RuntimeError(
            f'node {socket.gethostname()} has mbarl_ros {__version__}, this machine {version}; '
            'install the same version on all nodes'
        )
    yield {'node': socket.gethostname()}
    _remove_abandoned()
    with contextlib.ExitStack() as stack:
        base = stack.enter_context(own_folder())
        with zipfile.ZipFile(io.BytesIO(luggage)) as packed:
            packed.extractall(base)
        process = stack.enter_context(_process(module, argument, base, base / folder / log))
        changes = _Changes(base / folder)
        while process.poll() is None:
            time.sleep(_PERIOD)
            if files := changes.take():
                yield {'files': files}
        yield {'files': changes.take(last=True)}
        yield {'code': process.returncode}


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A new folder, locked and then removed.

    It gets its name when it is locked, so that no other job takes it for an abandoned one.
    """
    new = Path(tempfile.mkdtemp(prefix=_NEW))
    with lock_file(new / _LOCK, f'{new}: another process uses it'):
        folder = new.rename(new.with_name(new.name.replace(_NEW, _PREFIX)))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _process(module: str, argument: str, base: Path, log: Path) -> Iterator[subprocess.Popen]:
    """The process of the job; it is killed at the end of the context, or when we die."""
    log.parent.mkdir(parents=True, exist_ok=True)
    read_end, write_end = os.pipe()
    # Ray blocks SIGINT in its workers. A child inherits that, and its lifeline would have to wait.
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        with log.open('w') as output:
            process = start_process(module, json.loads(argument), read_end, stdout=output, cwd=base)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(read_end)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        os.close(write_end)


class _Changes:
    """Files below a folder that have changed since the last look; hidden ones are left out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, tuple[int, int]] = {}

    def take(self, *, last: bool = False) -> dict[str, bytes]:
        """Path below the folder -> content; the result only if this is the ``last`` look."""
        files = {}
        for path in sorted(self._folder.rglob('*')):
            if path.name.startswith('.') or (path.name == RESULT_FILE and not last):
                continue
            with contextlib.suppress(OSError):  # it has been replaced meanwhile
                if path.is_file():
                    self._read(path, files)
        return files

    def _read(self, path: Path, files: dict[str, bytes]) -> None:
        name, status = str(path.relative_to(self._folder)), path.stat()
        state = (status.st_mtime_ns, status.st_size)
        if self._seen.get(name) != state:
            files[name] = path.read_bytes()
            self._seen[name] = state


def _remove_abandoned() -> None:
    """Remove folders of jobs whose worker was killed."""
    for path in Path(tempfile.gettempdir()).glob(f'{_PREFIX}*'):
        with contextlib.suppress(OSError), (path / _LOCK).open('a') as file:
            if try_lock(file):
                shutil.rmtree(path, ignore_errors=True)
