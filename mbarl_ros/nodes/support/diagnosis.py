"""Diagnosis: why a graph does not move, by what its nodes report; ROS-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mbarl_ros.schema.findings import ERROR, WARNING, Finding

_RECORDING = ('safety_gate',)
_PRACTISING = (*_RECORDING, 'policy_controller')
_MUST_AGREE = ('policy_controller', 'learner', 'state_classifier', 'policy_evaluator')
_WARN = 1
_REQUESTS = ("action '", "service '")  # how labels of what the gate requests begin


@dataclass(frozen=True)
class NodeStatus:
    """Latest status of a node on /diagnostics; ``level``: 0 OK, 1 a warning, 2 an error."""

    level: int
    message: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class GraphSnapshot:
    """A graph as seen from outside.

    ``namespace`` is empty or begins with a slash; ``statuses`` by node, those of a
    fleet's robots as ``robot_1/safety_gate``; ``clock``: /clock has a
    publisher; ``gate``: state of the safety gate; ``robot``: findings about the robot's topics;
    ``demonstrations``: why those in the task's folder cannot be used; ``running``: ROS domains in
    which graphs run on this machine.
    """

    domain: str
    namespace: str = ''
    statuses: Mapping[str, NodeStatus] = field(default_factory=dict)
    clock: bool = False
    gate: str = ''
    robot: tuple[Finding, ...] = ()
    demonstrations: str = ''
    running: tuple[int, ...] = ()


def diagnose(graph: GraphSnapshot) -> list[Finding]:
    """What is wrong and how to correct it, a sentence each; the likeliest cause comes first."""
    if not graph.statuses:
        return [_no_node(graph)]
    if robots := _robots(graph):
        return _fleet(graph, robots)
    if 'learner' in graph.statuses and graph.statuses['learner'].values.get('fleet') == 'True':
        return [_no_robot(graph), *_reported(graph.statuses)]
    findings = [*_time(graph), *_missing(graph), *_gate(graph), *graph.robot]
    findings += [*_learning(graph), *_disagreement(graph), *_controller(graph)]
    return findings + _reported(graph.statuses)


def _reported(statuses: Mapping[str, NodeStatus]) -> list[Finding]:
    """What other nodes than controllers and gates say of themselves."""
    return [
        Finding(ERROR if status.level > _WARN else WARNING, f'{name}: {status.message}')
        for name, status in statuses.items()
        if status.level >= _WARN and not name.endswith(_PRACTISING)
    ]


def _robots(graph: GraphSnapshot) -> list[str]:
    return sorted({robot for name in graph.statuses if (robot := name.rpartition('/')[0])})


def _fleet(graph: GraphSnapshot, robots: Sequence[str]) -> list[Finding]:
    """What is wrong with each robot of a fleet, and with what they share."""
    shared = {name: status for name, status in graph.statuses.items() if '/' not in name}
    findings = []
    if 'learner' not in shared:
        text = 'no message from the learner: start it, or look into log/learner.log of the run'
        findings.append(Finding(ERROR, text))
    for robot in robots:
        own = {
            name.rpartition('/')[2]: status
            for name, status in graph.statuses.items()
            if name.startswith(f'{robot}/')
        }
        gate = own['safety_gate'].values.get('state', '') if 'safety_gate' in own else ''
        one = replace(
            graph, namespace=f'{graph.namespace}/{robot}', statuses={**shared, **own}, gate=gate
        )
        causes = [*_missing(one), *_gate(one), *_failed_requests(one)]
        causes += [*_disagreement(one), *_controller(one)]
        findings += [Finding(cause.level, f'{robot}: {cause.text}') for cause in causes]
    return findings + _reported(graph.statuses)


def _no_robot(graph: GraphSnapshot) -> Finding:
    text = (
        f'no message from a robot of this fleet: start one with fleet:=true in a namespace below '
        f"'{graph.namespace}/', or look into log/robot_1/ of the run"
    )
    return Finding(ERROR, text)


def _no_node(graph: GraphSnapshot) -> Finding:
    others = ', '.join(str(domain) for domain in graph.running if str(domain) != graph.domain)
    remedy = f'graphs run in {others}: give --domain' if others else 'start one with `mbarl up`'
    if graph.domain in map(str, graph.running):
        remedy = 'a graph of this machine is in it: give its --namespace'
    return Finding(ERROR, f'no node of mbarl_ros found in ROS domain {graph.domain}; {remedy}')


def _time(graph: GraphSnapshot) -> list[Finding]:
    stuck = [name for name, s in graph.statuses.items() if s.values.get('use_sim_time') == 'True']
    if graph.clock or not stuck:
        return []
    text = (
        f'/clock: nobody publishes it, but {", ".join(sorted(stuck))} follow it (use_sim_time), so '
        'their time stands still; start the simulation, or set use_sim_time to false'
    )
    return [Finding(ERROR, text)]


def _missing(graph: GraphSnapshot) -> list[Finding]:
    # A recording needs no controller.
    expected = _RECORDING if 'demo_recorder' in graph.statuses else _PRACTISING
    return [
        Finding(ERROR, f'no message from {name}: start it, or look into log/{name}.log of the run')
        for name in expected
        if name not in graph.statuses
    ]


def _gate(graph: GraphSnapshot) -> list[Finding]:
    if 'e-stop' not in graph.gate:
        return []
    service = f'{graph.namespace}/safety_gate/release'
    text = f'the e-stop is latched: ros2 service call {service} std_srvs/srv/Trigger'
    return [Finding(ERROR, text)]


def _failed_requests(graph: GraphSnapshot) -> list[Finding]:
    """Goals and calls of a fleet's gate; those of one robot are among its ``robot`` findings."""
    status = graph.statuses.get('safety_gate')
    return [
        request_failed(label, fault)
        for label, fault in (status.values.items() if status else ())
        if label.startswith(_REQUESTS) and fault
    ]


