"""Which nodes with which parameters make up ``sim``, ``hardware``, ``record`` and so on.

Said once, as data: ``launch/*.launch.py`` and ``mbarl up`` both translate a :class:`Plan`.
Everything a person can get wrong is checked here, before any node starts.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mbarl_ros.bringup.arguments import Value, parse
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.executables import NODES
from mbarl_ros.schema.load import available, load_agent, load_robot, load_task
from mbarl_ros.schema.robot import RobotConfig
from mbarl_ros.schema.task import TaskConfig
from mbarl_ros.storage.run_files import POLICY_FILE
from mbarl_ros.task import Task


@dataclass(frozen=True)
class NodeSpec:
    """One process of a graph.

    ``required``: its exit ends the run. ``respawn``: it is started again when it dies, after
    ``respawn_delay`` seconds. ``optional``: the run goes on without it.
    """

    executable: str
    name: str
    parameters: Mapping[str, Value] = field(default_factory=dict)
    namespace: str = ''
    remappings: tuple[tuple[str, str], ...] = ()
    required: bool = False
    respawn: bool = False
    respawn_delay: float = 1.0
    optional: bool = False


@dataclass(frozen=True)
class Plan:
    """A validated graph: resolved arguments, configuration as used, and the nodes to start."""

    graph: str
    arguments: Mapping[str, Value]
    task: TaskConfig
    robot: RobotConfig
    agent: AgentConfig
    nodes: tuple[NodeSpec, ...]
    private_domain: bool

    @property
    def run_dir(self) -> Path:
        """Folder of this run, absolute."""
        return Path(str(self.arguments['run_dir']))


def plan(graph: str, given: Mapping[str, str]) -> Plan:
    """Validate arguments and configuration and describe the graph.

    ``given`` maps argument names to text; what is absent takes its default.

    :raises ConfigError: unknown graph, argument or name, or a value that cannot be used; the
        message lists the known ones.
    """
    values = parse(graph, given)
    if graph == 'evaluate':
        _resolve_policy(values)
    if graph == 'replay':
        _resolve_demo(values)
    task_config = load_task(str(values['task']))
    robot_name = str(values.get('robot') or task_config.robot)
    robot = load_robot(robot_name)
    agent = load_agent(str(values['agent']))
    task = Task(task_config, robot)  # layouts must match
    simulated = graph in ('sim', 'replay') or bool(values.get('simulated', False))
    if simulated:
        _check_world(task_config)
    _resolve_mode(values, given, simulated)
    if graph in ('sim', 'hardware'):
        task.check_agent(agent)
    if agent.resets and not simulated and graph in ('hardware', 'evaluate'):
        raise ConfigError(
            f"agent '{agent.name}': key 'resets': only a simulated world can be reset; use another "
            "agent, or a copy of this one's file with 'resets: false'"
        )
    _resolve_demonstrations(graph, values, task_config)
    values['task'] = _absolute(str(values['task']))
    values['agent'] = _absolute(str(values['agent']))
    values['robot'] = _absolute(robot_name)
    if not values['run_dir']:
        prefix = '' if graph in ('sim', 'hardware') else f'{graph}-'
        stamp = time.strftime('%Y%m%d-%H%M%S')
        values['run_dir'] = f'runs/{prefix}{task_config.name}-{agent.name}-{values["seed"]}-{stamp}'
    values['run_dir'] = str(Path(str(values['run_dir'])).expanduser().absolute())
    nodes = _BUILDERS[graph](values, task_config, agent, simulated)
    return Plan(graph, values, task_config, robot, agent, nodes, private_domain=simulated)


# --- checks --------------------------------------------------------------------------------------


def _absolute(name: str) -> str:
    """A path made absolute, since nodes may run elsewhere; a name stays a name."""
    return str(Path(name).expanduser().absolute()) if name.endswith(('.yaml', '.yml')) else name


def _resolve_mode(values: dict[str, Value], given: Mapping[str, str], simulated: bool) -> None:
    if simulated and values.get('operator') != 'none':
        return
    if given.get('mode') == 'lockstep':
        who = 'a person' if simulated else 'a robot'
        raise ConfigError(f'mode:=lockstep: {who} cannot wait for its turn; give mode:=realtime')
    values['mode'] = 'realtime'


def _check_world(task: TaskConfig) -> None:
    if task.world is None:
        raise ConfigError(
            f"task '{task.name}': key 'world' is not set, so it cannot be simulated; tasks: "
            f'{", ".join(available("tasks"))}'
        )
    module = task.world.partition(':')[0]
    try:
        found = importlib.util.find_spec(module) is not None
    except ImportError:
        found = False
    if not found:
        raise ConfigError(
            f"task '{task.name}': key 'world': there is no module {module}; install the "
            "simulation with pip install -e '.[ros,sim]' or correct the path"
        )


def _resolve_demonstrations(graph: str, values: dict[str, Value], task: TaskConfig) -> None:
    if 'demos' not in values:
        return
    folder = str(values['demos'] or task.demonstrations or '')
    if not folder:
        raise ConfigError(
            f"task '{task.name}': key 'demonstrations' is not set; add it or give demos:=FOLDER"
        )
    path = Path(folder).expanduser().absolute()
    values['demos'] = str(path)
    if graph == 'record':
        return
    remedy = f'record some with mbarl up record task:={values["task"]} demos:={path}'
    if not path.is_dir():
        raise ConfigError(f'{path}: no such folder of demonstrations; {remedy}')
    if not any(path.iterdir()):
        raise ConfigError(f'{path}: there is no demonstration in this folder; {remedy}')


def _resolve_policy(values: dict[str, Value]) -> None:
    if not values['policy']:
        raise ConfigError("argument 'policy' is needed: a run folder, like policy:=runs/NAME")
    path = Path(str(values['policy'])).expanduser().absolute()
    if path.is_dir():
        path = path / POLICY_FILE
    if not path.is_file():
        raise ConfigError(f'{path}: no such file; a run writes it after its first policy update')
    values['policy'] = str(path)
    for key in ('task', 'agent', 'robot'):  # a run folder holds the configuration as used
        beside = path.parent / f'{key}.yaml'
        if not values[key]:
            if not beside.is_file() and key != 'robot':
                raise ConfigError(f"argument '{key}' is needed: there is no {beside}")
            values[key] = str(beside) if beside.is_file() else ''


def _resolve_demo(values: dict[str, Value]) -> None:
    """Replay in lockstep; where no task is given, it is the one that the demonstration names."""
    values['mode'] = 'lockstep'
    if not values['demo']:
        raise ConfigError("argument 'demo' is needed: a demonstration or a folder of them")
    path = Path(str(values['demo'])).expanduser().absolute()
    values['demo'] = str(path)
    if values['task']:
        return
    from mbarl_ros.demos.metadata import METADATA_FILE, DemonstrationError, folders, task_and_robot

    found = [path] if (path / METADATA_FILE).exists() else folders(path)
    if not found:
        raise ConfigError(f'{path}: there are no demonstrations in it')
    try:
        values['task'], robot = task_and_robot(found[0])
        values['robot'] = values['robot'] or robot
    except DemonstrationError as error:
        raise ConfigError(str(error)) from None


# --- graphs ----------------------------------------------------------------------------------


class _Builder:
    """Gives each node the common parameters, and its own."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self.values = values
        self.common = {
            'task': values['task'],
            'robot': values['robot'],
            'agent': values['agent'],
            'seed': values['seed'],
            'run_dir': values['run_dir'],
            'mode': values.get('mode', 'realtime'),
        }

    def node(
        self, name: str, *, required: bool = False, respawn: bool = False, **own: Value
    ) -> NodeSpec:
        assert name in NODES
        return NodeSpec(
            executable=name,
            name=name,
            parameters={**self.common, **own},
            namespace=str(self.values['namespace']).strip('/'),
            required=required,
            respawn=respawn and bool(self.values.get('use_respawn', False)),
        )

    def gate(self, simulated: bool) -> NodeSpec:
        """The safety gate, which must know how long a second of the robot is."""
        if not simulated:
            return self.node('safety_gate', **self.sim_time(simulated))
        return self.node('safety_gate', real_time_factor=self.values['real_time_factor'])

    def sim_time(self, simulated: bool) -> dict[str, Value]:
        """In lockstep the nodes go by header stamps; following /clock would only cost time."""
        asked = simulated or self.values.get('use_sim_time')
        on = asked and self.common['mode'] == 'realtime'
        return {'use_sim_time': True} if on else {}

    def monitor(self) -> NodeSpec:
        return NodeSpec(
            executable='monitor',
            name='monitor',
            parameters={'format': 'lines', 'period': 10.0},
            namespace=str(self.values['namespace']).strip('/'),
            respawn=True,
            optional=True,
        )


