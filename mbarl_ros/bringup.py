"""Which nodes with which parameters make up ``sim``, ``hardware``, ``record`` and ``evaluate``.

Said once, as data: ``launch/*.launch.py`` and ``mbarl up`` both translate a :class:`Plan`.
Everything a person can get wrong is checked here, before any node starts.
"""

from __future__ import annotations

import importlib.util
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mbarl_ros.config import (
    AgentConfig,
    ConfigError,
    RobotConfig,
    TaskConfig,
    available,
    load_agent,
    load_robot,
    load_task,
)
from mbarl_ros.executables import NODES
from mbarl_ros.task import Task

POLICY_FILE = 'policy.safetensors'
"""In a run folder: the policy message that the learner published last."""

Value = bool | int | float | str


@dataclass(frozen=True)
class Argument:
    """An argument of a graph; ``kind`` is what its text must parse as."""

    name: str
    default: str
    description: str
    choices: tuple[str, ...] = ()
    kind: type = str


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


TASK = Argument('task', 'pointmass', 'task: a name in config/tasks or the path of a .yaml file')
AGENT = Argument('agent', 'mbarl', 'preset: a name in config/agents or the path of a .yaml file')
ROBOT = Argument('robot', '', 'robot profile in place of the one that the task names')
SEED = Argument('seed', '0', 'seed of every random stream', kind=int)
RUN_DIR = Argument(
    'run_dir', '', 'folder of this run, resumed if it exists; '
    'default runs/<task>-<agent>-<seed>-<time>',
)
MODE = Argument(
    'mode', 'lockstep', 'lockstep: as fast as the data can be used, deterministic; '
    'realtime: at the speed of a robot', choices=('lockstep', 'realtime'),
)
REAL_TIME_FACTOR = Argument(
    'real_time_factor', '1.0', 'in realtime mode: simulated seconds per second', kind=float
)
STEPS = Argument('steps', '0', "budget in environment steps; 0: the task's", kind=int)
TARGET = Argument(
    'target', '0.0', "deployed success rate that ends the run; 0: the task's", kind=float
)
DEMOS = Argument('demos', '', "folder of demonstrations in place of the task's")
NAMESPACE = Argument('namespace', '', 'ROS namespace of all nodes, for several robots side by side')
AUTOSTART = Argument(
    'autostart', 'true', 'activate the policy_controller by itself; false: the robot moves only '
    'after `ros2 lifecycle set /policy_controller configure` and `activate`', kind=bool,
)
USE_RESPAWN = Argument(
    'use_respawn', 'true', 'start learner and state_classifier again when they die', kind=bool
)
LOG_LEVEL = Argument(
    'log_level', 'info', 'log level of all nodes',
    choices=('debug', 'info', 'warn', 'error', 'fatal'),
)
VIEW = Argument(
    'view', 'auto', 'what `mbarl up` shows: live (a panel), lines (a line every 10 s), none; '
    'auto: live on a terminal, else lines', choices=('auto', 'live', 'lines', 'none'),
)
SIMULATED = Argument(
    'simulated', 'true', "on the task's simulated world; false: on the robot", kind=bool
)
OPERATOR = Argument(
    'operator', 'scripted', 'scripted: a scripted operator drives through the teleop topics; '
    'none: you do, with a gamepad', choices=('scripted', 'none'),
)
EPISODES = Argument('episodes', '0', 'demonstrations to record; 0: as many as usual', kind=int)
POLICY = Argument('policy', '', f'run folder, or {POLICY_FILE} in one, whose policy is deployed')
ATTEMPTS = Argument('episodes', '50', 'attempts after which the evaluation ends', kind=int)

_COMMON = (NAMESPACE, LOG_LEVEL, VIEW)


def _but(argument: Argument, default: str) -> Argument:
    return Argument(
        argument.name, default, argument.description, argument.choices, argument.kind
    )


