"""``mbarl up``: check the configuration, run a graph, print how it ended."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Mapping
from dataclasses import replace

from mbarl_ros import __version__
from mbarl_ros.bringup import graphs, hosts
from mbarl_ros.bringup.arguments import LEARNING
from mbarl_ros.bringup.domain import take_domain
from mbarl_ros.bringup.node_process import node_command, node_environment
from mbarl_ros.bringup.node_specs import NodeSpec, is_fleet
from mbarl_ros.bringup.run_folder import RunFolder
from mbarl_ros.bringup.supervisor import Supervisor
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.environment import DISCOVERY_RANGE
from mbarl_ros.schema.exit_codes import EXIT_FAILURE, EXIT_INTERRUPTED
from mbarl_ros.schema.packages import install_remedy
from mbarl_ros.schema.robot import TeleopMap, keyboard_topic
from mbarl_ros.storage.files import unwritable
from mbarl_ros.task import Task
from mbarl_ros.view.screens import LineScreen, screen
from mbarl_ros.view.status import MONITOR, RunInfo
from mbarl_ros.view.summary import summary


def up(graph: str, given: Mapping[str, str]) -> int:
    """Run a graph to its end; returns the exit code.

    :raises ConfigError: before any node starts: a wrong name, value or file; a run folder or
        domain that is in use or not writable; ROS 2 or a message package is missing.
    """
    plan = graphs.plan(graph, given)
    network = hosts.network(plan.arguments, os.environ)
    hosts.check_port(plan.arguments)
    check_ros(plan)
    demonstrations = check_demonstrations(plan)
    run_dir = RunFolder(plan)
    try:
        run_dir.keep_decoded(demonstrations)
        url = run_dir.web_url()
        environ = os.environ if plan.private_domain else {'ROS_DOMAIN_ID': '0', **os.environ}
        try:
            domain, domain_lock = take_domain(environ, *plan.namespaces, host=plan.host)
        except OSError as error:
            raise unwritable(error.filename, error) from None
        with domain_lock:
            domain_lock.keep_network(network)
            return _run(plan, run_dir, domain, network, given, url)
    finally:
        run_dir.close()


def check_ros(plan: graphs.Plan) -> None:
    """Check that rclpy and the message packages of the robot profile are installed.

    :raises ConfigError: the message says what is missing and how to install it.
    """
    if importlib.util.find_spec('rclpy') is None:
        raise ConfigError(
            "rclpy is not importable: pip install -e '.[ros,sim]' -c constraints.txt in this "
            'environment, or source /opt/ros/$ROS_DISTRO/setup.bash'
        )
    for topic in (*plan.robot.state, *plan.robot.command, *plan.robot.teleop):
        package = topic.type.partition('/')[0]
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"robot '{plan.robot.name}': {topic.label}: message package {package} is not "
                f'installed; {install_remedy(package)}'
            )


def check_demonstrations(plan: graphs.Plan) -> bytes:
    """Decode the demonstrations that the run starts from, for :meth:`RunFolder.keep_decoded`.

    :returns: the decoded demonstrations; nothing for a graph that does not learn from any
    :raises ConfigError: there is none, or one is damaged or of another task.
    """
    if plan.graph not in LEARNING or not plan.arguments['demos']:
        return b''
    from mbarl_ros.demos.reader import DemonstrationError, pack_demonstrations

    try:
        task = Task(plan.task, plan.robot)
        return pack_demonstrations(str(plan.arguments['demos']), task, plan.run_dir)
    except DemonstrationError as error:
        raise ConfigError(str(error)) from None


def how_to_drive(plan: graphs.Plan, domain: int) -> str:
    """The ways in which a person can drive the robot, as one sentence."""
    try:
        keyboard_topic(plan.robot)
    except ConfigError:  # the keyboard cannot drive positions
        return f'drive by {" or ".join(_teleop_source(source) for source in plan.robot.teleop)}'
    task = plan.arguments['task']
    return f'drive with a gamepad, or: mbarl teleop --task {task} --domain {domain}'


def _teleop_source(source: TeleopMap) -> str:
    if source.deadman_topic:
        return f'{source.topic} (while {source.deadman_topic.topic} is pressed)'
    return source.topic


def _run(
    plan: graphs.Plan,
    run_dir: RunFolder,
    domain: int,
    network: Mapping[str, str],
    given: Mapping[str, str],
    url: str,
) -> int:
    run = _run_info(plan)
    view = screen(str(plan.arguments['view']), run)
    log_level = str(plan.arguments['log_level'])
    supervisor = Supervisor(
        _supervised_nodes(plan),
        lambda spec: node_command(spec, run_dir.path / 'params', log_level),
        view,
        environment=node_environment(os.environ, domain, run_dir.path / 'log', network),
        log_file=run_dir.log_file,
    )
    _introduce(plan, run_dir, domain, view)
    if url:
        view.message(f'page {url}{_about_buttons(plan)}')
    if plan.host != hosts.ALL:
        view.message(hosts.how_to_start_the_other(plan.graph, given, plan.host, domain))
    started = time.monotonic()
    with view:
        code = supervisor.run()
    if plan.graph in LEARNING:
        try:
            if code == EXIT_INTERRUPTED:
                run_dir.write_interrupted_result()
            elif code == EXIT_FAILURE:
                run_dir.write_failed_result(supervisor.failure)
        except ConfigError as error:
            view.message(f'error: {error}')
        seconds, resume = time.monotonic() - started, {**given, 'run_dir': run_dir.path}
        stored = run_dir.stored_steps() if run.budget else 0
        print(summary(run, run_dir.result(), code, seconds, resume, stored), flush=True)
    if plan.graph == 'record':
        print(_where_recorded(plan), flush=True)
    return code


def _where_recorded(plan: graphs.Plan) -> str:
    folder = plan.arguments['demos']
    own = folder == plan.task.demonstrations
    return f'demonstrations are in {folder}' + ('' if own else f'; use them with demos:={folder}')


def _about_buttons(plan: graphs.Plan) -> str:
    if plan.arguments['web_control']:
        return ''
    if is_fleet(plan.arguments) and plan.host != hosts.ROBOT:
        return ' (read-only; mbarl stop stops all robots)'
    return ' (read-only; buttons: web_control:=true)'


def _run_info(plan: graphs.Plan) -> RunInfo:
    budget, target = plan.run_end
    return RunInfo(
        graph=plan.graph,
        task=plan.task.name,
        agent=plan.agent.name,
        seed=int(plan.arguments['seed']),
        run_dir=plan.run_dir,
        budget=budget,
        target=target,
        host=plan.host,
    )


def _supervised_nodes(plan: graphs.Plan) -> list[NodeSpec]:
    """Nodes of the plan; the monitor reports JSON to the screen."""
    json_report = {'format': 'json', 'period': 1.0}
    return [
        replace(spec, parameters={**spec.parameters, **json_report})
        if spec.name == MONITOR
        else spec
        for spec in plan.nodes
    ]


def _introduce(plan: graphs.Plan, run_dir: RunFolder, domain: int, view: LineScreen) -> None:
    """Show what is going to run, where its files are, and how to look at it."""
    view.message(
        f'mbarl {__version__}: {plan.graph}, task {plan.task.name}, agent {plan.agent.name}, '
        f'seed {plan.arguments["seed"]}'
    )
    view.message(f'run folder {run_dir.path}{" (resumed)" if run_dir.resumed else ""}')
    if waiting := run_dir.steps_that_wait():
        view.message(waiting)
    view.message(f'ROS_DOMAIN_ID={domain} (export it for ros2 topic list and other tools)')
    local = plan.host == hosts.ALL and DISCOVERY_RANGE not in os.environ
    if local and not plan.private_domain:
        view.message(
            f'this machine only; for a robot on another machine: export {DISCOVERY_RANGE}=SUBNET'
        )
    if plan.arguments.get('operator') == 'none':
        view.message(how_to_drive(plan, domain))
