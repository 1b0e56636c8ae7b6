"""The control loop in real time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import numpy as np

from mbarl_ros.control.control_loop import ESTOP, ESTOP_IS_LATCHED, Connections, ControlLoop
from mbarl_ros.control.loop_timing import LoopTiming
from mbarl_ros.control.phases import Practice
from mbarl_ros.control.safety import STOP_SOURCE
from mbarl_ros.control.step_pairing import RealtimePairing
from mbarl_ros.control.watchdog import ControlWatchdog

# Share of the control period in which a plan must be ready; the rest is for states and commands.
PLANNING_SHARE = 0.5


class RealtimeLoop(ControlLoop):
    """One answer in each control period, to the latest state; gives up where none can be right."""

    def __init__(
        self,
        practice: Practice,
        connections: Connections,
        robot_errors: Callable[[], list[str]],
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """As :class:`ControlLoop`.

        :param robot_errors: what is wrong with the robot's topics; a reason not to activate
        :param clock: s on the clock by which :meth:`tick` is called
        """
        super().__init__(practice, connections, monotonic)
        self._pairing = RealtimePairing(self.period, practice.task.robot.teleop_timeout)
        self._robot_errors = robot_errors
        self._clock = clock
        self._timing = LoopTiming(self.period)
        self._reported_missed = 0
        self._left_out = 0  # control periods with a late topic
        self._new_left_out: Counter[str] = Counter()  # by topic, since the last warning
        self._watchdog = ControlWatchdog()
        if practice.planning is not None:
            practice.planning.seconds = PLANNING_SHARE * self.period

    def receive_executed(self, command: np.ndarray, source: str, stamp: int) -> None:
        """Keep it for the record of the control period in which it was in force."""
        now = self._monotonic()
        if self.active:
            self._pairing.receive_executed(command, source, stamp, now)
        self._watchdog.receive_executed(now, refused=source == STOP_SOURCE)

    def proceed(self) -> None:
        """Do nothing: in real time only the clock says when to act."""

    def tick(self) -> None:
        """Record the control period that ends, and answer the latest state."""
        if not self.active:
            return
        self._timing.tick(self._clock())
        if self.measured is None:
            return
        if self.gate_state == ESTOP:
            self._restart_from_latest_state()  # a robot that stands still practises nothing
            return
        if not self._world_is_ready():
            return
        self._record(self._pairing.tick(self._monotonic()))
        if self._command is not None and self.late:
            self._left_out += 1
            self._new_left_out.update(self.late)
        if self._world_is_ready() and self._act():
            self._watchdog.last_command = self._monotonic()

    def objections(self) -> list[str]:
        """A gate that would not pass commands on, or errors that ``mbarl robot check`` reports."""
        if not self.gate_state:
            return ['no message from safety_gate; start it']
        if self.gate_state == ESTOP:
            return [ESTOP_IS_LATCHED]
        return self._robot_errors()

    def reason_to_give_up(self) -> str:
        """No state, or nothing but refusals by the gate, for too long."""
        verdict = self._watchdog.verdict(self._monotonic(), self.gate_state)
        return verdict if self.active else ''

    def values(self) -> dict[str, str]:
        """Rate and jitter of control, and control periods that were not recorded."""
        return {**self._timing.values(), 'steps_left_out': str(self._left_out)}

    def warning(self) -> str:
        """Control periods missed, or not recorded, since the last call."""
        missed = self._timing.missed - self._reported_missed
        self._reported_missed = self._timing.missed
        texts = [f'{missed} control periods missed'] if missed else []
        texts += [
            f'{topic}: late in {count} control periods, which are not recorded'
            for topic, count in self._new_left_out.items()
        ]
        self._new_left_out.clear()
        return '; '.join(texts)

    def _start(self) -> None:
        """Begin with the state that is measured next."""
        self.measured = None
        self._pairing.reset()
        self._timing.pause()
        self._watchdog.reset()

    def _restart_from_latest_state(self) -> None:
        assert self.measured is not None
        self._pairing.reset()
        if not self.late:
            self._pairing.receive_state(*self.measured)

    def _on_state(self, state: np.ndarray, stamp: int, repeated: bool) -> None:
        if not repeated:
            self._watchdog.receive_state(self._monotonic())
        # Control acts on a state with a late part, until the gate stops; but it ends no step.
        if self.active and not self.practice.reset_due and not self.late:
            self._pairing.receive_state(state, stamp)
