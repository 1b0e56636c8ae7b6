"""The monitor: prints what the nodes of a graph publish on /diagnostics."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.qos import QoSProfile

from mbarl_ros.nodes.support import runtime
from mbarl_ros.nodes.support.fleet import SHARED
from mbarl_ros.schema import topics
from mbarl_ros.storage.history import HistoryWriter
from mbarl_ros.view.status import status_line

_SILENT, _LEFT = 5.0, 300.0  # s without a status of a robot's node, as below


class Monitor(runtime.BaseNode):
    """Prints the latest status of each node every ``period`` seconds, as text or JSON.

    Subscribes to ``/diagnostics``. Parameters: ``format`` (lines or json), ``period``, ``run_dir``
    (writes ``history.jsonl`` there), ``fleet`` (also robots in the namespaces below).
    """

    def __init__(self) -> None:
        """Subscribe to /diagnostics."""
        super().__init__('monitor')
        self._json = self._declare('format', 'lines', 'lines for people or json') == 'json'
        period = self._declare('period', 10.0, 'Seconds between two reports')
        run_dir = str(self._declare('run_dir', '', 'Folder of the run; empty: no history'))
        self._fleet = self._declare('fleet', *SHARED['fleet'])
        self._refuse_leftover_parameters()
        now = time.monotonic()
        self._history = HistoryWriter(Path(run_dir).expanduser(), now) if run_dir else None
        self._status: dict[str, dict[str, str]] = {}
        self._received: dict[str, float] = {}  # s, by node
        self.create_subscription(
            DiagnosticArray, topics.DIAGNOSTICS, self._receive, QoSProfile(depth=20)
        )
        self.create_timer(period, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _declare(self, name: str, default: str | float | bool, description: str) -> Any:
        return self.declare_parameter(
            name, default, ParameterDescriptor(description=description)
        ).value

    def _receive(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name = runtime.node_of(status.name, self.get_namespace(), fleet=self._fleet)
            if name:
                self._received[name] = time.monotonic()
                # Values that a node does not publish each time, such as a model's error, are kept.
                self._status[name] = {
                    **self._status.get(name, {}),
                    'level': str(int.from_bytes(status.level, 'little')),
                    'message': status.message,
                    **{item.key: item.value for item in status.values},
                }

    def _report(self) -> None:
        self._mark_silent_robots()
        text = json.dumps(self._status) if self._json else status_line(self._status)
        print(text, flush=True)
        self._keep()

    def _mark_silent_robots(self) -> None:
        """Say which robot of a fleet is silent, and after a while forget it: it has left."""
        for name, received in list(self._received.items()):
            silent = time.monotonic() - received
            if '/' not in name or silent < _SILENT:
                continue
            if silent < _LEFT:
                self._status[name] |= {'level': '2', 'message': f'silent for {silent:.0f} s'}
            else:
                del self._received[name], self._status[name]

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
