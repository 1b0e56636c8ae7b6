"""The policy controller: practises on the robot, forward and backward, and streams transitions."""

from __future__ import annotations

import time
import traceback
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.duration import Duration
from rclpy.lifecycle import State, TransitionCallbackReturn
from rclpy.timer import Timer
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from mbarl_ros.control.control_loop import Connections, ControlLoop
from mbarl_ros.control.lockstep_loop import LockstepLoop
from mbarl_ros.control.phases import Practice
from mbarl_ros.control.policy import read_policy
from mbarl_ros.control.realtime_loop import RealtimeLoop
from mbarl_ros.control.safety import POLICY_SOURCE, STOP_SOURCE
from mbarl_ros.nodes.support.alive import Alive
from mbarl_ros.nodes.support.fleet import ROBOT
from mbarl_ros.nodes.support.learner_link import LearnerLink
from mbarl_ros.nodes.support.policy_keeper import KEEP_PERIOD, PolicyKeeper, kept_policy
from mbarl_ros.nodes.support.qos import LATCHED, RELIABLE, RELIABLE_STEPS
from mbarl_ros.nodes.support.robot_topics import StateListener, command_message
from mbarl_ros.nodes.support.runtime import BaseLifecycleNode, main_exit
from mbarl_ros.nodes.support.scheduling import CONTROLLER_PRIORITY
from mbarl_ros.nodes.support.world_reset import WorldReset
from mbarl_ros.schema import topics
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.findings import ERROR
from mbarl_ros.schema.message_fields import stamp_ns
from mbarl_ros.storage.run_files import POLICY_FILE

_CHECK_WINDOW = 2.0  # s; errors of the robot's topics older than that do not forbid to activate
_STOP_DELIVERY = 0.2  # s that a cleanup waits for the gate to have the stop