def _learning(
    values: Mapping[str, Value], task: TaskConfig, agent: AgentConfig, simulated: bool
) -> tuple[NodeSpec, ...]:
    """The graphs ``sim`` and ``hardware``: they differ in the robot and the evaluator."""
    build = _Builder(values)
    demos = values['demos']
    nodes = [
        build.gate(simulated),
        build.node(
            'policy_controller',
            # A real robot does not move again by itself after a crash.
            respawn=simulated or not values['autostart'],
            autostart=values['autostart'],
            **build.sim_time(simulated),
        ),
        build.node('learner', respawn=True, demonstrations=demos),
        build.monitor(),
    ]
    if agent.backward == 'classifier':
        nodes.append(build.node('state_classifier', respawn=True, demonstrations=demos))
    if simulated:
        nodes.insert(0, build.node('robot_sim', real_time_factor=values['real_time_factor']))
        nodes.append(
            build.node(
                'policy_evaluator',
                required=True,
                demonstrations=demos,
                budget=values['steps'] or task.evaluation.budget,
                target=values['target'] or task.evaluation.target,
            )
        )
    return tuple(nodes)


def _record(
    values: Mapping[str, Value], task: TaskConfig, agent: AgentConfig, simulated: bool
) -> tuple[NodeSpec, ...]:
    build = _Builder(values)
    nodes = [
        build.gate(simulated),
        build.node('demo_recorder', demonstrations=values['demos'], **build.sim_time(simulated)),
        build.monitor(),
    ]
    if simulated:
        nodes.insert(0, build.node('robot_sim', real_time_factor=values['real_time_factor']))
    if values['operator'] == 'scripted':
        if not simulated:
            raise ConfigError(
                'operator:=scripted drives the simulated robot only; give operator:=none'
            )
        nodes.append(build.node('scripted_operator', required=True, episodes=values['episodes']))
    return tuple(nodes)


def _evaluate(
    values: Mapping[str, Value], task: TaskConfig, agent: AgentConfig, simulated: bool
) -> tuple[NodeSpec, ...]:
    build = _Builder(values)
    nodes = [
        build.gate(simulated),
        build.node(
            'policy_controller',
            required=True,
            autostart=values['autostart'] in (('auto', 'true') if simulated else ('true',)),
            policy=values['policy'],
            episodes=values['episodes'],
            **build.sim_time(simulated),
        ),
        build.monitor(),
    ]
    if simulated:
        nodes.insert(0, build.node('robot_sim', real_time_factor=values['real_time_factor']))
    return tuple(nodes)


def _replay(
    values: Mapping[str, Value], task: TaskConfig, agent: AgentConfig, simulated: bool
) -> tuple[NodeSpec, ...]:
    build = _Builder(values)
    demos = values['demo']
    return (
        build.node('robot_sim', demonstrations=demos),
        build.node('safety_gate'),
        build.node(
            'demo_replayer', required=True, demonstrations=demos, tolerance=values['tolerance']
        ),
        build.monitor(),
    )


_BUILDERS = {
    'sim': _learning,
    'hardware': _learning,
    'record': _record,
    'evaluate': _evaluate,
    'replay': _replay,
}
