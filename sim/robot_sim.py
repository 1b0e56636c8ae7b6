"""The simulated robot: a world behind the topics of a robot profile."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from std_msgs.msg import UInt32
from std_srvs.srv import Trigger

from mbarl_ros.demos.replay import Replay
from mbarl_ros.nodes.support.demonstrations import load_replays
from mbarl_ros.nodes.support.qos import LATCHED, RELIABLE, RELIABLE_STEPS
from mbarl_ros.nodes.support.robot_requests import refuse_lockstep
from mbarl_ros.nodes.support.runtime import BaseNode, main_exit, message_class
from mbarl_ros.nodes.support.world_reset import reset_answer
from mbarl_ros.schema import topics
from mbarl_ros.schema.base import ConfigError, SimulatorError
from mbarl_ros.schema.field_maps import RobotTopic
from mbarl_ros.schema.message_fields import TopicCodec, set_stamp
from mbarl_ros.storage.files import unwritable
from mbarl_sim import camera
from mbarl_sim.camera import SimulatedCamera
from mbarl_sim.frames import SimulatedFrames
from mbarl_sim.request_servers import serve

# Lockstep: time (s, steady clock) without a command after which the state is published again, so
# that a node that was started late, or restarted, has something to answer.
REPEAT_AFTER = 0.5
BLIND_LIMIT = 60.0  # s of robot time in lockstep without a whole state, after which none will come
# Real time: resolution (s, steady clock) with which stalls of this process are measured.
TICK = 0.02


class RobotSim(BaseNode):
    """Publishes states, obeys commands and keeps simulated time.

    Publishes the profile's state topics and ``/clock``; subscribes to its command topics and, in
    real time, serves its command actions and services. The service ``~/reset`` (Trigger) resets
    the world, one step later in time; the message of its answer is JSON:
    ``{"resets": 3, "stamp_ns": 41700000000}``, the stamp of the first state after the reset.
    ``~/resets`` (UInt32, latched) counts resets.

    A topic with an entry that the world did not measure (``unseen``) is left out.

    In lockstep the world stands still until a whole command has arrived, then takes one step, or
    as many as pass until all topics are measured again. In real time it takes ``control_rate *
    real_time_factor`` steps a second with the last command, which it keeps for ever, as a velocity
    controller does: stopping it is the gate's duty. While this process is stalled, simulated time
    stands still: it never takes two steps at once, the second without an answer to the first.

    With parameter ``camera`` it is also a camera that looks at the world: see
    :class:`~mbarl_sim.camera.SimulatedCamera`. With parameter ``frames`` it publishes what RViz
    needs to draw the robot: see :class:`~mbarl_sim.frames.SimulatedFrames`.

    Parameters: ``real_time_factor``, ``demonstrations`` (reset to their starts, in turn),
    ``wide_starts`` (reset to the world's wide starts, in turn), ``publish_clock`` (false: stamps by
    the system clock, as a robot does), ``step_log`` (a file that gets what really happened: a JSON
    line for each step with ``stamp`` in ns, ``state`` before it, ``command`` and ``next_state``).
    """

    def __init__(self) -> None:
        """Build the world and connect it to the robot's topics.

        :raises ConfigError: world and robot profile do not fit, or a file cannot be used.
        """
        super().__init__('robot_sim')
        self.setup(
            {
                'real_time_factor': (1.0, 'Realtime: simulated seconds per second'),
                'demonstrations': ('', 'Demonstrations to whose starts it is reset; empty: none'),
                'wide_starts': (False, 'Reset to the wide starts of the world, one after another'),
                'publish_clock': (True, 'False: stamps by the system clock and no /clock'),
                'step_log': ('', 'File that gets a JSON line for each executed step; empty: none'),
                'frames': (False, 'Publish the frames and the description of the robot'),
                **camera.PARAMETERS,
            }
        )
        robot = self.task.robot
        self._world = self.task.load_world(seed=self.seed)
        if self.value('wide_starts') and not hasattr(self._world.world, 'reset_to_wide'):
            raise ConfigError(
                f"parameter 'wide_starts': world {self.task.config.world} has no method "
                "'reset_to_wide'; leave it false"
            )
        if robot.transforms:
            raise ConfigError(
                f"robot '{robot.name}': {robot.transforms[0].source}: simulated robots publish no "
                'TF; give a profile with a topic in its place'
            )
        self._period_ns = round(1e9 / robot.control_rate)
        self._time_ns = 0
        self._steps = self._resets = self._refused = self._refused_reported = 0
        self._reported = (time.monotonic(), 0)
        self._arrived: set[int] = set()
        self._topics = [
            (
                topic.topic,
                TopicCodec(topic),
                message_class(topic.type)(),
                self.create_publisher(message_class(topic.type), topic.topic, RELIABLE_STEPS),
            )
            for topic in robot.state
        ]
        self._clock_message = Clock()
        self._clock_publisher = (
            self.create_publisher(Clock, topics.CLOCK, QoSProfile(depth=1))
            if self.value('publish_clock')
            else None
        )
        self._resets_publisher = self.create_publisher(
            UInt32, topics.private(topics.SIM_RESETS), LATCHED
        )
        refuse_lockstep(self, robot)
        start = 0
        for index, entry in enumerate(robot.command):
            codec = TopicCodec(entry)
            where = slice(start, start := start + len(codec.names))
            if isinstance(entry, RobotTopic):
                self.create_subscription(
                    message_class(entry.type),
                    entry.topic,
                    partial(self._receive, index, codec, where),
                    RELIABLE,
                )
            else:
                serve(self, entry, partial(self._take, codec, where))
        self.create_service(Trigger, topics.private(topics.SIM_RESET), self._on_reset)
        if self.lockstep:
            self.create_timer(REPEAT_AFTER, self._repeat, clock=self.steady)
        else:
            factor = self.value('real_time_factor')
            if not (math.isfinite(factor) and factor > 0):
                raise ConfigError(f"parameter 'real_time_factor' must be above 0, got {factor}")
            self._pace = Pace(1 / (robot.control_rate * factor))
            self.create_timer(self._pace.tick, self._keep_pace, clock=self.steady)
        self._log = self._open_log()
        self._last_publication = -math.inf
        self._resets_publisher.publish(UInt32(data=0))
        self._starts = self._load_starts()
        state = self._reset_world()
        self._camera = SimulatedCamera(self, self._world) if self.value('camera') else None
        self._frames = SimulatedFrames(self, self._world) if self.value('frames') else None
        self._publish(state)

    def _load_starts(self) -> list[Replay]:
        folder = self.value('demonstrations')
        return load_replays(Path(folder), self.task) if folder else []

    def _open_log(self) -> IO[str] | None:
        path = self.value('step_log')
        try:
            return open(path, 'a', buffering=1) if path else None
        except OSError as error:
            raise ConfigError(f"parameter 'step_log': {unwritable(path, error)}") from error

    def _reset_world(self) -> np.ndarray:
        """Reset the world, to the start of a demonstration if there are any; its state."""
        wide = self.value('wide_starts')
        state = self._world.reset_to_wide(self._resets) if wide else self._world.reset()
        if self._starts:
            start = self._starts[self._resets % len(self._starts)].start(state)
            state = self._world.set_state(start)
        self._command = self._rest_command(state)
        self._silent: list[str] = []  # topics that lack an entry in the present state
        return state

    def _receive(self, index: int, codec: TopicCodec, where: slice, message: Any) -> None:
        if self._take(codec, where, message) or not self.lockstep:
            return
        self._arrived.add(index)
        if len(self._arrived) == len(self.task.robot.command):
            self._arrived.clear()
            self._step()

    def _take(self, codec: TopicCodec, where: slice, message: Any) -> str:
        """Take a command, goal or request; why it is refused, or an empty text."""
        try:
            values = codec.decode(message)
        except ValueError as error:
            return self._refuse(str(error))
        if not all(map(math.isfinite, values)):
            return self._refuse(f'{codec.label}: command {values} is not finite')
        self._command[where] = values
        return ''

    def _refuse(self, reason: str) -> str:
        self._refused += 1
        self._reason = reason
        self.get_logger().error(reason, throttle_duration_sec=5.0)
        return reason

    def _keep_pace(self) -> None:
        if self._pace.due(time.monotonic()):
            self._step()
        self._pace.worked(time.monotonic())

    def _step(self) -> None:
        self._advance()
        blind = 0  # steps
        while self.lockstep and self._silent:
            # Nobody answers a state that lacks a topic. As on a robot the command stays in force,
            # until the gate stops for want of a whole state.
            blind += 1
            seconds = blind / self._world.control_rate
            if seconds > BLIND_LIMIT:
                raise SimulatorError(
                    f'{", ".join(self._silent)}: nothing measured for {BLIND_LIMIT:g} s of robot '
                    'time; correct what the world lists as unseen'
                )
            if seconds > self.task.robot.state_timeout:
                self._command = self._rest_command(self._state)
            self._advance()

    def _advance(self) -> None:
        """One step of the world."""
        stamp, before = self._time_ns, self._state
        state = self._world.step(self._command)
        unseen = set(getattr(self._world, 'unseen', ()))
        self._silent = [
            topic for topic, codec, *_ in self._topics if not unseen.isdisjoint(codec.names)
        ]
        self._steps += 1
        self._time_ns += self._period_ns
        self._publish(state)
        if self._log is not None:
            step = {'stamp': stamp, 'state': before, 'command': self._command.tolist()}
            print(json.dumps({**step, 'next_state': self._state}), file=self._log)

    def _on_reset(self, _request: Any, response: Any) -> Any:
        self._resets += 1
        state = self._reset_world()
        self._arrived.clear()
        self._resets_publisher.publish(UInt32(data=self._resets))
        # A new state needs a new stamp, and time must never run backwards.
        self._time_ns += self._period_ns
        self._publish(state)
        response.success = True
        response.message = reset_answer(self._resets, self._time_ns)
        return response

    def _rest_command(self, state: Sequence[float]) -> np.ndarray:
        """The command in force before the first one: positions are held, all else is 0."""
        limits, names = self.task.robot.limits, self._world.state_names
        return np.array(
            [
                state[names.index(name)] if limits[name].stop == 'hold' and name in names else 0.0
                for name in self.task.robot.command_names
            ]
        )

    def _publish(self, state: np.ndarray) -> None:
        self._state = state.tolist()
        self._publish_state()

    def _publish_state(self) -> None:
        start = 0
        stamp = self._time_ns if self._clock_publisher else time.time_ns()
        for topic, codec, message, _ in self._topics:
            end = start + len(codec.names)
            if topic not in self._silent:
                codec.encode(message, self._state[start:end])
                set_stamp(message, stamp)
            start = end
        # One right after the other: whoever waits for a whole state then wakes up less often.
        for topic, _, message, publisher in self._topics:
            if topic not in self._silent:
                publisher.publish(message)
        # After the state, for which others wait.
        if self._clock_publisher and self._clock_publisher.get_subscription_count():
            clock = self._clock_message.clock
            clock.sec, clock.nanosec = divmod(self._time_ns, 1_000_000_000)
            self._clock_publisher.publish(self._clock_message)
        if self._camera is not None:
            self._camera.publish(self._time_ns, stamp)
        if self._frames is not None:
            self._frames.publish(stamp)
        self._last_publication = time.monotonic()

    def _repeat(self) -> None:
        if time.monotonic() - self._last_publication >= REPEAT_AFTER:
            self._publish_state()

    def report(self) -> tuple[bytes, str, dict[str, Any]]:
        """Steps, resets, refused commands and speed."""
        now = time.monotonic()
        before, steps = self._reported
        self._reported = (now, self._steps)
        speed = (self._steps - steps) / max(now - before, 1e-3)
        values = {
            'steps': self._steps,
            'resets': self._resets,
            'refused_commands': self._refused,
            'put_right': getattr(self._world, 'put_right', 0),
            'steps_per_second': f'{speed:.0f}',
            'simulated_seconds': f'{self._time_ns * 1e-9:.1f}',
        }
        new, self._refused_reported = self._refused - self._refused_reported, self._refused
        if new:
            return DiagnosticStatus.WARN, f'{new} commands refused: {self._reason}', values
        return DiagnosticStatus.OK, '', values

    def close(self) -> None:
        """Free the world."""
        self._world.close()


class Pace:
    """Tells when the next step is due, by the time in which this process was able to run.

    To be asked every ``tick`` s. Where it was not asked for more than two ticks, although the
    process did not work itself, the process was stalled, and that time does not count.
    """

    def __init__(self, period: float) -> None:
        """:param period: s from step to step."""
        self._period = period
        self.tick = period / max(int(period / TICK), 1)
        self._elapsed = 0.0  # s of the present period
        self._called_at = self._finished_at = -math.inf  # steady s

    def due(self, now: float) -> bool:
        """Whether to step now (steady s)."""
        self._called_at, idle = now, now - self._finished_at
        if idle <= 2 * self.tick:
            self._elapsed += idle
        # The timer's delay varies: step at the tick that is nearest.
        if self._elapsed < self._period - self.tick / 2:
            return False
        self._elapsed = min(self._elapsed - self._period, self.tick)  # a larger delay is dropped
        return True

    def worked(self, now: float) -> None:
        """The work that was due is finished; its time counts."""
        self._elapsed += now - self._called_at
        self._finished_at = now


def main() -> None:
    """Entry point of the node."""
    main_exit(RobotSim)


if __name__ == '__main__':
    main()
