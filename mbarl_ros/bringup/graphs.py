"""The graphs ``sim``, ``fleet``, ``hardware``, ``record``, ``evaluate`` and ``replay`` as data.

A :class:`Plan` lists the nodes of a graph with their parameters; ``launch/*.launch.py`` and
``mbarl up`` both translate it. Arguments and configuration are checked here, before any node
starts.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mbarl_ros.bringup import hosts
from mbarl_ros.bringup.argument_values import parse
from mbarl_ros.bringup.arguments import LEARNING, Value
from mbarl_ros.bringup.fleet import robot_remappings
from mbarl_ros.bringup.node_specs import NodeBuilder, NodeSpec, builders, is_fleet, watcher
from mbarl_ros.bringup.sources import resolve_demo, resolve_policy
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import (
    available,
    how_to_record,
    is_generated,
    load_agent,
    load_robot,
    load_task,
    recording_folder,
    search_current_folder,
    without_demonstrations,
)
from mbarl_ros.schema.robot import RobotConfig
from mbarl_ros.schema.task import TaskConfig
from mbarl_ros.task import Task


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
    def host(self) -> str:
        """Which side of the graph this is: ``all``, ``robot`` or ``learner``."""
        return str(self.arguments.get('host', hosts.ALL))

    @property
    def namespaces(self) -> set[str]:
        """Namespaces in which it has nodes: of a fleet also those of its robots."""
        return {spec.namespace.strip('/') for spec in self.nodes}

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
        resolve_demo(values)
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
    _check_tracker(str(values.get('tracker', 'none')))
    _check_fleet(values)
    _resolve_mode(graph, values, given, simulated)
    hosts.check_discovery(values)
    host = str(values.get('host', hosts.ALL))
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
    learns = graph in LEARNING and host != hosts.ROBOT
    if learns and not values['demos']:
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
        prefix += '' if host == hosts.ALL else f'{host}-'
        stamp = time.strftime('%Y%m%d-%H%M%S')
        values['run_dir'] = f'runs/{prefix}{task_config.name}-{agent.name}-{values["seed"]}-{stamp}'
    values['run_dir'] = str(Path(str(values['run_dir'])).expanduser().absolute())
    # The nodes need not generate it again: the run folder has task and robot as files.
    files = {key: str(Path(str(values['run_dir'])) / f'{key}.yaml') for key in generated}
    nodes = _BUILDERS[graph]({**values, **files}, agent, simulated)
    if values['view'] == 'web':
        nodes += (_web_page(graph, {**values, **files}, task_config),)
    if graph == 'fleet':
        nodes = tuple(_with_names_of_its_own(spec, robot) for spec in nodes)
    private_domain = simulated and host == hosts.ALL
    return Plan(graph, values, task_config, robot, agent, nodes, private_domain)


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


def _check_tracker(library: str) -> None:
    if library == 'none':
        return
    spec = importlib.util.find_spec(library)
    if spec is None or spec.origin is None:  # a folder of this name, as trackers make it
        raise ConfigError(
            f'tracker:={library}: the package {library} is not installed; pip install '
            "'mbarl_ros[track]'"
        )


def _check_fleet(values: Mapping[str, Value]) -> None:
    if not is_fleet(values) or values.get('host') == hosts.ROBOT:
        return
    if values.get('web_control'):
        raise ConfigError(
            'web_control:=true: the buttons are those of one robot; stop all by `mbarl stop`, and '
            'give it where host:=robot is'
        )
    for name in ('visualizer', 'record_run'):
        if values.get(name):
            raise ConfigError(
                f'{name}:=true: shows one robot; with fleet:=true give it where host:=robot is'
            )


def _resolve_demonstrations(graph: str, values: dict[str, Value], task: TaskConfig) -> None:
    if 'demos' not in values:
        return
    if values.get('host') == hosts.ROBOT:  # the learner's side has them
        values['demos'] = ''
        return
    if graph == 'record':
        values['demos'] = str(recording_folder(task, str(values['demos'])))
        return
    folder = str(values['demos'] or task.demonstrations or '')
    if not folder:
        return
    path = Path(folder).expanduser().absolute()
    values['demos'] = str(path)
    remedy = how_to_record(str(values['task']), task, path)
    if not path.is_dir():
        raise ConfigError(f'{path}: no such folder of demonstrations; {remedy}')
    if not any(path.iterdir()):
        raise ConfigError(f'{path}: no demonstration in this folder; {remedy}')


# --- graphs ----------------------------------------------------------------------------------


def _learning(
    values: Mapping[str, Value], agent: AgentConfig, simulated: bool
) -> tuple[NodeSpec, ...]:
    """The graphs ``sim``, ``fleet`` and ``hardware``, or the part of them that ``host`` names."""
    host = values.get('host', hosts.ALL)
    robots, shared = builders(values)
    watching = watcher(values)
    nodes = []
    if hosts.serves(str(values.get('discovery', ''))):
        nodes.append(watching.node('discovery_server', respawn=True))
    if host != hosts.LEARNER:
        for build in robots:
            nodes += _robot_side(build, simulated)
    if host != hosts.ROBOT:
        nodes += _learner_side(shared, agent, simulated)
    # The learner's side knows when a simulation is over, the robot's learns it from /diagnostics.
    follows = {'follows_end': True} if host == hosts.ROBOT and simulated else {}
    monitor = watching.monitor(**watching.of_robots(), **follows)
    return (*nodes, monitor, *watching.watchers(simulated))


def _with_names_of_its_own(spec: NodeSpec, profile: RobotConfig) -> NodeSpec:
    """In simulation: also the topics with absolute names are those of one robot."""
    if not spec.robot:
        return spec
    return replace(spec, remappings=spec.remappings + robot_remappings(profile, spec.namespace))


def _robot_side(build: NodeBuilder, simulated: bool) -> list[NodeSpec]:
    """What each robot has: gate and controller, and in simulation its world."""
    values = build.values
    keeps_policy = values.get('host') == hosts.ROBOT
    nodes = [
        build.gate(simulated),
        build.node(
            'policy_controller',
            # A real robot must not start moving by itself after a crash.
            respawn=simulated or not values['autostart'],
            autostart=values['autostart'],
            **({'keeps_policy': True} if keeps_policy else {}),
            **build.of_fleet(),
            **build.sim_time(simulated),
        ),
    ]
    return [build.robot_sim(respawn=bool(build.robot)), *nodes] if simulated else nodes


def _learner_side(build: NodeBuilder, agent: AgentConfig, simulated: bool) -> list[NodeSpec]:
    """What several robots share; a simulated run has an evaluator, which ends it."""
    values = build.values
    own = {'demonstrations': values['demos'], **build.of_robots()}
    # On a host of its own there is no control loop to give way to.
    alone = {'gives_way': False} if values.get('host') == hosts.LEARNER else {}
    nodes = [build.node('learner', respawn=True, **own, **alone)]
    if agent.backward == 'classifier':
        nodes.append(build.node('state_classifier', respawn=True, **own, **alone))
    if simulated:
        end = {'budget': values['steps'], 'target': values['target']}
        nodes.append(build.node('policy_evaluator', required=True, **own, **end))
    return nodes


def _record(
    values: Mapping[str, Value], agent: AgentConfig, simulated: bool
) -> tuple[NodeSpec, ...]:
    build = NodeBuilder(values)
    nodes = [
        build.gate(simulated),
        build.node('demo_recorder', demonstrations=values['demos'], **build.sim_time(simulated)),
        build.monitor(),
        *build.watchers(simulated),
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
    build = NodeBuilder(values)
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
        *build.watchers(simulated),
    ]
    if simulated:
        nodes.insert(0, build.robot_sim())
    return tuple(nodes)


def _replay(
    values: Mapping[str, Value], agent: AgentConfig, simulated: bool
) -> tuple[NodeSpec, ...]:
    build = NodeBuilder(values)
    demos = values['demo']
    return (
        build.robot_sim(demonstrations=demos),
        build.node('safety_gate'),
        build.node(
            'demo_replayer', required=True, demonstrations=demos, tolerance=values['tolerance']
        ),
        build.monitor(),
    )


def _web_page(graph: str, values: Mapping[str, Value], task: TaskConfig) -> NodeSpec:
    ends = graph in ('sim', 'fleet')
    budget, target = (
        task.run_end(int(values['steps']), float(values['target'])) if ends else (0, 0.0)
    )
    build = watcher(values)
    page = build.node(
        'web_page',
        graph=graph,
        budget=budget,
        target=target,
        control=values['web_control'],
        **build.of_robots(),
    )
    return replace(page, respawn=True, optional=True)


_BUILDERS = {
    'sim': _learning,
    'fleet': _learning,
    'hardware': _learning,
    'record': _record,
    'evaluate': _evaluate,
    'replay': _replay,
}
