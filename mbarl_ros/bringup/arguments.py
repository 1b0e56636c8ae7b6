"""Arguments of the graphs: names, defaults, descriptions, and the parsing of their text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.run_files import POLICY_FILE

Value = bool | int | float | str
_MAX_ROBOTS = 100  # of which each has three processes


@dataclass(frozen=True)
class Argument:
    """An argument of a graph; ``kind`` is the type that its text must parse as."""

    name: str
    default: str
    description: str
    choices: tuple[str, ...] = ()
    kind: type = str


TASK = Argument(
    'task',
    'pointmass',
    'task: a name in config/tasks, the path of a .yaml file, or gymnasium:ID or '
    'gymnasium:module:Class for a Gymnasium environment',
)
AGENT = Argument(
    'agent', 'mbarl', 'agent preset: a name in config/agents, or the path of a .yaml file'
)
ROBOT = Argument(
    'robot',
    '',
    "robot profile: a name in config/robots, or the path of a .yaml file; empty: the task's",
)
SEED = Argument('seed', '0', 'seed of all random streams', kind=int)
RUN_DIR = Argument(
    'run_dir',
    '',
    'folder of this run; resumed if it exists; empty: runs/<task>-<agent>-<seed>-<time>',
)
MODE = Argument(
    'mode',
    'lockstep',
    'lockstep: deterministic, as fast as the learner can use the data; realtime: at the speed of '
    'a robot',
    choices=('lockstep', 'realtime'),
)
REAL_TIME_FACTOR = Argument(
    'real_time_factor', '1.0', 'realtime mode: simulated seconds per second', kind=float
)
STEPS = Argument(
    'steps', '0', "budget in environment steps, which ends the run; 0: the task's", kind=int
)
TARGET = Argument(
    'target',
    '0.0',
    "success rate of the deployed policy that ends the run; 0: the task's",
    kind=float,
)
DEMOS = Argument('demos', '', "folder of demonstrations; empty: the task's")
NAMESPACE = Argument('namespace', '', 'ROS namespace of all nodes, for several robots')
ROBOTS = Argument('robots', '2', 'number of simulated robots', kind=int)
FLEET = Argument(
    'fleet',
    'false',
    'this robot is one of several with one learner: `namespace` is its own, its learner and the '
    'nodes beside it are in the namespace above, and `mbarl stop` stops all robots',
    kind=bool,
)
AUTOSTART = Argument(
    'autostart',
    'true',
    'activate the policy_controller at the start; false: the robot moves only after '
    '`ros2 lifecycle set /policy_controller configure` and `activate`',
    kind=bool,
)
AUTOSTART_SIMULATED = Argument(
    'autostart',
    'auto',
    'activate the policy_controller at the start; auto: only with simulated:=true. If not '
    'activated, the robot moves only after `ros2 lifecycle set /policy_controller configure` and '
    '`activate`',
    choices=('auto', 'true', 'false'),
)
USE_RESPAWN = Argument(
    'use_respawn',
    'true',
    'restart learner, state_classifier and policy_controller after they die; the latter not if '
    'that would move a real robot',
    kind=bool,
)
LOG_LEVEL = Argument(
    'log_level',
    'info',
    'log level of the nodes',
    choices=('debug', 'info', 'warn', 'error', 'fatal'),
)
VIEW = Argument(
    'view',
    'auto',
    'what `mbarl up` shows beside the output of the nodes: live (a panel), lines (a status line '
    'every 10 s) or none; auto: live on a terminal, else lines',
    choices=('auto', 'live', 'lines', 'none'),
)
SIMULATED = Argument(
    'simulated', 'true', "true: use the task's simulated world; false: the robot", kind=bool
)
USE_SIM_TIME = Argument(
    'use_sim_time',
    'false',
    'follow /clock, for a robot in another simulator such as Gazebo',
    kind=bool,
)
OPERATOR = Argument(
    'operator',
    'scripted',
    'scripted: a scripted operator drives through the teleop topics; none: you drive, with a '
    'gamepad or `mbarl teleop`',
    choices=('scripted', 'none'),
)
EPISODES = Argument(
    'episodes',
    '0',
    'number of demonstrations to record; 0: 3, or 24 where the operator goes both ways',
    kind=int,
)
WIDE_STARTS = Argument(
    'wide_starts',
    'false',
    'resets of the simulated robot lead to the wide starts of its world, as evaluation.wide has '
    'them; the scripted operator begins each demonstration with one',
    kind=bool,
)
POLICY = Argument('policy', '', f'policy to deploy: a run folder, or the {POLICY_FILE} in one')
ATTEMPTS = Argument('episodes', '50', 'number of attempts; then the evaluation ends', kind=int)

CAMERA = (
    Argument(
        'camera',
        'false',
        'the simulated robot publishes pictures of its world: camera/image_raw, camera/camera_info',
        kind=bool,
    ),
    Argument('camera_rate', '10.0', 'pictures per second of simulated time', kind=float),
    Argument('camera_width', '320', 'pixels of a picture', kind=int),
    Argument('camera_height', '240', 'pixels of a picture', kind=int),
)

DEMO = Argument('demo', '', 'demonstration to replay, or a folder of demonstrations')
TOLERANCE = Argument(
    'tolerance', '0.01', "largest accepted deviation, as a share of an entry's range", kind=float
)

_COMMON = (NAMESPACE, LOG_LEVEL, VIEW)


def _with_default(argument: Argument, default: str) -> Argument:
    return replace(argument, default=default)


GRAPHS: dict[str, tuple[str, tuple[Argument, ...]]] = {
    'sim': (
        'A simulated robot learns autonomously until it reaches its target success or step budget',
        (
            TASK,
            AGENT,
            ROBOT,
            SEED,
            RUN_DIR,
            MODE,
            REAL_TIME_FACTOR,
            STEPS,
            TARGET,
            DEMOS,
            AUTOSTART,
            USE_RESPAWN,
            *CAMERA,
            *_COMMON,
        ),
    ),
    'hardware': (
        'A real robot learns autonomously until you stop it',
        (
            TASK,
            AGENT,
            ROBOT,
            SEED,
            RUN_DIR,
            DEMOS,
            _with_default(AUTOSTART, 'false'),
            USE_RESPAWN,
            USE_SIM_TIME,
            FLEET,
            *_COMMON,
        ),
    ),
    'record': (
        'Record demonstrations from the teleop topics',
        (
            TASK,
            AGENT,
            ROBOT,
            SEED,
            RUN_DIR,
            MODE,
            REAL_TIME_FACTOR,
            DEMOS,
            OPERATOR,
            EPISODES,
            WIDE_STARTS,
            SIMULATED,
            USE_SIM_TIME,
            *CAMERA,
            *_COMMON,
        ),
    ),
    'evaluate': (
        'Evaluate a trained policy; between attempts the backward policy undoes the task',
        (
            POLICY,
            _with_default(TASK, ''),
            _with_default(AGENT, ''),
            ROBOT,
            SEED,
            RUN_DIR,
            MODE,
            REAL_TIME_FACTOR,
            ATTEMPTS,
            SIMULATED,
            USE_SIM_TIME,
            AUTOSTART_SIMULATED,
            *CAMERA,
            *_COMMON,
        ),
    ),
    'replay': (
        'Replay demonstrations on the simulated robot, through the safety gate, in lockstep',
        (
            DEMO,
            _with_default(TASK, ''),
            AGENT,
            ROBOT,
            SEED,
            RUN_DIR,
            TOLERANCE,
            *CAMERA,
            *_COMMON,
        ),
    ),
    'fleet': (
        'Several simulated robots practise with one learner, in real time, until the target '
        'success or step budget is reached',
        (
            ROBOTS,
            TASK,
            AGENT,
            ROBOT,
            SEED,
            RUN_DIR,
            _with_default(MODE, 'realtime'),
            REAL_TIME_FACTOR,
            STEPS,
            TARGET,
            DEMOS,
            AUTOSTART,
            USE_RESPAWN,
            *_COMMON,
        ),
    ),
}
"""Graph name -> one-line description, arguments."""
LEARNING = ('sim', 'fleet', 'hardware')
"""Graphs in which robots learn by themselves."""


def arguments_of(graph: str) -> tuple[Argument, ...]:
    """Arguments of a graph.

    :raises ConfigError: unknown graph.
    """
    if graph not in GRAPHS:
        raise ConfigError(f"unknown graph '{graph}'; known: {', '.join(GRAPHS)}")
    return GRAPHS[graph][1]


def parse(graph: str, given: Mapping[str, str]) -> dict[str, Value]:
    """All arguments of a graph as typed values; those that are not given have their defaults.

    :raises ConfigError: an unknown graph or argument, or text that is not a valid value.
    """
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
    if not 1 <= int(values.get('robots', 1)) <= _MAX_ROBOTS:
        raise ConfigError(
            f"argument 'robots' must be from 1 to {_MAX_ROBOTS}, got {values['robots']}"
        )
    if values.get('fleet') and not str(values['namespace']).strip('/'):
        raise ConfigError("argument 'fleet': give the namespace of this robot: namespace:=robot_1")
    if not 0 <= float(values.get('target', 0)) <= 1:
        raise ConfigError(f"argument 'target' must be a rate from 0 to 1, got {values['target']}")
    if float(values.get('real_time_factor', 1)) <= 0:
        raise ConfigError(
            f"argument 'real_time_factor' must be greater than 0, got {values['real_time_factor']}"
        )
    return values


def _value(argument: Argument, text: str) -> Value:
    if argument.choices and text not in argument.choices:
        raise ConfigError(
            f"argument '{argument.name}' must be one of {', '.join(argument.choices)}, got '{text}'"
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
