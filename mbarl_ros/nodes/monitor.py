"""The monitor: prints what the nodes of a graph publish on /diagnostics."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType

from mbarl_ros.nodes.support import runtime
from mbarl_ros.nodes.support.statuses import StatusListener
from mbarl_ros.schema.exit_codes import BUDGET, RUN_ENDS, TARGET_REACHED
from mbarl_ros.storage.history import HistoryWriter
from mbarl_ros.view.status import status_line


class Monitor(runtime.BaseNode):
    """Prints the latest status of each node every ``period`` seconds, as text or JSON.

    Subscribes to ``/diagnostics``. Parameters: ``format`` (lines or json), ``period``, ``run_dir``
    (writes ``history.jsonl`` there), ``follows_end`` (ends, with the evaluator's exit code, when
    the run has reached its target or budget on the other host).
    """

    def __init__(self) -> None:
        """Subscribe to /diagnostics."""
        super().__init__('monitor')
        self._json = self._declare('format', 'lines', 'lines for people or json') == 'json'
        period = self._declare('period', 10.0, 'Seconds between two reports')
        run_dir = str(self._declare('run_dir', '', 'Folder of the run; empty: no history'))
        self._follows_end = self._declare('follows_end', False, 'End when the evaluator does')
        self._refuse_leftover_parameters()
        now = time.monotonic()
        self._history = HistoryWriter(Path(run_dir).expanduser(), now) if run_dir else None
        self._status = StatusListener(self, self._follow_end).status
        self.create_timer(period, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _declare(self, name: str, default: str | float | bool, description: str) -> Any:
        return self.declare_parameter(
            name, default, ParameterDescriptor(description=description)
        ).value

    def _follow_end(self) -> None:
        ended = self._status.get('policy_evaluator', {}).get('ended')
        if self._follows_end and ended in (TARGET_REACHED, BUDGET):
            self.exit_code, self.finished = RUN_ENDS[ended], True

    def _report(self) -> None:
        text = json.dumps(self._status) if self._json else status_line(self._status)
        print(text, flush=True)
        self._keep()

    def close(self) -> None:
        """Keep how the run ended."""
        self._keep(last=True)

    def _keep(self, last: bool = False) -> None:
        if self._history is None:
            return
        try:
            self._history.add(time.monotonic(), time.time(), self._status, last=last)
        except OSError as error:
            self.get_logger().error(
                f'{self._history.path}: not written: {error.strerror}', throttle_duration_sec=60.0
            )


def main() -> None:
    """Entry point of the node."""
    runtime.main_exit(Monitor)


if __name__ == '__main__':
    main()
