"""Listens to a running robot whose profile nobody has written yet."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameters
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String

from mbarl_ros.nodes.support.graph_checks import OUR_NODES
from mbarl_ros.nodes.support.qos import SENSOR
from mbarl_ros.nodes.support.robot_check import DISCOVERY, Listener
from mbarl_ros.nodes.support.robot_topics import subscribe
from mbarl_ros.nodes.support.runtime import message_class
from mbarl_ros.schema.urdf import Description, read_urdf

JOINT_STATE = 'sensor_msgs/msg/JointState'
ODOMETRY = 'nav_msgs/msg/Odometry'
POSE = 'geometry_msgs/msg/PoseStamped'
TWIST, TWIST_STAMPED = 'geometry_msgs/msg/Twist', 'geometry_msgs/msg/TwistStamped'
NUMBERS = 'std_msgs/msg/Float64MultiArray'
TRAJECTORY = 'trajectory_msgs/msg/JointTrajectory'
STATE_TYPES = (JOINT_STATE, ODOMETRY, POSE)
COMMAND_TYPES = (TWIST, TWIST_STAMPED, NUMBERS, TRAJECTORY, JOINT_STATE)

_DESCRIPTION = 'robot_description'
_MAX_DESCRIPTION = 4_000_000  # characters; the largest have a few hundred thousand
_ANSWER = 2.0  # s to wait for the parameters of a controller
_LATCHED_ALL = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@dataclass
class Heard:
    """A topic of the robot's state: its messages so far.

    ``positions``: joint -> rad or m of the last message that had it. ``values`` are the numbers of
    the last message by path, for poses and odometry.
    """

    topic: str
    type: str
    count: int = 0
    first: float = 0.0
    last: float = 0.0
    frame: str = ''
    child_frame: str = ''
    positions: dict[str, float] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Messages per second; 0 for less than two."""
        return (self.count - 1) / (self.last - self.first) if self.last > self.first else 0.0

    def receive(self, message: Any) -> None:
        """Receive a message."""
        self.last = time.monotonic()
        self.first = self.first or self.last
        self.count += 1
        self.frame = message.header.frame_id
        self.child_frame = getattr(message, 'child_frame_id', '')
        if self.type == JOINT_STATE:
            pairs = zip(message.name, message.position, strict=False)
            self.positions |= {name: value for name, value in pairs if math.isfinite(value)}
            return
        pose = message.pose.pose if self.type == ODOMETRY else message.pose
        owner = 'pose.pose' if self.type == ODOMETRY else 'pose'
        for axis in 'xyz':
            if math.isfinite(value := getattr(pose.position, axis)):
                self.values[f'{owner}.position.{axis}'] = value


@dataclass(frozen=True)
class Controller:
    """What takes commands on a topic, as far as its parameters tell; empty: they do not."""

    topic: str
    type: str
    node: str
    joints: tuple[str, ...] = ()
    interface: str = ''


@dataclass(frozen=True)
class Surroundings:
    """What a robot publishes and what it takes commands on.

    ``taken``: topics of commands that somebody publishes already -> by whom. ``unused``: topics of
    other types, as text.
    """

    states: list[Heard]
    commands: list[Controller]
    taken: dict[str, str]
    unused: list[str]
    description: Description | None


def discover(listener: Listener, seconds: float) -> Surroundings:
    """Listen for so long after the first state came; nodes may take a while to find each other.

    :raises ConfigError: the robot description is no URDF.
    """
    search = _Search(listener)
    last_chance = time.monotonic() + DISCOVERY
    end = math.inf
    while time.monotonic() < end:
        search.look()
        listener.spin(0.2)
        if math.isinf(end) and (search.hears or time.monotonic() > last_chance):
            end = time.monotonic() + seconds
    return search.result()


