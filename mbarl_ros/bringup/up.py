"""``mbarl up``: check everything, start a graph, say how it ended."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Mapping
from dataclasses import replace

from mbarl_ros import __version__
from mbarl_ros.bringup import graphs
from mbarl_ros.bringup.domain import take_domain
from mbarl_ros.bringup.run_folder import RunFolder
from mbarl_ros.bringup.supervisor import Supervisor, node_command, node_environment
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.environment import DISCOVERY_RANGE
from mbarl_ros.schema.exit_codes import EXIT_INTERRUPTED
from mbarl_ros.schema.robot import Switch, TeleopMap, keyboard_topic
from mbarl_ros.storage.files import unwritable
from mbarl_ros.task import Task
from mbarl_ros.view import screens


def up(graph: str, given: Mapping[str, str]) -> int:
    """Run a graph to its end; returns the exit code.

    :raises ConfigError: before any node starts: a wrong name, value or file, a run folder or
        domain in use or not writable, ROS 2 or a message package missing.
    """
    plan = graphs.plan(graph, given)
    check_ros(plan)
    demonstrations = check_demonstrations(plan)
    run_dir = RunFolder(plan)
    try:
        run_dir.keep_decoded(demonstrations)
        environ = os.environ if plan.private_domain else {'ROS_DOMAIN_ID': '0', **os.environ}
        try:
            domain, domain_lock = take_domain(environ, str(plan.arguments['namespace']))
        except OSError as error:
            raise unwritable(error.filename, error) from None
        with domain_lock:
            return _run(plan, run_dir, domain, given)
    finally:
        run_dir.close()


def check_ros(plan: graphs.Plan) -> None:
    """Check that rclpy and the message packages of the robot profile are installed.

    :raises ConfigError: naming what is missing and how to get it.
    """
    if importlib.util.find_spec('rclpy') is None:
        raise ConfigError(
            "rclpy is not importable: pip install -e '.[ros,sim]' -c constraints.txt in this "
            'environment, or source /opt/ros/$ROS_DISTRO/setup.bash'
        )
    for topic in (*plan.robot.state, *plan.robot.command, *plan.robot.teleop):
        package = topic.type.partition('/')[0]
        if importlib.util.find_spec(package) is None:
            dashed = package.replace('_', '-')
            raise ConfigError(
                f"robot '{plan.robot.name}': topic '{topic.topic}': message package {package} "
                f'is not installed; pip install ros-{dashed} or apt install '
                f'ros-$ROS_DISTRO-{dashed}'
            )


def check_demonstrations(plan: graphs.Plan) -> bytes:
    """Decode the demonstrations that the run starts from, for :meth:`RunFolder.keep_decoded`.

    :returns: the decoded demonstrations; nothing for a graph that does not learn
    :raises ConfigError: there is none, or one is damaged or of another task.
    """
    if plan.graph not in ('sim', 'hardware'):
        return b''
    from mbarl_ros.demos.reader import DemonstrationError, pack_demonstrations

    try:
        task = Task(plan.task, plan.robot)
        return pack_demonstrations(str(plan.arguments['demos']), task, plan.run_dir)
    except DemonstrationError as error:
        raise ConfigError(str(error)) from None


def how_to_drive(plan: graphs.Plan, domain: int) -> str:
    """What a person can drive the robot with, for the screen."""
    try:
        keyboard_topic(plan.robot)
    except ConfigError:  # no keys for positions
        return f'drive by {" or ".join(_source(source) for source in plan.robot.teleop)}'
    task = plan.arguments['task']
    return f'drive with a gamepad, or: mbarl teleop --task {task} --domain {domain}'


def _source(source: TeleopMap) -> str:
    pressed = isinstance(source.deadman, Switch)
    return source.topic + (f' (while {source.deadman.topic} is pressed)' if pressed else '')


def _run(plan: graphs.Plan, run_dir: RunFolder, domain: int, given: Mapping[str, str]) -> int:
    required = next((spec.parameters for spec in plan.nodes if spec.required), {})
    header = screens.Header(
        graph=plan.graph,
        task=plan.task.name,
        agent=plan.agent.name,
        seed=int(plan.arguments['seed']),
        run_dir=run_dir.path,
        budget=int(required.get('budget', 0)),
        target=float(required.get('target', 0.0)),
    )
    screen = screens.screen(str(plan.arguments['view']), header)
    log_level = str(plan.arguments['log_level'])
    supervisor = Supervisor(
        [_for_screen(spec) for spec in plan.nodes if screen.wanted or spec.name != 'monitor'],
        lambda spec: node_command(spec, run_dir.path / 'params', log_level),
        screen,
        environment=node_environment(os.environ, domain, run_dir.path / 'log'),
        log_file=run_dir.log_file,
    )
    screen.note(
        f'mbarl {__version__}: {plan.graph}, task {plan.task.name}, agent {plan.agent.name}, '
        f'seed {plan.arguments["seed"]}'
    )
    screen.note(f'run folder {run_dir.path}{" (resumed)" if run_dir.resumed else ""}')
    screen.note(f'ROS_DOMAIN_ID={domain} (export it to look in with ros2 topic list)')
    if not plan.private_domain and DISCOVERY_RANGE not in os.environ:
        screen.note(f'this machine only; for a robot on another: export {DISCOVERY_RANGE}=SUBNET')
    if plan.arguments.get('operator') == 'none':
        screen.note(how_to_drive(plan, domain))
    started = time.monotonic()
    with screen:
        code = supervisor.run()
    learning = plan.graph in ('sim', 'hardware')
    if learning and code == EXIT_INTERRUPTED:
        try:
            run_dir.write_interrupted_result()
        except ConfigError as error:
            screen.note(f'error: {error}')
    if learning:
        seconds, again = time.monotonic() - started, {**given, 'run_dir': run_dir.path}
        print(screens.summary(header, run_dir.result(), code, seconds, again), flush=True)
    if plan.graph == 'record':
        print(f'demonstrations are in {plan.arguments["demos"]}', flush=True)
    return code


def _for_screen(spec: graphs.NodeSpec) -> graphs.NodeSpec:
    """The monitor reports to us, once a second, instead of printing lines itself."""
    if spec.name != 'monitor':
        return spec
    return replace(spec, parameters={'format': 'json', 'period': 1.0})
