"""A scripted operator in place of a person: drives the simulated robot and records it."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import numpy as np
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from std_srvs.srv import Trigger

from mbarl_ros.nodes.support.qos import RELIABLE
from mbarl_ros.nodes.support.robot_topics import StateListener
from mbarl_ros.nodes.support.runtime import BaseNode, main_exit, message_class
from mbarl_ros.schema import topics
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.exit_codes import EXIT_FAILURE
from mbarl_ros.schema.message_fields import TopicCodec
from mbarl_ros.storage.transitions import DIRECTIONS
from mbarl_sim.operators import operator_for

STATE = object()  # yielded by the script to wait for a state that it has not answered
TIMEOUT = 20.0  # s without a state or an answer after which it gives up
MAX_STEPS = 400
DEFAULT_EPISODES = 3
DEFAULT_EPISODES_IN_TURNS = 24  # forward and backward

Script = Generator[Any, Any, None]


class ScriptedOperator(BaseNode):
    """Records ``episodes`` demonstrations and exits: 0 if all were successes, else 1.

    Publishes on the profile's first teleop topic, one command for each state, which no person with
    a gamepad could do but a lockstep simulation needs. Subscribes to the state topics, and calls
    the services of ``demo_recorder`` and ``robot_sim/reset``. Where the operator drives both
    directions, demonstrations go forward and backward in turns, one goal after the other, without
    resets; else, or with ``wide_starts``, each starts with a reset.
    """

    def __init__(self) -> None:
        """Connect to the teleop topics and to the services of recorder and simulation."""
        super().__init__('scripted_operator')
        self.setup(
            {
                'episodes': (0, 'Demonstrations to record; 0: 3, or 24 in turns'),
                'wide_starts': (False, 'Reset to a wide start before each demonstration'),
            }
        )
        robot = self.task.robot
        source = next(iter(robot.teleop), None)
        if source is None or set(source.fields) != set(robot.command_names):
            raise ConfigError(
                f"robot '{robot.name}': key 'teleop': the first must carry the whole command "
                f'({", ".join(robot.command_names)}) for a scripted operator'
            )
        self._operator = operator_for(self.task, self.seed)
        self._in_turns = self._operator.directions == DIRECTIONS
        default = DEFAULT_EPISODES_IN_TURNS if self._in_turns else DEFAULT_EPISODES
        self._episodes = self.value('episodes') or default
        self._codec, self._kind = TopicCodec(source), message_class(source.type)
        self._teleop = self.create_publisher(self._kind, source.topic, RELIABLE)
        self._triggers = {
            name: self.create_client(Trigger, name)
            for name in (
                topics.SIM_RESET,
                topics.RECORDER_START,
                topics.RECORDER_SUCCESS,
                topics.RECORDER_DISCARD,
            )
        }
        self._settings = self.create_client(SetParameters, topics.RECORDER_SET_PARAMETERS)
        self._latest: tuple[np.ndarray, int] | None = None
        self._answered = -1  # stamp of the last state that was answered with a command
        self._last_command: np.ndarray | None = None
        self._waits_for_state = False
        self._last_progress = time.monotonic()
        self.recorded = 0
        StateListener(self, robot, self.lockstep, self._on_state)
        self._script: Script | None = None
        self.create_timer(0.2, self._watch, clock=self.steady)

    # --- the script --------------------------------------------------------------------------

    def _run(self) -> Script:
        goals = self.task.goals
        for number in range(self._episodes):
            direction, goal = DIRECTIONS[0], None
            if self._in_turns:
                direction = DIRECTIONS[number % 2]
            if self.value('wide_starts') or not self._in_turns:
                yield from self._reset()
            if self.task.goal_conditioned:
                goal = goals[number // 2 % len(goals)]
            yield from self._configure(direction)
            if not (yield from self._demonstrate(direction, goal)):
                self.exit_code = EXIT_FAILURE
        if self.exit_code:
            self.get_logger().error(f'{self.recorded} of {self._episodes} demonstrations succeeded')
        else:
            self.get_logger().info(f'{self.recorded} demonstrations recorded')

    def _demonstrate(self, direction: str, goal: np.ndarray | None) -> Generator[Any, Any, bool]:
        """Record one demonstration; returns whether it was kept."""
        state = yield STATE
        yield from self._call(topics.RECORDER_START)
        self._operator.begin(direction, goal)
        for _ in range(MAX_STEPS):
            command = self._operator.command(state)
            if command is None:
                break
            self._drive(command)
            state = yield STATE
        else:
            yield from self._call(topics.RECORDER_DISCARD)
            self.get_logger().error(
                f'{direction}: goal not reached after {MAX_STEPS} steps, discarded'
            )
            return False
        yield from self._call(topics.RECORDER_SUCCESS)
        self.recorded += 1
        return True

    def _reset(self) -> Script:
        self._answered = self._latest[1]
        yield from self._call(topics.SIM_RESET)
        if not self.lockstep:  # states from before the reset may still be on their way
            for _ in range(2):
                self._answered = self._latest[1]
                yield STATE

    def _configure(self, direction: str) -> Script:
        parameters = [
            Parameter(
                name=name,
                value=ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=value),
            )
            for name, value in (('direction', direction), ('operator', 'scripted'))
        ]
        request = SetParameters.Request(parameters=parameters)
        answer = yield self._settings.call_async(request)
        for result in answer.results:
            if not result.successful:
                raise RuntimeError(f'demo_recorder refused a parameter: {result.reason}')

    def _call(self, service: str) -> Script:
        answer = yield self._triggers[service].call_async(Trigger.Request())
        if not answer.success:
            raise RuntimeError(f'service {service}: {answer.message}')

    # --- events ------------------------------------------------------------------------------

    def _drive(self, command: np.ndarray) -> None:
        self._answered = self._latest[1]
        self._last_command = command
        values = dict(zip(self.task.robot.command_names, command.tolist(), strict=True))
        ordered = [values[name] for name in self._codec.names]
        self._teleop.publish(self._codec.encode(self._kind(), ordered))

    def _on_state(self, state: np.ndarray, stamp: int) -> None:
        self._latest = (state, stamp)
        if self._waits_for_state and stamp > self._answered:
            self._advance(state)
        elif self._waits_for_state and self.lockstep and self._last_command is not None:
            # The world repeats its state: the gate had not discovered this node yet.
            self._drive(self._last_command)

    def _advance(self, value: Any) -> None:
        """Run the script until it waits for a service's answer or for a state to answer."""
        self._last_progress = time.monotonic()
        self._waits_for_state = False
        try:
            awaited = self._script.send(value)
            while awaited is STATE and self._latest[1] > self._answered:
                awaited = self._script.send(self._latest[0])
        except StopIteration:
            self.finished = True
            return
        except RuntimeError as error:
            self._give_up(str(error))
            return
        if awaited is STATE:
            self._waits_for_state = True
        else:
            awaited.add_done_callback(lambda future: self._advance(future.result()))

    def _watch(self) -> None:
        if self._script is None:
            clients = [*self._triggers.values(), self._settings]
            if self._latest is not None and all(client.service_is_ready() for client in clients):
                self._script = self._run()
                self._advance(None)
        if time.monotonic() - self._last_progress > TIMEOUT and not self.finished:
            self._give_up(
                f'no state or answer for {TIMEOUT:.0f} s; are robot_sim, safety_gate and '
                'demo_recorder running, and is the e-stop released?'
            )

    def _give_up(self, reason: str) -> None:
        self.get_logger().error(reason)
        self.exit_code, self.finished = EXIT_FAILURE, True


def main() -> None:
    """Entry point of the node."""
    main_exit(ScriptedOperator)


if __name__ == '__main__':
    main()
