"""The safety gate: a process of its own between everything and the robot."""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from mbarl_ros.control.safety import POLICY_SOURCE, TELEOP_SOURCE, Decision, SafetyGate
from mbarl_ros.fields import stamp_ns
from mbarl_ros.nodes.robot_io import CommandPublisher, StateListener, command_message
from mbarl_ros.nodes.runtime import (
    LATCHED,
    LOST_AFTER,
    RELIABLE,
    SENSOR,
    BaseNode,
    main_exit,
    message_class,
)
from mbarl_ros.teleop import Asked, TeleopSource


class SafetyGateNode(BaseNode):
    """Commands in, limited commands out, and what was executed published back.

    Listens to ``policy_controller/command`` and the profile's teleop topics. Latches an e-stop
    by topic ``~/estop`` (std_msgs/Bool, true) or service ``~/stop``; only ``~/release`` ends it.
    """

    def __init__(self) -> None:
        """Declare parameters and connect to the robot's topics."""
        super().__init__('safety_gate')
        self.setup({'real_time_factor': (1.0, 'Robot seconds in a second, in simulation')})
        robot = self.task.robot
        self._names = list(robot.command_names)
        self._gate = SafetyGate(robot, self.lockstep, self.value('real_time_factor'))
        self._answered_at = -math.inf
        self._stamp = self._answered = -1  # nothing measured, nothing answered
        self._held: dict[str, float] | None = None
        self._announced = ''
        self._robot = CommandPublisher(self, robot)
        self._executed = self.create_publisher(JointState, '~/executed', RELIABLE)
        self._state = self.create_publisher(String, '~/state', LATCHED)
        StateListener(self, robot, self.lockstep, self._on_state)
        self.create_subscription(
            JointState, 'policy_controller/command', self._on_command, RELIABLE
        )
        for entry in robot.teleop:
            self.create_subscription(
                message_class(entry.type),
                entry.topic,
                partial(self._on_teleop, TeleopSource(entry)),
                RELIABLE if self.lockstep else SENSOR,  # SENSOR hears every publisher
            )
        self.create_subscription(Bool, '~/estop', self._on_estop, RELIABLE)
        self.create_service(Trigger, '~/stop', self._on_stop)
        self.create_service(Trigger, '~/release', self._on_release)
        self.create_timer(0.02, self._tick, clock=self.steady)
        self._announce()

    def _on_state(self, state: np.ndarray, stamp: int) -> None:
        self._stamp = stamp
        self._gate.observe(state, time.monotonic())
        if self._held is not None:
            held, self._held = self._held, None
            self._drive(held)

    def _on_command(self, message: JointState) -> None:
        stamp = stamp_ns(message)
        if self.lockstep and stamp == self._answered and self._answered_recently():
            return  # sent again while the first was on its way
        values = message.position if message.name == self._names else ()
        decision = self._gate.request(POLICY_SOURCE, values, time.monotonic())
        self._execute(decision, stamp)

    def _answered_recently(self) -> bool:
        return time.monotonic() - self._answered_at < LOST_AFTER

    def _on_teleop(self, source: TeleopSource, message: Any) -> None:
        try:
            asked = source.read(message)
        except ValueError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            asked = Asked(dict.fromkeys(self._names, math.nan))  # becomes a stop
        if asked.released and not self.lockstep:  # in lockstep the world stands still anyway
            self._execute(self._gate.stop('dead-man released', time.monotonic()), self._stamp)
        if asked.values is None:
            self._held = None
            return
        # A command between two states could take effect before or after the robot's next step, and
        # nobody would know which: a person's commands go out as a state comes in, like a policy's.
        waits = (
            self._stamp == self._answered if self.lockstep else self._gate.fresh(time.monotonic())
        )
        if waits:
            self._held = asked.values
        else:
            self._drive(asked.values)

    def _drive(self, asked: dict[str, float]) -> None:
        rest = zip(self._names, self._gate.rest, strict=True)
        values = [asked.get(name, otherwise) for name, otherwise in rest]
        self._execute(self._gate.request(TELEOP_SOURCE, values, time.monotonic()), self._stamp)

    def _on_estop(self, message: Bool) -> None:
        if message.data:
            self._engage('topic')

    def _on_stop(self, _request: Any, response: Any) -> Any:
        self._engage('service')
        response.success, response.message = True, 'e-stop latched; call ~/release to go on'
        return response

    def _on_release(self, _request: Any, response: Any) -> Any:
        self._gate.release()
        self._announce()
        response.success, response.message = True, 'released'
        return response

    def _engage(self, reason: str) -> None:
        if not self._gate.estop:
            self.get_logger().warning(f'e-stop by {reason}')
        self._execute(self._gate.engage_estop(reason, time.monotonic()), self._stamp)

    def _tick(self) -> None:
        self._execute(self._gate.tick(time.monotonic()), self._stamp)
        self._announce()

    def _execute(self, decision: Decision | None, stamp: int) -> None:
        if decision is None:
            return
        self._answered, self._answered_at = stamp, time.monotonic()
        stamp = max(stamp, 0)
        self._robot.publish(decision.values, stamp)
        self._executed.publish(
            command_message(self._names, decision.values, stamp, decision.source)
        )
        if decision.reason:
            self.get_logger().warning(
                f'{decision.source}: {decision.reason}', throttle_duration_sec=5.0
            )

    def _announce(self) -> None:
        if self._gate.state != self._announced:
            self._announced = self._gate.state
            self._state.publish(String(data=self._announced))

    def report(self) -> tuple[bytes, str, dict[str, Any]]:
        """State of the gate and how often it clipped or refused."""
        gate = self._gate
        level = DiagnosticStatus.OK if gate.state == 'ok' else DiagnosticStatus.WARN
        if gate.estop:
            level = DiagnosticStatus.ERROR
        values = {'state': gate.state, 'clipped': gate.clipped, 'refused': gate.refused}
        return level, gate.state, values

    def close(self) -> None:
        """Send the stop command: a velocity controller keeps its last command for ever."""
        self._execute(self._gate.stop('gate shut down', time.monotonic()), self._stamp)
        time.sleep(0.05)  # let the middleware send before the context goes


def main() -> None:
    """Entry point of the node."""
    main_exit(SafetyGateNode)


if __name__ == '__main__':
    main()
