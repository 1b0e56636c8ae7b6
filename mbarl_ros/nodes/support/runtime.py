"""What every node shares: start and stop, parameters, byte messages, diagnostics."""

from __future__ import annotations

import array
import faulthandler
import gc
import importlib
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidParameterTypeException, NameValidationException
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import MultiArrayDimension, UInt8MultiArray

from mbarl_ros.nodes.support.executor import DataPlaneExecutor
from mbarl_ros.nodes.support.qos import RELIABLE
from mbarl_ros.nodes.support.scheduling import real_time
from mbarl_ros.nodes.support.transport import without_shared_memory
from mbarl_ros.schema import message_fields, topics
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.schema.base import ConfigError, SimulatorError
from mbarl_ros.schema.executables import NODES, ROBOT_NODES
from mbarl_ros.schema.exit_codes import EXIT_FAILURE, EXIT_SUCCESS, EXIT_USAGE
from mbarl_ros.schema.load import load_agent
from mbarl_ros.storage import lifeline
from mbarl_ros.storage.transitions import Transitions, unpack_transitions
from mbarl_ros.storage.wire import WireError
from mbarl_ros.task import Task

LOCKSTEP, REALTIME = 'lockstep', 'realtime'
_SHUTDOWN_TIMEOUT = 10.0  # s
_LOG_PERIOD = 5.0  # s between two log lines about the same
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
    time_critical = False  # moves a robot in real time
    refused = 0
    _scheduling = ''
    _refused_before = 0
    _refusal = ''

    def setup(self, own: dict[str, tuple[Any, str]] | None = None) -> None:
        """Declare common and own parameters, load task and agent, start diagnostics.

        :raises ConfigError: a wrong configuration file, parameter type or parameter name.
        """
        self._logged_at: dict[str, float] = {}  # by subject, s
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
        self.create_timer(1.0, self.publish_diagnostics, clock=self.steady)

    def request_real_time(self, priority: int) -> None:
        """In real time: ask for real-time scheduling; for nodes that move the robot."""
        if self.lockstep:
            return
        self.time_critical = True
        granted = real_time(priority)
        self._scheduling = f'SCHED_FIFO {priority}' if granted else 'SCHED_OTHER'
        if not granted:
            self.get_logger().warning(
                'no permission for real-time scheduling: this node waits like any other process. '
                f'Set the limit rtprio to {priority} or more; see the documentation, "Real time"'
            )

    def value(self, name: str) -> Any:
        """Value of a declared parameter."""
        return self.get_parameter(name).value

    def refuse(self, error: Exception, topic: str) -> None:
        """Count and log a message that is not trusted: ``error`` says why."""
        self.refused += 1
        self._refusal = f'{topic}: {error}'
        if self.may_log(topic):
            self.get_logger().warning(f'refused: {topic}: {printable(str(error), 400)}')

    def may_log(self, subject: str) -> bool:
        """Whether to log about ``subject`` now; True at most every five seconds.

        For what may come with every step: rclpy's throttle takes about a millisecond to find its
        caller, even where it logs nothing.
        """
        now = time.monotonic()
        if now - self._logged_at.get(subject, -math.inf) < _LOG_PERIOD:
            return False
        self._logged_at[subject] = now
        return True

    def read_transitions(
        self, message: UInt8MultiArray, topic: str
    ) -> tuple[Transitions, str, int] | None:
        """Transitions, session and first number of a message of ``topic``; None: it was refused."""
        try:
            return unpack_transitions(message_bytes(message), self.task, self.spec_hash)
        except WireError as error:
            self.refuse(error, topic)
            return None

    def report(self) -> tuple[bytes, str, dict[str, Any]]:
        """Level, message and values for /diagnostics; overridden by each node."""
        return DiagnosticStatus.OK, '', {}

    def act_on_messages(self, late: bool) -> None:
        """Called after each batch of messages; for a node that must act on the latest of them.

        :param late: in real time: this process was stalled, so their times of arrival are unknown
        """

    def close(self) -> None:
        """Called before the node is destroyed, while it can still publish."""

    def publish_diagnostics(self) -> None:
        """Publish what :meth:`report` says; also called once a second."""
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
        """What all nodes of a graph must agree on; ``mbarl doctor`` compares it."""
        return {
            'task': self.value('task'),
            'robot': self.value('robot'),
            'mode': self.mode,
            'spec_hash': self.spec_hash,
            'use_sim_time': self.value('use_sim_time'),
        }

    def _refuse_leftover_parameters(self) -> None:
        # rclpy ignores a misspelled parameter, and its default may move a robot.
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
        # Overrides LifecycleNodeMixin.__change_state. In Jazzy it raises on a transition that the
        # present state does not allow, which ends the process: a second `activate` would stop the
        # robot. In Kilted it refuses such a transition, as is done here.
        if transition_id not in [
            possible[0] for possible in self._state_machine.available_transitions
        ]:
            _, state = self._state_machine.current_state
            self.get_logger().error(
                f'lifecycle transition {transition_id} is not possible in state {state}'
            )
            return TransitionCallbackReturn.ERROR
        return super()._LifecycleNodeMixin__change_state(transition_id)


