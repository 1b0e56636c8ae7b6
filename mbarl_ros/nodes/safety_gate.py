"""The safety gate: a process of its own between everything and the robot."""

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
from mbarl_ros.nodes.support.robot_topics import (
    CommandPublisher,
    StateListener,
    command_message,
    subscribe,
)
from mbarl_ros.nodes.support.runtime import (
    HEARD_ALIVE,
    LATCHED,
    RELIABLE,
    RELIABLE_STEPS,
    SENSOR,
    BaseNode,
    main_exit,
    message_class,
)
from mbarl_ros.nodes.support.scheduling import GATE_PRIORITY
from mbarl_ros.schema import topics
from mbarl_ros.schema.message_fields import stamp_ns
from mbarl_ros.schema.robot import Switch

_TICK = 0.01  # s; how much later than its time-out a silence may be noticed
# Lockstep: within so long (s) a reliable subscriber has what was published. Fast DDS asks for what
# was lost every three seconds.
_DELIVERED = 4.0
_LAST_STAMP = 2**31 * 1_000_000_000 - 1  # ns; a message has no room for later


class SafetyGateNode(BaseNode):
    """Commands in, limited commands out, and what was executed published back.

    ``~/executed`` bears the stamp of the state that a command answers; in real time, where one may
    have been long on its way, that of the latest state here, from which on it is in force.
    Listens to ``policy_controller/command`` and the profile's teleop topics. If the controller lets
    go, or its process dies, which the middleware says, the gate stops the robot at once. Latches an
    e-stop by topic ``~/estop`` (std_msgs/Bool, true) or service ``~/stop``; only ``~/release`` ends
    it. ``~/clipped`` (JointState: frame_id the source, name the entries, position by how much) says
    what was taken off a command.
    """

    def __init__(self) -> None:
        """Declare parameters and connect to the robot's topics."""
        super().__init__('safety_gate')
        self.setup({'real_time_factor': (1.0, 'Robot seconds in a second, in simulation')})
        robot = self.task.robot
        self._names = list(robot.command_names)
        self._gate = SafetyGate(robot, self.lockstep, self.value('real_time_factor'))
        self._answered_at = -math.inf
        self._stamp = self._answered = -1  # nothing measured, nothing answered
        # What a person asked for last and has yet to go out: by which topic, when, and what.
        self._held: tuple[str, float, dict[str, float]] | None = None
        self._held_is_due = False
        # by the policy, to be judged by the latest state
        self._asked: deque[JointState] = deque(maxlen=RELIABLE.depth)
        self._teleop_stamps: dict[str, int] = {}
        self._announced = ''
        self._robot = CommandPublisher(self, robot)
        self._executed = self.create_publisher(
            JointState, topics.private(topics.EXECUTED), RELIABLE_STEPS
        )
        self._clipped = self.create_publisher(JointState, topics.private(topics.CLIPPED), RELIABLE)
        self._state = self.create_publisher(String, topics.private(topics.GATE_STATE), LATCHED)
        self._listener = StateListener(self, robot, self.lockstep, self._on_state)
        subscribe(self, JointState, topics.COMMAND, self._asked.append, RELIABLE)
        self.create_subscription(
            Empty,
            topics.CONTROLLER_ALIVE,
            lambda _message: None,
            HEARD_ALIVE,
            event_callbacks=SubscriptionEventCallbacks(liveliness=self._on_controllers),
        )
        self._deadmen: dict[str, DeadmanSwitch] = {}  # by the teleop topic that they belong to
        qos = RELIABLE if self.lockstep else SENSOR  # SENSOR hears every publisher
        for entry in robot.teleop:
            kind, source = message_class(entry.type), TeleopSource(entry)
            subscribe(self, kind, entry.topic, partial(self._on_teleop, source), qos)
            if isinstance(switch := entry.deadman, Switch):
                self._deadmen[entry.topic] = DeadmanSwitch(switch, robot.teleop_timeout)
                listen = partial(self._on_deadman, entry.topic)
                subscribe(self, message_class(switch.type), switch.topic, listen, qos)
        # Whatever the button's QoS: also unreliable, and pressed before this node started.
        for qos in (RELIABLE, SENSOR, LATCHED):
            subscribe(self, Bool, topics.private(topics.ESTOP), self._on_estop, qos, complain=False)
        self.create_service(Trigger, topics.private(topics.GATE_STOP), self._on_stop)
        self.create_service(Trigger, topics.private(topics.GATE_RELEASE), self._on_release)
        self.create_timer(_TICK, self._tick, clock=self.steady)
        # Said again and again: who missed that an e-stop was released would wait for ever.
        self.create_timer(1.0, self._say_state, clock=self.steady)
        self._announce()
        self.go_first(GATE_PRIORITY)

    def _on_state(self, state: np.ndarray, stamp: int) -> None:
        now = time.monotonic()
        self._stamp = stamp
        self._gate.receive_state(state, now, self._listener.since, stamp)
        self._held_is_due = self._held is not None and not self._is_on_its_way(stamp)
        if self.lockstep:
            self._drive_held()

    def _drive_held(self) -> None:
        """A state has come: what a person asked for goes out."""
        due, self._held_is_due = self._held_is_due, False
        if not due or self._held is None:
            return
        (_, asked_at, values), self._held, now = self._held, None, time.monotonic()
        # States that were away for a while must not bring back what was asked before.
        if self.lockstep or now - asked_at < self.task.robot.teleop_timeout:
            self._drive(values)

    def act_on_messages(self, late: bool) -> None:
        """Pass commands on: who was held up has first heard all states that came meanwhile.

        Otherwise the first of them would date what takes effect only now. What a person asked for
        waits for one that comes in time: the robot may be about to take its next step.
        """
        self._held_is_due &= not late
        self._drive_held()
        while self._asked:
            self._judge(self._asked.popleft())

    def _judge(self, message: JointState) -> None:
        if message.header.frame_id == STOP_SOURCE:
            self._lose_policy('inactive')
            return
        stamp = stamp_ns(message)
        if self._is_on_its_way(stamp):
            return
        values = message.position if message.name == self._names else ()
        late = self._gate.counts['policy late']
        self._execute(self._gate.request(POLICY_SOURCE, values, time.monotonic(), stamp), stamp)
        if self._gate.counts['policy late'] > late:
            apart = (self._stamp - stamp) * 1e-9
            self.get_logger().warning(
                f'policy_controller/command ignored: it answers a state {abs(apart):.3f} s '
                f'{"older" if apart >= 0 else "newer"} than the last one here, or is out of order',
                throttle_duration_sec=5.0,
            )

    def _on_controllers(self, alive: QoSLivelinessChangedInfo) -> None:
        if alive.alive_count == 0:
            self._lose_policy('gone')

    def _lose_policy(self, why: str) -> None:
        self._execute(self._gate.stop_policy(why, time.monotonic()))
        self._announce()

    def _is_on_its_way(self, stamp: int) -> bool:
        """Lockstep: whether the world has yet to hear the answer to this state, and will.

        A second one would make it take a step that nobody asked for.
        """
        answered = self.lockstep and stamp == self._answered
        return answered and time.monotonic() - self._answered_at < _DELIVERED

    def _on_teleop(self, source: TeleopSource, message: Any) -> None:
        try:
            asked = source.read(message)
        except ValueError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            asked = TeleopCommand(dict.fromkeys(self._names, math.nan))  # becomes a stop
        topic, now = source.source.topic, time.monotonic()
        deadman = self._deadmen.get(topic)
        if asked.values is None or (deadman and not deadman.pressed(now)):
            self._let_go(topic, asked.released)
            return
        if self._said_before(topic, stamp_ns(message) or 0):
            return
        # A command between two states could take effect before or after the robot's next step, and
        # nobody would know which: a person's commands go out as a state comes in, like a policy's.
        waits = self._stamp == self._answered if self.lockstep else self._gate.state_is_fresh(now)
        if waits:
            self._held = topic, now, asked.values
        else:
            self._drive(asked.values)

    def _on_deadman(self, topic: str, message: Any) -> None:
        deadman = self._deadmen[topic]
        try:
            released = deadman.receive(message, time.monotonic())
        except ValueError as error:  # and so it is open, soon
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            return
        if not deadman.pressed(time.monotonic()):
            self._let_go(topic, released)

    def _let_go(self, topic: str, released: bool) -> None:
        """Nobody drives by this topic; ``released``: any longer."""
        if released and not self.lockstep:  # in lockstep the world stands still anyway
            self._execute(self._gate.stop('deadman released', time.monotonic()))
        if self._held is not None and self._held[0] == topic:
            self._held = None

    def _said_before(self, topic: str, stamp: int) -> bool:
        """Whether a teleop message is one repeated for a person who is gone, or out of order."""
        before = self._teleop_stamps.get(topic, 0)
        if self.lockstep or not stamp:
            return False
        if 0 <= before - stamp < self.task.robot.teleop_timeout * 1e9:
            return True
        self._teleop_stamps[topic] = stamp
        return False

    def _drive(self, asked: dict[str, float]) -> None:
        rest = zip(self._names, self._gate.idle_command, strict=True)
        values = [asked.get(name, otherwise) for name, otherwise in rest]
        self._execute(self._gate.request(TELEOP_SOURCE, values, time.monotonic()))

    def _on_estop(self, message: Bool) -> None:
        decision = self._gate.receive_estop(message.data, time.monotonic())
        if decision is not None:
            self._engaged(decision)

    def _on_stop(self, _request: Any, response: Any) -> Any:
        self._engaged(self._gate.engage_estop('service', time.monotonic()))
        response.success, response.message = True, 'e-stop latched; call ~/release to go on'
        return response

    def _on_release(self, _request: Any, response: Any) -> Any:
        refusal = self._gate.release(time.monotonic())
        self._announce()
        response.success, response.message = not refusal, refusal or 'released'
        return response

    def _engaged(self, decision: Decision) -> None:
        self._held = None
        self.get_logger().warning(f'e-stop by {self._gate.estop}', throttle_duration_sec=5.0)
        if not self._is_on_its_way(self._stamp):
            self._execute(decision)
        self._announce()

    def _tick(self) -> None:
        self._execute(self._gate.tick(time.monotonic()))
        self._announce()

    def _execute(self, decision: Decision | None, answers: int | None = None) -> None:
        """Send what was decided; ``answers``: stamp of a state, None for the latest."""
        if decision is None:
            return
        stamp = self._stamp if answers is None else answers
        if not self.lockstep:  # it may have overtaken the state that it answers
            stamp = max(stamp, self._stamp)
        else:  # what nobody is there to hear may be asked for again at once
            self._answered = stamp
            self._answered_at = time.monotonic() if self._robot.is_heard else -math.inf
        stamp = min(max(stamp, 0), _LAST_STAMP)
        self._robot.publish(decision.values, stamp)
        self._gate.mark_sent(time.monotonic())
        values = self._gate.fill_unknown(decision.values)
        if decision.repeated or not np.isfinite(values).all():
            return
        self._executed.publish(command_message(self._names, values, stamp, decision.source))
        if decision.clipped and self._clipped.get_subscription_count():
            names, excess = list(decision.clipped), list(decision.clipped.values())
            self._clipped.publish(command_message(names, excess, stamp, decision.requested_by))
        if decision.reason:
            self.get_logger().warning(
                f'{decision.source}: {decision.reason}', throttle_duration_sec=5.0
            )

    def _announce(self) -> None:
        if self._gate.state != self._announced:
            self._say_state()

    def _say_state(self) -> None:
        self._announced = self._gate.state
        self._state.publish(String(data=self._announced))

    def report(self) -> tuple[bytes, str, dict[str, Any]]:
        """State of the gate and how often it clipped or refused."""
        gate = self._gate
        level = DiagnosticStatus.OK if gate.state == 'ok' else DiagnosticStatus.WARN
        if gate.estop:
            level = DiagnosticStatus.ERROR
        values = {
            'state': gate.state,
            'estop': gate.estop,
            'clipped': gate.clipped,
            'refused': gate.refused,
            'malformed': self.refused,
            **gate.counts,
        }
        return level, gate.state, values

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
