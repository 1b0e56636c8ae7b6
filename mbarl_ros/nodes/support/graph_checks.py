"""Checks of the ROS graph against a robot profile: publishers, subscribers and their QoS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from rclpy.action import (
    get_action_client_names_and_types_by_node,
    get_action_server_names_and_types_by_node,
)
from rclpy.duration import Infinite
from rclpy.node import NodeNameNonExistentError
from rclpy.qos import (
    QoSCompatibility,
    QoSProfile,
    qos_check_compatible,
)

from mbarl_ros.nodes.support.qos import RELIABLE, SENSOR, STATIC_TRANSFORMS, TRANSFORMS
from mbarl_ros.schema import topics
from mbarl_ros.schema.executables import NODES
from mbarl_ros.schema.field_maps import ActionCommand, ServiceCommand
from mbarl_ros.schema.findings import ERROR, WARNING, Finding
from mbarl_ros.schema.frames import TF_TYPE
from mbarl_ros.schema.robot import RobotConfig, TeleopMap, TopicMap

_GATE = topics.GATE_STATE.partition('/')[0]
_BUTTON = 'std_msgs/msg/Bool'
OUR_NODES = {*NODES} - {'robot_sim'}
Ends = dict[str, list[str]]


def check_graph(node: Any, robot: RobotConfig) -> list[Finding]:
    """Check the topics of a robot; an error is a reason not to move."""
    findings = []
    for topic in robot.state:
        if not topic.frames:
            findings += _state(topic, node.get_publishers_info_by_topic(topic.topic))
    if robot.transforms:
        findings += _transforms(node, robot.tf_topics)
    gate = f'{node.get_namespace().rstrip("/")}/{_GATE}'
    for topic in robot.command_topics:
        findings += _other_commanders(topic, node.get_publishers_info_by_topic(topic.topic), gate)
        findings += _subscribers(topic, node.get_subscriptions_info_by_topic(topic.topic))
    for entry in robot.requests:
        findings += _requests(node, entry, gate)
    for source in robot.teleop:
        findings += _teleop_sources(source, node.get_publishers_info_by_topic(source.topic))
    if robot.estop_timeout is not None:
        estop = f'{gate}/{topics.ESTOP.partition("/")[2]}'
        findings += _estop(estop, node.get_publishers_info_by_topic(estop))
    return findings + _clock(node)


def simulated(node: Any) -> bool:
    """Whether /clock, which the node may have remapped, has a publisher."""
    return node.count_publishers(node.resolve_topic_name(topics.CLOCK)) > 0


def _state(topic: TopicMap, publishers: Sequence[Any]) -> list[Finding]:
    if not publishers:
        return [Finding(ERROR, f'{topic.topic}: nobody publishes it; start the robot, or remap it')]
    findings = [
        _mismatch(topic.topic, topic.type, info, info.qos_profile, _explicit(SENSOR))
        for info in publishers
    ]
    names = sorted({_name(info) for info in publishers})
    if len(publishers) > 1:
        text = (
            f'{topic.topic}: {len(publishers)} publishers ({", ".join(names)}); stop all but one, '
            'unless each publishes joints of its own'
        )
        findings.append(Finding(WARNING, text))
    return [finding for finding in findings if finding]


def _transforms(node: Any, names: Mapping[str, bool]) -> list[Finding]:
    """Publishers of transforms, of which there may be many; ``names``: whether static."""
    publishers = {name: node.get_publishers_info_by_topic(name) for name in names}
    if not any(publishers.values()):
        text = 'nobody publishes it; start robot_state_publisher and the driver, or remap it'
        return [Finding(ERROR, f'{next(iter(names))}: {text}')]
    wanted = {False: TRANSFORMS, True: STATIC_TRANSFORMS}
    findings = [
        _mismatch(name, TF_TYPE, info, info.qos_profile, _explicit(wanted[names[name]]))
        for name, infos in publishers.items()
        for info in infos
    ]
    return [finding for finding in findings if finding]


def _explicit(profile: QoSProfile) -> QoSProfile:
    """The same profile with infinite times instead of defaults, as the graph reports it."""
    return QoSProfile(
        depth=profile.depth,
        reliability=profile.reliability,
        durability=profile.durability,
        deadline=Infinite,
        liveliness_lease_duration=Infinite,
    )


def _other_commanders(topic: TopicMap, publishers: Sequence[Any], gate: str) -> list[Finding]:
    names = [_name(info) for info in publishers]
    rivals = sorted({name for name in names if name != gate})
    if names.count(gate) > 1:
        rivals.append(f'a second {gate}')
    if not rivals:
        return []
    text = f'{topic.topic}: {", ".join(rivals)} commands the robot past the safety gate; stop it'
    return [Finding(ERROR, text)]


def _subscribers(topic: TopicMap, subscriptions: Sequence[Any]) -> list[Finding]:
    robots = [
        info
        for info in subscriptions
        if info.node_name not in OUR_NODES and not info.node_name.startswith('_ros2cli')
    ]
    if not robots:
        text = (
            f'{topic.topic}: nobody subscribes to it; start the controller or driver that does '
            '(`ros2 control list_controllers`), or correct the topic'
        )
        return [Finding(ERROR, text)]
    findings = [
        _mismatch(topic.topic, topic.type, info, _explicit(RELIABLE), info.qos_profile)
        for info in robots
    ]
    return [finding for finding in findings if finding]


def request_ends(node: Any, entry: ActionCommand | ServiceCommand) -> tuple[Ends, Ends]:
    """Nodes that serve an action or service, and those with a client of it: name -> types."""
    if isinstance(entry, ActionCommand):
        name = node.resolve_topic_name(entry.action)
        questions = (
            partial(get_action_server_names_and_types_by_node, node),
            partial(get_action_client_names_and_types_by_node, node),
        )
    else:
        name = node.resolve_service_name(entry.service)
        questions = (
            node.get_service_names_and_types_by_node,
            node.get_client_names_and_types_by_node,
        )
    ends: tuple[Ends, Ends] = ({}, {})
    for other, namespace in node.get_node_names_and_namespaces():
        for found, question in zip(ends, questions, strict=True):
            with suppress(NodeNameNonExistentError):  # it ended in between
                known = dict(question(other, namespace))
                if name in known:
                    found[f'{namespace.rstrip("/")}/{other}'] = known[name]
    return ends


def _requests(node: Any, entry: ActionCommand | ServiceCommand, gate: str) -> list[Finding]:
    """Check the server of an action or service, and who else may request of it."""
    servers, clients = request_ends(node, entry)
    fitting = [name for name, types in servers.items() if entry.type in types]
    findings = [
        Finding(
            ERROR,
            f'{entry.label}: {name} uses {", ".join(types)}, the profile {entry.type}; '
            "correct key 'type'",
        )
        for name, types in servers.items()
        if name not in fitting
    ]
    if not servers:
        text = 'no server; start the driver or controller that has it, or correct the name'
        findings.append(Finding(ERROR, f'{entry.label}: {text}'))
    if len(fitting) > 1:
        text = f'{len(fitting)} servers ({", ".join(sorted(fitting))}); stop all but one'
        findings.append(Finding(ERROR, f'{entry.label}: {text}'))
    if rivals := sorted(clients.keys() - {gate}):
        text = f'{", ".join(rivals)} can command the robot by it past the safety gate'
        findings.append(Finding(WARNING, f'{entry.label}: {text}'))
    return findings


def _teleop_sources(source: TeleopMap, publishers: Sequence[Any]) -> list[Finding]:
    """Teleop sources that drive without a button being pressed, such as a leader arm."""
    if source.deadman or not publishers:
        return []
    names = ', '.join(sorted({_name(info) for info in publishers}))
    text = (
        f"{source.topic}: {names} publishes it: a person's commands move the robot as soon as the "
        'safety gate runs, also before the controller is activated; give it a deadman, or stop it'
    )
    return [Finding(WARNING, text)]


def _estop(topic: str, publishers: Sequence[Any]) -> list[Finding]:
    if any(info.topic_type == _BUTTON for info in publishers):
        return []
    text = (
        f'{topic}: nobody publishes it as {_BUTTON}, and with estop_timeout the safety gate '
        'refuses every command until it receives one; start the driver of the e-stop button'
    )
    return [Finding(ERROR, text)]


def _mismatch(
    topic: str, kind: str, info: Any, offered: QoSProfile, requested: QoSProfile
) -> Finding | None:
    """Why a publisher and a subscriber do not connect; None: they do."""
    if info.topic_type != kind:
        text = f'{topic}: {_name(info)} uses {info.topic_type}, the profile {kind}'
        return Finding(ERROR, f"{text}; correct key 'type'")
    verdict, reason = qos_check_compatible(offered, requested)
    if verdict == QoSCompatibility.ERROR:
        text = f'{topic}: QoS of {_name(info)} does not fit ours: {_plain(reason)}'
        return Finding(ERROR, text)
    return None


def _plain(reason: str) -> str:
    """The middleware's 'ERROR: one thing;ERROR: another;' as a plain sentence."""
    return '; '.join(part.removeprefix('ERROR: ') for part in reason.strip(';').split(';'))


def _clock(node: Any) -> list[Finding]:
    follows = node.get_parameter('use_sim_time').value
    if follows and not simulated(node):
        text = '/clock: nobody publishes it though use_sim_time is true; time stands still'
        return [Finding(ERROR, text)]
    if simulated(node) and not follows:
        text = (
            '/clock: somebody publishes it, but use_sim_time is false; set it to true if this '
            'robot is simulated (robot check: --sim-time), else stop its publisher'
        )
        return [Finding(WARNING, text)]
    return []


def _name(info: Any) -> str:
    return f'{info.node_namespace.rstrip("/")}/{info.node_name}'
