"""The simulated robot: a world that speaks exactly the topics of a robot profile."""

from __future__ import annotations

import json
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from std_msgs.msg import UInt32
from std_srvs.srv import Trigger

from mbarl_ros.demos.metadata import DemonstrationError
from mbarl_ros.demos.replay import Replay, load_replays
from mbarl_ros.nodes.support.runtime import (
    LATCHED,
    RELIABLE,
    RELIABLE_STEPS,
    BaseNode,
    main_exit,
    message_class,
)
from mbarl_ros.schema import topics
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import load_world
from mbarl_ros.schema.message_fields import TopicCodec, set_stamp
from mbarl_ros.schema.robot import RobotConfig
from mbarl_sim.worlds import World

# In lockstep, silence (s, steady clock) after which the state is said again: whoever was started
# late, or anew, then has something to answer.
SILENCE = 0.5
# Real time: how finely (s, steady clock) time is told in which this process was held up.
TICK = 0.02


class RobotSim(BaseNode):
    """Publishes states, obeys commands and keeps simulated time.

    In lockstep the world stands still until a whole command has arrived, then takes one step. In
    real time it steps ``control_rate * real_time_factor`` times a second with the last command,
    which it keeps for ever, as a velocity controller does: to stop it is the gate's duty. While the
    computer holds it up, its time stands still: it never takes two steps one upon the other, the
    second without an answer to the first.
    ``~/reset`` places the world anew, one step later in time, and answers with the stamp of that
    state; ``~/resets`` (latched) counts that.
    ``step_log`` holds what really happened, for whoever wants to compare: a JSON line for each step
    with ``stamp`` (ns) and ``state`` before it, ``command`` and ``next_state``.
    Given ``demonstrations``, it is placed where they start, one after the other. Without
    ``publish_clock`` it stamps by the system's clock, as a robot does.
    """

    def __init__(self) -> None:
        """Build the world and connect it to the robot's topics.

        :raises ConfigError: the world and the robot profile do not fit.
        """
        super().__init__('robot_sim')
        self.setup(
            {
                'real_time_factor': (1.0, 'Realtime: simulated seconds per second'),
                'demonstrations': ('', 'Demonstrations to be placed at the starts of; empty: none'),
                'publish_clock': (True, 'False: stamps by the system clock and no /clock'),
                'step_log': ('', 'File that gets a JSON line for each executed step; empty: none'),
            }
        )
        robot = self.task.robot
        self._world = load_world(self.task.config, seed=self.seed)
        self._order = _state_order(self._world, robot)
        self._period_ns = round(1e9 / robot.control_rate)
        self._time_ns = 0
        self._steps = self._resets = self._refused = self._refused_reported = 0
        self._reported = (time.monotonic(), 0)
        self._arrived: set[int] = set()
        self._topics = [
            (
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
        start = 0
        for index, topic in enumerate(robot.command):
            codec = TopicCodec(topic)
            where = slice(start, start := start + len(codec.names))
            self.create_subscription(
                message_class(topic.type),
                topic.topic,
                partial(self._receive, index, codec, where),
                RELIABLE,
            )
        self.create_service(Trigger, topics.private(topics.SIM_RESET), self._on_reset)
        if self.lockstep:
            self.create_timer(SILENCE, self._repeat, clock=self.steady)
        else:
            factor = self.value('real_time_factor')
            if not (math.isfinite(factor) and factor > 0):
                raise ConfigError(f"parameter 'real_time_factor' must be above 0, got {factor}")
            self._pace = Pace(1 / (robot.control_rate * factor))
            self.create_timer(self._pace.tick, self._keep_pace, clock=self.steady)
        path = self.value('step_log')
        self._log = open(path, 'a', buffering=1) if path else None
        self._last_publication = -math.inf
        self._resets_publisher.publish(UInt32(data=0))
        self._starts = self._load_starts()
        self._publish(self._place())

    def _load_starts(self) -> list[Replay]:
        folder = self.value('demonstrations')
        try:
            return load_replays(Path(folder), self.task) if folder else []
        except DemonstrationError as error:
            raise ConfigError(str(error)) from None

    def _place(self) -> np.ndarray:
        """Place the world for the present number of resets; its state."""
        state = self._world.reset()
        if self._starts:
            start = self._starts[self._resets % len(self._starts)].start(state[self._order])
            placed = state.copy()
            placed[self._order] = start
            state = self._world.set_state(placed)
        self._command = self._rest(state)
        return state

    def _receive(self, index: int, codec: TopicCodec, where: slice, message: Any) -> None:
        try:
            values = codec.decode(message)
        except ValueError as error:
            self._refuse(str(error))
            return
        if not all(map(math.isfinite, values)):
            self._refuse(f"topic '{codec.topic}': command {values} is not finite")
            return
        self._command[where] = values
        if not self.lockstep:
            return
        self._arrived.add(index)
        if len(self._arrived) == len(self.task.robot.command):
            self._arrived.clear()
            self._step()

    def _refuse(self, reason: str) -> None:
        self._refused += 1
        self._reason = reason
        self.get_logger().error(reason, throttle_duration_sec=5.0)

    def _keep_pace(self) -> None:
        if self._pace.due(time.monotonic()):
            self._step()
        self._pace.worked(time.monotonic())

    def _step(self) -> None:
        stamp, before = self._time_ns, self._state
        state = self._world.step(self._command)
        self._steps += 1
        self._time_ns += self._period_ns
        self._publish(state)
        if self._log is not None:
            step = {'stamp': stamp, 'state': before, 'command': self._command.tolist()}
            print(json.dumps({**step, 'next_state': self._state}), file=self._log)

    def _on_reset(self, _request: Any, response: Any) -> Any:
        self._resets += 1
        state = self._place()
        self._arrived.clear()
        self._resets_publisher.publish(UInt32(data=self._resets))
        # A new state needs a new stamp, and time must never run backwards.
        self._time_ns += self._period_ns
        self._publish(state)
        response.success = True
        response.message = f'reset {self._resets} at {self._time_ns} ns'
        return response

    def _rest(self, state: np.ndarray) -> np.ndarray:
        """What a robot does that nobody has commanded: positions are held, all else is 0."""
        limits, names = self.task.robot.limits, self._world.state_names
        return np.array(
            [
                state[names.index(name)] if limits[name].stop == 'hold' and name in names else 0.0
                for name in self.task.robot.command_names
            ]
        )

    def _publish(self, state: np.ndarray) -> None:
        self._state = state[self._order].tolist()
        self._publish_state()

    def _publish_state(self) -> None:
        start = 0
        stamp = self._time_ns if self._clock_publisher else time.time_ns()
        for codec, message, publisher in self._topics:
            end = start + len(codec.names)
            codec.encode(message, self._state[start:end])
            set_stamp(message, stamp)
            publisher.publish(message)
            start = end
        # After the state, which somebody waits for.
        if self._clock_publisher and self._clock_publisher.get_subscription_count():
            clock = self._clock_message.clock
            clock.sec, clock.nanosec = divmod(self._time_ns, 1_000_000_000)
            self._clock_publisher.publish(self._clock_message)
        self._last_publication = time.monotonic()

    def _repeat(self) -> None:
        if time.monotonic() - self._last_publication >= SILENCE:
            self._publish_state()

    def report(self) -> tuple[bytes, str, dict[str, Any]]:
        """Steps, resets, commands refused and speed."""
        now = time.monotonic()
        before, steps = self._reported
        self._reported = (now, self._steps)
        speed = (self._steps - steps) / max(now - before, 1e-3)
        values = {
            'steps': self._steps,
            'resets': self._resets,
            'refused_commands': self._refused,
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
    """When the next step is due, in the time in which this process could run.

    Asked every ``tick`` s. Where it was not asked for more than two ticks, although it did not
    work itself, the computer held it up, and that time does not count.
    """

    def __init__(self, period: float) -> None:
        """:param period: s from step to step."""
        self._period = period
        self.tick = period / max(int(period / TICK), 1)
        self._passed = 0.0  # s of the present period
        self._asked = self._left = -math.inf  # steady s, when it was last asked, and done

    def due(self, now: float) -> bool:
        """Whether to step now (steady s)."""
        self._asked, idle = now, now - self._left
        if idle <= 2 * self.tick:
            self._passed += idle
        # The timer is late now by more, now by less: the tick is the one that is nearest.
        if self._passed < self._period - self.tick / 2:
            return False
        self._passed = min(self._passed - self._period, self.tick)  # too slow: what is late is lost
        return True

    def worked(self, now: float) -> None:
        """Done with what was due; that time counts."""
        self._passed += now - self._asked
        self._left = now


def _state_order(world: World, robot: RobotConfig) -> list[int]:
    """Index into the world's state for each entry of the robot's."""
    name = type(world).__name__
    missing = [entry for entry in robot.state_names if entry not in world.state_names]
    if missing:
        raise ConfigError(
            f"robot '{robot.name}': key 'state': world {name} has no {', '.join(missing)}; "
            f'it has {", ".join(world.state_names)}'
        )
    if world.command_names != robot.command_names:
        raise ConfigError(
            f"robot '{robot.name}': key 'command': world {name} takes "
            f'{", ".join(world.command_names)}, not {", ".join(robot.command_names)}'
        )
    if world.control_rate != robot.control_rate:
        raise ConfigError(
            f"robot '{robot.name}': key 'control_rate': is {robot.control_rate:g} Hz, world "
            f'{name} runs at {world.control_rate:g} Hz'
        )
    return [world.state_names.index(entry) for entry in robot.state_names]


def main() -> None:
    """Entry point of the node."""
    main_exit(RobotSim)


if __name__ == '__main__':
    main()
