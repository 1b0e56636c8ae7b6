"""The control loop in lockstep with a simulated world."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from mbarl_ros.control.control_loop import ESTOP, Connections, ControlLoop
from mbarl_ros.control.phases import Practice
from mbarl_ros.control.safety import STOP_SOURCE
from mbarl_ros.control.step_pairing import LockstepPairing

# A command without effect for so long (s) was lost and is sent again. If it was only slow, the
# safety gate recognises the repetition.
RESEND_AFTER = 0.3
# After so long (s) an executed command that is still missing will never come. Fast DDS asks for
# lost messages every three seconds; a gate that was killed in between cannot answer.
_EXECUTED_TIMEOUT = 10.0


class LockstepLoop(ControlLoop):
    """As fast as the world, the gate and the learner allow; each state gets one answer.

    :meth:`tick` only keeps the robot going at its own rate while the learner is lost.
    """

    def __init__(
        self,
        practice: Practice,
        connections: Connections,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """As :class:`ControlLoop`."""
        super().__init__(practice, connections, monotonic)
        self._pairing = LockstepPairing(self.period)
        self._new_state_at = self._executed_at = self._sent_at = -np.inf

    def receive_executed(self, command: np.ndarray, source: str, stamp: int) -> None:
        """It may complete a step."""
        self._executed_at = self._monotonic()
        self._pairing.receive_executed(command, source, stamp)
        self.proceed()

    def proceed(self) -> None:
        """Record and act as far as the latest state, the gate and the learner allow."""
        if not self.active or self.measured is None:
            return
        steps = self._pairing.completed()
        if self.gate_state == ESTOP:
            # Nothing is practised; what a person requested became a stop.
            steps = [step for step in steps if step.source != STOP_SOURCE]
        self._record(steps)
        if not self._world_is_ready() or self._pairing.waiting:
            return
        self.blocked = self._reason_to_wait()
        if not self.blocked:
            self._act_now()

    def tick(self) -> None:
        """Act at the control rate while the learner is lost."""
        learner = self._connections.learner
        lost = learner is not None and self.blocked.startswith('learner lost')
        if lost and self.active and not self._pairing.waiting:
            self._act_now()

    def values(self) -> dict[str, str]:
        """How many steps were not recorded because a sensor had failed."""
        return {'steps_left_out': str(self._pairing.left_out)}

    def _start(self) -> None:
        self._pairing.reset()

    def _restart_from_latest_state(self) -> None:
        self._pairing.reset()

    def _on_state(self, state: np.ndarray, stamp: int, repeated: bool) -> None:
        now = self._monotonic()
        if not repeated:
            self._new_state_at = now
        self._pairing.receive_state(state, stamp)
        if not self.active:
            self._pairing.reset()
            return
        if repeated and self._answered == stamp:
            # The world repeats its state for want of a command: unless ours is only on its way,
            # it was lost.
            if now - self._sent_at > RESEND_AFTER:
                self._sent_at = now
                self._send()
            return
        if repeated:
            waited = now - max(self._new_state_at, self._executed_at)
            if self._pairing.waiting and waited < _EXECUTED_TIMEOUT:
                return  # the executed command of the last step, or its next state, may yet come
            self._pairing.reset()
        self.proceed()

    def _reason_to_wait(self) -> str:
        """Why not to answer the latest state now; empty: answer it."""
        if not self.gate_state:
            return 'waiting for safety_gate'  # without it, nobody knows what is executed
        if self.gate_state == ESTOP:
            return ESTOP
        learner = self._connections.learner
        if learner is None:
            return ''
        if not learner.has_policies and not self.practice.has_policies:
            return 'waiting for a policy from the learner'
        if not learner.alive:
            return 'learner lost: going on at the control rate'
        if learner.session_start is None:
            return 'waiting for the learner to answer'
        if learner.steps >= learner.valid_until:
            return 'waiting for the learner to catch up'
        return ''

    def _act_now(self) -> None:
        if self._act():
            self._sent_at = self._monotonic()
