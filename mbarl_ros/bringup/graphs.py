"""The graphs ``sim``, ``fleet``, ``hardware``, ``record``, ``evaluate`` and ``replay`` as data.

A :class:`Plan` lists the nodes of a graph with their parameters; ``launch/*.launch.py`` and
``mbarl up`` both translate it. Arguments and configuration are checked here, before any node
starts.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mbarl_ros.bringup.arguments import CAMERA, LEARNING, Value, parse
from mbarl_ros.bringup.fleet import robot_remappings, robot_seed, shared_remappings
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.executables import NODES
from mbarl_ros.schema.load import (
    available,
    is_generated,
    load_agent,
    load_robot,
    load_task,
    search_current_folder,
    without_demonstrations,
)
from mbarl_ros.schema.robot import RobotConfig
from mbarl_ros.schema.task import TaskConfig
from mbarl_ros.storage.run_files import POLICY_FILE
from mbarl_ros.task import Task


@dataclass(frozen=True)
class NodeSpec:
    """One process of a graph.

    ``required``: its exit ends the run. ``respawn``: it is started again after it dies, with a
    delay of ``respawn_delay`` seconds. ``optional``: the run goes on without it. ``robot``: the one
    of a fleet to which it belongs.
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
    robot: str = ''

    @property
    def label(self) -> str:
        """Name in the run: that of the node, in a fleet after its robot: ``robot_1/robot_sim``."""
        return f'{self.robot}/{self.name}'.lstrip('/')


@dataclass(frozen=True)
class Plan:
    """A validated graph: resolved arguments, configuration as used, nodes to start.

    ``private_domain``: nothing of this graph concerns other machines or a robot, so it gets a ROS
    domain of its own.
    """

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

    @property
    def run_end(self) -> tuple[int, float]:
        """Budget (environment steps) and target (success rate) that end the run; 0: unlimited."""
        if 'steps' not in self.arguments:
            return 0, 0.0
        return self.task.run_end(int(self.arguments['steps']), float(self.arguments['target']))


def plan(graph: str, given: Mapping[str, str]) -> Plan:
    """Validate arguments and configuration, and describe the graph.

    :param given: argument name -> text; an absent argument takes its default
    :raises ConfigError: unknown graph, argument or name (the message lists the known ones), or a
        value that cannot be used.
    """
    values = parse(graph, given)
    if graph == 'evaluate':
        resolve_policy(values)
    if graph == 'replay':
        _resolve_demo(values)
    task_config = load_task(str(values['task']))
    robot_name = str(values.get('robot') or task_config.robot)
    robot = load_robot(robot_name)
    agent = load_agent(str(values['agent']))
    task = Task(task_config, robot)  # raises if their layouts do not match
    simulated = graph in ('sim', 'fleet', 'replay') or bool(values.get('simulated', False))
    if simulated:
        _check_world(task_config)
    if values.get('camera') and not simulated:
        raise ConfigError('camera:=true is the camera of the simulation; start the driver of yours')
    _resolve_mode(graph, values, given, simulated)
    if graph in LEARNING:
        task.check_agent(agent)
    if task_config.ended and graph in (*LEARNING, 'evaluate') and not simulated:
        raise ConfigError(
            f"task '{task_config.name}': key 'ended': only a simulated world can be reset; leave "
            'the key out for a robot'
        )
    if agent.resets and not simulated and graph in ('hardware', 'evaluate'):
        raise ConfigError(
            f"agent '{agent.name}': key 'resets': only a simulated world can be reset; use another "
            "agent, or a copy of this one's file with 'resets: false'"
        )
    _resolve_demonstrations(graph, values, task_config)
    if graph in LEARNING and not values['demos']:
        agent = without_demonstrations(agent, task_config)
    generated = [
        key
        for key, name in (('task', values['task']), ('robot', robot_name))
        if is_generated(str(name))
    ]
    values['task'] = _absolute(str(values['task']))
    values['agent'] = _absolute(str(values['agent']))
    values['robot'] = _absolute(robot_name)
    if not values['run_dir']:
        prefix = '' if graph in ('sim', 'hardware') else f'{graph}-'
        stamp = time.strftime('%Y%m%d-%H%M%S')
        values['run_dir'] = f'runs/{prefix}{task_config.name}-{agent.name}-{values["seed"]}-{stamp}'
    values['run_dir'] = str(Path(str(values['run_dir'])).expanduser().absolute())
    # The nodes need not generate it again: the run folder has task and robot as files.
    files = {key: str(Path(str(values['run_dir'])) / f'{key}.yaml') for key in generated}
    nodes = _BUILDERS[graph]({**values, **files}, agent, simulated)
    if graph == 'fleet':
        nodes = tuple(_with_names_of_its_own(spec, robot) for spec in nodes)
    return Plan(graph, values, task_config, robot, agent, nodes, private_domain=simulated)


