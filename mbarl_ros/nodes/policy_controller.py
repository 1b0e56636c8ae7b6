"""The policy controller: practises on the robot, forward and backward, and streams transitions."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import State, TransitionCallbackReturn
from rclpy.timer import Timer
from sensor_msgs.msg import JointState
from std_msgs.msg import Empty, String

from mbarl_ros.arguments import POLICY_FILE
from mbarl_ros.config import ConfigError
from mbarl_ros.control.patience import Patience
from mbarl_ros.control.policy import read_policy
from mbarl_ros.control.practice import Practice
from mbarl_ros.control.safety import POLICY_SOURCE, STOP_SOURCE
from mbarl_ros.control.steps import LockstepSteps, RealtimeSteps, Step
from mbarl_ros.control.timing import LoopTiming
from mbarl_ros.demos.align import ERROR
from mbarl_ros.fields import stamp_ns
from mbarl_ros.nodes.robot_io import StateListener, command_message
from mbarl_ros.nodes.runtime import (
    ALIVE,
    LATCHED,
    LOST_AFTER,
    RELIABLE,
    RELIABLE_STEPS,
    BaseLifecycleNode,
    main_exit,
)
from mbarl_ros.nodes.scheduling import CONTROLLER_PRIORITY
from mbarl_ros.nodes.uplink import Uplink
from mbarl_ros.nodes.world_reset import SERVICE, WorldReset
from mbarl_ros.transitions import HUMAN, POLICY, SAFETY

SOURCES = {POLICY_SOURCE: POLICY, STOP_SOURCE: SAFETY}
# What was wrong longer ago (s) no longer forbids to activate.
_HEARD_FOR = 2.0
# Lockstep: for so long (s) the gate may be silent on what was executed. Fast DDS asks for what was
# lost every three seconds; a gate that was killed at that moment will never say it.
_ECHO_LATE = 10.0


class PolicyController(BaseLifecycleNode):
    """Moves the robot only while active; each transition carries the *executed* action.

    In lockstep it answers each state with a command and never runs ahead of the learner by more
    than the policy's validity, so that a preset's updates-to-data ratio is kept and the run is
    reproducible. If the learner falls silent, the robot goes on with the last policy at its own
    control rate. With a preset that resets, the simulated world is reset after each attempt.
    In real time it deactivates itself where the robot's state stays away or the gate refuses all
    that it asks for; a person who knows why activates it again.
    """

    def __init__(self) -> None:
        """Declare parameters and connect; with ``autostart`` configure and activate at once.

        :raises ConfigError: the policy file or the run folder cannot be used.
        """
        super().__init__('policy_controller')
        self.setup(
            {
                'autostart': (True, 'Configure and activate by itself'),
                'policy': ('', 'Policy file to act with, or "random"; empty: from the learner'),
                'episodes': (0, 'Evaluation: attempts after which the node ends; 0: practise'),
                'learner_timeout': (5.0, 'Seconds of silence after which the learner is lost'),
            }
        )
        robot = self.task.robot
        self._episodes = self.value('episodes')
        self._names = list(robot.command_names)
        self._active = False
        self._practice: Practice | None = None
        self._unfit = ''
        path = self.value('policy')
        self._random = path == 'random'
        given = path and not self._random
        self._weights = (
            read_policy(path, self.task, self.agent) if given else self._last_good_policy()
        )
        self._version = -1
        self._steps_made = LockstepSteps()
        self._periods = RealtimeSteps(1.0 / robot.control_rate, robot.teleop_timeout)
        self._timing = LoopTiming(1.0 / robot.control_rate)
        self._missed_before = 0
        self._acted_on = -1  # stamp of the state that our last command answers
        self._echo_heard = -np.inf
        self._command: JointState | None = None
        self._state: tuple[np.ndarray, int] | None = None
        self._patience = Patience()
        self._gate_state = self._blocked = self._announced = self._gave_up = ''
        self._commands = self.create_lifecycle_publisher(JointState, '~/command', RELIABLE)
        self._alive = self.create_publisher(Empty, '~/alive', ALIVE)
        self._phase = self.create_publisher(String, '~/phase', LATCHED)
        self._uplink = Uplink(self, self._step if self.lockstep else lambda: None)
        on_reset = self._step if self.lockstep else None
        self._world = WorldReset(self, on_reset) if self.agent.resets else None
        # In this order: once the gate's state is heard, its echoes are heard, too.
        executed = 'safety_gate/executed'
        self.create_subscription(JointState, executed, self._on_executed, RELIABLE_STEPS)
        self.create_subscription(String, 'safety_gate/state', self._on_gate_state, LATCHED)
        self._listener = StateListener(self, robot, self.lockstep, self._on_state)
        if self.lockstep:
            # Keeps the robot going at its own rate while the learner is away.
            self.create_timer(1.0 / robot.control_rate, self._pace, clock=self.steady)
        else:
            self.create_timer(1.0 / robot.control_rate, self._control)
            self.create_timer(0.2, self._watch, clock=self.steady)
        self.go_first(CONTROLLER_PRIORITY)
        self._arming: Timer | None = None
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

    def _last_good_policy(self) -> dict[str, np.ndarray] | None:
        """Real time: what the learner of this run last wrote; it may be away just now."""
        file = self.run_dir / POLICY_FILE if self.run_dir else None
        if self.lockstep or self._random or file is None or not file.exists():
            return None
        try:
            return read_policy(file, self.task, self.agent)
        except ConfigError as error:
            self.get_logger().warning(f'waiting for the learner: {error}')
            return None

    # --- lifecycle ---------------------------------------------------------------------------

    def on_configure(self, _state: State) -> TransitionCallbackReturn:
        """Practice begins anew, in the forward phase; what was executed so far stays counted."""
        self._practice = Practice(self.task, self.agent, self.seed, evaluation=self._episodes > 0)
        if self._weights is not None:
            self._practice.set_policies(self._weights)
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Start moving the robot from the state that it is measured in, if it is fit for it."""
        self._unfit = '' if self.lockstep else '; '.join(self._reasons_not_to_move())
        if self._unfit:
            if not self.value('autostart'):  # nobody asked just now: /diagnostics says it
                self.get_logger().error(f'not activated: {self._unfit}')
            return TransitionCallbackReturn.FAILURE
        self._steps_made.forget()
        self._periods.forget()
        self._timing.pause()
        self._acted_on, self._command = -1, None
        self._patience.renew()
        self._gave_up = ''
        if not self.lockstep:
            self._state = None
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
        self._uplink.flush()
        return super().on_deactivate(state)

    def on_shutdown(self, state: State) -> TransitionCallbackReturn:
        """Leave the robot to the gate, as a deactivation does, but for good."""
        self._unfit = 'shut down: it takes a new start of this node to go on'
        if self._arming is not None:
            self._arming.cancel()
        return self.on_deactivate(state)

    def on_error(self, state: State) -> TransitionCallbackReturn:
        """Whatever failed, do not command."""
        self.on_deactivate(state)
        return super().on_error(state)

    def close(self) -> None:
        """Send what is not yet sent; the spool keeps what the learner does not have."""
        self._uplink.close()

    def _watch(self) -> None:
        """Real time: give up where nothing that is asked for can be right."""
        verdict = self._patience.verdict(time.monotonic(), self._gate_state)
        if not self._active or not verdict:
            return
        gate = f' (gate: {self._gate_state})' if self._gate_state else ''
        self.trigger_deactivate()
        again = f'ros2 lifecycle set {self.get_fully_qualified_name()} activate'
        self._gave_up = f'{verdict}{gate}: deactivated; to go on, {again}'
        self.get_logger().error(self._gave_up)

    # --- inputs ------------------------------------------------------------------------------

    def _on_state(self, state: np.ndarray, stamp: int) -> None:
        with np.errstate(over='ignore'):
            fit = np.isfinite(state.astype(np.float32)).all()  # as which it is stored
        if not fit:
            self.get_logger().error(
                'state with NaN, infinity or more than a float32 holds ignored',
                throttle_duration_sec=5.0,
            )
            return
        repeated = self._state is not None and stamp == self._state[1]
        self._state = (state, stamp)
        if not repeated:
            self._patience.hear_state(time.monotonic())
        if not self.lockstep:
            if self._active and not self._practice.reset_due:
                self._periods.observe(state, stamp)
            return
        self._steps_made.observe(state, stamp)
        if not self._active:
            self._steps_made.forget()
        if repeated and self._active and self._acted_on == stamp:
            # Said again because of silence. Unless our answer is just on its way, it was lost.
            if time.monotonic() - self._patience.commanded > LOST_AFTER:
                self._send()
            return
        if repeated:
            waited = time.monotonic() - max(self._patience.state_heard, self._echo_heard)
            if self._steps_made.waiting and waited < _ECHO_LATE:
                return  # the gate's word on the last step is on its way, or the step itself
            self._steps_made.forget()  # what has not been heard by now never will be
        self._step()

    def _on_executed(self, message: JointState) -> None:
        command, source = np.array(message.position), message.header.frame_id
        if message.name != self._names or command.shape != (len(self._names),):
            self.refuse(ValueError(f'names {message.name}'), 'safety_gate/executed')
            return
        if not np.isfinite(command).all():
            self.refuse(ValueError(f'command {command}'), 'safety_gate/executed')
            return
        if self.lockstep:
            self._echo_heard = time.monotonic()
            self._steps_made.execute(command, source, stamp_ns(message))
            self._step()
            return
        if self._active:
            self._periods.execute(command, source, stamp_ns(message), time.monotonic())
        self._patience.hear_executed(time.monotonic(), refused=source == STOP_SOURCE)

    def _on_gate_state(self, message: String) -> None:
        self._gate_state = message.data
        if self.lockstep:
            self._step()

    # --- control -----------------------------------------------------------------------------

    def _control(self) -> None:
        """Realtime: one control period."""
        if not self._active:
            return
        sim_time = self.value('use_sim_time')
        now = self.get_clock().now().nanoseconds * 1e-9 if sim_time else time.monotonic()
        self._timing.tick(now)
        if self._state is None:
            return
        if self._gate_state == 'e-stop':
            self._begin_anew()  # a robot that stands still for an hour practises nothing
            return
        if self._placed():
            for step in self._periods.tick(time.monotonic()):
                self._record(step)
                if self._practice.reset_due or not self._active:
                    break
            if self._placed():
                self._act()

    def _step(self) -> None:
        """Lockstep: go as far as the state at hand, the gate and the learner allow."""
        if not self._active or self._state is None:
            return
        for step in self._steps_made.completed():
            if self._gate_state == 'e-stop' and step.source == STOP_SOURCE:
                continue  # nothing is practised; what a person asked for became a stop
            self._record(step)
            if self._uplink.unsent >= self.agent.chunk:
                self._uplink.flush()
            if self._practice.reset_due or not self._active:
                break
        if not self._placed() or self._steps_made.waiting:
            return
        self._blocked = self._reason_to_wait()
        if not self._blocked:
            self._act()

    def _reason_to_wait(self) -> str:
        if not self._gate_state:
            # Only who hears the gate learns what was executed.
            return 'waiting for safety_gate'
        if self._gate_state == 'e-stop':
            return 'e-stop'
        if self._random or self.value('policy'):
            return ''
        uplink = self._uplink
        if not uplink.has_policies and not self._practice.has_policies:
            return 'waiting for a policy from the learner'
        if not uplink.learner_alive:
            return 'learner lost: going on at the control rate'
        if uplink.base is None:
            return 'waiting for the learner to answer'
        if uplink.steps >= uplink.valid_until:
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
        self._begin_anew()
        return True

    def _begin_anew(self) -> None:
        """What comes next is no step from what was before the latest state."""
        self._steps_made.forget()
        self._periods.forget()
        self._periods.observe(*self._state)

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
            self._uplink.add(row)

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
        if self._gate_state in ('', 'e-stop') or not self._active or self._acted_on == stamp:
            return
        self._take_due_policies()
        if not (self._practice.has_policies or self._random):
            return
        observation = self._practice.observe(state)
        action = self._practice.act(observation)
        if not np.isfinite(action).all():
            self.refuse(ValueError(f'action {action}, not sent'), 'learner/policy')
            return
        self._acted_on = stamp
        self._command = command_message(
            self._names, self.task.command(action), stamp, POLICY_SOURCE
        )
        self._send()
        if self._practice.phase_name != self._announced:
            self._announced = self._practice.phase_name
            self._phase.publish(String(data=self._announced))

    def _send(self) -> None:
        self._patience.commanded = time.monotonic()
        self._commands.publish(self._command)

    def _take_due_policies(self) -> None:
        any_will_do = not self._practice.has_policies
        for weights, version in self._uplink.due_policies(any_will_do):
            self._practice.set_policies(weights)
            self._weights, self._version = weights, version

    def _missing_state(self) -> str:
        topics = ', '.join(topic.topic for topic in self.task.robot.state)
        return f'no state yet on {topics}: is the robot (or robot_sim) running in this domain?'

    def report(self) -> tuple[bytes, str, dict[str, Any]]:
        """Phase, steps, attempts and what, if anything, the robot is waiting for."""
        practice = self._practice
        if practice is None:
            return DiagnosticStatus.WARN, 'not configured', {'lifecycle': 'unconfigured'}
        if self._state is None and self._active:
            self.get_logger().warning(
                self._missing_state(), throttle_duration_sec=10.0, skip_first=True
            )
        steps = practice.steps if self._episodes else self._uplink.steps
        values = {
            'lifecycle': 'active' if self._active else 'inactive',
            'needs_learner': not self.value('policy'),
            'phase': practice.phase_name,
            **self._uplink.values(),
            'environment_steps': steps,
            'robot_seconds': f'{steps / self.task.robot.control_rate:.1f}',
            'attempts': practice.attempts,
            'successes': practice.successes,
            'policy_version': self._version,
            'refused': self.refused,
            **self._timing.values(),
        }
        return *self._condition(), values

    def _condition(self) -> tuple[bytes, str]:
        """Level and message for /diagnostics: the worst there is to say."""
        missed = self._timing.missed - self._missed_before
        self._missed_before = self._timing.missed
        trouble = self._gave_up or self._uplink.problem
        if trouble:
            return DiagnosticStatus.ERROR, trouble
        if self._state is None:
            return DiagnosticStatus.WARN, self._missing_state()
        if not self._active:
            return DiagnosticStatus.WARN, self._unfit or 'inactive'
        if missed:
            return DiagnosticStatus.WARN, f'{missed} control periods missed'
        catching_up = 'catch up' in self._blocked
        level = DiagnosticStatus.WARN if self._blocked and not catching_up else DiagnosticStatus.OK
        return level, self._blocked


def main() -> None:
    """Entry point of the node."""
    main_exit(PolicyController)


if __name__ == '__main__':
    main()