GRAPHS: dict[str, tuple[str, tuple[Argument, ...]]] = {
    'sim': (
        'A simulated robot learns by itself, until its target success or its step budget',
        (TASK, AGENT, ROBOT, SEED, RUN_DIR, MODE, REAL_TIME_FACTOR, STEPS, TARGET, DEMOS,
         AUTOSTART, USE_RESPAWN, *_COMMON),
    ),
    'hardware': (
        'A real robot learns by itself, until it is stopped',
        (TASK, AGENT, ROBOT, SEED, RUN_DIR, DEMOS, _but(AUTOSTART, 'false'), USE_RESPAWN,
         *_COMMON),
    ),
    'record': (
        'Demonstrations are recorded from the teleop topics',
        (TASK, AGENT, ROBOT, SEED, RUN_DIR, MODE, REAL_TIME_FACTOR, DEMOS, OPERATOR, EPISODES,
         SIMULATED, *_COMMON),
    ),
    'evaluate': (
        'A trained policy tries the task, forward phases only',
        (POLICY, _but(TASK, ''), _but(AGENT, ''), ROBOT, SEED, RUN_DIR, MODE, REAL_TIME_FACTOR,
         ATTEMPTS, SIMULATED, AUTOSTART, *_COMMON),
    ),
}
"""Name of a graph: its one-line description and its arguments."""


def arguments_of(graph: str) -> tuple[Argument, ...]:
    """Arguments of a graph.

    :raises ConfigError: unknown graph.
    """
    if graph not in GRAPHS:
        raise ConfigError(f"unknown graph '{graph}'; known: {', '.join(GRAPHS)}")
    return GRAPHS[graph][1]


def plan(graph: str, given: Mapping[str, str]) -> Plan:
    """Validate arguments and configuration and describe the graph.

    ``given`` maps argument names to text; what is absent takes its default.

    :raises ConfigError: unknown graph, argument or name, or a value that cannot be used; the
        message lists the known ones.
    """
    values = _parse(graph, given)
    if graph == 'evaluate':
        _resolve_policy(values)
    task_config = load_task(str(values['task']))
    robot_name = str(values.get('robot') or task_config.robot)
    robot = load_robot(robot_name)
    agent = load_agent(str(values['agent']))
    Task(task_config, robot)  # layouts must match
    simulated = graph == 'sim' or bool(values.get('simulated', False))
    if simulated:
        _check_world(task_config)
    _resolve_demonstrations(graph, values, task_config)
    values['task'] = _absolute(str(values['task']))
    values['agent'] = _absolute(str(values['agent']))
    values['robot'] = _absolute(robot_name)
    if not values['run_dir']:
        prefix = '' if graph in ('sim', 'hardware') else f'{graph}-'
        stamp = time.strftime('%Y%m%d-%H%M%S')
        values['run_dir'] = (
            f'runs/{prefix}{task_config.name}-{agent.name}-{values["seed"]}-{stamp}'
        )
    values['run_dir'] = str(Path(str(values['run_dir'])).expanduser().absolute())
    nodes = _BUILDERS[graph](values, task_config, simulated)
    return Plan(graph, values, task_config, robot, agent, nodes, private_domain=simulated)


# --- arguments -------------------------------------------------------------------------------


def _parse(graph: str, given: Mapping[str, str]) -> dict[str, Value]:
    known = {argument.name: argument for argument in arguments_of(graph)}
    for name in given:
        if name not in known:
            raise ConfigError(
                f"unknown argument '{name}' of graph '{graph}'; known: {', '.join(known)}"
            )
    values = {
        name: _value(argument, given.get(name, argument.default))
        for name, argument in known.items()
    }
    if not re.fullmatch(r'(/?[A-Za-z]\w*)?(/[A-Za-z]\w*)*', str(values['namespace'])):
        raise ConfigError(
            f"argument 'namespace' must be a ROS name like robot1, got '{values['namespace']}'"
        )
    for name in ('steps', 'seed', 'episodes'):
        if int(values.get(name, 0)) < 0:
            raise ConfigError(f"argument '{name}' must be 0 or more, got {values[name]}")
    if not 0 <= float(values.get('target', 0)) <= 1:
        raise ConfigError(f"argument 'target' must be a rate up to 1, got {values['target']}")
    if float(values.get('real_time_factor', 1)) <= 0:
        raise ConfigError(
            f"argument 'real_time_factor' must be more than 0, got {values['real_time_factor']}"
        )
    return values