# --- checks --------------------------------------------------------------------------------------


def _absolute(name: str) -> str:
    """A path as an absolute path, since nodes may run in another folder; a name unchanged."""
    return str(Path(name).expanduser().absolute()) if name.endswith(('.yaml', '.yml')) else name


def _resolve_mode(
    graph: str, values: dict[str, Value], given: Mapping[str, str], simulated: bool
) -> None:
    if simulated and graph != 'fleet' and values.get('operator') != 'none':
        return
    if given.get('mode') == 'lockstep':
        who = 'a person' if simulated else 'a robot'
        who = 'a robot of a fleet' if graph == 'fleet' else who
        raise ConfigError(f'mode:=lockstep: {who} cannot wait for a step; give mode:=realtime')
    values['mode'] = 'realtime'


def _check_world(task: TaskConfig) -> None:
    if task.world is None:
        raise ConfigError(
            f"task '{task.name}': key 'world' is not set, so the task cannot be simulated; shipped "
            f'tasks: {", ".join(available("tasks"))}'
        )
    module = task.world.partition(':')[0]
    search_current_folder()
    try:
        installed = importlib.util.find_spec(module) is not None
    except ImportError:
        installed = False
    if not installed:
        raise ConfigError(
            f"task '{task.name}': key 'world': no module {module}; install the simulation with "
            "pip install -e '.[ros,sim]' or correct the path"
        )


def _resolve_demonstrations(graph: str, values: dict[str, Value], task: TaskConfig) -> None:
    if 'demos' not in values:
        return
    folder = str(values['demos'] or task.demonstrations or '')
    if not folder:
        if graph in LEARNING:
            return
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
        raise ConfigError(f'{path}: no demonstration in this folder; {remedy}')


def resolve_policy(values: dict[str, Value]) -> None:
    """Make ``policy`` a file; unset ``task``, ``agent`` and ``robot`` become those beside it.

    :raises ConfigError: no policy, or nothing that says its task and agent.
    """
    if not values['policy']:
        raise ConfigError("argument 'policy' is required: a run folder, like policy:=runs/NAME")
    path = Path(str(values['policy'])).expanduser().absolute()
    if path.is_dir():
        path = path / POLICY_FILE
    if not path.is_file():
        raise ConfigError(f'{path}: no such file; a run writes it after its first policy update')
    values['policy'] = str(path)
    for key in ('task', 'agent', 'robot'):  # a run folder holds the configuration as used
        used = path.parent / f'{key}.yaml'
        if not values[key]:
            if not used.is_file() and key != 'robot':
                raise ConfigError(f"argument '{key}' is required: there is no {used}")
            values[key] = str(used) if used.is_file() else ''


def _resolve_demo(values: dict[str, Value]) -> None:
    """Set lockstep mode, and the task of the demonstration unless a task is given."""
    values['mode'] = 'lockstep'
    if not values['demo']:
        raise ConfigError("argument 'demo' is required: a demonstration or a folder of them")
    path = Path(str(values['demo'])).expanduser().absolute()
    values['demo'] = str(path)
    if values['task']:
        return
    from mbarl_ros.demos.metadata import METADATA_FILE, DemonstrationError, folders, task_and_robot

    demonstrations = [path] if (path / METADATA_FILE).exists() else folders(path)
    if not demonstrations:
        raise ConfigError(f'{path}: no demonstration in this folder')
    try:
        values['task'], robot = task_and_robot(demonstrations[0])
        values['robot'] = values['robot'] or robot
    except DemonstrationError as error:
        raise ConfigError(str(error)) from None


