"""The run folder as ``mbarl up`` and ``ros2 launch`` prepare it: lock, configuration as used."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import yaml

from mbarl_ros import __version__, wire
from mbarl_ros.bringup import Plan
from mbarl_ros.config import ConfigError

ARGUMENTS_FILE = 'arguments.json'
EVALUATIONS_FILE = 'evaluations.jsonl'
RESULT_FILE = 'result.json'
LOCK_FILE = '.lock'


def unwritable(path: Path | str, error: OSError) -> ConfigError:
    """What a person is told of a file that cannot be written: which, why, what to do."""
    return ConfigError(
        f'{path}: cannot be written: {error.strerror}; make it writable or make room on its disk'
    )


def lock_file(path: Path, message: str) -> IO[str]:
    """Take an exclusive lock that lives as long as the returned file stays open.

    :raises ConfigError: ``message`` and who holds it, if another process does.
    :raises OSError: it cannot be opened.
    """
    file = path.open('a+')
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or 'unknown'
        file.close()
        raise ConfigError(f'{message} (process {holder})') from None
    with contextlib.suppress(OSError):  # a full disk; it is a lock also without our number
        file.truncate(0)
        os.write(file.fileno(), f'{os.getpid()}\n'.encode())
    return file


def check_same(path: Path, config: Mapping[str, Any], folder: str, remedy: str) -> None:
    """Refuse to go on in a folder whose configuration file ``path`` holds other settings.

    :raises ConfigError: ``folder``, the first key that differs, and ``remedy``.
    """
    try:
        before = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        return  # an interrupted start; it is written again
    # The name first: it says most.
    for key in sorted({*before, *config}, key=lambda key: (key != 'name', key)):
        # Where demonstrations lie may change; who they are, the demonstration reader checks.
        if key != 'demonstrations' and before.get(key) != config.get(key):
            what = f"key '{key}'"
            if key == 'name':
                what += f" '{before.get(key)}' in place of '{config.get(key)}'"
            raise ConfigError(
                f'{folder}: was made with another configuration: {path.name}, {what}; {remedy}'
            )


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write a configuration file that :func:`check_same` reads, whole or not at all.

    :raises ConfigError: it cannot be written.
    """
    _write(path, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))


def _write(path: Path, text: str) -> None:
    try:
        wire.write_file(path, text.encode())
    except OSError as error:
        raise unwritable(path, error) from None


class RunDir:
    """A locked run folder, new or resumed, that holds the configuration as used."""

    def __init__(self, plan: Plan) -> None:
        """Create or resume the folder.

        :raises ConfigError: another process runs in it, it is not a run folder, it was made
            with another configuration, or it cannot be written.
        """
        self.path = plan.run_dir
        self._plan = plan
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / 'log').mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigError(f'run_dir {self.path}: cannot be made: {error.strerror}') from None
        lock = self.path / LOCK_FILE
        try:
            self._lock = lock_file(lock, f'run_dir {self.path}: another run is going on in it')
        except OSError as error:
            raise unwritable(lock, error) from None
        try:
            self.resumed = self._check_resumable()
            self._write_configuration()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    def log_file(self, node: str) -> Path:
        """Where the output of a node goes."""
        return self.path / 'log' / f'{node}.log'

    def result(self) -> dict[str, Any] | None:
        """Parsed ``result.json``, or None where there is none."""
        try:
            return json.loads((self.path / RESULT_FILE).read_text())
        except (OSError, ValueError):
            return None

    def write_interrupted_result(self) -> None:
        """Write ``result.json`` with reason ``interrupted`` if the evaluator could not.

        :raises ConfigError: it cannot be written.
        """
        if self.result() is not None:
            return
        line = self._last_evaluation() or {
            'task': self._plan.task.name,
            'agent': self._plan.agent.name,
            'seed': self._plan.arguments['seed'],
            'deployed_success': None,
        }
        line.update(reason='interrupted', version=__version__)
        _write(self.path / RESULT_FILE, json.dumps(line, indent=2) + '\n')

    def _last_evaluation(self) -> dict[str, Any] | None:
        try:
            lines = (self.path / EVALUATIONS_FILE).read_text(errors='replace').splitlines()
        except OSError:
            return None
        for line in reversed(lines):
            try:
                parsed = json.loads(line)
            except ValueError:  # a torn last line
                continue
            if isinstance(parsed, dict):
                return parsed
        return None

    def _configurations(self) -> dict[str, dict[str, Any]]:
        plan = self._plan
        return {
            f'{kind}.yaml': getattr(plan, kind).model_dump(mode='json')
            for kind in ('task', 'robot', 'agent')
        }

    def _check_resumable(self) -> bool:
        record = self.path / ARGUMENTS_FILE
        if not record.is_file():
            foreign = {entry.name for entry in self.path.iterdir()} - {LOCK_FILE, 'log'}
            if foreign:
                raise ConfigError(
                    f'run_dir {self.path}: is neither empty nor a run folder (it has '
                    f'{sorted(foreign)[0]}); give a new one'
                )
            return False
        try:
            before = json.loads(record.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f'{record}: cannot be read: {error}; give a new run_dir') from None
        now = {'graph': self._plan.graph, 'seed': self._plan.arguments['seed']}
        for key, value in now.items():
            if before.get(key) != value:
                raise ConfigError(
                    f"run_dir {self.path}: was made with {key} '{before.get(key)}', not "
                    f"'{value}'; give the same to resume it, or a new run_dir"
                )
        for name, config in self._configurations().items():
            remedy = 'give the same to resume it, or a new run_dir'
            check_same(self.path / name, config, f'run_dir {self.path}', remedy)
        return True

    def _write_configuration(self) -> None:
        for name, config in self._configurations().items():
            write_config(self.path / name, config)
        arguments = {'graph': self._plan.graph, 'version': __version__, **self._plan.arguments}
        arguments['started'] = time.strftime('%Y-%m-%dT%H:%M:%S%z')
        _write(self.path / ARGUMENTS_FILE, json.dumps(arguments, indent=2) + '\n')
        result = self.path / RESULT_FILE  # a resumed run has not ended yet
        try:
            result.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(result, error) from None
