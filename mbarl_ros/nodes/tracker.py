"""The tracker: logs the numbers of a run to Weights & Biases or MLflow."""

from __future__ import annotations

import json
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus

from mbarl_ros import __version__
from mbarl_ros.nodes.support.fleet import SHARED
from mbarl_ros.nodes.support.runtime import BaseNode, main_exit
from mbarl_ros.nodes.support.scheduling import give_way
from mbarl_ros.nodes.support.statuses import StatusListener
from mbarl_ros.nodes.support.trackers import LIBRARIES, RunFacts, TrackedRun
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.files import write_file
from mbarl_ros.storage.history import Schedule
from mbarl_ros.storage.run_files import (
    EVALUATIONS_FILE,
    RESULT_FILE,
    TRACKER_FILE,
    read_config,
    read_json,
    read_json_lines,
)
from mbarl_ros.view.status import number

_CONFIGURATION = ('task', 'robot', 'agent')
_IDENTITY = {*_CONFIGURATION, 'mode', 'spec_hash', 'use_sim_time', 'seed'}
_QUEUE = 1000  # calls that may wait for a slow server; the oldest are dropped
_RETRY_PERIOD = 60.0  # s between two attempts to reach a server
_RESULT_TIMEOUT = 2.0  # s, of the evaluator to write the result
_END_TIMEOUT = 7.0  # s; the supervisor kills a node 10 s after it has asked it to stop
_Call = Callable[[TrackedRun], None]


