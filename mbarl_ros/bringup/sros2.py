"""SROS2 policy of the hardware graphs: each node may use the topics it needs, and no others.

DDS-Security denies what a policy does not name, and the topics of the robot are its profile's, so
the policy is made from the profile (``mbarl robot policy``). ``tests/test_security.py`` holds it to
what the running nodes open.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from mbarl_ros.schema import topics
from mbarl_ros.schema.robot import RobotConfig, Switch

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
_TOOLS = ('keyboard_teleop', 'robot_check', 'doctor')  # nodes in a person's terminal
_LIFECYCLE = (
    'change_state',
    'get_available_states',
    'get_available_transitions',
    'get_state',
    'get_transition_graph',
)


@dataclass(frozen=True)
class Rights:
    """What a node does: topics to publish and subscribe to, services to offer and to call."""

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    reply: tuple[str, ...] = ()
    request: tuple[str, ...] = ()


def rights(robot: RobotConfig) -> dict[str, Rights]:
    """Rights of each node of the graphs ``hardware`` and ``record``; ``~/`` is its own name."""
    state = tuple(topic.topic for topic in robot.state)
    command = tuple(topic.topic for topic in robot.command)
    teleop = _teleop(robot)
    pads = tuple(topic.topic for topic in robot.teleop if topic.buttons)
    return {
        'safety_gate': Rights(
            publish=(*command, '~/executed', '~/state', '~/clipped'),
            subscribe=(
                *state,
                *teleop,
                topics.COMMAND,
                topics.CONTROLLER_ALIVE,
                '~/estop',
            ),
            reply=('~/stop', '~/release'),
        ),
        'policy_controller': Rights(
            publish=('~/command', '~/alive', '~/transitions', '~/phase', '~/transition_event'),
            subscribe=(
                *state,
                topics.EXECUTED,
                topics.GATE_STATE,
                topics.POLICY,
                topics.ACKNOWLEDGED,
            ),
            reply=tuple(f'~/{name}' for name in _LIFECYCLE),
        ),
        'learner': Rights(
            publish=('~/policy', '~/acknowledged'),
            subscribe=(topics.TRANSITIONS, topics.CLASSIFIER),
        ),
        'state_classifier': Rights(
            publish=('~/classifier', '~/score'),
            subscribe=(topics.TRANSITIONS, topics.ACKNOWLEDGED),
        ),
        'demo_recorder': Rights(
            publish=('~/phase', '~/status'),
            subscribe=(*state, *command, *pads, topics.EXECUTED),
            reply=('~/start', '~/stop', '~/success', '~/discard'),
        ),
        'monitor': Rights(subscribe=(topics.DIAGNOSTICS,)),
    }


def operator(robot: RobotConfig) -> Rights:
    """Rights of a person's terminal: to see everything, to drive, activate, stop and release."""
    nodes = rights(robot)
    talk = {
        name.replace('~', node)
        for node, own in nodes.items()
        for name in (*own.publish, *own.subscribe)
    }
    services = [name.replace('~', node) for node, own in nodes.items() for name in own.reply]
    settings = [f'{node}/{name}' for node in nodes for name in _PARAMETERS]
    return Rights(
        publish=(*_teleop(robot), topics.ESTOP),
        subscribe=(topics.DIAGNOSTICS, *sorted(talk)),
        reply=tuple(f'{tool}/{name}' for tool in _TOOLS for name in _PARAMETERS),
        request=(*services, *settings),
    )


def _teleop(robot: RobotConfig) -> tuple[str, ...]:
    """Topics by which people drive."""
    switches = (topic.deadman for topic in robot.teleop)
    return (
        *(topic.topic for topic in robot.teleop),
        *(switch.topic for switch in switches if isinstance(switch, Switch)),
    )


def sros2_policy(robot: RobotConfig, namespace: str = '') -> str:
    """Policy file for ``ros2 security``: enclaves ``/mbarl/<node>``, and one for a person."""
    root = ElementTree.Element('policy', version='0.2.0')
    enclaves = ElementTree.SubElement(root, 'enclaves')
    for node, own in {**rights(robot), OPERATOR: operator(robot)}.items():
        element = ElementTree.SubElement(enclaves, 'enclave', path=enclave(node, namespace))
        profiles = ElementTree.SubElement(element, 'profiles')
        names = {'ns': f'/{namespace.strip("/")}', 'node': node}
        profile = ElementTree.SubElement(profiles, 'profile', names)
        common = ('/rosout', '/parameter_events')
        talks = () if node == 'monitor' else (topics.DIAGNOSTICS,)
        _allow(profile, 'topic', {'publish': (*common, *talks, *own.publish)})
        _allow(profile, 'topic', {'subscribe': (topics.CLOCK, *own.subscribe)})
        parameters = (f'~/{name}' for name in _PARAMETERS)
        _allow(profile, 'service', {'reply': (*parameters, *own.reply)})
        if own.request:
            _allow(profile, 'service', {'request': own.request})
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding='unicode')
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def enclave(node: str, namespace: str = '') -> str:
    """Enclave of a node: where its keys are in the keystore."""
    return '/'.join(part for part in ('/mbarl', namespace.strip('/'), node) if part)


def _allow(profile: ElementTree.Element, kind: str, allowed: Mapping[str, Iterable[str]]) -> None:
    for verb, names in allowed.items():
        group = ElementTree.SubElement(profile, f'{kind}s', {verb: 'ALLOW'})
        for name in dict.fromkeys(names):
            ElementTree.SubElement(group, kind).text = name
