"""The control loop of the policy controller: when it acts, what it records, why it waits.

ROS-free: the node passes in what its topics deliver and calls :meth:`ControlLoop.tick` by a timer.
Its two modes are :mod:`mbarl_ros.control.lockstep_loop` and :mod:`mbarl_ros.control.realtime_loop`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mbarl_ros.control.phases import Practice
from mbarl_ros.control.safety import POLICY_SOURCE, STOP_SOURCE
from mbarl_ros.control.step_pairing import Step
from mbarl_ros.schema import topics
from mbarl_ros.storage.transitions import HUMAN, POLICY, SAFETY

ESTOP = 'e-stop'  # state of the safety gate
ESTOP_IS_LATCHED = f'the e-stop is latched; release it with the service {topics.GATE_RELEASE}'
_SOURCES = {POLICY_SOURCE: POLICY, STOP_SOURCE: SAFETY}


class Learner(Protocol):
    """What a control loop needs to know about the learner."""

    @property
    def alive(self) -> bool:
        """Whether a message of the learner was received recently."""

    @property
    def has_policies(self) -> bool:
        """Whether policies have been received that are not in use yet."""

    @property
    def session_start(self) -> int | None:
        """Environment steps of the run before this session; None: not known yet."""

    @property
    def steps(self) -> int:
        """Environment steps of the run."""

    @property
    def valid_until(self) -> int:
        """Environment steps up to which the newest policy may be used in lockstep."""

    def due_policies(self, accept_any: bool) -> Iterable[Mapping[str, np.ndarray]]:
        """Weights to use from now on; ``accept_any``: take the next one although not yet due."""


@dataclass(frozen=True)
class Connections:
    """What a control loop calls.

    ``send_command(command, stamp)``: send ``command`` [C], in physical units, in answer to the
    state of ``stamp`` ns. ``record(transition)``: keep an executed step. ``refuse_policy(reason)``:
    report a policy whose action cannot be used. ``learner``: None with a given policy, or with
    random actions. ``reset_world(stamp)``: request a reset where none is under way; True, once for
    each reset, if the state of ``stamp`` ns comes after it. None: the world is never reset.
    """

    send_command: Callable[[np.ndarray, int], None]
    record: Callable[[dict[str, Any]], None]
    refuse_policy: Callable[[str], None]
    learner: Learner | None = None
    reset_world: Callable[[int], bool] | None = None


class ControlLoop(ABC):
    """Owns the latest state, the practice, the pairing of steps, and the reason to wait.

    ``active`` may be set by :meth:`activate` and :meth:`deactivate` only. ``measured`` is the
    latest state [S] and its stamp in ns, ``late`` the topics whose part of it is too old for a
    control step; ``gate_state`` is empty until the safety gate has
    published it; ``blocked`` says why the loop waits, empty where it does not.
    """

    def __init__(
        self,
        practice: Practice,
        connections: Connections,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start inactive; ``monotonic`` is a steady clock in s."""
        self.practice = practice
        self.period = 1.0 / practice.task.robot.control_rate  # s between two calls of tick()
        self.active = False
        self.measured: tuple[np.ndarray, int] | None = None
        self.late: Sequence[str] = ()
        self.gate_state = self.blocked = ''
        self._connections = connections
        self._monotonic = monotonic
        self._answered = -1  # stamp of the state that the last command answers
        self._command: np.ndarray | None = None

    # --- inputs ------------------------------------------------------------------------------

    def activate(self) -> None:
        """Start acting, and forget what happened before."""
        self._answered, self._command, self.blocked = -1, None, ''
        self._start()
        self.active = True

    def deactivate(self) -> None:
        """Stop acting and recording; sends nothing."""
        self.active = False

    def receive_state(self, state: np.ndarray, stamp: int, late: Sequence[str] = ()) -> None:
        """A state [S] was measured at ``stamp`` ns, except for the ``late`` topics."""
        repeated = self.measured is not None and stamp == self.measured[1]
        self.measured, self.late = (state, stamp), late
        self._on_state(state, stamp, repeated)

    @abstractmethod
    def receive_executed(self, command: np.ndarray, source: str, stamp: int) -> None:
        """The gate sent ``command`` [C] to the robot in answer to the state of ``stamp`` ns."""

    def receive_gate_state(self, gate_state: str) -> None:
        """The safety gate published its state."""
        self.gate_state = gate_state
        self.proceed()

    def turn(self) -> str:
        """End the phase with the next step; returns why that cannot be, empty: it will."""
        if not self.active:
            return 'the controller is not active; activate it first'
        if self.gate_state == ESTOP:
            return ESTOP_IS_LATCHED
        self.practice.turn()
        return ''

    @abstractmethod
    def proceed(self) -> None:
        """Something arrived that a waiting loop may wait for."""

    @abstractmethod
    def tick(self) -> None:
        """One control period has passed."""

    # --- reports -----------------------------------------------------------------------------

    def objections(self) -> list[str]:
        """Reasons not to activate."""
        return []

    def reason_to_give_up(self) -> str:
        """Why the controller must be deactivated; empty: it need not."""
        return ''

    def values(self) -> dict[str, str]:
        """Values for /diagnostics."""
        return {}

    def warning(self) -> str:
        """What went wrong since the last call; empty: nothing."""
        return ''

    # --- internals ---------------------------------------------------------------------------

    @abstractmethod
    def _start(self) -> None:
        """The loop becomes active."""

    @abstractmethod
    def _restart_from_latest_state(self) -> None:
        """Drop incomplete steps: the next one starts from the latest state."""

    @abstractmethod
    def _on_state(self, state: np.ndarray, stamp: int, repeated: bool) -> None:
        """Receive a state; ``repeated``: it has the same stamp as the one before."""

    def _world_is_ready(self) -> bool:
        """False while a reset of the world is due; the first state after it starts new steps."""
        reset_world = self._connections.reset_world
        if reset_world is None or not self.practice.reset_due:
            return True
        assert self.measured is not None
        if not reset_world(self.measured[1]):
            self.blocked = f'waiting for {topics.SIM_RESET}'
            return False
        self.practice.reset_due, self.blocked = False, ''
        self._restart_from_latest_state()
        return True

    def _record(self, steps: Iterable[Step]) -> None:
        """Make transitions of steps up to the end of the attempt, if a reset follows it.

        The action is the executed one, whoever requested it.
        """
        for step in steps:
            if self.practice.reset_due or not self.active:
                break
            transition = self.practice.record(
                self.practice.observe(step.state),
                self.practice.task.action(step.command),
                step.next_state,
                step.stamp * 1e-9,
                _SOURCES.get(step.source, HUMAN),
            )
            self._connections.record(transition)

    def _act(self) -> bool:
        """Answer the latest state, once; whether a command was sent."""
        assert self.measured is not None
        state, stamp = self.measured
        if self.gate_state == ESTOP or not self.active or self._answered == stamp:
            return False
        learner = self._connections.learner
        if learner is not None:
            for weights in learner.due_policies(not self.practice.has_policies):
                self.practice.set_policies(weights)
            if not self.practice.has_policies:
                return False
        action = self.practice.act(self.practice.observe(state))
        if not np.isfinite(action).all():
            self._connections.refuse_policy(f'action {action}, not sent')
            return False
        self._answered = stamp
        self._command = self.practice.task.command(action)
        self._send()
        return True

    def _send(self) -> None:
        """Send the last command, also once more."""
        assert self._command is not None
        self._connections.send_command(self._command, self._answered)
