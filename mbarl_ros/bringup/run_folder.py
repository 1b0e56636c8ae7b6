"""The run folder: lock and configuration as used, for ``mbarl up`` and ``ros2 launch``."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from mbarl_ros import __version__
from mbarl_ros.bringup import hosts
from mbarl_ros.bringup.arguments import LEARNING
from mbarl_ros.bringup.graphs import Plan
from mbarl_ros.bringup.node_process import describe_exit
from mbarl_ros.bringup.node_specs import NodeSpec
from mbarl_ros.bringup.software import software
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.files import lock_file, unwritable, write_file
from mbarl_ros.storage.record_log import read_records
from mbarl_ros.storage.run_files import (
    ARGUMENTS_FILE,
    DEMONSTRATIONS_FILE,
    EVALUATIONS_FILE,
    LOCK_FILE,
    RESULT_FILE,
    ROBOTS_FOLDER,
    SOFTWARE,
    TRANSITIONS_FILE,
    check_same,
    read_json,
    read_json_lines,
    write_config,
    write_text,
)
from mbarl_ros.storage.spool import SPOOL_FOLDER
from mbarl_ros.storage.transitions import row_dtype, unpack_log_record
from mbarl_ros.storage.web_address import keep_address
from mbarl_ros.storage.wire import WireError
from mbarl_ros.task import Task


class RunFolder:
    """A locked run folder, new or resumed, with the configuration as used."""

    def __init__(self, plan: Plan) -> None:
        """Create or resume the folder.

        :raises ConfigError: another process uses it, it is not a run folder, it was made with
            another configuration, or it cannot be written.
        """
        self.path = plan.run_dir
        self._plan = plan
        robots = {spec.robot for spec in plan.nodes if spec.robot}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for folder in ('log', *(f'log/{robot}' for robot in robots)):
                (self.path / folder).mkdir(exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f'run_dir {self.path}: cannot be created: {error.strerror}; make its disk '
                'writable, or give another one'
            ) from None
        lock = self.path / LOCK_FILE
        try:
            self._lock = lock_file(lock, f'run_dir {self.path}: another run uses it')
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
        """Path of the log of a node's output, by its label."""
        return self.path / 'log' / f'{node}.log'

    def web_url(self) -> str:
        """URL of the page, kept in a file that only its owner may read; empty: there is no page.

        :raises ConfigError: the port is in use, or the file cannot be written.
        """
        if self._plan.arguments['view'] != 'web':
            return ''
        return keep_address(self.path, int(self._plan.arguments['web_port'])).url

    def keep_decoded(self, demonstrations: bytes) -> None:
        """Write the decoded demonstrations, so that the nodes need not decode them again."""
        if demonstrations:
            with contextlib.suppress(OSError):  # a full disk: the nodes decode them
                write_file(self.path / DEMONSTRATIONS_FILE, demonstrations)

    def result(self) -> dict[str, Any] | None:
        """Parsed ``result.json``; None if there is none."""
        try:
            return read_json(self.path / RESULT_FILE, '') or None
        except ConfigError:
            return None

    def stored_steps(self) -> int:
        """Environment steps in the transition log; 0: there is none, or it cannot be read."""
        task = Task(self._plan.task, self._plan.robot)
        dtype, spec = row_dtype(task), task.spec_hash(self._plan.agent)
        try:
            records = read_records(self.path / TRANSITIONS_FILE)
            parts = (unpack_log_record(record, dtype, spec)[0] for record in records)
            return sum(map(len, parts)) // dtype.itemsize
        except (OSError, WireError):
            return 0

    def steps_that_wait(self) -> str:
        """Says of which robots of a fleet, that are not started now, steps wait; empty: of none."""
        if self._plan.graph != 'fleet':
            return ''
        here = {spec.robot for spec in self._plan.nodes}
        spools = (self.path / ROBOTS_FOLDER).glob(f'*/{SPOOL_FOLDER}/*.log')
        absent = sorted({path.parents[1].name for path in spools} - here)
        if not absent:
            return ''
        return (
            f'steps of {", ".join(absent)} wait in {self.path / ROBOTS_FOLDER} for the learner; '
            'to add them, resume the run with as many robots as before'
        )

    def write_interrupted_result(self) -> None:
        """Write ``result.json`` with reason ``interrupted`` unless the evaluator has written it.

        :raises ConfigError: it cannot be written.
        """
        if self.result() is None:
            self._write_result(reason='interrupted')

    def write_failed_result(self, error: str) -> None:
        """Write ``result.json`` with reason ``failed``; to the evaluator it was an interruption.

        :raises ConfigError: it cannot be written.
        """
        self._write_result(reason='failed', error=error)

    def _write_result(self, **end: str) -> None:
        line = self._last_evaluation() or {
            'task': self._plan.task.name,
            'agent': self._plan.agent.name,
            'seed': self._plan.arguments['seed'],
            'deployed_success': None,
        }
        line.update(end, version=__version__)
        write_text(self.path / RESULT_FILE, json.dumps(line, indent=2) + '\n')

    def _last_evaluation(self) -> dict[str, Any] | None:
        lines = read_json_lines(self.path / EVALUATIONS_FILE)
        return lines[-1] if lines else None

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
                    f'run_dir {self.path}: neither empty nor a run folder (it contains '
                    f'{sorted(foreign)[0]}); give a new one'
                )
            return False
        before = read_json(record, 'give a new run_dir')
        remedy = 'give the same to resume it, or a new run_dir'
        now = {'graph': self._plan.graph, 'seed': self._plan.arguments['seed']}
        before.setdefault('host', hosts.ALL)
        now['host'] = self._plan.host
        for key, value in now.items():
            if before.get(key) != value:
                raise ConfigError(
                    f"run_dir {self.path}: was made with {key} '{before.get(key)}', not "
                    f"'{value}'; {remedy}"
                )
        for name, config in self._configurations().items():
            check_same(self.path / name, config, f'run_dir {self.path}', remedy)
        return True

    def _write_configuration(self) -> None:
        for name, config in self._configurations().items():
            write_config(self.path / name, config)
        arguments = {'graph': self._plan.graph, 'version': __version__, **self._plan.arguments}
        arguments['started'] = time.strftime('%Y-%m-%dT%H:%M:%S%z')
        arguments[SOFTWARE] = software()
        write_text(self.path / ARGUMENTS_FILE, json.dumps(arguments, indent=2) + '\n')
        result = self.path / RESULT_FILE  # a resumed run has not ended yet
        try:
            result.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(result, error) from None


class RunEnd:
    """Says in ``result.json`` which node ended a run that nobody supervises: by ``ros2 launch``.

    The first node that exits ends the run; after that the others exit, too.
    """

    def __init__(self, plan: Plan, run_dir: RunFolder) -> None:
        """``run_dir`` is written to where the graph is one that learns."""
        self._learns, self._run_dir = plan.graph in LEARNING, run_dir
        self._failure: str | None = None  # of the first node; empty: it was none

    def exited(self, spec: NodeSpec, code: int, stopping: bool) -> str:
        """A node without which the run does not go on has exited; returns how.

        :param code: exit code, or the negative number of the signal
        :param stopping: the user stops the run
        """
        report = describe_exit(spec.label, code)
        if self._failure is None:
            self._failure = '' if spec.completes(code) or stopping else report
        if self._failure and self._learns:
            try:  # each time: to the evaluator, which may exit later, it was an interruption
                self._run_dir.write_failed_result(self._failure)
            except ConfigError as error:
                report += f'; {error}'
        return report
