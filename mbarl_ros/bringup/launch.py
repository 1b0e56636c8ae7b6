"""Translates the plan of a graph into ``launch_ros`` actions, for ``launch/*.launch.py``."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import IO, Any

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from mbarl_ros.bringup import graphs, hosts
from mbarl_ros.bringup.arguments import VIEW, Argument, arguments_of
from mbarl_ros.bringup.domain import take_domain
from mbarl_ros.bringup.node_process import default_environment
from mbarl_ros.bringup.node_specs import NodeSpec
from mbarl_ros.bringup.run_folder import RunEnd, RunFolder
from mbarl_ros.bringup.sros2 import enclave
from mbarl_ros.bringup.up import check_demonstrations
from mbarl_ros.storage import lifeline

_VIEW = replace(
    VIEW,
    default='lines',
    description='lines: a status line every 10 s; web: also a page for the browser on this machine',
    choices=('lines', 'web'),
)
# Locks and lifelines are held until the launch process exits.
_held_open: list[RunFolder | IO[str] | int] = []


def launch_description(graph: str) -> LaunchDescription:
    """Launch description of a graph: its arguments and, once they are known, its nodes."""
    # The screens belong to `mbarl up`; here the monitor node prints the status lines.
    arguments = [_VIEW if each.name == _VIEW.name else each for each in arguments_of(graph)]
    return LaunchDescription(
        [
            *(_declare(argument) for argument in arguments),
            OpaqueFunction(function=_bring_up, args=[graph, arguments]),
        ]
    )


def _declare(argument: Argument) -> DeclareLaunchArgument:
    return DeclareLaunchArgument(
        argument.name,
        default_value=argument.default,
        description=argument.description,
        choices=list(argument.choices) or None,
    )


def _bring_up(context: Any, graph: str, arguments: list[Argument]) -> list[Any]:
    texts = {argument.name: context.launch_configurations[argument.name] for argument in arguments}
    given = {
        argument.name: texts[argument.name]
        for argument in arguments
        if texts[argument.name] != argument.default
    }
    unknown = set(context.launch_configurations) - set(texts)
    plan = graphs.plan(graph, given)
    network = hosts.network(plan.arguments, os.environ)
    hosts.check_port(plan.arguments)
    demonstrations = check_demonstrations(plan)
    run_dir = RunFolder(plan)
    _held_open.append(run_dir)
    run_dir.keep_decoded(demonstrations)
    # `ros2 topic` and other tools use the domain of the environment, so the graph does, too.
    environ = {'ROS_DOMAIN_ID': '0', **os.environ}
    _, domain_lock = take_domain(environ, *plan.namespaces, host=plan.host)
    domain_lock.keep_network(network)
    _held_open.append(domain_lock)
    if url := run_dir.web_url():
        print(f'page: {url}', flush=True)  # not LogInfo: the URL has the token, and logs are public
    defaults = default_environment(run_dir.path / 'log', private=plan.private_domain)
    # After a SIGTERM `ros2 launch` leaves its nodes running, and the robot moving.
    lifeline_path = run_dir.path / '.lifeline'
    _held_open.append(lifeline.offer(lifeline_path))
    actions: list[Any] = [
        SetEnvironmentVariable(name, value)
        for name, value in {lifeline.VARIABLE: str(lifeline_path), **defaults}.items()
        if name not in os.environ
    ]
    actions += [SetEnvironmentVariable(name, value) for name, value in network.items()]
    if waiting := run_dir.steps_that_wait():
        actions.append(LogInfo(msg=waiting))
    if unknown:  # not an error, since a launch file that includes this one has its own arguments
        actions.append(
            LogInfo(
                msg=f'warning: {graph} has no argument {", ".join(sorted(unknown))}; '
                f'known: {", ".join(texts)}'
            )
        )
    end = RunEnd(plan, run_dir)
    for spec in plan.nodes:
        actions += _node(spec, str(plan.arguments['log_level']), end)
    return actions


def _node(spec: NodeSpec, log_level: str, end: RunEnd) -> list[Any]:
    node = Node(
        package='mbarl_ros',
        executable=spec.executable,
        name=spec.name,
        namespace=spec.namespace,
        # Typed, since launch would parse a text like '0' or '' as YAML.
        parameters=[
            {
                name: ParameterValue(value, value_type=type(value))
                for name, value in spec.parameters.items()
            }
        ],
        remappings=list(spec.remappings),
        ros_arguments=['--log-level', log_level, '--enclave', enclave(spec.name, spec.namespace)],
        output='screen',
        respawn=spec.respawn,
        respawn_delay=spec.respawn_delay,
    )
    if spec.respawn or spec.optional:
        return [node]

    def shut_down(event: Any, context: Any) -> Shutdown:
        return Shutdown(reason=end.exited(spec, event.returncode, context.is_shutdown))

    return [RegisterEventHandler(OnProcessExit(target_action=node, on_exit=shut_down)), node]