class PolicyController(BaseLifecycleNode):
    """Managed node that moves the robot while active, and streams what was executed.

    In lockstep it answers each state with a command, and never runs ahead of the learner by more
    than the policy's validity: the preset's updates-to-data ratio is kept, and the run is
    reproducible. If the learner is lost, the robot goes on with the last policy at its control
    rate. In real time it deactivates itself when no state comes or the gate refuses all commands;
    a person activates it again. With a preset that resets, it resets the simulated world after
    each attempt; with a task whose world ends, when it has ended.

    Subscribes to the profile's state topics, ``safety_gate/executed``, ``safety_gate/state``,
    ``learner/policy`` and ``learner/acknowledged``. Publishes ``~/command`` (JointState),
    ``~/phase`` (String, latched), ``~/transitions`` (safetensors, latched) and ``~/alive`` (Empty;
    never sent, its liveliness tells the gate that the process lives). Calls ``robot_sim/reset``.
    Service ``~/turn`` (Trigger): the phase gives way to the next one, a truncation. Parameters:
    ``autostart``, ``policy``, ``episodes``, ``keeps_policy``, ``learner_timeout``, ``fleet``.

    ``configure`` makes what moves the robot: command and phase publishers, the control timer, the
    practice. ``cleanup`` destroys it. Two things live as long as the process. The subscriptions to
    robot and gate: whether the robot is fit is known from what was received before, so that
    ``activate`` may follow ``configure`` at once. And the learner's topics and timers, the spool,
    liveliness and diagnostics: an executed transition must reach the learner's disk in whatever
    state this node is. After ``shutdown`` nothing is sent any more.
    """

    def __init__(self) -> None:
        """Declare parameters, connect to the learner; with ``autostart`` configure and activate.

        :raises ConfigError: the policy file, the run folder or the robot profile cannot be used.
        """
        super().__init__('policy_controller')
        self.setup(
            {
                'autostart': (True, 'Configure and activate by itself'),
                'policy': ('', 'Policy file to act with, or "random"; empty: from the learner'),
                'episodes': (0, 'Evaluation: attempts after which the node ends; 0: practise'),
                'keeps_policy': (False, 'Keep the last policy in run_dir, where no learner does'),
                'learner_timeout': (5.0, 'Seconds of silence after which the learner is lost'),
                **ROBOT,
            }
        )
        self._episodes = self.value('episodes')
        self._command_names = list(self.task.robot.command_names)
        path = self.value('policy')
        if path and path != 'random':
            self._initial_policy = read_policy(path, self.task, self.agent)[0]
        elif path or self.lockstep:
            self._initial_policy = None
        else:  # the learner may be away just now
            self._initial_policy = kept_policy(self)
        self._loop: ControlLoop | None = None  # while configured
        self._measured: tuple[np.ndarray, int] | None = None  # latest state [S], its stamp in ns
        self._gate_state = ''
        self._undo = ExitStack()  # destroys what `configure` has made
        self._objection = ''  # why the last activation was refused
        self._gave_up = ''
        self._configure_error: Exception | None = None
        self._alive = Alive(self, topics.private(topics.CONTROLLER_ALIVE))
        self._learner_link = LearnerLink(self, self._proceed)
        if self.value('keeps_policy') and self.run_dir:
            keeper = PolicyKeeper(self.run_dir / POLICY_FILE, self.get_logger().error)
            keep = partial(keeper.keep, self._learner_link)
            self.create_timer(KEEP_PERIOD, keep, clock=self.steady)
        # In this order: whoever receives the gate's state receives executed commands as well.
        self.create_subscription(JointState, topics.EXECUTED, self._on_executed, RELIABLE_STEPS)
        self.create_subscription(String, topics.GATE_STATE, self._on_gate_state, LATCHED)
        self._states = StateListener(self, self.task.robot, self.lockstep, self._on_state)
        self.create_service(Trigger, topics.private(topics.TURN), self._on_turn)
        self.request_real_time(CONTROLLER_PRIORITY)
        self._autostart_timer: Timer | None = None
        if self.value('autostart'):
            if self.trigger_configure() != TransitionCallbackReturn.SUCCESS:
                raise self._configure_error
            self._autostart_timer = self.create_timer(0.25, self._autostart, clock=self.steady)
            self._autostart()

    def _autostart(self) -> None:
        """Activate once, as soon as nothing speaks against it."""
        active = self._loop is not None and self._loop.active
        if active or self.trigger_activate() == TransitionCallbackReturn.SUCCESS:
            self._autostart_timer.cancel()

    def _cancel_autostart(self) -> None:
        if self._autostart_timer is not None:
            self._autostart_timer.cancel()

    # --- lifecycle ---------------------------------------------------------------------------

    def on_configure(self, _state: State) -> TransitionCallbackReturn:
        """Make the publishers and the control timer; practice begins in the forward phase.

        Environment steps go on counting.
        """
        try:
            self._connect()
        except Exception as error:  # rclpy would swallow it
            self._configure_error = error
            self._disconnect()
            if self.value('autostart') and self._autostart_timer is None:
                return TransitionCallbackReturn.FAILURE  # the constructor raises it
            text = str(error) if isinstance(error, ConfigError) else traceback.format_exc()
            self.get_logger().error(f'not configured: {text}')
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Start moving the robot from its present state, unless something speaks against it."""
        self._objection = '; '.join(self._loop.objections())
        if self._objection:
            if not self.value('autostart'):  # with autostart, /diagnostics reports it
                self.get_logger().error(f'not activated: {self._objection}')
            return TransitionCallbackReturn.FAILURE
        self._gave_up = ''
        self._loop.activate()
        return super().on_activate(state)

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        """Stop commanding, and tell the gate, which stops the robot."""
        self._stop_commanding()
        self._learner_link.flush()
        return super().on_deactivate(state)

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:
        """Destroy publishers and control timer; from now on nothing is activated automatically."""
        self._cancel_autostart()
        result = super().on_cleanup(state)
        self._disconnect()
        return result

    def on_shutdown(self, state: State) -> TransitionCallbackReturn:
        """Leave the robot to the gate, as a deactivation does, but for good."""
        self._objection = 'shut down: it takes a new start of this node to go on'
        self._cancel_autostart()
        return self.on_deactivate(state)

    def on_error(self, state: State) -> TransitionCallbackReturn:
        """Whatever failed, do not command."""
        self._cancel_autostart()
        self.on_deactivate(state)
        self._disconnect()
        return super().on_error(state)

    def close(self) -> None:
        """Stop the robot, send what is not yet sent; the spool keeps what the learner lacks."""
        self._stop_commanding()
        self._alive.close()
        self._learner_link.close()

    def _connect(self) -> None:
        """Make everything that commands the robot."""
        weights = self._learner_link.weights or self._initial_policy
        practice = Practice(self.task, self.agent, self.seed, evaluation=self._episodes > 0)
        if weights is not None:
            practice.set_policies(weights)
        self._announced_phase = ''
        undo = self._undo.callback
        self._commands = self.create_lifecycle_publisher(
            JointState, topics.private(topics.COMMAND), RELIABLE
        )
        undo(self.destroy_lifecycle_publisher, self._commands)
        undo(self._commands.wait_for_all_acked, Duration(seconds=_STOP_DELIVERY))
        self._phase = self.create_publisher(String, topics.private(topics.PHASE), LATCHED)
        undo(self.destroy_publisher, self._phase)
        resets = self.agent.resets or self.task.config.ended is not None
        world_reset = WorldReset(self, self._proceed) if resets else None
        if world_reset is not None:
            undo(world_reset.destroy)
        self._loop = self._make_loop(practice, world_reset)
        self._loop.gate_state = self._gate_state
        if self._measured is not None:
            self._loop.receive_state(*self._measured)
        # A clock that somebody sets must not stall control; simulated time is the robot's.
        clock = None if self._follows_sim_time else self.steady
        undo(self.destroy_timer, self.create_timer(self._loop.period, self._loop.tick, clock=clock))
        if not self.lockstep:
            undo(self.destroy_timer, self.create_timer(0.2, self._watch, clock=self.steady))

    def _disconnect(self) -> None:
        self._loop = None
        self._undo.close()

    @property
    def _follows_sim_time(self) -> bool:
        return not self.lockstep and self.value('use_sim_time')

    def _make_loop(self, practice: Practice, world_reset: WorldReset | None) -> ControlLoop:
        connections = Connections(
            send_command=self._send_command,
            record=self._record,
            refuse_policy=lambda reason: self.refuse(ValueError(reason), topics.POLICY),
            learner=None if self.value('policy') else self._learner_link,
            reset_world=world_reset.done if world_reset else None,
        )
        if self.lockstep:
            return LockstepLoop(practice, connections)
        ros_clock = self.get_clock()
        clock = (
            (lambda: ros_clock.now().nanoseconds * 1e-9)
            if self._follows_sim_time
            else time.monotonic
        )
        return RealtimeLoop(practice, connections, self._robot_errors, clock)

    def _stop_commanding(self) -> None:
        if self._loop is not None and self._loop.active:
            # On the commands' topic, so that it cannot overtake a command that is on its way.
            self._commands.publish(command_message([], [], 0, STOP_SOURCE))
            self._loop.deactivate()

    # --- inputs ------------------------------------------------------------------------------

    def _on_state(self, state: np.ndarray, stamp: int) -> None:
        with np.errstate(over='ignore'):
            storable = np.isfinite(state.astype(np.float32)).all()
        if not storable:
            self.get_logger().error(
                'state ignored: it has NaN, infinity or more than a float32 holds',
                throttle_duration_sec=5.0,
            )
            return
        self._measured = (state, stamp)
        if self._loop is not None:
            self._loop.receive_state(state, stamp, self._states.late)

    def _on_executed(self, message: JointState) -> None:
        command, source = np.array(message.position), message.header.frame_id
        if message.name != self._command_names or command.shape != (len(self._command_names),):
            text = f'entries {message.name}, expected {self._command_names}'
            self.refuse(ValueError(text), topics.EXECUTED)
            return
        if not np.isfinite(command).all():
            self.refuse(ValueError(f'command {command} is not finite'), topics.EXECUTED)
            return
        if self._loop is not None:
            self._loop.receive_executed(command, source, stamp_ns(message))

    def _on_gate_state(self, message: String) -> None:
        self._gate_state = message.data
        if self._loop is not None:
            self._loop.receive_gate_state(message.data)

    def _on_turn(self, _request: Any, response: Any) -> Any:
        phase = self._loop.practice.phase_name if self._loop is not None else ''
        if self._episodes:
            refusal = 'an evaluation runs each attempt to its end'
        else:
            refusal = (
                self._loop.turn() if self._loop is not None else 'the controller is not configured'
            )
        response.success = not refusal
        response.message = refusal or f'the {phase} phase ends with the next step'
        return response

    def _proceed(self) -> None:
        """The learner or the simulated world has answered."""
        if self._loop is not None:
            self._loop.proceed()

    def _robot_errors(self) -> list[str]:
        """What `mbarl robot check` calls an error."""
        findings = self._states.findings(_CHECK_WINDOW)
        return [finding.text for finding in findings if finding.level == ERROR]

    def _watch(self) -> None:
        """Real time: deactivate where no command can be right."""
        reason = self._loop.reason_to_give_up()
        if not reason:
            return
        gate = f' (gate: {self._loop.gate_state})' if self._loop.gate_state else ''
        errors = ''.join(f'; {error}' for error in self._robot_errors())
        self.trigger_deactivate()
        again = f'ros2 lifecycle set {self.get_fully_qualified_name()} activate'
        self._gave_up = f'{reason}{gate}{errors}: deactivated; to go on, {again}'
        self.get_logger().error(self._gave_up)

    # --- outputs -----------------------------------------------------------------------------

    def _send_command(self, command: np.ndarray, stamp: int) -> None:
        self._commands.publish(command_message(self._command_names, command, stamp, POLICY_SOURCE))
        phase = self._loop.practice.phase_name
        if phase != self._announced_phase:
            self._announced_phase = phase
            self._phase.publish(String(data=phase))

    def _record(self, transition: dict[str, Any]) -> None:
        if not self._episodes:
            self._learner_link.add(transition)
            return
        practice = self._loop.practice
        if practice.attempts >= self._episodes:
            self.get_logger().info(
                f'deployed policy: {practice.successes} of {practice.attempts} attempts succeeded'
            )
            self._stop_commanding()
            self.finished = True

    # --- diagnostics -------------------------------------------------------------------------

    def _missing_state(self) -> str:
        names = ', '.join(topic.source for topic in self.task.robot.state)
        return f'no state yet on {names}: is the robot (or robot_sim) running in this domain?'

    def report(self) -> tuple[bytes, str, dict[str, Any]]:
        """Phase, steps, attempts and what, if anything, the robot is waiting for."""
        loop = self._loop
        if loop is None:
            return DiagnosticStatus.WARN, 'not configured', {'lifecycle': 'unconfigured'}
        if loop.measured is None and loop.active:
            self.get_logger().warning(
                self._missing_state(), throttle_duration_sec=10.0, skip_first=True
            )
        practice = loop.practice
        link = self._learner_link
        steps = practice.steps if self._episodes else link.steps
        own_steps = practice.steps if self._episodes else link.robot_steps
        values = {
            'lifecycle': 'active' if loop.active else 'inactive',
            'needs_learner': not self.value('policy'),
            'fleet': self.value('fleet'),
            'phase': practice.phase_name,
            **link.values(),
            'environment_steps': steps,
            'robot_steps': own_steps,
            'robot_seconds': f'{own_steps / self.task.robot.control_rate:.1f}',
            'attempts': practice.attempts,
            'successes': practice.successes,
            'refused': self.refused,
            **loop.values(),
            **(practice.planning.values() if practice.planning else {}),
        }
        return *self._condition(loop), values

    def _condition(self, loop: ControlLoop) -> tuple[bytes, str]:
        """Level and message for /diagnostics: the worst of what is known."""
        warning = loop.warning()
        error = self._gave_up or self._learner_link.problem
        if error:
            return DiagnosticStatus.ERROR, error
        if loop.measured is None:
            return DiagnosticStatus.WARN, self._missing_state()
        if not loop.active:
            return DiagnosticStatus.WARN, self._objection or 'inactive'
        if warning:
            return DiagnosticStatus.WARN, warning
        catching_up = 'catch up' in loop.blocked
        level = DiagnosticStatus.WARN if loop.blocked and not catching_up else DiagnosticStatus.OK
        return level, loop.blocked


def main() -> None:
    """Entry point of the node."""
    main_exit(PolicyController)


if __name__ == '__main__':
    main()
