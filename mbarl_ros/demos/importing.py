"""Import of demonstrations from untrusted files, in a process of its own.

``python -m mbarl_ros.demos.importing`` reads a source under limits on memory, time and file size,
and writes its demonstrations to a hidden folder. A malicious file can harm only that process: the
importer checks each demonstration before it gets its name.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from mbarl_ros.demos.formats.common import FormatError, Options, Reading
from mbarl_ros.demos.metadata import (
    DemonstrationError,
    file_of,
    folders,
    publish,
    read_metadata,
    write_metadata,
)
from mbarl_ros.demos.reader import read_episode
from mbarl_ros.task import Task

STAGING = '.importing-'
MAX_MEMORY = 2 << 30
"""Bytes of address space of the process that reads."""
MAX_SECONDS = 600
MAX_FILE = 8 << 30
_REFUSED = 2
_NOTES = '.notes.json'
_MAX_NOTES = 1 << 20


def import_demonstrations(
    source: Path,
    task_name: str,
    robot: str,
    folder: Path,
    kind: str | None = None,
    direction: str | None = None,
    verdict: str | None = None,
    reading: Reading | None = None,
) -> list[Path]:
    """Add demonstrations of another format to a folder; all of them, or none.

    No demonstration gets its name before all of them were checked.

    :param task_name: name or path of their task
    :param robot: name or path of their robot profile; empty: the task's own
    :param kind: bag, minari, robomimic, lerobot or earl; None: detect it
    :param direction: forward or backward; None: as in the source
    :param verdict: success, discarded or unknown; None: as in the source
    :param reading: what the user says about the source; gets the notes for the user
    :returns: folders of the new demonstrations
    :raises FormatError: the source cannot be imported; the message says why.
    """
    reading = reading or Reading()
    task = Task.load(task_name, robot or None)
    robot_name = robot or task.config.robot
    folder.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=folder))
    try:
        options = json.dumps(asdict(reading.options))
        given = [str(source), task_name, robot, str(staging), kind or '', direction or '', options]
        code, message = run_limited(given)
        if code:
            raise FormatError(_explained(source, code, message))
        for text in _notes(staging / _NOTES):
            reading.note(text)
        staged = [(path, read_episode(path, task).direction) for path in folders(staging)]
        if not staged:
            raise FormatError(f'{source}: contains no demonstration')
        for path, _ in staged:
            metadata = read_metadata(path)
            files = {'task_file': file_of(task_name), 'robot_file': file_of(robot_name)}
            verdict_kept = verdict or metadata.verdict
            write_metadata(path, replace(metadata, verdict=verdict_kept, **files))
        return [publish(path, folder, direction) for path, direction in staged]
    except DemonstrationError as error:
        raise FormatError(f'{source}: {error}') from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def run_limited(given: list[str]) -> tuple[int, str]:
    """Run :func:`main` in a process of its own.

    :returns: exit code, negative for a signal, and the text of stderr
    """
    # -P: no module is imported from the working folder, where the untrusted file may lie.
    command = [sys.executable, '-P', '-m', 'mbarl_ros.demos.importing', *given]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1'}
    # Other allocators reserve more address space than the limit leaves.
    environment['ARROW_DEFAULT_MEMORY_POOL'] = 'system'
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors='replace',
            timeout=2 * MAX_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return -signal.SIGXCPU, ''
    return done.returncode, done.stderr


def main(given: list[str]) -> int:
    """Read a source into a staging folder, one folder per demonstration; returns the exit code."""
    source, task_name, robot, staging, kind, direction, options = given
    for what, limit in (
        (resource.RLIMIT_AS, MAX_MEMORY),
        (resource.RLIMIT_CPU, MAX_SECONDS),
        (resource.RLIMIT_FSIZE, MAX_FILE),
        (resource.RLIMIT_CORE, 0),
    ):
        allowed = resource.getrlimit(what)[1]
        limit = limit if allowed == resource.RLIM_INFINITY else min(limit, allowed)
        resource.setrlimit(what, (limit, limit))
    try:
        task = Task.load(task_name, robot or None)
        reading = Reading(Options(**json.loads(options)))
        _stage(Path(source), task, Path(staging), kind, direction or None, reading)
        (Path(staging) / _NOTES).write_text(json.dumps(reading.notes))
    except MemoryError:
        print(f'{source}: needs more than {MAX_MEMORY} bytes of memory', file=sys.stderr)
        return _REFUSED
    except (ValueError, OSError) as error:
        print(' '.join(str(error).split()), file=sys.stderr)
        return _REFUSED
    except Exception as error:  # damaged files make libraries raise any exception
        print(f'{source}: cannot be read: {type(error).__name__}', file=sys.stderr)
        return _REFUSED
    return 0


def _stage(
    source: Path, task: Task, staging: Path, kind: str, direction: str | None, reading: Reading
) -> None:
    from mbarl_ros.demos.formats import BAG, check_options, detect, read_episodes
    from mbarl_ros.demos.imported import save_episode

    kind = kind or detect(source)
    check_options(kind, reading.options)
    if kind == BAG:
        from mbarl_ros.demos.bag import import_bag

        options = reading.options
        made = import_bag(source, task, staging, direction, options.topics, options.clock)
        try:
            read_episode(made, task)
        except DemonstrationError as error:
            raise FormatError(str(error).replace(str(made), str(source))) from error
        return
    episodes = read_episodes(kind, source, task, direction=direction, reading=reading)
    for index, episode in enumerate(episodes):
        folder = staging / f'{index:05d}'
        folder.mkdir()
        save_episode(folder, episode, task)


def _notes(path: Path) -> list[str]:
    """What the reading process has to say, which an untrusted file may have made up."""
    try:
        notes = json.loads(path.read_bytes()) if path.stat().st_size <= _MAX_NOTES else []
    except (OSError, ValueError, RecursionError):
        return []
    texts = [' '.join(str(note).split()) for note in notes] if isinstance(notes, list) else []
    return [text[:2000] for text in texts if text.isprintable()]


def _explained(source: Path, code: int, message: str) -> str:
    """Why the reading process failed, in one sentence."""
    if code == _REFUSED and message.strip():
        return message.strip().splitlines()[-1]
    if code == -signal.SIGXCPU or code == -signal.SIGKILL:
        return f'{source}: reading took more than {MAX_SECONDS} s or too much memory'
    if code < 0:
        name = signal.Signals(-code).name
        return f'{source}: the reader crashed ({name}); the file is damaged'
    words = (message.strip().splitlines() or [''])[-1][:200]
    return f'{source}: cannot be read: {words or f"the reader ended with code {code}"}'


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
