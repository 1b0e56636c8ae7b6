"""What every node shares: start and stop, parameters, QoS, byte messages, diagnostics."""

from __future__ import annotations

import array
import gc
import importlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    LivelinessPolicy,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import MultiArrayDimension, UInt8MultiArray

from mbarl_ros.nodes.support.executor import DataPlaneExecutor
from mbarl_ros.nodes.support.scheduling import real_time
from mbarl_ros.nodes.support.transport import without_shared_memory
from mbarl_ros.schema import message_fields, topics
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.exit_codes import EXIT_SUCCESS, EXIT_USAGE
from mbarl_ros.schema.load import load_agent
from mbarl_ros.storage import lifeline
from mbarl_ros.storage.transitions import Transitions, unpack_transitions
from mbarl_ros.storage.wire import WireError
from mbarl_ros.task import Task

RELIABLE = QoSProfile(depth=10)
SENSOR = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
# Of what happened in a pause, all is heard: states and executed commands make up the record.
STATES = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE_STEPS = QoSProfile(depth=100)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
KEEP_ALL = QoSProfile(history=HistoryPolicy.KEEP_ALL)


# Nothing is published with it: the middleware itself says that a process lives, also while Python
# is busy, and a subscriber is told of its death within the lease.
def _alive(milliseconds: int) -> QoSProfile:
    return QoSProfile(
        depth=1,
        liveliness=LivelinessPolicy.AUTOMATIC,
        liveliness_lease_duration=Duration(nanoseconds=milliseconds * 1_000_000),
    )


# Offered: Fast DDS says it after two thirds of that. Requested: three such words may be late.
ALIVE, HEARD_ALIVE = _alive(25), _alive(80)
# The classifier, which nothing is sent to again, must not miss what came before it was discovered.
TRANSITIONS_HISTORY = QoSProfile(depth=200, durability=DurabilityPolicy.TRANSIENT_LOCAL)

LOCKSTEP, REALTIME = 'lockstep', 'realtime'
# Lockstep: a command without effect for so long (s) was lost and is sent again; if it was only
# slow, the safety gate knows it.
LOST_AFTER = 0.3
_QUIET = 5.0  # seconds between two words about refusals on one topic
COMMON = {
    'task': ('pointmass', 'Task: name of a shipped file or path of a .yaml file'),
    'robot': ('', "Robot profile: name or path; empty: the task's own"),
    'agent': ('mbarl', 'Agent preset: name of a shipped file or path of a .yaml file'),
    'seed': (0, 'Seed of every random stream of the run'),
    'run_dir': ('', 'Folder of the run: log, checkpoint, evaluations; empty: nothing is written'),
    'mode': (LOCKSTEP, 'lockstep (simulation waits for its commands) or realtime'),
}