def request_failed(label: str, fault: str) -> Finding:
    """A goal or call of the safety gate that failed."""
    return Finding(ERROR, f'{label}: {fault}; see the log of its server')


def _learning(graph: GraphSnapshot) -> list[Finding]:
    """A controller that waits for a learner.

    With a given or random policy it does not, and in a fleet its learner is elsewhere.
    """
    controller = graph.statuses.get('policy_controller')
    if 'learner' in graph.statuses or controller is None:
        return []
    if controller.values.get('needs_learner') != 'True' or controller.values.get('fleet') == 'True':
        return []
    text = 'no message from the learner: start it, or look into log/learner.log of the run'
    if graph.demonstrations:  # only a running learner could report which folder it was given
        text += f'; unless given demos:=, it lacks demonstrations: {graph.demonstrations}'
    return [Finding(ERROR, text)]


def _disagreement(graph: GraphSnapshot) -> list[Finding]:
    """Nodes with different spec hashes refuse the data of each other."""
    specs: dict[str, list[str]] = {}
    for name in _MUST_AGREE:
        if name in graph.statuses:
            specs.setdefault(graph.statuses[name].values.get('spec_hash', ''), []).append(name)
    if len(specs) < 2:
        return []
    sides = '; '.join(f'{", ".join(names)}: {spec}' for spec, names in specs.items())
    text = (
        f'different spec hashes: nodes refuse the data of each other ({sides}); start all of them '
        'with the same task, robot and agent files'
    )
    return [Finding(ERROR, text)]


def _controller(graph: GraphSnapshot) -> list[Finding]:
    status = graph.statuses.get('policy_controller')
    if status is None:
        return []
    state = status.values.get('lifecycle', 'active')
    command = f'ros2 lifecycle set {graph.namespace}/policy_controller'
    if state == 'unconfigured':
        text = f'policy_controller is not configured: {command} configure, then activate'
        return [Finding(ERROR, text)]
    if state == 'inactive':
        text = f'policy_controller is not active: {command} activate'
        reason = '' if status.message == 'inactive' else f' (it refused: {status.message})'
        return [Finding(ERROR, text + reason)]
    if status.level >= _WARN and status.message != 'e-stop':
        return [Finding(WARNING, f'policy_controller: {status.message}')]
    return []