# --- graphs ----------------------------------------------------------------------------------


class _Builder:
    """Describes nodes: the common parameters, and those of each node.

    ``robot``: of a fleet; its nodes have a namespace, a folder and random streams of their own.
    """

    def __init__(
        self,
        values: Mapping[str, Value],
        robot: str = '',
        remappings: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.values, self.robot, self.remappings = values, robot, remappings
        self.namespace = f'{str(values["namespace"]).strip("/")}/{robot}'.strip('/')
        self.common = {
            'task': values['task'],
            'robot': values['robot'],
            'agent': values['agent'],
            'seed': values['seed'],
            'run_dir': values['run_dir'],
            'mode': values.get('mode', 'realtime'),
        }
        if robot:
            self.common['seed'] = robot_seed(int(values['seed']), robot)
            self.common['run_dir'] = str(Path(str(values['run_dir'])) / 'robots' / robot)

    def node(
        self, name: str, *, required: bool = False, respawn: bool = False, **own: Value
    ) -> NodeSpec:
        assert name in NODES
        return NodeSpec(
            executable=name,
            name=name,
            parameters={**self.common, **own},
            namespace=self.namespace,
            remappings=self.remappings,
            required=required,
            respawn=respawn and bool(self.values.get('use_respawn', False)),
            robot=self.robot,
        )

    def robot_sim(self, *, respawn: bool = False, **own: Value) -> NodeSpec:
        """The simulated robot, with its pace where it has one, and its camera."""
        names = ('real_time_factor', *(argument.name for argument in CAMERA))
        chosen = {name: self.values[name] for name in names if name in self.values}
        return self.node('robot_sim', respawn=respawn, **chosen, **own)

    def gate(self, simulated: bool) -> NodeSpec:
        """The safety gate; its time-outs depend on the real-time factor of a simulation."""
        if not simulated:
            return self.node('safety_gate', **self.of_fleet(), **self.sim_time(simulated))
        factor = self.values['real_time_factor']
        respawn = bool(self.robot)
        return self.node('safety_gate', respawn=respawn, real_time_factor=factor, **self.of_fleet())

    def of_fleet(self) -> dict[str, Value]:
        """Parameter ``fleet`` of a node of one robot of several."""
        return {'fleet': True} if self.robot else {}

    def sim_time(self, simulated: bool) -> dict[str, Value]:
        """Parameter ``use_sim_time``; in lockstep the nodes use header stamps instead of /clock."""
        requested = simulated or self.values.get('use_sim_time')
        follows_clock = requested and self.common['mode'] == 'realtime'
        return {'use_sim_time': True} if follows_clock else {}

    def monitor(self, **own: Value) -> NodeSpec:
        return NodeSpec(
            executable='monitor',
            name='monitor',
            parameters={
                'format': 'lines',
                'period': 10.0,
                'run_dir': self.values['run_dir'],
                **own,
            },
            namespace=self.namespace,
            respawn=True,
            optional=True,
        )


def _learning(
    values: Mapping[str, Value], agent: AgentConfig, simulated: bool
) -> tuple[NodeSpec, ...]:
    """The graphs ``sim`` and ``hardware``; ``sim`` adds simulated robot and evaluator."""
    if values.get('fleet'):
        return _one_of_fleet(values, agent)
    build = _Builder(values)
    return (*_robot_side(build, simulated), *_learner_side(build, agent, simulated))


def _one_of_fleet(values: Mapping[str, Value], agent: AgentConfig) -> tuple[NodeSpec, ...]:
    """A robot in its own namespace, and what it shares with others in the namespace above."""
    above, _, robot = f'/{values["namespace"]}'.rstrip('/').rpartition('/')
    values = {**values, 'namespace': above.strip('/')}
    build = _Builder(values, robot, shared_remappings(above))
    return (*_robot_side(build, False), *_learner_side(_Builder(values), agent, False, fleet=True))


def _fleet(
    values: Mapping[str, Value], agent: AgentConfig, simulated: bool
) -> tuple[NodeSpec, ...]:
    namespace = str(values['namespace'])
    nodes: list[NodeSpec] = []
    for number in range(1, int(values['robots']) + 1):
        robot = f'robot_{number}'
        nodes += _robot_side(_Builder(values, robot, shared_remappings(namespace)), simulated)
    return (*nodes, *_learner_side(_Builder(values), agent, simulated, fleet=True))


def _with_names_of_its_own(spec: NodeSpec, profile: RobotConfig) -> NodeSpec:
    """In simulation: also the topics with absolute names are those of one robot."""
    if not spec.robot:
        return spec
    return replace(spec, remappings=spec.remappings + robot_remappings(profile, spec.namespace))


def _robot_side(build: _Builder, simulated: bool) -> list[NodeSpec]:
    """What each robot has: gate and controller, and in simulation its world."""
    autostart = build.values['autostart']
    nodes = [
        build.gate(simulated),
        build.node(
            'policy_controller',
            # A real robot must not start moving by itself after a crash.
            respawn=simulated or not autostart,
            autostart=autostart,
            **build.of_fleet(),
            **build.sim_time(simulated),
        ),
    ]
    return [build.robot_sim(respawn=bool(build.robot)), *nodes] if simulated else nodes


def _learner_side(
    build: _Builder, agent: AgentConfig, simulated: bool, *, fleet: bool = False
) -> list[NodeSpec]:
    """What several robots share; a simulated run has an evaluator, which ends it."""
    own = {'demonstrations': build.values['demos']} | ({'fleet': True} if fleet else {})
    nodes = [
        build.node('learner', respawn=True, **own),
        build.monitor(**({'fleet': True} if fleet else {})),
    ]
    if agent.backward == 'classifier':
        nodes.append(build.node('state_classifier', respawn=True, **own))
    if simulated:
        end = {'budget': build.values['steps'], 'target': build.values['target']}
        nodes.append(build.node('policy_evaluator', required=True, **own, **end))
    return nodes


def _record(
    values: Mapping[str, Value], agent: AgentConfig, simulated: bool
) -> tuple[NodeSpec, ...]:
    build = _Builder(values)
    nodes = [
        build.gate(simulated),
        build.node('demo_recorder', demonstrations=values['demos'], **build.sim_time(simulated)),
        build.monitor(),
    ]
    wide = {'wide_starts': values['wide_starts']}
    if simulated:
        nodes.insert(0, build.robot_sim(**wide))
    elif values['wide_starts']:
        raise ConfigError('wide_starts:=true: only a simulated robot can be reset; leave it out')
    if values['operator'] == 'scripted':
        if not simulated:
            raise ConfigError(
                'operator:=scripted drives the simulated robot only; give operator:=none'
            )
        nodes.append(
            build.node('scripted_operator', required=True, episodes=values['episodes'], **wide)
        )
    return tuple(nodes)


def _evaluate(
    values: Mapping[str, Value], agent: AgentConfig, simulated: bool
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
        nodes.insert(0, build.robot_sim())
    return tuple(nodes)


def _replay(
    values: Mapping[str, Value], agent: AgentConfig, simulated: bool
) -> tuple[NodeSpec, ...]:
    build = _Builder(values)
    demos = values['demo']
    return (
        build.robot_sim(demonstrations=demos),
        build.node('safety_gate'),
        build.node(
            'demo_replayer', required=True, demonstrations=demos, tolerance=values['tolerance']
        ),
        build.monitor(),
    )


_BUILDERS = {
    'sim': _learning,
    'fleet': _fleet,
    'hardware': _learning,
    'record': _record,
    'evaluate': _evaluate,
    'replay': _replay,
}