class NodeMixin:
    """Common parameters, configuration and diagnostics of a node of this package."""

    exit_code = EXIT_SUCCESS
    finished = False
    in_time = False  # moves a robot in real time
    refused = 0
    _scheduling = ''
    _refused_before = 0
    _refusal = ''

    def setup(self, own: dict[str, tuple[Any, str]] | None = None) -> None:
        """Declare common and own parameters, load task and agent, start diagnostics.

        :raises ConfigError: a wrong configuration file, parameter type or parameter name.
        """
        self._said: dict[str, float] = {}
        own = own or {}
        for name, (default, description) in {**COMMON, **own}.items():
            try:
                self.declare_parameter(name, default, ParameterDescriptor(description=description))
            except InvalidParameterTypeException as error:
                raise ConfigError(
                    f"node '{self.get_name()}': parameter '{name}': {error}"
                ) from None
        self._refuse_leftover_parameters()
        self.mode = self.value('mode')
        if self.mode not in (LOCKSTEP, REALTIME):
            raise ConfigError(
                f"node '{self.get_name()}': parameter 'mode' is '{self.mode}'; "
                f'use {LOCKSTEP} or {REALTIME}'
            )
        self.lockstep = self.mode == LOCKSTEP
        self.task = Task.load(self.value('task'), self.value('robot') or None)
        self.agent: AgentConfig = load_agent(self.value('agent'))
        self.spec_hash = self.task.spec_hash(self.agent)
        self.seed = self.value('seed')
        self.run_dir = Path(self.value('run_dir')).expanduser() if self.value('run_dir') else None
        self.steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._diagnostics = self.create_publisher(DiagnosticArray, topics.DIAGNOSTICS, RELIABLE)
        self.create_timer(1.0, self._publish_diagnostics, clock=self.steady)

    def go_first(self, priority: int) -> None:
        """In real time: ask for real-time scheduling, for those who move the robot."""
        if self.lockstep:
            return
        self.in_time = True
        granted = real_time(priority)
        self._scheduling = f'SCHED_FIFO {priority}' if granted else 'SCHED_OTHER'
        if not granted:
            self.get_logger().warning(
                'no right to real-time scheduling: this node waits like any other process. '
                f'The limit rtprio must be {priority} or more; see "Real time" in the README'
            )

    def value(self, name: str) -> Any:
        """Value of a declared parameter."""
        return self.get_parameter(name).value

    def refuse(self, error: Exception, topic: str) -> None:
        """Count a message that is not to be trusted, and say why."""
        self.refused += 1
        self._refusal = f'{topic}: {error}'
        if time.monotonic() - self._said.get(topic, -math.inf) < _QUIET:
            return
        self._said[topic] = time.monotonic()
        text = ''.join(letter if letter.isprintable() else '?' for letter in str(error)[:400])
        self.get_logger().warning(f'refused: {topic}: {text}')

    def received(self, message: UInt8MultiArray) -> tuple[Transitions, str, int] | None:
        """Transitions, session and first number of a message, or None for one that is refused."""
        try:
            return unpack_transitions(message_bytes(message), self.task, self.spec_hash)
        except WireError as error:
            self.refuse(error, topics.TRANSITIONS)
            return None

    def demonstrations_folder(self) -> Path:
        """Parameter ``demonstrations``, else the task's own folder.

        :raises ConfigError: there is neither.
        """
        folder = self.value('demonstrations') or self.task.config.demonstrations
        if not folder:
            raise ConfigError(f"task '{self.task.name}': key 'demonstrations' is not set")
        return Path(folder).expanduser()

    def report(self) -> tuple[bytes, str, dict[str, Any]]:
        """Level, message and values for /diagnostics; overridden by each node."""
        return DiagnosticStatus.OK, '', {}

    def act_on_messages(self, late: bool) -> None:
        """Called when all messages that had come were heard; for who must act on the latest.

        :param late: in real time: this process was held up, and when they came is not known
        """

    def close(self) -> None:
        """Last act before the node is destroyed; the context is still alive."""

    def _publish_diagnostics(self) -> None:
        level, message, values = self.report()
        values = {**values, **self._identity()}
        if self._scheduling:
            values['scheduling'] = self._scheduling
        if self.refused > self._refused_before and level == DiagnosticStatus.OK:
            level, message = DiagnosticStatus.WARN, f'refused: {self._refusal}'
        self._refused_before = self.refused
        root = self.get_namespace() == '/'
        name = self.get_name() if root else self.get_fully_qualified_name()
        status = DiagnosticStatus(level=level, name=name, message=message)
        status.hardware_id = self.task.robot.name
        status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        diagnostics = DiagnosticArray(status=[status])
        diagnostics.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(diagnostics)

    def _identity(self) -> dict[str, Any]:
        """What must be the same for all nodes of a graph; `mbarl doctor` compares it."""
        return {
            'task': self.value('task'),
            'robot': self.value('robot'),
            'mode': self.mode,
            'spec_hash': self.spec_hash,
            'use_sim_time': self.value('use_sim_time'),
        }

    def _refuse_leftover_parameters(self) -> None:
        # rclpy silently ignores a misspelled parameter; a silent default can move a robot.
        known = set(self._parameters)
        leftover = sorted(
            name
            for name in self._parameter_overrides
            if name not in known and not name.startswith('qos_overrides')
        )
        if leftover:
            raise ConfigError(
                f"node '{self.get_name()}': unknown parameter {', '.join(leftover)}; "
                f'known: {", ".join(sorted(known))}'
            )