def run(factory: Callable[[], Any], args: list[str] | None = None) -> int:
    """Run one node until SIGINT, SIGTERM or ``node.finished``; returns the exit code.

    rclpy's own signal handlers invalidate the context before a last stop command could be sent,
    so this installs others. A mistake of the user (:class:`ConfigError`, an invalid topic or node
    name) is printed as one sentence; the exit code is then :data:`EXIT_USAGE`. Any other exception
    is raised.
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
        except (ConfigError, NameValidationException) as error:
            print(f'error: {error}', file=sys.stderr, flush=True)
            return EXIT_USAGE
        executor = DataPlaneExecutor(node.act_on_messages, time_critical=node.time_critical)
        executor.add_node(node)
        # What exists now lives until the end: leave it out of collections, which then stay short.
        gc.collect()
        gc.freeze()
        try:
            executor.spin_until(lambda: stopping or node.finished)
        finally:
            node.close()
        return node.exit_code
    finally:
        # Fast DDS may deadlock here, with the interpreter lock held, when other nodes end as well.
        faulthandler.dump_traceback_later(_SHUTDOWN_TIMEOUT, file=2, exit=True)
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
        faulthandler.cancel_dump_traceback_later()


def main_exit(factory: Callable[[], Any]) -> None:
    """Console entry: run a node and exit with its code.

    The code is 1 after an exception; what a world reports is one sentence, all else a traceback.

    Skips interpreter teardown: in static destructors, threads of Fast DDS and torch may wait for
    each other.
    """
    lifeline.hold()
    try:
        code = run(factory)
    except SimulatorError as error:
        print(f'error: {error}', file=sys.stderr)
        code = EXIT_FAILURE
    except Exception:
        traceback.print_exc()
        code = EXIT_FAILURE
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def bytes_message(data: bytes, label: str) -> UInt8MultiArray:
    """Byte message; from ``array.array``, since rclpy takes 300 times as long for an ndarray."""
    buffer = array.array('B')
    buffer.frombytes(data)
    message = UInt8MultiArray(data=buffer)
    message.layout.dim = [MultiArrayDimension(label=label, size=len(data), stride=len(data))]
    return message


def node_of(status_name: str, namespace: str, *, fleet: bool = False) -> str:
    """Name of the node that published a status; empty: it is none of ours in ``namespace``.

    /diagnostics is shared by all namespaces; outside the root, nodes publish their qualified name.

    :param fleet: also the nodes of robots in the namespaces below: ``robot_1/safety_gate``
    """
    prefix = namespace.rstrip('/') + '/'
    qualified = status_name if status_name.startswith('/') else f'/{status_name}'
    if not qualified.startswith(prefix):
        return ''
    label = qualified.removeprefix(prefix)
    robot, _, node = label.rpartition('/')
    if robot and (not fleet or '/' in robot or node not in ROBOT_NODES):
        return ''
    return label if node in NODES else ''


def printable(text: str, most: int) -> str:
    """The first ``most`` characters of what others sent, without what a terminal would obey."""
    return ''.join(letter if letter.isprintable() else '?' for letter in text[:most])


def message_bytes(message: UInt8MultiArray) -> bytes:
    """Payload of a byte message."""
    return memoryview(message.data).tobytes()


def message_class(type_name: str) -> Any:
    """Class of ``package/msg/Name``, ``package/action/Name`` or ``package/srv/Name``.

    :raises ConfigError: it is not installed.
    """
    return message_fields.message_class(type_name, importlib.import_module)


def filled_class(type_name: str) -> Any:
    """Class of what a profile's paths begin at: a message, an action's goal, a service's request.

    :raises ConfigError: it is not installed.
    """
    return message_fields.filled_class(type_name, importlib.import_module)