class Tracker(BaseNode):
    """Logs what the nodes report on ``/diagnostics``, and each line of ``evaluations.jsonl``.

    The x axis is environment steps. The library works in a thread of its own: a server that is
    slow, hangs or fails delays nothing but the log. ``run_dir/tracker.json`` keeps which run of the
    tracker this is, so that a resumed run continues it. Parameters: ``library``, ``fleet`` (also
    the numbers of robots in the namespaces below).
    """

    def __init__(self) -> None:
        """Begin or continue the run of the tracker.

        :raises ConfigError: there is no run folder, the library is unknown, or ``tracker.json`` is
            damaged.
        """
        super().__init__('tracker')
        give_way()
        self.setup({'library': ('wandb', 'wandb or mlflow'), **SHARED})
        self._library = self.value('library')
        if self.run_dir is None or self._library not in LIBRARIES:
            raise ConfigError(
                f"node '{self.get_name()}': parameters 'run_dir' and 'library' "
                f'({" or ".join(LIBRARIES)}) are needed'
            )
        self._folder: Path = self.run_dir
        self._statuses = StatusListener(self, fleet=self.value('fleet'))
        self._schedule = Schedule(time.monotonic())
        self._known = self._read_known()
        self._evaluations = int(self._known.get('evaluations', 0))  # lines that are logged
        self._queued = self._evaluations  # lines that are logged, or will be
        self._calls: queue.Queue[_Call | None] = queue.Queue(_QUEUE)
        self._logged = self._dropped = 0
        self._problem, self._place = '', ''
        self._worker = threading.Thread(target=self._work, name='tracker', daemon=True)
        self._stopping = threading.Event()
        self._worker.start()
        self.create_timer(1.0, self._sample, clock=self.steady)

    # --- what is logged ------------------------------------------------------------------------

    def _sample(self, last: bool = False) -> None:
        self._statuses.mark_silent_robots()
        if self._statuses.status and (self._schedule.due(time.monotonic()) or last):
            numbers = self._numbers()
            step = int(
                numbers.get('learner/environment_steps')
                or numbers.get('policy_controller/environment_steps', 0)
            )
            self._put(lambda run: run.log(step, numbers))
        lines = read_json_lines(self._folder / EVALUATIONS_FILE, skip_damaged=True)
        for line in lines[self._queued :]:
            self._put(partial(self._log_evaluation, line))
        self._queued = max(self._queued, len(lines))

    def _numbers(self) -> dict[str, float]:
        """All numbers that the nodes report, as node/key."""
        return {
            f'{node}/{key}': value
            for node, values in self._statuses.status.items()
            for key, text in values.items()
            if key not in _IDENTITY
            if (value := number(text)) is not None
        }

    def _log_evaluation(self, line: Mapping[str, Any], run: TrackedRun) -> None:
        numbers = {
            key: float(value)
            for key, value in line.items()
            if isinstance(value, int | float) and key not in _IDENTITY
        }
        run.log_evaluation(int(numbers.pop('environment_steps', 0)), numbers)
        self._evaluations += 1

    def _put(self, call: _Call | None) -> None:
        """Hand a call to the thread; while its queue is full, the oldest calls are dropped."""
        while True:
            try:
                self._calls.put_nowait(call)
                return
            except queue.Full:
                self._calls.get_nowait()
                self._dropped += 1

    # --- thread of the library ------------------------------------------------------------------

    def _work(self) -> None:
        run = self._begin()
        while run is not None:
            call = self._calls.get()
            try:
                if call is None:
                    run.finish(self._files())
                    return
                call(run)
                self._logged += 1
                self._keep_known(run)
                self._problem = ''
            except Exception as error:  # whatever the library raises: the run goes on
                self._fail(error)
                if call is None:
                    return

    def _begin(self) -> TrackedRun | None:
        """The run of the tracker; None: the node ends before the library could begin it."""
        while True:
            try:
                run = LIBRARIES[self._library](self._facts(), self._known)
                self._place = run.place
                self._keep_known(run)
            except Exception as error:
                self._fail(error)
                if self._stopping.wait(_RETRY_PERIOD):
                    return None
            else:
                self._problem = ''
                self.get_logger().info(f'{self._library} run {run.id}: {run.place}')
                return run

    def _fail(self, error: Exception) -> None:
        self._problem = f'{self._library}: {error or repr(error)}'[:500]
        if self.may_log(self._library):
            self.get_logger().error(self._problem)

    def _facts(self) -> RunFacts:
        config = {kind: read_config(self._folder / f'{kind}.yaml') for kind in _CONFIGURATION}
        tags = {
            'task': self.task.name,
            'robot': self.task.robot.name,
            'agent': self.agent.name,
            'mode': self.mode,
        }
        return RunFacts(
            self._folder, tags, {**config, 'seed': self.seed, 'mbarl_ros_version': __version__}
        )

    def _files(self) -> list[Path]:
        names = [RESULT_FILE, 'success.png', *(f'{kind}.yaml' for kind in _CONFIGURATION)]
        return [path for name in names if (path := self._folder / name).exists()]

    # --- the file that continues a run ------------------------------------------------------------

    def _read_known(self) -> dict[str, str]:
        path, remedy = self._folder / TRACKER_FILE, f'remove it: {self._library} begins a new run'
        known = read_json(path, remedy)
        if not known:
            return {}
        texts = all(isinstance(known.get(key), str) for key in ('library', 'id', 'place'))
        counts = [str(known.get(key)) for key in ('step', 'evaluations')]
        if not (
            texts and known['id'] and all(re.fullmatch('[0-9]{1,18}', each) for each in counts)
        ):
            raise ConfigError(f'{path}: is damaged; {remedy}')
        return known if known['library'] == self._library else {}

    def _keep_known(self, run: TrackedRun) -> None:
        known = {
            'library': self._library,
            'id': run.id,
            'place': run.place,
            'step': str(run.step),
            'evaluations': str(self._evaluations),
        }
        if known != self._known:
            write_file(self._folder / TRACKER_FILE, json.dumps(known, indent=2).encode() + b'\n')
            self._known = known

    # --- reporting and end ------------------------------------------------------------------------

    def report(self) -> tuple[bytes, str, dict[str, Any]]:
        """Where the run is logged, how many calls were made, and how many were dropped."""
        values = {
            'library': self._library,
            'place': self._place,
            'logged': self._logged,
            'waiting': self._calls.qsize(),
            'dropped': self._dropped,
        }
        level = DiagnosticStatus.WARN if self._problem else DiagnosticStatus.OK
        return level, self._problem, values

    def close(self) -> None:
        """Log the end, and hand over result, curve and configuration."""
        self._stopping.set()
        end = time.monotonic() + _RESULT_TIMEOUT
        evaluated = 'policy_evaluator' in self._statuses.status
        while evaluated and not self._has_result() and time.monotonic() < end:
            time.sleep(0.05)
        self._sample(last=True)
        self._put(None)
        self._worker.join(_END_TIMEOUT)
        if self._worker.is_alive():
            self.get_logger().error(
                f'{self._library} is still busy after {_END_TIMEOUT:g} s; what it has not sent is '
                'left out'
            )

    def _has_result(self) -> bool:
        return (self._folder / RESULT_FILE).exists()


def main() -> None:
    """Entry point of the node."""
    main_exit(Tracker)


if __name__ == '__main__':
    main()
