"""Arguments of the graphs: names, defaults, descriptions, and how their text is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.run_files import POLICY_FILE

Value = bool | int | float | str


@dataclass(frozen=True)
class Argument:
    """An argument of a graph; ``kind`` is what its text must parse as."""

    name: str
    default: str
    description: str
    choices: tuple[str, ...] = ()
    kind: type = str


TASK = Argument('task', 'pointmass', 'task: a name in config/tasks or the path of a .yaml file')
AGENT = Argument('agent', 'mbarl', 'preset: a name in config/agents or the path of a .yaml file')
ROBOT = Argument('robot', '', 'robot profile in place of the one that the task names')
SEED = Argument('seed', '0', 'seed of every random stream', kind=int)
RUN_DIR = Argument(
    'run_dir',
    '',
    'folder of this run, resumed if it exists; default runs/<task>-<agent>-<seed>-<time>',
)
MODE = Argument(
    'mode',
    'lockstep',
    'lockstep: as fast as the data can be used, deterministic; realtime: at the speed of a robot',
    choices=('lockstep', 'realtime'),
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
    'autostart',
    'true',
    'activate the policy_controller by itself; false: the robot moves only '
    'after `ros2 lifecycle set /policy_controller configure` and `activate`',
    kind=bool,
)
AUTOSTART_SIMULATED = Argument(
    'autostart',
    'auto',
    'activate the policy_controller by itself; auto: with simulated:=true only, so that a robot '
    'moves only after `ros2 lifecycle set /policy_controller configure` and `activate`',
    choices=('auto', 'true', 'false'),
)
USE_RESPAWN = Argument(
    'use_respawn',
    'true',
    'start learner, state_classifier and, unless it would move a real robot, policy_controller '
    'again when they die',
    kind=bool,
)
LOG_LEVEL = Argument(
    'log_level',
    'info',
    'log level of all nodes',
    choices=('debug', 'info', 'warn', 'error', 'fatal'),
)
VIEW = Argument(
    'view',
    'auto',
    'what `mbarl up` shows: live (a panel), lines (a line every 10 s), none; '
    'auto: live on a terminal, else lines',
    choices=('auto', 'live', 'lines', 'none'),
)
SIMULATED = Argument(
    'simulated', 'true', "on the task's simulated world; false: on the robot", kind=bool
)
USE_SIM_TIME = Argument(
    'use_sim_time',
    'false',
    'for a robot in a simulator of your own, such as Gazebo: go by /clock',
    kind=bool,
)
OPERATOR = Argument(
    'operator',
    'scripted',
    'scripted: a scripted operator drives through the teleop topics; none: you do, with a '
    'gamepad or `mbarl teleop`',
    choices=('scripted', 'none'),
)
EPISODES = Argument('episodes', '0', 'demonstrations to record; 0: as many as usual', kind=int)
POLICY = Argument('policy', '', f'run folder, or {POLICY_FILE} in one, whose policy is deployed')
ATTEMPTS = Argument('episodes', '50', 'attempts after which the evaluation ends', kind=int)

DEMO = Argument('demo', '', 'demonstration to replay, or a folder of them')
TOLERANCE = Argument(
    'tolerance', '0.01', "deviation that is accepted, as a share of an entry's range", kind=float
)

_COMMON = (NAMESPACE, LOG_LEVEL, VIEW)


def _but(argument: Argument, default: str) -> Argument:
    return Argument(argument.name, default, argument.description, argument.choices, argument.kind)


GRAPHS: dict[str, tuple[str, tuple[Argument, ...]]] = {
    'sim': (
        'A simulated robot learns by itself, until its target success or its step budget',
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
            *_COMMON,
        ),
    ),
    'hardware': (
        'A real robot learns by itself, until it is stopped',
        (
            TASK,
            AGENT,
            ROBOT,
            SEED,
            RUN_DIR,
            DEMOS,
            _but(AUTOSTART, 'false'),
            USE_RESPAWN,
            USE_SIM_TIME,
            *_COMMON,
        ),
    ),
    'record': (
        'Demonstrations are recorded from the teleop topics',
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
            SIMULATED,
            USE_SIM_TIME,
            *_COMMON,
        ),
    ),
    'evaluate': (
        'A trained policy tries the task; its backward policy puts the world back',
        (
            POLICY,
            _but(TASK, ''),
            _but(AGENT, ''),
            ROBOT,
            SEED,
            RUN_DIR,
            MODE,
            REAL_TIME_FACTOR,
            ATTEMPTS,
            SIMULATED,
            USE_SIM_TIME,
            AUTOSTART_SIMULATED,
            *_COMMON,
        ),
    ),
    'replay': (
        'Demonstrations are replayed on the simulated robot, through the safety gate, in lockstep',
        (DEMO, _but(TASK, ''), AGENT, ROBOT, SEED, RUN_DIR, TOLERANCE, *_COMMON),
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


def parse(graph: str, given: Mapping[str, str]) -> dict[str, Value]:
    """All arguments of a graph, typed, from the text of those that were given.

    :raises ConfigError: an unknown graph or argument, or text that is not what it should be.
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