class _Search:
    """Subscribes to what appears."""

    def __init__(self, listener: Listener) -> None:
        self._listener, self._node = listener, listener.node
        self._heard: dict[str, Heard] = {}
        self._description = ''
        self._node.create_subscription(
            String, _DESCRIPTION, self._receive_description, _LATCHED_ALL
        )

    @property
    def hears(self) -> bool:
        """Whether a state has come."""
        return any(heard.count for heard in self._heard.values())

    def look(self) -> None:
        """Subscribe to states that have come up since the last look."""
        for name, types in self._topics():
            kinds = [kind for kind in types if kind in STATE_TYPES]
            if name in self._heard or not kinds or not self._ends(name, publishers=True):
                continue
            heard = self._heard[name] = Heard(self._short(name), kinds[0])
            subscribe(
                self._node, message_class(kinds[0]), name, heard.receive, SENSOR, log_mismatch=False
            )

    def result(self) -> Surroundings:
        """What was found; asks the controllers for their parameters."""
        commands, taken, unused = [], {}, []
        for name, types in self._topics():
            takers = self._ends(name, publishers=False)
            others = self._ends(name, publishers=True)
            kind = next((kind for kind in types if kind in COMMAND_TYPES), None)
            if kind and takers and not others:
                commands.append(self._controller(name, kind, [_path(end) for end in takers]))
            elif kind and takers and kind != JOINT_STATE:
                taken[self._short(name)] = ', '.join(map(_path, others))
            elif name not in self._heard and others and self._is_mine(name):
                unused.append(f'{self._short(name)} ({types[0]})')
        heard = [heard for heard in self._heard.values() if heard.count > 1]
        text = self._description
        return Surroundings(heard, commands, taken, unused, read_urdf(text) if text else None)

    def _topics(self) -> list[tuple[str, list[str]]]:
        """Names and types of the topics in the namespace."""
        return [
            (name, types)
            for name, types in sorted(self._node.get_topic_names_and_types())
            if self._is_mine(name)
        ]

    def _is_mine(self, name: str) -> bool:
        root = self._node.get_namespace().rstrip('/') + '/'
        hidden = ('/rosout', '/parameter_events', '/clock', '/tf', '/tf_static', '/diagnostics')
        known = name in hidden or name.endswith(_DESCRIPTION)
        return name.startswith(root) and not known and '/_' not in name

    def _short(self, name: str) -> str:
        return name.removeprefix(self._node.get_namespace().rstrip('/') + '/')

    def _ends(self, name: str, publishers: bool) -> list[Any]:
        """Publishers or subscriptions of others than this package, one for each node."""
        find = (
            self._node.get_publishers_info_by_topic
            if publishers
            else self._node.get_subscriptions_info_by_topic
        )
        mine = {self._node.get_name(), *OUR_NODES}
        found = {_path(end): end for end in find(name) if end.node_name not in mine}
        return [
            end
            for path, end in sorted(found.items())
            if not path.rpartition('/')[2].startswith('_')
        ]

    def _receive_description(self, message: String) -> None:
        if len(message.data) <= _MAX_DESCRIPTION:
            self._description = message.data

    def _controller(self, name: str, kind: str, nodes: list[str]) -> Controller:
        """What takes the commands of a topic, which others may only watch."""
        short = self._short(name)
        for node in nodes if kind in (NUMBERS, TRAJECTORY) else ():
            if joints := self._parameter(node, 'joints'):
                interface = self._parameter(node, 'interface_name')
                return Controller(short, kind, node, tuple(joints), ''.join(interface))
        return Controller(short, kind, nodes[0])

    def _parameter(self, node: str, name: str) -> Sequence[str]:
        """Texts of a parameter of another node; empty: it has none, or does not answer."""
        client = self._node.create_client(GetParameters, f'{node}/get_parameters')
        try:
            end = time.monotonic() + _ANSWER
            while not client.service_is_ready() and time.monotonic() < end:
                self._listener.spin(0.05)
            if not client.service_is_ready():
                return ()
            future = client.call_async(GetParameters.Request(names=[name]))
            while not future.done() and time.monotonic() < end:
                self._listener.spin(0.05)
            answer = future.result() if future.done() else None
            return _texts(answer.values[0]) if answer and answer.values else ()
        finally:
            self._node.destroy_client(client)


def _texts(value: ParameterValue) -> Sequence[str]:
    if value.type == ParameterType.PARAMETER_STRING_ARRAY:
        return list(value.string_array_value)
    return [value.string_value] if value.type == ParameterType.PARAMETER_STRING else ()


def _path(end: Any) -> str:
    return f'{end.node_namespace.rstrip("/")}/{end.node_name}'
