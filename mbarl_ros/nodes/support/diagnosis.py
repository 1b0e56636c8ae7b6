"""What keeps a graph from moving, from what it says of itself; ROS-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mbarl_ros.schema.findings import ERROR, WARNING, Finding

_RECORDING = ('safety_gate',)
_PRACTISING = (*_RECORDING, 'policy_controller')
_MUST_AGREE = ('policy_controller', 'learner', 'state_classifier', 'policy_evaluator')
_WARN = 1


@dataclass(frozen=True)
class NodeStatus:
    """What a node last said on /diagnostics; ``level`` 0 is well, 1 a warning, 2 an error."""

    level: int
    message: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class GraphSnapshot:
    """A graph as seen from outside.

    ``namespace`` is empty or begins with a slash; ``statuses`` by node; ``gate`` is what it says
    on its state topic; ``robot`` what is wrong with the robot's topics; ``demonstrations`` why
    those in the folder that the task names cannot be used.
    """

    domain: str
    namespace: str = ''
    statuses: Mapping[str, NodeStatus] = field(default_factory=dict)
    clock: bool = False
    gate: str = ''
    robot: tuple[Finding, ...] = ()
    demonstrations: str = ''
    running: tuple[int, ...] = ()


def diagnose(picture: GraphSnapshot) -> list[Finding]:
    """What is wrong and what to do about it, a sentence each; the likeliest cause comes first."""
    if not picture.statuses:
        return [_nobody(picture)]
    found = [*_time(picture), *_missing(picture), *_gate(picture), *picture.robot]
    found += [*_learning(picture), *_disagreement(picture), *_controller(picture)]
    told = {'policy_controller', 'safety_gate'}
    for name, status in picture.statuses.items():
        if status.level >= _WARN and name not in told:
            level = ERROR if status.level > _WARN else WARNING
            found.append(Finding(level, f'{name}: {status.message}'))
    return found


def _nobody(picture: GraphSnapshot) -> Finding:
    running = ', '.join(map(str, picture.running))
    remedy = f'graphs run in {running}: give --domain' if running else 'start one with `mbarl up`'
    return Finding(ERROR, f'no node of mbarl_ros is heard in ROS domain {picture.domain}; {remedy}')


def _time(picture: GraphSnapshot) -> list[Finding]:
    stuck = [name for name, s in picture.statuses.items() if s.values.get('use_sim_time') == 'True']
    if picture.clock or not stuck:
        return []
    text = (
        f'/clock: nobody publishes it, but {", ".join(sorted(stuck))} follow it (use_sim_time), so '
        'their time stands still; start the simulation, or set use_sim_time to false'
    )
    return [Finding(ERROR, text)]


def _missing(picture: GraphSnapshot) -> list[Finding]:
    # A recording needs no controller.
    expected = _RECORDING if 'demo_recorder' in picture.statuses else _PRACTISING
    return [
        Finding(ERROR, f'{name} is not heard: start it, or look into log/{name}.log of the run')
        for name in expected
        if name not in picture.statuses
    ]


def _gate(picture: GraphSnapshot) -> list[Finding]:
    if 'e-stop' not in picture.gate:
        return []
    service = f'{picture.namespace}/safety_gate/release'
    text = f'the e-stop is latched: ros2 service call {service} std_srvs/srv/Trigger'
    return [Finding(ERROR, text)]


def _learning(picture: GraphSnapshot) -> list[Finding]:
    """A controller that waits for a learner; what evaluates or acts at random does not."""
    controller = picture.statuses.get('policy_controller')
    if 'learner' in picture.statuses or controller is None:
        return []
    if controller.values.get('needs_learner') != 'True':
        return []
    text = 'the learner is not heard: start it, or look into log/learner.log of the run'
    if picture.demonstrations:  # only a learner that runs could say which folder it was given
        text += f'; if it was not given demos:=, it wants demonstrations: {picture.demonstrations}'
    return [Finding(ERROR, text)]


def _disagreement(picture: GraphSnapshot) -> list[Finding]:
    """Nodes with different specs refuse each other's data."""
    specs: dict[str, list[str]] = {}
    for name in _MUST_AGREE:
        if name in picture.statuses:
            specs.setdefault(picture.statuses[name].values.get('spec_hash', ''), []).append(name)
    if len(specs) < 2:
        return []
    sides = '; '.join(f'{", ".join(names)}: {spec}' for spec, names in specs.items())
    text = (
        f'wrong spec hash: the nodes refuse the data of each other ({sides}); start all of them '
        'with the same task, robot and agent files'
    )
    return [Finding(ERROR, text)]


def _controller(picture: GraphSnapshot) -> list[Finding]:
    status = picture.statuses.get('policy_controller')
    if status is None:
        return []
    state = status.values.get('lifecycle', 'active')
    command = f'ros2 lifecycle set {picture.namespace}/policy_controller'
    if state == 'unconfigured':
        text = f'policy_controller is not configured: {command} configure, then activate'
        return [Finding(ERROR, text)]
    if state == 'inactive':
        text = f'policy_controller is not active: {command} activate'
        because = '' if status.message == 'inactive' else f' (it refused: {status.message})'
        return [Finding(ERROR, text + because)]
    if status.level >= _WARN and status.message != 'e-stop':
        return [Finding(WARNING, f'policy_controller: {status.message}')]
    return []
