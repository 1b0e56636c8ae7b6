"""The monitor: prints what the nodes of a graph publish on /diagnostics."""

from __future__ import annotations

import json

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.qos import QoSProfile

from mbarl_ros.nodes.support import runtime
from mbarl_ros.schema import topics
from mbarl_ros.schema.executables import NODES
from mbarl_ros.view.status import status_line


class Monitor(runtime.BaseNode):
    """Prints the latest status of each node every ``period`` seconds, as text or JSON.

    Subscribes to ``/diagnostics``. Parameters: ``format`` (lines or json), ``period``.
    """

    def __init__(self) -> None:
        """Subscribe to /diagnostics."""
        super().__init__('monitor')
        self._json = self._declare('format', 'lines', 'lines for people or json') == 'json'
        period = self._declare('period', 10.0, 'Seconds between two reports')
        self._refuse_leftover_parameters()
        self._status: dict[str, dict[str, str]] = {}
        self.create_subscription(
            DiagnosticArray, topics.DIAGNOSTICS, self._receive, QoSProfile(depth=20)
        )
        self.create_timer(period, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _declare(self, name: str, default: str | float, description: str) -> str | float:
        return self.declare_parameter(
            name, default, ParameterDescriptor(description=description)
        ).value

    def _receive(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name = runtime.node_of(status.name, self.get_namespace())
            if name in NODES:
                # Values that a node does not publish each time, such as a model's error, are kept.
                self._status[name] = {
                    **self._status.get(name, {}),
                    'level': str(int.from_bytes(status.level, 'little')),
                    'message': status.message,
                    **{item.key: item.value for item in status.values},
                }

    def _report(self) -> None:
        text = json.dumps(self._status) if self._json else status_line(self._status)
        print(text, flush=True)


def main() -> None:
    """Entry point of the node."""
    runtime.main_exit(Monitor)


if __name__ == '__main__':
    main()
