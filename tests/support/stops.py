"""How soon a fault stops the robot: from the fault to the stop command at the robot's side."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64MultiArray
from std_srvs.srv import Trigger

from mbarl_ros.schema.load import load_robot
from mbarl_ros.task import Task
from support.graph import Graph, demonstrate, small_agent, stolen_seconds

# A robot that reports at 20 Hz; s without a state after which the gate stops it.
STATE_TIMEOUT = 0.075
COMMANDS, STATES = 'forward_velocity_controller/commands', 'joint_states'


@dataclass(frozen=True)
class Window:
    """Three seconds of control: the longest time (s) without a command, control periods missed, and
    seconds of processor that the host gave to other machines meanwhile (``steal``, proc(5)).
    """

    gap: float
    missed: int
    stolen: float


class Arm:
    """An arm in real time behind the gate; the test receives what the arm receives."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.commands: list[tuple[float, bool]] = []  # time of receipt; whether anything moves
        self.last_state = -math.inf
        node = graph.node
        node.create_subscription(Float64MultiArray, COMMANDS, self._receive_command, 100)
        node.create_subscription(JointState, STATES, self._receive_state, 10)
        self.button = node.create_publisher(Bool, 'safety_gate/estop', 10)
        self.stop = node.create_client(Trigger, 'safety_gate/stop')
        graph.start('robot_sim', publish_clock=False)
        graph.start('safety_gate')

    def _receive_command(self, message: Float64MultiArray) -> None:
        self.commands.append((time.monotonic(), any(message.data)))

    def _receive_state(self, _message: JointState) -> None:
        self.last_state = time.monotonic()

    def _reports(self) -> bool:
        return time.monotonic() - self.last_state < STATE_TIMEOUT

    def _is_active(self) -> bool:
        """Activate the controller again if it has given up: it waited too long for its robot."""
        if self.graph.gave_up():
            return self.graph.change('activate')
        return 'policy_controller' in self.graph.statuses

    def drive(self, seconds: float) -> None:
        """Wait until it has been moving for a while."""
        self.commands.clear()
        self.graph.wait_for(
            'motion', lambda: self._is_active() and sum(moves for _, moves in self.commands) > 5
        )
        self.graph.spin(seconds)
        self.graph.wait_for('motion', lambda: self.commands[-1][1] and self._reports())

    def stopped_after(self, start: float) -> float:
        """Seconds from ``start`` to the first stop after which nothing moved for a while."""
        self.graph.spin(0.3)
        self.graph.wait_for('a stop', lambda: not self.commands[-1][1], 5)
        moves = [at for at, moves in self.commands if moves]
        first = min(at for at, moving in self.commands if not moving and at > moves[-1])
        return first - start


def _kill_controller(arm: Arm) -> float:
    start = time.monotonic()
    arm.graph.kill('policy_controller')
    try:
        return arm.stopped_after(start)
    finally:
        arm.graph.start('policy_controller', policy='random')


def _kill_robot(arm: Arm) -> float:
    start = time.monotonic()
    arm.graph.kill('robot_sim')
    try:
        return arm.stopped_after(start)
    finally:
        arm.graph.start('robot_sim', publish_clock=False)


def _suspend_robot(arm: Arm) -> float:
    process = arm.graph.processes['robot_sim']
    process.send_signal(signal.SIGSTOP)
    try:
        arm.graph.spin(0.01)  # receive what was sent before
        return arm.stopped_after(arm.last_state)
    finally:
        process.send_signal(signal.SIGCONT)


def _publish_estop(arm: Arm) -> float:
    start = time.monotonic()
    arm.button.publish(Bool(data=True))
    try:
        return arm.stopped_after(start)
    finally:
        arm.button.publish(Bool(data=False))
        arm.graph.spin(0.1)
        assert arm.graph.call('safety_gate/release').success


def _call_stop(arm: Arm) -> float:
    start = time.monotonic()
    arm.stop.call_async(Trigger.Request())
    try:
        return arm.stopped_after(start)
    finally:
        assert arm.graph.call('safety_gate/release').success


FAULTS: dict[str, Callable[[Arm], float]] = {
    'kill -9 of the controller': _kill_controller,
    'kill -9 of the robot driver': _kill_robot,
    'last state message of a hanging driver': _suspend_robot,
    'e-stop by topic': _publish_estop,
    'e-stop by service': _call_stop,
}


@contextmanager
def driven_arm(folder: Path) -> Iterator[Arm]:
    """A simulated arm in real time that a random policy drives."""
    with Graph(folder, task='arm_velocity', robot=_quick(folder), mode='realtime') as graph:
        arm = Arm(graph)
        graph.start('policy_controller', policy='random')
        yield arm


def measure(arm: Arm, fault: str, trials: int, seed: int = 0) -> list[float]:
    """Seconds from the fault to the stop at the robot, of each trial, at random moments."""
    chance = np.random.default_rng(seed)
    after = []
    for _ in range(trials):
        arm.drive(chance.uniform(0.1, 0.2))
        after.append(FAULTS[fault](arm))
    return after


def kill_learner(folder: Path, trials: int, seed: int = 0) -> tuple[list[Window], list[Window]]:
    """What the robot notices when the learner is killed, and as often when it is left alone.

    Each trial starts a learner and looks at it at work first, then at its death: what is the same
    in both is due to the machine.
    """
    chance = np.random.default_rng(seed)
    agent = small_agent(folder, backward='none', model=None)
    demonstrate(Task.load('arm_velocity'), folder / 'demos' / '0000')
    with Graph(
        folder, task='arm_velocity', agent=agent, robot=_quick(folder), mode='realtime'
    ) as graph:
        arm = Arm(graph)
        graph.start('policy_controller')
        alive, killed = [], []
        for _ in range(trials):
            graph.start('learner', demonstrations=str(folder / 'demos'))
            graph.wait_for('training', lambda: graph.value('learner', 'updates') > 0)
            arm.drive(chance.uniform(0.5, 1.5))
            alive.append(_watch(arm, lambda: None, chance.uniform(0.0, 0.5)))
            learner = graph.processes.pop('learner')
            killed.append(_watch(arm, learner.kill, chance.uniform(0.0, 0.5)))
            learner.wait()
            graph.statuses.pop('learner', None)
    return alive, killed


def _watch(arm: Arm, fault: Callable[[], Any], delay: float) -> Window:
    """From one diagnostics message to the third after it; the fault comes ``delay`` s after it."""
    missed, stolen = _missed(arm.graph), stolen_seconds()
    arm.commands.clear()
    arm.graph.spin(delay)
    fault()
    for _ in range(3):
        later = _missed(arm.graph)
    times = [at for at, _ in arm.commands]
    return Window(float(np.diff(times).max()), later - missed, stolen_seconds() - stolen)


def _missed(graph: Graph) -> int:
    """Periods missed until now, from the controller's next diagnostics."""
    graph.statuses.pop('policy_controller', None)
    graph.wait_for('diagnostics', lambda: 'policy_controller' in graph.statuses)
    return int(graph.value('policy_controller', 'missed_periods', 0))


def _quick(folder: Path) -> str:
    robot = load_robot('arm_velocity').model_dump(mode='json', exclude_defaults=True)
    path = folder / 'quick.yaml'
    text = yaml.safe_dump({**robot, 'state_timeout': STATE_TIMEOUT}, sort_keys=False)
    path.write_text(text)
    return str(path)
