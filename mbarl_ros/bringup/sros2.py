"""SROS2 policy of the hardware graphs: each node may use the topics it needs, and no others.

DDS-Security denies every topic and service that the policy does not name. The robot's topics are
named in its profile, so the policy is generated from the profile (``mbarl robot policy``). A test
compares it with the topics and services that the running nodes open.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from mbarl_ros.schema import topics
from mbarl_ros.schema.executables import SHARED_NODES, WATCHING_NODES
from mbarl_ros.schema.field_maps import ActionCommand, ServiceCommand
from mbarl_ros.schema.recorded import recorded_topics
from mbarl_ros.schema.robot import RobotConfig
from mbarl_ros.view.measures import MEASURES

_PARAMETERS = (
    'describe_parameters',
    'get_parameter_types',
    'get_parameters',
    'get_type_description',
    'list_parameters',
    'set_parameters',
    'set_parameters_atomically',
)
OPERATOR = 'operator'
_TOOLS = ('keyboard_teleop', 'robot_check', 'doctor')  # nodes in the operator's terminal
_LIFECYCLE = (
    'change_state',
    'get_available_states',
    'get_available_transitions',
    'get_state',
    'get_transition_graph',
)


_VISUALIZED = (topics.MARKERS, topics.STATIC_MARKERS, topics.SHOWN_STATE, *MEASURES)


@dataclass(frozen=True)
class Permissions:
    """What a node may use: topics that it publishes and subscribes to, services that it offers and
    requests, actions that it calls.
    """

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    reply: tuple[str, ...] = ()
    request: tuple[str, ...] = ()
    call: tuple[str, ...] = ()


def node_permissions(robot: RobotConfig, above: str = '') -> dict[str, Permissions]:
    """Permissions of each node of the graphs ``hardware`` and ``record``; ``~/`` is its name.

    :param above: for one robot of several: the namespace above its own, ``/`` or ``/lab/``, from
        which policies and the stop of all come, and where learner and classifier serve any robot
    """
    stops = ('~/estop', above + topics.FLEET_ESTOP) if above else ('~/estop',)
    acknowledged = f'*/{topics.ACKNOWLEDGED}' if above else topics.ACKNOWLEDGED
    transitions = f'*/{topics.TRANSITIONS}' if above else topics.TRANSITIONS
    shared = (topics.SCORE, topics.DEPLOYED_SUCCESS)
    recorded = (above + name if name in shared else name for name in recorded_topics(robot))
    state = tuple(robot.state_topics)
    command = tuple(topic.topic for topic in robot.command_topics)
    teleop = _teleop(robot)
    pads = tuple(topic.topic for topic in robot.teleop if topic.buttons)
    return {
        'safety_gate': Permissions(
            publish=(*command, '~/executed', '~/state', '~/clipped'),
            subscribe=(
                *state,
                *teleop,
                topics.COMMAND,
                topics.CONTROLLER_ALIVE,
                *stops,
            ),
            reply=('~/stop', '~/release'),
            request=tuple(e.service for e in robot.requests if isinstance(e, ServiceCommand)),
            call=tuple(e.action for e in robot.requests if isinstance(e, ActionCommand)),
        ),
        'policy_controller': Permissions(
            publish=('~/command', '~/alive', '~/transitions', '~/phase', '~/transition_event'),
            subscribe=(
                *state,
                topics.EXECUTED,
                topics.GATE_STATE,
                above + topics.POLICY,
                topics.ACKNOWLEDGED,
            ),
            reply=('~/turn', *(f'~/{name}' for name in _LIFECYCLE)),
        ),
        'learner': Permissions(
            publish=('~/policy', acknowledged, '~/imagined'),
            subscribe=(transitions, topics.CLASSIFIER),
        ),
        'state_classifier': Permissions(
            publish=('~/classifier', '~/score'),
            subscribe=(transitions, acknowledged),
        ),
        'demo_recorder': Permissions(
            publish=('~/phase', '~/status'),
            subscribe=(*state, *command, *pads, topics.EXECUTED),
            reply=('~/start', '~/stop', '~/success', '~/discard'),
        ),
        'monitor': Permissions(subscribe=(topics.DIAGNOSTICS,)),
        'visualizer': Permissions(
            publish=tuple(topics.private(name) for name in _VISUALIZED),
            subscribe=(
                *state,
                topics.PHASE,
                topics.RECORDER_PHASE,
                topics.DIAGNOSTICS,
                above + topics.IMAGINED,
                above + topics.CLASSIFIER,
            ),
        ),
        'run_recorder': Permissions(subscribe=(*recorded, topics.TRANSITIONS)),
        'tracker': Permissions(subscribe=(topics.DIAGNOSTICS,)),
        'web_page': Permissions(
            subscribe=(topics.DIAGNOSTICS, topics.LOG, topics.PHASE, topics.CAMERA_IMAGE),
            request=(topics.GATE_STOP, topics.GATE_RELEASE, topics.TURN, topics.CHANGE_STATE),
        ),
    }


def operator_permissions(robot: RobotConfig, above: str = '') -> Permissions:
    """Permissions of the operator's terminal: see everything, drive, activate, stop, release."""
    nodes = node_permissions(robot, above)
    node_topics = {
        name.replace('~', node)
        for node, own in nodes.items()
        for name in (*own.publish, *own.subscribe)
    }
    services = [name.replace('~', node) for node, own in nodes.items() for name in own.reply]
    parameters = [f'{node}/{name}' for node in nodes for name in _PARAMETERS]
    return Permissions(
        publish=(*_teleop(robot), topics.ESTOP, above + topics.FLEET_ESTOP),
        subscribe=(topics.DIAGNOSTICS, *sorted(node_topics)),
        reply=tuple(f'{tool}/{name}' for tool in _TOOLS for name in _PARAMETERS),
        request=(*services, *parameters),
    )


