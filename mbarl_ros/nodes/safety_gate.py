"""The safety gate: a process of its own between all sources of commands and the robot."""

from __future__ import annotations

import math
import time
from collections import deque
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.event_handler import QoSLivelinessChangedInfo, SubscriptionEventCallbacks
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Empty, String
from std_srvs.srv import Trigger

from mbarl_ros.control.safety import POLICY_SOURCE, STOP_SOURCE, TELEOP_SOURCE, Decision, SafetyGate
from mbarl_ros.control.teleop import DeadmanSwitch, TeleopCommand, TeleopSource
from mbarl_ros.nodes.support.fleet import ROBOT, in_fleet
from mbarl_ros.nodes.support.qos import (
    LATCHED,
    RELIABLE,
    RELIABLE_STEPS,
    REQUESTED_ALIVE,
    SENSOR,
)
from mbarl_ros.nodes.support.robot_topics import (
    CommandPublisher,
    StateListener,
    command_message,
    subscribe,
)
from mbarl_ros.nodes.support.runtime import BaseNode, main_exit, message_class
from mbarl_ros.nodes.support.scheduling import GATE_PRIORITY
from mbarl_ros.schema import topics
from mbarl_ros.schema.message_fields import stamp_ns

_TICK = 0.01  # s; a time-out may be noticed so much later
_TICK_IN_LOCKSTEP = 0.1  # s; there are no time-outs, and a timer costs as much as a message
# Lockstep: within so long (s) a reliable subscriber has received what was published. Fast DDS asks
# for lost messages every three seconds.
_DELIVERY_TIME = 4.0
_MAX_STAMP = 2**31 * 1_000_000_000 - 1  # ns; the largest that a message can hold