def _value(argument: Argument, text: str) -> Value:
    if argument.choices and text not in argument.choices:
        raise ConfigError(
            f"argument '{argument.name}' must be one of {', '.join(argument.choices)}, "
            f"got '{text}'"
        )
    if argument.kind is bool:
        if text.lower() not in ('true', 'false'):
            raise ConfigError(f"argument '{argument.name}' must be true or false, got '{text}'")
        return text.lower() == 'true'
    if argument.kind is str:
        return text
    try:
        return argument.kind(text)
    except ValueError:
        kind = 'a whole number' if argument.kind is int else 'a number'
        raise ConfigError(f"argument '{argument.name}' must be {kind}, got '{text}'") from None


def _absolute(name: str) -> str:
    """A path made absolute, since nodes may run elsewhere; a name stays a name."""
    return str(Path(name).expanduser().absolute()) if name.endswith(('.yaml', '.yml')) else name


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

    def node(self, name: str, *, required: bool = False, respawn: bool = False,
             **own: Value) -> NodeSpec:
        assert name in NODES
        return NodeSpec(
            executable=name,
            name=name,
            parameters={**self.common, **own},
            namespace=str(self.values['namespace']).strip('/'),
            required=required,
            respawn=respawn and bool(self.values.get('use_respawn', False)),
        )

    def sim_time(self, simulated: bool) -> dict[str, Value]:
        """In lockstep the nodes go by header stamps; following /clock would only cost time."""
        on = simulated and self.common['mode'] == 'realtime'
        return {'use_sim_time': True} if on else {}

    def monitor(self) -> NodeSpec:
        return NodeSpec(
            executable='monitor', name='monitor', parameters={'format': 'lines', 'period': 10.0},
            namespace=str(self.values['namespace']).strip('/'), respawn=True, optional=True,
        )


def _learning(values: Mapping[str, Value], task: TaskConfig, simulated: bool
              ) -> tuple[NodeSpec, ...]:
    """The graphs ``sim`` and ``hardware``: they differ in the robot and the evaluator."""
    build = _Builder(values)
    demos = values['demos']
    nodes = [
        build.node('safety_gate'),
        build.node(
            'policy_controller', autostart=values['autostart'], **build.sim_time(simulated)
        ),
        build.node('learner', respawn=True, demonstrations=demos),
        build.node('state_classifier', respawn=True, demonstrations=demos),
        build.monitor(),
    ]
    if simulated:
        nodes.insert(0, build.node('robot_sim', real_time_factor=values['real_time_factor']))
        nodes.append(build.node(
            'policy_evaluator',
            required=True,
            demonstrations=demos,
            budget=values['steps'] or task.evaluation.budget,
            target=values['target'] or task.evaluation.target,
        ))
    return tuple(nodes)


def _record(values: Mapping[str, Value], task: TaskConfig, simulated: bool
            ) -> tuple[NodeSpec, ...]:
    build = _Builder(values)
    nodes = [
        build.node('safety_gate'),
        build.node(
            'demo_recorder', demonstrations=values['demos'], **build.sim_time(simulated)
        ),
        build.monitor(),
    ]
    if simulated:
        nodes.insert(0, build.node('robot_sim', real_time_factor=values['real_time_factor']))
    if values['operator'] == 'scripted':
        if not simulated:
            raise ConfigError(
                'operator:=scripted drives the simulated robot only; give operator:=none'
            )
        nodes.append(build.node(
            'scripted_operator', required=True, episodes=values['episodes']
        ))
    return tuple(nodes)


def _evaluate(values: Mapping[str, Value], task: TaskConfig, simulated: bool
              ) -> tuple[NodeSpec, ...]:
    build = _Builder(values)
    nodes = [
        build.node('safety_gate'),
        build.node(
            'policy_controller',
            required=True,
            autostart=values['autostart'],
            policy=values['policy'],
            episodes=values['episodes'],
            **build.sim_time(simulated),
        ),
        build.monitor(),
    ]
    if simulated:
        nodes.insert(0, build.node('robot_sim', real_time_factor=values['real_time_factor']))
    return tuple(nodes)


_BUILDERS = {
    'sim': _learning, 'hardware': _learning, 'record': _record, 'evaluate': _evaluate,
}
