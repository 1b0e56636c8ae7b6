"""The policy controller: practises on the robot, forward and backward, and streams transitions."""

from __future__ import annotations

import time
import uuid
from collections import deque
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import State, TransitionCallbackReturn
from sensor_msgs.msg import JointState
from std_msgs.msg import String, UInt8MultiArray

from mbarl_ros import wire
from mbarl_ros.control.policy import read_policy, unpack_policy
from mbarl_ros.control.practice import Practice
from mbarl_ros.control.safety import POLICY_SOURCE, STOP_SOURCE
from mbarl_ros.control.steps import LockstepSteps, RealtimeSteps, Step
from mbarl_ros.demos.align import ERROR
from mbarl_ros.fields import stamp_ns
from mbarl_ros.nodes.robot_io import StateListener, command_message
from mbarl_ros.nodes.runtime import (
    LATCHED,
    LOST_AFTER,
    RELIABLE,
    TRANSITIONS_HISTORY,
    BaseLifecycleNode,
    bytes_message,
    main_exit,
    message_bytes,
)
from mbarl_ros.nodes.world_reset import SERVICE, WorldReset
from mbarl_ros.transitions import HUMAN, POLICY, SAFETY, pack_transitions, stack

SOURCES = {POLICY_SOURCE: POLICY, STOP_SOURCE: SAFETY}
# A robot that works faster than it can be heard would only fill memory.
_MAX_MESSAGE_ROWS = 1000
# What was wrong longer ago (s) no longer forbids to activate.
_HEARD_FOR = 2.0


