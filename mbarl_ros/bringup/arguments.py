"""Arguments of the graphs: names, defaults, descriptions, and the parsing of their text."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.run_files import POLICY_FILE

Value = bool | int | float | str


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
    'every 10 s) or none; auto: live on a terminal, else lines; web: as auto, and a page for the '
    'browser on this machine',
    choices=('auto', 'live', 'lines', 'none', 'web'),
)
WEB_PORT = Argument('web_port', '0', 'view:=web: port of the page; 0: a free one', kind=int)
WEB_CONTROL = Argument(
    'web_control',
    'false',
    'view:=web: the page has buttons for e-stop, release, pause and turn of phase; false: it only '
    'shows',
    kind=bool,
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

VISUALIZER = Argument(
    'visualizer',
    'false',
    'publish markers for RViz and Foxglove, numbers to plot and, in simulation, the frames of the '
    'robot',
    kind=bool,
)
RECORD_RUN = Argument(
    'record_run',
    'false',
    'record the topics of the run into run_dir/recording, as MCAP files for Foxglove',
    kind=bool,
)
TRACKER = Argument(
    'tracker',
    'none',
    'log the numbers of the run to Weights & Biases or MLflow; without an account or a server: '
    'into run_dir',
    choices=('none', 'wandb', 'mlflow'),
)

DEMO = Argument('demo', '', 'demonstration to replay, or a folder of demonstrations')
TOLERANCE = Argument(
    'tolerance', '0.01', "largest accepted deviation, as a share of an entry's range", kind=float
)

HOST = Argument(
    'host',
    'all',
    'all: every node on this computer; robot: what moves the robot (gate, controller, simulation); '
    'learner: what learns (learner, classifier, evaluator), on another computer. Start both sides '
    'with the same task, robot, agent and namespace',
    choices=('all', 'robot', 'learner'),
)
DISCOVERY = Argument(
    'discovery',
    '',
    'how the two hosts find each other; empty: multicast in the subnet; serve:PORT (host:=robot '
    'only): by a Fast DDS discovery server that is started here; HOST:PORT: by the server there',
)


_COMMON = (NAMESPACE, LOG_LEVEL, VIEW, WEB_PORT, WEB_CONTROL)


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
            VISUALIZER,
            HOST,
            DISCOVERY,
            *CAMERA,
            RECORD_RUN,
            TRACKER,
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
            HOST,
            DISCOVERY,
            USE_SIM_TIME,
            VISUALIZER,
            RECORD_RUN,
            TRACKER,
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
            VISUALIZER,
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
            VISUALIZER,
            *CAMERA,
            RECORD_RUN,
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
}
"""Graph name -> one-line description, arguments."""


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
    if not 0 <= int(values['web_port']) <= 65535:
        raise ConfigError(f"argument 'web_port' must be 0 to 65535, got {values['web_port']}")
    if not 0 <= float(values.get('target', 0)) <= 1:
        raise ConfigError(f"argument 'target' must be a rate from 0 to 1, got {values['target']}")
    if float(values.get('real_time_factor', 1)) <= 0:
        raise ConfigError(
            f"argument 'real_time_factor' must be greater than 0, got {values['real_time_factor']}"
        )
    _check_web(values, given)
    return values


def _check_web(values: Mapping[str, Value], given: Mapping[str, str]) -> None:
    if values['view'] != 'web':
        for name in ('web_port', 'web_control'):
            if name in given:
                raise ConfigError(f"argument '{name}' is for the page; give view:=web as well")
    elif importlib.util.find_spec('aiohttp') is None:
        raise ConfigError(
            "view:=web needs aiohttp: pip install 'aiohttp>=3.9', or apt install python3-aiohttp"
        )


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
