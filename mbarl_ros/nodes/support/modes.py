"""When the policy controller acts and records: lockstep and real time, the parameter ``mode``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mbarl_ros.control.loop_timing import LoopTiming
from mbarl_ros.control.safety import STOP_SOURCE
from mbarl_ros.control.step_pairing import LockstepPairing, RealtimePairing
from mbarl_ros.control.watchdog import ControlWatchdog
from mbarl_ros.nodes.support.runtime import LOCKSTEP, LOST_AFTER, REALTIME
from mbarl_ros.schema.findings import ERROR

if TYPE_CHECKING:
    from mbarl_ros.nodes.policy_controller import PolicyController

# Lockstep: for so long (s) the gate may be silent on what was executed. Fast DDS asks for what was
# lost every three seconds; a gate that was killed at that moment will never say it.
_ECHO_LATE = 10.0
# Real time: what was wrong longer ago (s) no longer forbids to activate.
_HEARD_FOR = 2.0


class Mode(Protocol):
    """What the controller asks of either; states and stamps as it hears them."""

    def objections(self) -> list[str]:
        """Reasons not to activate."""

    def begin(self) -> None:
        """The controller becomes active."""

    def begin_anew(self) -> None:
        """What comes next is no step from what was before the latest state."""

    def hear_state(self, state: np.ndarray, stamp: int, repeated: bool) -> None:
        """A state [S] was measured at ``stamp`` ns; ``repeated``: with the stamp of the last."""

    def hear_executed(self, command: np.ndarray, source: str, stamp: int) -> None:
        """The gate sent ``command`` [C] to the robot in answer to the state of ``stamp`` ns."""

    def go_on(self) -> None:
        """Something has come that a waiting controller may have waited for."""

    def values(self) -> dict[str, str]:
        """For /diagnostics."""

    def warning(self) -> str:
        """What went wrong since this was last asked; empty: nothing."""


class Lockstep:
    """As fast as the world, the gate and the learner allow; each state has one answer."""

    def __init__(self, controller: PolicyController) -> None:
        """Act for ``controller``; its own timer only keeps the robot going without a learner."""
        self._controller = controller
        self._steps = LockstepPairing()
        self._state_heard = self._echo_heard = self._sent = -np.inf
        rate = controller.task.robot.control_rate
        controller.create_timer(1.0 / rate, self._pace, clock=controller.steady)

    def objections(self) -> list[str]:
        """None: the world stands still until it is answered."""
        return []

    def begin(self) -> None:
        """Begin with the state at hand."""
        self._steps.reset()

    begin_anew = begin

    def hear_state(self, state: np.ndarray, stamp: int, repeated: bool) -> None:
        """Answer it; if it is said again, find out what was lost."""
        controller, now = self._controller, time.monotonic()
        if not repeated:
            self._state_heard = now
        self._steps.receive_state(state, stamp)
        if not controller.active:
            self._steps.reset()
            return
        if repeated and controller.acted_on == stamp:
            # Said again because of silence. Unless our answer is just on its way, it was lost.
            if now - self._sent > LOST_AFTER:
                self._sent = now
                controller.send()
            return
        if repeated:
            waited = now - max(self._state_heard, self._echo_heard)
            if self._steps.waiting and waited < _ECHO_LATE:
                return  # the gate's word on the last step is on its way, or the step itself
            self._steps.reset()  # what was awaited and not heard by now never will be
        self.go_on()

    def hear_executed(self, command: np.ndarray, source: str, stamp: int) -> None:
        """It may be the last that was missing of a step."""
        self._echo_heard = time.monotonic()
        self._steps.receive_executed(command, source, stamp)
        self.go_on()

    def go_on(self) -> None:
        """Go as far as the state at hand, the gate and the learner allow."""
        controller = self._controller
        if not controller.active or controller.measured is None:
            return
        steps = self._steps.completed()
        if controller.gate_state == 'e-stop':
            # Nothing is practised; what a person asked for became a stop.
            steps = [step for step in steps if step.source != STOP_SOURCE]
        controller.record(steps)
        if not controller.placed() or self._steps.waiting:
            return
        controller.blocked = self._reason_to_wait()
        if not controller.blocked:
            self._act()

    def _reason_to_wait(self) -> str:
        """Why not to answer the state at hand now; empty: answer it."""
        controller, learner_link = self._controller, self._controller.learner_link
        if not controller.gate_state:
            return 'waiting for safety_gate'  # only who hears it learns what was executed
        if controller.gate_state == 'e-stop':
            return 'e-stop'
        if controller.value('policy'):
            return ''
        if not learner_link.has_policies and not controller.practice.has_policies:
            return 'waiting for a policy from the learner'
        if not learner_link.learner_alive:
            return 'learner lost: going on at the control rate'
        if learner_link.base is None:
            return 'waiting for the learner to answer'
        if learner_link.steps >= learner_link.valid_until:
            return 'waiting for the learner to catch up'
        return ''

    def _pace(self) -> None:
        """Keep the robot going at its own rate while the learner is away."""
        lost = self._controller.blocked.startswith('learner lost')
        if lost and self._controller.active and not self._steps.waiting:
            self._act()

    def _act(self) -> None:
        if self._controller.act():
            self._sent = time.monotonic()

    def values(self) -> dict[str, str]:
        """Nothing: there is no period to keep."""
        return {}

    def warning(self) -> str:
        """Nothing: who waits says so."""
        return ''


class Realtime:
    """One answer in each control period, to the latest state; gives up where none can be right."""

    def __init__(self, controller: PolicyController) -> None:
        """Act for ``controller``, at its robot's control rate."""
        robot = controller.task.robot
        period = 1.0 / robot.control_rate
        self._controller = controller
        self._steps = RealtimePairing(period, robot.teleop_timeout)
        self._timing = LoopTiming(period)
        self._missed_before = 0
        self._patience = ControlWatchdog()
        # A clock that somebody sets must not hold up control; simulated time is the robot's.
        clock = None if controller.value('use_sim_time') else controller.steady
        controller.create_timer(period, self._control, clock=clock)
        controller.create_timer(0.2, self._watch, clock=controller.steady)

    def objections(self) -> list[str]:
        """What `mbarl robot check` calls an error, or a gate that would not pass commands on."""
        controller = self._controller
        if not controller.gate_state:
            return ['safety_gate is not heard; start it']
        if controller.gate_state == 'e-stop':
            return ['the e-stop is latched; release it with the service safety_gate/release']
        found = controller.listener.findings(_HEARD_FOR)
        return [finding.text for finding in found if finding.level == ERROR]

    def begin(self) -> None:
        """Begin with the state that is measured next."""
        self._controller.measured = None
        self._steps.reset()
        self._timing.pause()
        self._patience.reset()

    def begin_anew(self) -> None:
        """Begin with the latest state."""
        self._steps.reset()
        self._steps.receive_state(*self._controller.measured)

    def hear_state(self, state: np.ndarray, stamp: int, repeated: bool) -> None:
        """Keep it for the next control period."""
        if not repeated:
            self._patience.receive_state(time.monotonic())
        if self._controller.active and not self._controller.practice.reset_due:
            self._steps.receive_state(state, stamp)

    def hear_executed(self, command: np.ndarray, source: str, stamp: int) -> None:
        """Keep it for the record of the control period that it was in force."""
        now = time.monotonic()
        if self._controller.active:
            self._steps.receive_executed(command, source, stamp, now)
        self._patience.receive_executed(now, refused=source == STOP_SOURCE)

    def go_on(self) -> None:
        """Nothing: only the clock says when to act."""

    def _control(self) -> None:
        """One control period."""
        controller = self._controller
        if not controller.active:
            return
        sim_time = controller.value('use_sim_time')
        clock = controller.get_clock()
        self._timing.tick(clock.now().nanoseconds * 1e-9 if sim_time else time.monotonic())
        if controller.measured is None:
            return
        if controller.gate_state == 'e-stop':
            self.begin_anew()  # a robot that stands still for an hour practises nothing
            return
        if not controller.placed():
            return
        controller.record(self._steps.tick(time.monotonic()))
        if controller.placed() and controller.act():
            self._patience.last_command = time.monotonic()

    def _watch(self) -> None:
        """Give up where nothing that is asked for can be right."""
        controller = self._controller
        verdict = self._patience.verdict(time.monotonic(), controller.gate_state)
        if controller.active and verdict:
            controller.give_up(verdict)

    def values(self) -> dict[str, str]:
        """How steadily control runs."""
        return self._timing.values()

    def warning(self) -> str:
        """Control periods that were missed."""
        missed = self._timing.missed - self._missed_before
        self._missed_before = self._timing.missed
        return f'{missed} control periods missed' if missed else ''


MODES: dict[str, type[Lockstep | Realtime]] = {LOCKSTEP: Lockstep, REALTIME: Realtime}