class SafetyGateNode(BaseNode):
    """Limits commands to the robot, stops it where they are missing or wrong, and latches e-stops.

    Subscribes to ``policy_controller/command``, ``policy_controller/alive`` (liveliness only) and
    the profile's state, teleop and dead-man topics. Publishes the profile's command topics, sends
    goals to its command actions, calls its command services, and publishes:

    * ``~/executed`` (JointState): the command sent to the robot, ``frame_id`` its source. In
      lockstep it has the stamp of the state that it answers; in real time, where a command may be
      delayed, that of the latest state, from which on it is in force.
    * ``~/clipped`` (JointState): by how much a command was changed; ``frame_id`` is its source.
    * ``~/state`` (String, latched): ``ok`` or the reason why the robot is stopped.

    When the controller is deactivated, or the middleware reports the death of its process, the
    gate stops the robot at once. Topic ``~/estop`` (Bool, true) and service ``~/stop`` latch an
    e-stop, which only the service ``~/release`` ends. Parameters: ``real_time_factor``, ``fleet``.
    With ``fleet``, true on ``fleet/estop`` (Bool, remapped to the fleet's) latches it as well, and
    until that topic says false nothing releases it.
    """

    def __init__(self) -> None:
        """Declare parameters and connect to the robot's topics."""
        super().__init__('safety_gate')
        factor = (1.0, 'Simulation: robot seconds per second')
        self.setup({'real_time_factor': factor, **ROBOT})
        robot = self.task.robot
        self._names = list(robot.command_names)
        self._gate = SafetyGate(robot, self.lockstep, self.value('real_time_factor'))
        self._answered_at = -math.inf
        self._stamp = self._answered = -1  # of the latest state, and of the last one answered
        # A person's latest command that waits for the next state: topic, time (s) and values.
        self._pending_teleop: tuple[str, float, dict[str, float]] | None = None
        self._pending_is_due = False
        # The policy's commands that wait until all states that have arrived are received.
        self._policy_commands: deque[JointState] = deque(maxlen=RELIABLE.depth)
        self._teleop_stamps: dict[str, int] = {}
        self._fleet_stopped = False  # latest message of the fleet's e-stop topic
        self._published_state = ''
        self._robot = CommandPublisher(self, robot)
        self._executed = self.create_publisher(
            JointState, topics.private(topics.EXECUTED), RELIABLE_STEPS
        )
        self._clipped = self.create_publisher(JointState, topics.private(topics.CLIPPED), RELIABLE)
        self._state = self.create_publisher(String, topics.private(topics.GATE_STATE), LATCHED)
        self._listener = StateListener(self, robot, self.lockstep, self._on_state)
        subscribe(self, JointState, topics.COMMAND, self._policy_commands.append, RELIABLE)
        self.create_subscription(
            Empty,
            topics.CONTROLLER_ALIVE,
            lambda _message: None,
            REQUESTED_ALIVE,
            event_callbacks=SubscriptionEventCallbacks(liveliness=self._on_liveliness),
        )
        self._deadmen: dict[str, DeadmanSwitch] = {}  # by the teleop topic that they belong to
        qos = RELIABLE if self.lockstep else SENSOR  # SENSOR is compatible with every publisher
        for entry in robot.teleop:
            kind, source = message_class(entry.type), TeleopSource(entry)
            subscribe(self, kind, entry.topic, partial(self._on_teleop, source), qos)
            if entry.deadman and (own := entry.deadman_topic):
                switch = DeadmanSwitch(entry.deadman, own, robot.teleop_timeout)
                self._deadmen[entry.topic] = switch
                receive = partial(self._on_deadman, entry.topic)
                subscribe(self, message_class(own.type), own.topic, receive, qos)
        # Accept any QoS of the button: best-effort ones, and latched before this node started.
        buttons = {topics.private(topics.ESTOP): self._on_estop}
        if in_fleet(self):
            buttons[topics.FLEET_ESTOP] = self._on_fleet_estop
        for topic, receive in buttons.items():
            for qos in (RELIABLE, SENSOR, LATCHED):
                subscribe(self, Bool, topic, receive, qos, log_mismatch=False)
        self.create_service(Trigger, topics.private(topics.GATE_STOP), self._on_stop)
        self.create_service(Trigger, topics.private(topics.GATE_RELEASE), self._on_release)
        tick = _TICK_IN_LOCKSTEP if self.lockstep else _TICK
        self.create_timer(tick, self._tick, clock=self.steady)
        # Repeated: a subscriber that missed the release of an e-stop would wait for ever.
        self.create_timer(1.0, self._publish_state, clock=self.steady)
        self._publish_new_state()
        self.request_real_time(GATE_PRIORITY)

    def _on_state(self, state: np.ndarray, stamp: int) -> None:
        now = time.monotonic()
        self._stamp = stamp
        self._gate.receive_state(state, now, self._listener.since, stamp)
        self._pending_is_due = self._pending_teleop is not None and not self._is_answered(stamp)
        if self.lockstep:
            self._send_pending_teleop()

    def _send_pending_teleop(self) -> None:
        """A state was received: send the person's command that waits for it."""
        due, self._pending_is_due = self._pending_is_due, False
        if not due or self._pending_teleop is None:
            return
        (_, received_at, values), self._pending_teleop = self._pending_teleop, None
        # States that come again after a gap must not bring back an old command.
        if self.lockstep or time.monotonic() - received_at < self.task.robot.teleop_timeout:
            self._drive(values)

    def act_on_messages(self, late: bool) -> None:
        """Pass commands on, after all states that have arrived are received.

        Otherwise, after a stall, an old state would date a command that takes effect only now. A
        person's command then waits for a state that comes in time: the robot may be about to take
        its next step.
        """
        self._pending_is_due &= not late
        self._send_pending_teleop()
        while self._policy_commands:
            self._on_policy_command(self._policy_commands.popleft())

    def _on_policy_command(self, message: JointState) -> None:
        if message.header.frame_id == STOP_SOURCE:
            self._lose_policy('inactive')
            return
        stamp = stamp_ns(message)
        if self._is_answered(stamp):
            return
        values = message.position if message.name == self._names else ()
        late = self._gate.counts['policy late']
        self._execute(self._gate.request(POLICY_SOURCE, values, time.monotonic(), stamp), stamp)
        if self._gate.counts['policy late'] > late and self.may_log('late'):
            age = (self._stamp - stamp) * 1e-9
            self.get_logger().warning(
                f'{topics.COMMAND} ignored: it answers a state {abs(age):.3f} s '
                f'{"older" if age >= 0 else "newer"} than the latest one, or is out of order'
            )

    def _on_liveliness(self, info: QoSLivelinessChangedInfo) -> None:
        if info.alive_count == 0:
            self._lose_policy('gone')

    def _lose_policy(self, why: str) -> None:
        self._execute(self._gate.stop_policy(why, time.monotonic()))
        self._publish_new_state()

    def _is_answered(self, stamp: int) -> bool:
        """Lockstep: whether the answer to this state is on its way to the world.

        A second answer would make the world take a further step.
        """
        answered = self.lockstep and stamp == self._answered
        return answered and time.monotonic() - self._answered_at < _DELIVERY_TIME

    def _on_teleop(self, source: TeleopSource, message: Any) -> None:
        topic, now = source.source.topic, time.monotonic()
        try:
            asked = source.read(message, now)
        except ValueError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            asked = TeleopCommand(dict.fromkeys(self._names, math.nan))  # becomes a stop
        self._log_complaint(topic, source.complaint)
        deadman = self._deadmen.get(topic)
        if asked.values is None or (deadman and not deadman.pressed(now)):
            self._end_teleop(topic, asked.released)
            return
        if self._is_repeated(topic, stamp_ns(message) or 0):
            return
        # A command sent between two states could take effect before or after the robot's next step.
        # So a person's command is sent when a state arrives, as a policy's is.
        waits = self._stamp == self._answered if self.lockstep else self._gate.state_is_fresh(now)
        if waits:
            self._pending_teleop = topic, now, asked.values
        else:
            self._drive(asked.values)

    def _on_deadman(self, topic: str, message: Any) -> None:
        deadman, now = self._deadmen[topic], time.monotonic()
        was_pressed = deadman.pressed(now)
        try:
            deadman.read(message, now)
        except ValueError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
        self._log_complaint(topic, deadman.complaint)
        if not deadman.pressed(now):
            self._end_teleop(topic, was_pressed)

    def _log_complaint(self, topic: str, complaint: str) -> None:
        """Log why nothing moves while somebody presses a dead-man switch."""
        if complaint and self.may_log(f'deadman of {topic}'):
            self.get_logger().warning(f'{topic}: {complaint}')

    def _end_teleop(self, topic: str, released: bool) -> None:
        """Nobody drives by this topic; ``released``: its dead-man switch was just released."""
        if released and not self.lockstep:  # in lockstep the world stands still anyway
            self._execute(self._gate.stop('deadman released', time.monotonic()))
        if self._pending_teleop is not None and self._pending_teleop[0] == topic:
            self._pending_teleop = None

    def _is_repeated(self, topic: str, stamp: int) -> bool:
        """Whether a teleop message repeats an old one, for a person who is gone, or is late."""
        before = self._teleop_stamps.get(topic, 0)
        if self.lockstep or not stamp:
            return False
        if 0 <= before - stamp < self.task.robot.teleop_timeout * 1e9:
            return True
        self._teleop_stamps[topic] = stamp
        return False

    def _drive(self, requested: dict[str, float]) -> None:
        defaults = zip(self._names, self._gate.idle_command, strict=True)
        values = [requested.get(name, default) for name, default in defaults]
        self._execute(self._gate.request(TELEOP_SOURCE, values, time.monotonic()))

    def _on_estop(self, message: Bool) -> None:
        decision = self._gate.receive_estop(message.data, time.monotonic())
        if decision is not None:
            self._engage_estop(decision)

    def _on_fleet_estop(self, message: Bool) -> None:
        """Stop with all robots; the silence of this topic, unlike that of our own, is no stop."""
        self._fleet_stopped = message.data
        if message.data:
            self._engage_estop(self._gate.engage_estop('fleet', time.monotonic()))

    def _on_stop(self, _request: Any, response: Any) -> Any:
        self._engage_estop(self._gate.engage_estop('service', time.monotonic()))
        response.success, response.message = (
            True,
            f'e-stop latched; call {topics.GATE_RELEASE} to go on',
        )
        return response

    def _on_release(self, _request: Any, response: Any) -> Any:
        if self._fleet_stopped:
            refusal = f'{topics.FLEET_ESTOP} still says true: it must say false first'
        else:
            refusal = self._gate.release(time.monotonic())
        self._publish_new_state()
        response.success, response.message = not refusal, refusal or 'released'
        return response

    def _engage_estop(self, decision: Decision) -> None:
        self._pending_teleop = None
        self.get_logger().warning(f'e-stop by {self._gate.estop}', throttle_duration_sec=5.0)
        if not self._is_answered(self._stamp):
            self._execute(decision)
        self._publish_new_state()

    def _tick(self) -> None:
        self._execute(self._gate.tick(time.monotonic()))
        self._robot.poll()
        self._publish_new_state()

    def _execute(self, decision: Decision | None, answers: int | None = None) -> None:
        """Send a decision; ``answers``: stamp of the state that it answers, None: the latest."""
        if decision is None:
            return
        stamp = self._stamp if answers is None else answers
        if not self.lockstep:  # it may have overtaken the state that it answers
            stamp = max(stamp, self._stamp)
        else:  # without a subscriber, the state may be answered again at once
            self._answered = stamp
            self._answered_at = time.monotonic() if self._robot.has_subscribers else -math.inf
        stamp = min(max(stamp, 0), _MAX_STAMP)
        self._robot.publish(decision.values, stamp, decision.source == STOP_SOURCE)
        self._gate.mark_sent(time.monotonic())
        values = self._gate.fill_unknown(decision.values)
        if decision.repeated or not np.isfinite(values).all():
            return
        self._executed.publish(command_message(self._names, values, stamp, decision.source))
        if decision.clipped and self._clipped.get_subscription_count():
            names, excess = list(decision.clipped), list(decision.clipped.values())
            self._clipped.publish(command_message(names, excess, stamp, decision.requested_by))
        if decision.reason and self.may_log('decision'):
            self.get_logger().warning(f'{decision.source}: {decision.reason}')

    def _publish_new_state(self) -> None:
        if self._gate.state != self._published_state:
            self._publish_state()

    def _publish_state(self) -> None:
        self._published_state = self._gate.state
        self._state.publish(String(data=self._published_state))

    def report(self) -> tuple[bytes, str, dict[str, Any]]:
        """State of the gate, and how often it clipped or refused commands."""
        gate = self._gate
        level = DiagnosticStatus.OK if gate.state == 'ok' else DiagnosticStatus.WARN
        faults = [f'{label}: {fault}' for label, fault in self._robot.faults.items() if fault]
        if faults:
            level = DiagnosticStatus.WARN
        if gate.estop:
            level = DiagnosticStatus.ERROR
        values = {
            'state': gate.state,
            'estop': gate.estop,
            'clipped': gate.clipped,
            'refused': gate.refused,
            'malformed': self.refused,
            'failed_requests': self._robot.failures,
            **self._robot.faults,
            **gate.counts,
        }
        return level, '; '.join([gate.state + self._silent_topics(), *faults]), values

    def _silent_topics(self) -> str:
        """The topics that make a state stale, for a message."""
        silent = self._listener.silent()
        if not silent or self._gate.state not in ('waiting for state', 'stale state'):
            return ''
        return f': no message on {", ".join(silent)}'

    def close(self) -> None:
        """Send the stop command: a velocity controller keeps its last command for ever."""
        self._execute(self._gate.stop('gate shut down', time.monotonic()))
        self._robot.flush(0.5)
        time.sleep(0.05)  # let the middleware send before the context goes


def main() -> None:
    """Entry point of the node."""
    main_exit(SafetyGateNode)


if __name__ == '__main__':
    main()