class PolicyController(BaseLifecycleNode):
    """Moves the robot only while active; each transition carries the *executed* action.

    In lockstep it answers each state with a command and never runs ahead of the learner by more
    than the policy's validity, so that a preset's updates-to-data ratio is kept and the run is
    reproducible. If the learner falls silent, the robot goes on with the last policy at its own
    control rate. Executed transitions are kept until the learner says that they are on disk. With
    a preset that resets, the simulated world is reset after each attempt.
    """

    def __init__(self) -> None:
        """Declare parameters; with ``autostart`` configure and activate at once."""
        super().__init__('policy_controller')
        self.setup(
            {
                'autostart': (True, 'Configure and activate by itself'),
                'policy': ('', 'Policy file to act with, or "random"; empty: from the learner'),
                'episodes': (0, 'Evaluation: attempts after which the node ends; 0: practise'),
                'learner_timeout': (5.0, 'Seconds of silence after which the learner is lost'),
            }
        )
        self._episodes = self.value('episodes')
        self._names = list(self.task.robot.command_names)
        self._active = False
        self._commands = self.create_lifecycle_publisher(JointState, '~/command', RELIABLE)
        self._transitions = self.create_publisher(
            UInt8MultiArray, '~/transitions', TRANSITIONS_HISTORY
        )
        self._phase = self.create_publisher(String, '~/phase', LATCHED)
        self._unfit = ''
        if self.value('autostart'):
            self.trigger_configure()
            if self.lockstep:
                self.trigger_activate()
            else:
                self._arming = self.create_timer(0.25, self._arm, clock=self.steady)

    def _arm(self) -> None:
        """With ``autostart`` in real time: activate once, as soon as the robot is fit for it."""
        if self._active or self.trigger_activate() == TransitionCallbackReturn.SUCCESS:
            self._arming.cancel()

    # --- lifecycle ---------------------------------------------------------------------------

    def on_configure(self, _state: State) -> TransitionCallbackReturn:
        """Fresh practice, a new session of transitions, subscriptions and timers."""
        self._practice = Practice(self.task, self.agent, self.seed, evaluation=self._episodes > 0)
        self._session = uuid.uuid4().hex
        self._outbox: deque[dict[str, Any]] = deque()
        self._stored = 0  # transitions of this session that the learner has on disk
        self._sent = 0
        self._base: int | None = None  # environment steps of earlier sessions of this run
        self._policies: deque[tuple[int, dict[str, np.ndarray], int]] = deque()
        self._version = -1
        self._valid_until = 0
        self._last_heard = -np.inf
        self._steps_made = LockstepSteps()
        self._periods = RealtimeSteps(self.task.robot.teleop_timeout)
        self._acted_on = -1  # stamp of the state that our last command answers
        self._command: JointState | None = None
        self._state: tuple[np.ndarray, int] | None = None
        self._gate_state = ''
        self._blocked = ''
        self._announced = ''
        path = self.value('policy')
        self._random = path == 'random'
        if path and not self._random:
            self._practice.set_policies(read_policy(path, self.task, self.agent))
        on_reset = self._step if self.lockstep else None
        self._world = WorldReset(self, on_reset) if self.agent.resets else None
        robot = self.task.robot
        self._inputs = [
            self.create_subscription(
                JointState, 'safety_gate/executed', self._on_executed, RELIABLE
            ),
            self.create_subscription(String, 'safety_gate/state', self._on_gate_state, LATCHED),
            self.create_subscription(UInt8MultiArray, 'learner/policy', self._on_policy, LATCHED),
            self.create_subscription(
                UInt8MultiArray, 'learner/acknowledged', self._on_acknowledged, LATCHED
            ),
        ]
        self._listener = StateListener(self, robot, self.lockstep, self._on_state)
        self.create_timer(1.0, self._resend, clock=self.steady)
        if self.lockstep:
            # Keeps the robot going at its own rate while the learner is away.
            self.create_timer(1.0 / robot.control_rate, self._pace, clock=self.steady)
        else:
            self.create_timer(1.0 / robot.control_rate, self._control)
            self.create_timer(0.2, self._flush, clock=self.steady)
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Start moving the robot, from whatever state it is measured in, if it is fit for it."""
        self._unfit = '' if self.lockstep else '; '.join(self._reasons_not_to_move())
        if self._unfit:
            if not self.value('autostart'):  # nobody asked just now: /diagnostics says it
                self.get_logger().error(f'not activated: {self._unfit}')
            return TransitionCallbackReturn.FAILURE
        self._steps_made.forget()
        self._periods.forget()
        self._acted_on, self._command = -1, None
        self._active = True
        return super().on_activate(state)

    def _reasons_not_to_move(self) -> list[str]:
        """What `mbarl robot check` calls an error, or a gate that would not pass commands on."""
        if not self._gate_state:
            return ['safety_gate is not heard; start it']
        if self._gate_state == 'e-stop':
            return ['the e-stop is latched; release it with the service safety_gate/release']
        found = self._listener.findings(_HEARD_FOR)
        return [finding.text for finding in found if finding.level == ERROR]

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        """Stop commanding; the gate's watchdog stops the robot."""
        self._active = False
        self._flush()
        return super().on_deactivate(state)

    def close(self) -> None:
        """Send what is not yet sent."""
        if hasattr(self, '_outbox'):
            self._flush()
            time.sleep(0.1)

    # --- inputs ------------------------------------------------------------------------------

    def _on_state(self, state: np.ndarray, stamp: int) -> None:
        if not np.isfinite(state).all():
            self.get_logger().error('state with NaN or infinity ignored', throttle_duration_sec=5.0)
            return
        repeated = self._state is not None and stamp == self._state[1]
        self._state = (state, stamp)
        if not self.lockstep:
            return
        self._steps_made.observe(state, stamp)
        if not self._active:
            self._steps_made.forget()
        if repeated and self._active and self._acted_on == stamp:
            # Said again because of silence. Unless our answer is just on its way, it was lost.
            if time.monotonic() - self._commanded > LOST_AFTER:
                self._send()
            return
        if repeated:
            self._steps_made.forget()  # what has not been heard by now never will be
        self._step()

    def _on_executed(self, message: JointState) -> None:
        if message.name != self._names:
            return
        command, source = np.array(message.position), message.header.frame_id
        if self.lockstep:
            self._steps_made.execute(command, source, stamp_ns(message))
            self._step()
        else:
            self._periods.execute(command, source, stamp_ns(message), time.monotonic())

    def _on_gate_state(self, message: String) -> None:
        self._gate_state = message.data
        if self.lockstep:
            self._step()

    def _on_acknowledged(self, message: UInt8MultiArray) -> None:
        try:
            _, meta = wire.unpack(message_bytes(message), 'acknowledged', max_bytes=4096)
            session, stored, total = meta['session'], int(meta['stored']), int(meta['total'])
        except (wire.WireError, KeyError, TypeError, ValueError) as error:
            self.get_logger().warning(f'learner/acknowledged ignored: {error}')
            return
        self._last_heard = time.monotonic()
        if session != self._session:
            return
        if not self._stored <= stored <= self._practice.steps:
            self.get_logger().warning(f'learner acknowledges {stored}, which cannot be')
            return
        for _ in range(stored - self._stored):
            self._outbox.popleft()
        self._stored, self._sent = stored, max(stored, self._sent)
        self._base = total - stored
        if self.lockstep:
            self._step()

    def _on_policy(self, message: UInt8MultiArray) -> None:
        try:
            arrays, meta = unpack_policy(message_bytes(message), self.task, self.agent)
        except wire.WireError as error:
            self.refuse(error, 'learner/policy; the last good policy stays')
            return
        version = meta['version']
        self._last_heard = time.monotonic()
        if version <= self._version and self._policies:
            return
        self._policies.append((meta['applies_from'], arrays, version))
        self._valid_until = max(self._valid_until, meta['valid_until'])
        if self.lockstep:
            self._step()

    # --- control -----------------------------------------------------------------------------

    @property
    def _steps(self) -> int:
        return (self._base or 0) + self._practice.steps

    @property
    def _learner_alive(self) -> bool:
        return time.monotonic() - self._last_heard < self.value('learner_timeout')

    def _control(self) -> None:
        """Realtime: one control period."""
        if self._active and self._state is not None and self._placed():
            step = self._periods.tick(*self._state, time.monotonic())
            if step is not None:
                self._record(step)
            if self._placed():
                self._act()

    def _step(self) -> None:
        """Lockstep: go as far as the state at hand, the gate and the learner allow."""
        if not self._active or self._state is None:
            return
        for step in self._steps_made.completed():
            self._record(step)
            if self._practice.steps - self._sent >= self.agent.chunk:
                self._flush()
            if self._practice.reset_due:
                break
        if not self._placed() or self._steps_made.waiting:
            return
        self._blocked = self._reason_to_wait()
        if not self._blocked:
            self._act()

    def _reason_to_wait(self) -> str:
        if self._gate_state == 'e-stop':
            return 'e-stop'
        if self._random or self.value('policy'):
            return ''
        if not self._policies and not self._practice.has_policies:
            return 'waiting for a policy from the learner'
        if not self._learner_alive:
            return 'learner lost: going on at the control rate'
        if self._base is None:
            return 'waiting for the learner to answer'
        if self._steps >= self._valid_until:
            return 'waiting for the learner to catch up'
        return ''

    def _placed(self) -> bool:
        """False while a reset of the world is due; what comes after it starts from nothing."""
        if self._world is None or not self._practice.reset_due:
            return True
        if not self._world.done(self._state[1]):
            self._blocked = f'waiting for {SERVICE}'
            return False
        self._practice.reset_due, self._blocked = False, ''
        self._steps_made.forget()
        self._periods.forget()
        return True

    def _pace(self) -> None:
        if self._blocked.startswith('learner lost') and self._active:
            self._act()

    def _record(self, step: Step) -> None:
        """Make a transition of a step; the action is the executed one, whoever asked for it."""
        row = self._practice.record(
            self._practice.observe(step.state),
            self.task.action(step.command),
            step.next_state,
            step.stamp * 1e-9,
            SOURCES.get(step.source, HUMAN),
        )
        if self._episodes:
            self._end_evaluation_when_due()
        else:
            self._outbox.append(row)

    def _end_evaluation_when_due(self) -> None:
        practice = self._practice
        if practice.attempts >= self._episodes:
            self.get_logger().info(
                f'deployed policy: {practice.successes} of {practice.attempts} attempts succeeded'
            )
            self._active = False
            self.finished = True

    def _act(self) -> None:
        state, stamp = self._state
        if self._gate_state == 'e-stop' or not self._active or self._acted_on == stamp:
            return
        self._take_due_policies()
        if not (self._practice.has_policies or self._random):
            return
        observation = self._practice.observe(state)
        action = self._practice.act(observation)
        self._acted_on = stamp
        self._command = command_message(
            self._names, self.task.command(action), stamp, POLICY_SOURCE
        )
        self._send()
        if self._practice.phase_name != self._announced:
            self._announced = self._practice.phase_name
            self._phase.publish(String(data=self._announced))

    def _send(self) -> None:
        self._commanded = time.monotonic()
        self._commands.publish(self._command)

    def _take_due_policies(self) -> None:
        # A restarted controller has no policy yet and takes the one there is, due or not.
        while self._policies and (
            self._policies[0][0] <= self._steps or not self._practice.has_policies
        ):
            _, arrays, self._version = self._policies.popleft()
            self._practice.set_policies(arrays)

    # --- transitions to the learner ----------------------------------------------------------

    def _flush(self) -> None:
        """Publish transitions that have not been sent."""
        while not self._episodes and self._sent < self._practice.steps:
            start = self._sent - self._stored
            rows = [self._outbox[i] for i in range(start, len(self._outbox))][:_MAX_MESSAGE_ROWS]
            self._publish_rows(rows, self._sent)
            self._sent += len(rows)

    def _publish_rows(self, rows: list[dict[str, Any]], first: int) -> None:
        data = pack_transitions(stack(rows, self.task), self.spec_hash, self._session, first)
        self._transitions.publish(bytes_message(data, 'transitions'))

    def _resend(self) -> None:
        """Once a second: say hello to a learner that does not know us, repeat what is unacked."""
        if self._state is None:
            self.get_logger().warning(
                self._missing_state(), throttle_duration_sec=10.0, skip_first=True
            )
        if self._base is None and not self._episodes:
            self._publish_rows([], 0)
        if self._learner_alive:
            if self._stored < self._sent and self._stored == getattr(self, '_stored_before', -1):
                self._sent = self._stored
            self._flush()
        self._stored_before = self._stored

    def _missing_state(self) -> str:
        topics = ', '.join(topic.topic for topic in self.task.robot.state)
        return f'no state yet on {topics}: is the robot (or robot_sim) running in this domain?'

    def report(self) -> tuple[bytes, str, dict[str, Any]]:
        """Phase, steps, attempts and what, if anything, the robot is waiting for."""
        if not hasattr(self, '_practice'):
            return DiagnosticStatus.WARN, 'not configured', {'lifecycle': 'unconfigured'}
        practice = self._practice
        message = self._blocked if self._active else self._unfit or 'inactive'
        if self._state is None:
            message = self._missing_state()
        waits_long = message and 'catch up' not in message
        return (
            DiagnosticStatus.WARN if waits_long else DiagnosticStatus.OK,
            message,
            {
                'lifecycle': 'active' if self._active else 'inactive',
                'needs_learner': not self.value('policy'),
                'phase': practice.phase_name,
                'environment_steps': self._steps,
                'robot_seconds': f'{self._steps / self.task.robot.control_rate:.1f}',
                'attempts': practice.attempts,
                'successes': practice.successes,
                'policy_version': self._version,
                'unacknowledged': len(self._outbox),
                'refused': self.refused,
            },
        )


def main() -> None:
    """Entry point of the node."""
    main_exit(PolicyController)


if __name__ == '__main__':
    main()
