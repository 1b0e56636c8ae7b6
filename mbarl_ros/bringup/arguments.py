"""Arguments of the graphs: names, defaults, descriptions."""

from __future__ import annotations

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
RECORDED = Argument(
    'demos',
    '',
    "folder to which demonstrations are added; empty: the task's, or my_demos/TASK where it has "
    'none or one that comes with the package',
)
NAMESPACE = Argument('namespace', '', 'ROS namespace of all nodes, for several robots')
ROBOTS = Argument('robots', '2', 'number of simulated robots', kind=int)
FLEET = Argument(
    'fleet',
    'false',
    'this robot is one of several with one learner: `namespace` is its own, its learner and the '
    'nodes beside it are in the namespace above (with host:=learner `namespace` is that one), and '
    '`mbarl stop` stops all robots',
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


_WHAT = (TASK, AGENT, ROBOT, SEED, RUN_DIR)
_SIMULATED_PRACTICE = (REAL_TIME_FACTOR, STEPS, TARGET, DEMOS, AUTOSTART, USE_RESPAWN)


GRAPHS: dict[str, tuple[str, tuple[Argument, ...]]] = {
    'sim': (
        'A simulated robot learns autonomously until it reaches its target success or step budget',
        (
            *_WHAT,
            MODE,
            *_SIMULATED_PRACTICE,
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
            *_WHAT,
            DEMOS,
            _with_default(AUTOSTART, 'false'),
            USE_RESPAWN,
            HOST,
            DISCOVERY,
            USE_SIM_TIME,
            VISUALIZER,
            RECORD_RUN,
            TRACKER,
            FLEET,
            *_COMMON,
        ),
    ),
    'record': (
        'Record demonstrations from the teleop topics',
        (
            *_WHAT,
            MODE,
            REAL_TIME_FACTOR,
            RECORDED,
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
    'fleet': (
        'Several simulated robots practise with one learner, in real time, until the target '
        'success or step budget is reached',
        (
            ROBOTS,
            *_WHAT,
            _with_default(MODE, 'realtime'),
            *_SIMULATED_PRACTICE,
            TRACKER,
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