def _teleop(robot: RobotConfig) -> tuple[str, ...]:
    """Teleop topics, their deadman switches included."""
    switches = (topic.deadman_topic for topic in robot.teleop)
    return (
        *(topic.topic for topic in robot.teleop),
        *(switch.topic for switch in switches if switch),
    )


def sros2_policy(robot: RobotConfig, namespace: str = '', *, fleet: bool = False) -> str:
    """Policy file for ``ros2 security``: enclaves ``/mbarl/<node>``, and one for the operator.

    :param fleet: the robot in ``namespace`` is one of several; the nodes that they share get the
        namespace above
    """
    parent = namespace.strip('/').rpartition('/')[0]
    above = f'/{parent}/'.replace('//', '/') if fleet else ''
    root = ElementTree.Element('policy', version='0.2.0')
    enclaves = ElementTree.SubElement(root, 'enclaves')
    permissions = {
        **node_permissions(robot, above),
        OPERATOR: operator_permissions(robot, above),
    }
    for node, own in permissions.items():
        namespaces = (namespace,)
        if fleet and node in SHARED_NODES:
            namespaces = (parent, namespace) if node in WATCHING_NODES else (parent,)
        for own_namespace in namespaces:
            _add_enclave(enclaves, node, own_namespace, own)
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding='unicode')
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _add_enclave(
    enclaves: ElementTree.Element, node: str, namespace: str, own: Permissions
) -> None:
    element = ElementTree.SubElement(enclaves, 'enclave', path=enclave(node, namespace))
    profiles = ElementTree.SubElement(element, 'profiles')
    names = {'ns': f'/{namespace.strip("/")}', 'node': node}
    profile = ElementTree.SubElement(profiles, 'profile', names)
    common = ('/rosout', '/parameter_events')
    diagnostics = () if node == 'monitor' else (topics.DIAGNOSTICS,)
    _allow(profile, 'topic', {'publish': (*common, *diagnostics, *own.publish)})
    _allow(profile, 'topic', {'subscribe': (topics.CLOCK, *own.subscribe)})
    parameters = (f'~/{name}' for name in _PARAMETERS)
    _allow(profile, 'service', {'reply': (*parameters, *own.reply)})
    if own.request:
        _allow(profile, 'service', {'request': own.request})
    if own.call:
        _allow(profile, 'action', {'call': own.call})


def enclave(node: str, namespace: str = '') -> str:
    """Enclave of a node: the path of its keys in the keystore."""
    return '/'.join(part for part in ('/mbarl', namespace.strip('/'), node) if part)


def _allow(profile: ElementTree.Element, kind: str, allowed: Mapping[str, Iterable[str]]) -> None:
    for verb, names in allowed.items():
        group = ElementTree.SubElement(profile, f'{kind}s', {verb: 'ALLOW'})
        for name in dict.fromkeys(names):
            ElementTree.SubElement(group, kind).text = name