class BaseNode(NodeMixin, Node):
    """A plain node of this package."""


class BaseLifecycleNode(NodeMixin, LifecycleNode):
    """A managed node of this package."""

    def _LifecycleNodeMixin__change_state(self, transition_id: int) -> TransitionCallbackReturn:
        # Asked for what its state does not allow, Jazzy's rclpy raises, which ends the process:
        # a second `activate` would stop the robot. Kilted's refuses, and so does this.
        if transition_id not in [
            possible[0] for possible in self._state_machine.available_transitions
        ]:
            _, state = self._state_machine.current_state
            self.get_logger().error(f'no transition {transition_id} from the state {state}')
            return TransitionCallbackReturn.ERROR
        return super()._LifecycleNodeMixin__change_state(transition_id)


def run(factory: Callable[[], Any], args: list[str] | None = None) -> int:
    """Run one node until SIGINT, SIGTERM or ``node.finished``; returns the exit code.

    rclpy's own signal handlers invalidate the context before a last stop command could be sent,
    hence our own. A :class:`ConfigError` is printed as one sentence, exit code 2.
    """
    stopping = False

    def stop(_signal: int, _frame: Any) -> None:
        nonlocal stopping
        stopping = True

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, stop)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup leaves it
        signal.signal(signal.SIGHUP, stop)
    os.environ.update(without_shared_memory(os.environ))
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    node = None
    try:
        try:
            node = factory()
        except (ConfigError, OSError, ValueError) as error:
            print(f'error: {error}', file=sys.stderr, flush=True)
            return EXIT_USAGE
        executor = DataPlaneExecutor(node.act_on_messages, in_time=node.in_time)
        executor.add_node(node)
        # What lives from here on lives for ever: collections in the control loop stay short.
        gc.collect()
        gc.freeze()
        try:
            executor.spin_until(lambda: stopping or node.finished)
        finally:
            node.close()
        return node.exit_code
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()


def main_exit(factory: Callable[[], Any]) -> None:
    """Console entry: run a node and leave with its exit code, without interpreter teardown.

    Fast DDS threads and torch may wait for each other in static destructors.
    """
    lifeline.hold()
    code = run(factory)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def bytes_message(data: bytes, label: str) -> UInt8MultiArray:
    """Byte message; ``array.array`` because an ndarray takes rclpy 300 times as long."""
    buffer = array.array('B')
    buffer.frombytes(data)
    message = UInt8MultiArray(data=buffer)
    message.layout.dim = [MultiArrayDimension(label=label, size=len(data), stride=len(data))]
    return message


def node_of(status_name: str, namespace: str) -> str:
    """Which node of the graph in ``namespace`` a status is of; empty: another graph's.

    /diagnostics is shared by all namespaces; outside the root, nodes give their qualified name.
    """
    prefix = namespace.rstrip('/') + '/'
    if prefix == '/':
        return '' if status_name.startswith('/') else status_name
    return status_name.removeprefix(prefix) if status_name.startswith(prefix) else ''


def message_bytes(message: UInt8MultiArray) -> bytes:
    """Payload of a byte message."""
    return memoryview(message.data).tobytes()


def message_class(type_name: str) -> Any:
    """Class of ``package/msg/Name``.

    :raises ConfigError: it is not installed.
    """
    return message_fields.message_class(type_name, importlib.import_module)
