"""The policy controller: practises on the robot, forward and backward, and streams transitions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import State, TransitionCallbackReturn
from rclpy.timer import Timer
from sensor_msgs.msg import JointState
from std_msgs.msg import Empty, String

from mbarl_ros.control.phases import Practice
from mbarl_ros.control.policy import read_policy
from mbarl_ros.control.safety import POLICY_SOURCE, STOP_SOURCE
from mbarl_ros.control.step_pairing import Step
from mbarl_ros.nodes.support.learner_link import LearnerLink
from mbarl_ros.nodes.support.modes import MODES, Mode
from mbarl_ros.nodes.support.robot_topics import StateListener, command_message
from mbarl_ros.nodes.support.runtime import (
    ALIVE,
    LATCHED,
    RELIABLE,
    RELIABLE_STEPS,
    BaseLifecycleNode,
    main_exit,
)
from mbarl_ros.nodes.support.scheduling import CONTROLLER_PRIORITY
from mbarl_ros.nodes.support.world_reset import SERVICE, WorldReset
from mbarl_ros.schema import topics
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.message_fields import stamp_ns
from mbarl_ros.storage.run_files import POLICY_FILE
from mbarl_ros.storage.transitions import HUMAN, POLICY, SAFETY

SOURCES = {POLICY_SOURCE: POLICY, STOP_SOURCE: SAFETY}


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
        self.active = False
        self.practice: Practice | None = None
        self._unfit = ''
        path = self.value('policy')
        self._random = path == 'random'
        given = path and not self._random
        self._weights = (
            read_policy(path, self.task, self.agent) if given else self._last_good_policy()
        )
        self._version = -1
        self.acted_on = -1  # stamp of the state that our last command answers
        self._command: JointState | None = None
        self.measured: tuple[np.ndarray, int] | None = None  # latest state [S], its stamp in ns
        self.gate_state = self.blocked = self._announced = self._gave_up = ''
        self._commands = self.create_lifecycle_publisher(
            JointState, topics.private(topics.COMMAND), RELIABLE
        )
        self._alive = self.create_publisher(Empty, topics.private(topics.CONTROLLER_ALIVE), ALIVE)
        self._phase = self.create_publisher(String, topics.private(topics.PHASE), LATCHED)
        self.learner_link = LearnerLink(self, self._go_on)
        self._world = WorldReset(self, self._go_on) if self.agent.resets else None
        # In this order: once the gate's state is heard, its echoes are heard, too.
        executed = topics.EXECUTED
        self.create_subscription(JointState, executed, self._on_executed, RELIABLE_STEPS)
        self.create_subscription(String, topics.GATE_STATE, self._on_gate_state, LATCHED)
        self.listener = StateListener(self, robot, self.lockstep, self._on_state)
        self._mode: Mode = MODES[self.mode](self)
        self.go_first(CONTROLLER_PRIORITY)
        self._arming: Timer | None = None
        if self.value('autostart'):
            self.trigger_configure()
            self._arming = self.create_timer(0.25, self._arm, clock=self.steady)
            self._arm()

    def _arm(self) -> None:
        """With ``autostart``: activate once, as soon as that is right."""
        if self.active or self.trigger_activate() == TransitionCallbackReturn.SUCCESS:
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
        self.practice = Practice(self.task, self.agent, self.seed, evaluation=self._episodes > 0)
        if self._world is not None:
            self._world.forget()
        if self._weights is not None:
            self.practice.set_policies(self._weights)
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Start moving the robot from the state that it is measured in, if it is fit for it."""
        self._unfit = '; '.join(self._mode.objections())
        if self._unfit:
            if not self.value('autostart'):  # nobody asked just now: /diagnostics says it
                self.get_logger().error(f'not activated: {self._unfit}')
            return TransitionCallbackReturn.FAILURE
        self.acted_on, self._command = -1, None
        self._gave_up = self.blocked = ''
        self._mode.begin()
        self.active = True
        return super().on_activate(state)

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        """Stop commanding, and tell the gate, which stops the robot."""
        self._let_go()
        self.learner_link.flush()
        return super().on_deactivate(state)

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:
        """Be as before the configuration; who asks for that activates the node, too."""
        self._disarm()
        self.practice = None
        return super().on_cleanup(state)

    def on_shutdown(self, state: State) -> TransitionCallbackReturn:
        """Leave the robot to the gate, as a deactivation does, but for good."""
        self._unfit = 'shut down: it takes a new start of this node to go on'
        self._disarm()
        return self.on_deactivate(state)

    def on_error(self, state: State) -> TransitionCallbackReturn:
        """Whatever failed, do not command."""
        self._disarm()
        self.on_deactivate(state)
        self.practice = None
        return super().on_error(state)

    def _disarm(self) -> None:
        if self._arming is not None:
            self._arming.cancel()

    def close(self) -> None:
        """Stop the robot, send what is not yet sent; the spool keeps what the learner lacks."""
        self._let_go()
        self.learner_link.close()

    def _let_go(self) -> None:
        # By the commands' own topic: no command that is still on its way may come after it.
        if self.active:
            self._commands.publish(command_message([], [], 0, STOP_SOURCE))
        self.active = False

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
        repeated = self.measured is not None and stamp == self.measured[1]
        self.measured = (state, stamp)
        self._mode.hear_state(state, stamp, repeated)

    def _on_executed(self, message: JointState) -> None:
        command, source = np.array(message.position), message.header.frame_id
        if message.name != self._names or command.shape != (len(self._names),):
            self.refuse(ValueError(f'names {message.name}'), topics.EXECUTED)
            return
        if not np.isfinite(command).all():
            self.refuse(ValueError(f'command {command}'), topics.EXECUTED)
            return
        self._mode.hear_executed(command, source, stamp_ns(message))

    def _on_gate_state(self, message: String) -> None:
        self.gate_state = message.data
        self._go_on()

    def _go_on(self) -> None:
        self._mode.go_on()

    # --- what the mode asks for --------------------------------------------------------------

    def placed(self) -> bool:
        """False while a reset of the world is due; what comes after it starts from nothing."""
        if self._world is None or not self.practice.reset_due:
            return True
        if not self._world.done(self.measured[1]):
            self.blocked = f'waiting for {SERVICE}'
            return False
        self.practice.reset_due, self.blocked = False, ''
        self._mode.begin_anew()
        return True

    def give_up(self, verdict: str) -> None:
        """Deactivate, and say why and how to go on."""
        gate = f' (gate: {self.gate_state})' if self.gate_state else ''
        self.trigger_deactivate()
        again = f'ros2 lifecycle set {self.get_fully_qualified_name()} activate'
        self._gave_up = f'{verdict}{gate}: deactivated; to go on, {again}'
        self.get_logger().error(self._gave_up)

    def record(self, steps: Iterable[Step]) -> None:
        """Make transitions of steps; none of what comes after the last of an evaluation, or after
        the end of an attempt until the world is reset.
        """
        for step in steps:
            if self.practice.reset_due or not self.active:
                break
            self._record(step)

    def _record(self, step: Step) -> None:
        """Make a transition of a step; the action is the executed one, whoever asked for it."""
        row = self.practice.record(
            self.practice.observe(step.state),
            self.task.action(step.command),
            step.next_state,
            step.stamp * 1e-9,
            SOURCES.get(step.source, HUMAN),
        )
        if self._episodes:
            self._end_evaluation_when_due()
        else:
            self.learner_link.add(row)

    def _end_evaluation_when_due(self) -> None:
        practice = self.practice
        if practice.attempts >= self._episodes:
            self.get_logger().info(
                f'deployed policy: {practice.successes} of {practice.attempts} attempts succeeded'
            )
            self._let_go()
            self.finished = True

    def act(self) -> bool:
        """Answer the latest state, once; whether a command was sent."""
        state, stamp = self.measured
        if self.gate_state == 'e-stop' or not self.active or self.acted_on == stamp:
            return False
        self._take_due_policies()
        if not (self.practice.has_policies or self._random):
            return False
        observation = self.practice.observe(state)
        action = self.practice.act(observation)
        if not np.isfinite(action).all():
            self.refuse(ValueError(f'action {action}, not sent'), topics.POLICY)
            return False
        self.acted_on = stamp
        self._command = command_message(
            self._names, self.task.command(action), stamp, POLICY_SOURCE
        )
        self.send()
        if self.practice.phase_name != self._announced:
            self._announced = self.practice.phase_name
            self._phase.publish(String(data=self._announced))
        return True

    def send(self) -> None:
        """Send the last command (again)."""
        self._commands.publish(self._command)

    def _take_due_policies(self) -> None:
        any_will_do = not self.practice.has_policies
        for weights, version in self.learner_link.due_policies(any_will_do):
            self.practice.set_policies(weights)
            self._weights, self._version = weights, version

    def _missing_state(self) -> str:
        topics = ', '.join(topic.topic for topic in self.task.robot.state)
        return f'no state yet on {topics}: is the robot (or robot_sim) running in this domain?'

    def report(self) -> tuple[bytes, str, dict[str, Any]]:
        """Phase, steps, attempts and what, if anything, the robot is waiting for."""
        practice = self.practice
        if practice is None:
            return DiagnosticStatus.WARN, 'not configured', {'lifecycle': 'unconfigured'}
        if self.measured is None and self.active:
            self.get_logger().warning(
                self._missing_state(), throttle_duration_sec=10.0, skip_first=True
            )
        steps = practice.steps if self._episodes else self.learner_link.steps
        values = {
            'lifecycle': 'active' if self.active else 'inactive',
            'needs_learner': not self.value('policy'),
            'phase': practice.phase_name,
            **self.learner_link.values(),
            'environment_steps': steps,
            'robot_seconds': f'{steps / self.task.robot.control_rate:.1f}',
            'attempts': practice.attempts,
            'successes': practice.successes,
            'policy_version': self._version,
            'refused': self.refused,
            **self._mode.values(),
        }
        return *self._condition(), values

    def _condition(self) -> tuple[bytes, str]:
        """Level and message for /diagnostics: the worst there is to say."""
        warning = self._mode.warning()
        trouble = self._gave_up or self.learner_link.problem
        if trouble:
            return DiagnosticStatus.ERROR, trouble
        if self.measured is None:
            return DiagnosticStatus.WARN, self._missing_state()
        if not self.active:
            return DiagnosticStatus.WARN, self._unfit or 'inactive'
        if warning:
            return DiagnosticStatus.WARN, warning
        catching_up = 'catch up' in self.blocked
        level = DiagnosticStatus.WARN if self.blocked and not catching_up else DiagnosticStatus.OK
        return level, self.blocked


def main() -> None:
    """Entry point of the node."""
    main_exit(PolicyController)


if __name__ == '__main__':
    main()
