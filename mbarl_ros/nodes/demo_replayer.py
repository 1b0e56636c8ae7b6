"""Replays demonstrations through the safety gate and measures how far they deviate."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from mbarl_ros.control.lockstep_loop import RESEND_AFTER
from mbarl_ros.control.safety import POLICY_SOURCE
from mbarl_ros.demos.replay import REPLAY_FILE, Replay
from mbarl_ros.nodes.support.demonstrations import load_replays
from mbarl_ros.nodes.support.qos import RELIABLE
from mbarl_ros.nodes.support.robot_topics import StateListener, command_message
from mbarl_ros.nodes.support.runtime import BaseNode, main_exit
from mbarl_ros.schema import topics
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.exit_codes import EXIT_FAILURE
from mbarl_ros.schema.message_fields import stamp_ns
from mbarl_ros.storage.files import write_file

TIMEOUT = 20.0  # s without a new state after which it gives up


class DemoReplayer(BaseNode):
    """Sends the recorded commands of each demonstration, one for each state, in lockstep.

    Takes the place of the policy controller: publishes ``policy_controller/command``, subscribes
    to the profile's state topics and ``safety_gate/executed``, calls ``robot_sim/reset``.
    ``robot_sim``, given the same demonstrations, starts where the first one starts, and after each
    reset where the next one does. Parameters: ``demonstrations``, ``tolerance``. Writes
    ``replay.json`` into ``run_dir``. Exit code 0: every replay stayed within ``tolerance``, and
    the forward ones ended in success; else 1.
    """

    def __init__(self) -> None:
        """Read the demonstrations.

        :raises ConfigError: one cannot be read, or the graph is not in lockstep.
        """
        super().__init__('demo_replayer')
        self.setup(
            {
                'demonstrations': ('', 'A demonstration or a folder of them'),
                'tolerance': (0.01, "Deviation that is accepted, of the observation's range"),
            }
        )
        if not self.lockstep:
            raise ConfigError("node 'demo_replayer': parameter 'mode' must be lockstep")
        self._replays = load_replays(Path(self.value('demonstrations')), self.task)
        self._names = list(self.task.robot.command_names)
        self._results: list[dict[str, Any]] = []
        self._states: list[np.ndarray] = []
        self._clipped = 0
        self._answered = -1
        self._command: JointState | None = None
        self._sent_at = self._last_new_state = time.monotonic()
        self._commands = self.create_publisher(JointState, topics.COMMAND, RELIABLE)
        self._reset = self.create_client(Trigger, topics.SIM_RESET)
        self.create_subscription(JointState, topics.EXECUTED, self._on_executed, RELIABLE)
        StateListener(self, self.task.robot, self.lockstep, self._on_state)
        self.create_timer(0.5, self._watch, clock=self.steady)

    @property
    def _replay(self) -> Replay:
        return self._replays[len(self._results)]

    def _on_state(self, state: np.ndarray, stamp: int) -> None:
        if self.finished or not self._commands.get_subscription_count():
            return
        if stamp == self._answered:
            # Repeated for want of a command: ours was lost, unless it is on its way.
            if time.monotonic() - self._sent_at > RESEND_AFTER and self._command is not None:
                self._send(self._command)
            return
        self._last_new_state = time.monotonic()
        self._answered = stamp
        self._states.append(state)
        step = len(self._states) - 1
        if step < len(self._replay.commands):
            self._send(
                command_message(self._names, self._replay.commands[step], stamp, POLICY_SOURCE)
            )
        else:
            self._next()

    def _send(self, command: JointState) -> None:
        self._command, self._sent_at = command, time.monotonic()
        self._commands.publish(command)

    def _on_executed(self, message: JointState) -> None:
        sent = self._command
        if sent is None or stamp_ns(message) != stamp_ns(sent):
            return
        same = np.allclose(message.position, sent.position, rtol=0, atol=1e-9)
        self._clipped += not same

    def _next(self) -> None:
        """Measure the replay that has ended, and reset the world for the next one."""
        replay = self._replay
        result = replay.measure(self.task, np.array(self._states))
        result['commands_changed_by_gate'] = self._clipped
        self._results.append(result)
        self.get_logger().info(
            f'{replay.name}: deviation {result["deviation"]:.2%} of the range of '
            f'{result["entry"]}, success {result["success"]}'
        )
        self._states, self._clipped, self._command = [], 0, None
        if len(self._results) == len(self._replays):
            self._end()
            return
        # The world stands still until the reset: the next state with a new stamp is the new start.
        self._reset.call_async(Trigger.Request())

    def _end(self) -> None:
        tolerance = self.value('tolerance')
        passed = all(
            result['deviation'] <= tolerance and result['success'] is not False
            for result in self._results
        )
        if self.run_dir is not None:
            text = json.dumps({'tolerance': tolerance, 'replays': self._results}, indent=2) + '\n'
            write_file(self.run_dir / REPLAY_FILE, text.encode())
        self.exit_code, self.finished = 0 if passed else EXIT_FAILURE, True

    def _watch(self) -> None:
        if time.monotonic() - self._last_new_state > TIMEOUT and not self.finished:
            self.get_logger().error(
                f'no new state for {TIMEOUT:.0f} s; are robot_sim and safety_gate running?'
            )
            self.exit_code, self.finished = EXIT_FAILURE, True

    def report(self) -> tuple[bytes, str, dict[str, Any]]:
        """How many demonstrations have been replayed."""
        values = {'replayed': len(self._results), 'of': len(self._replays)}
        return DiagnosticStatus.OK, '', values


def main() -> None:
    """Entry point of the node."""
    main_exit(DemoReplayer)


if __name__ == '__main__':
    main()
