"""``mbarl robot check`` and ``mbarl doctor``: listening to a robot or a graph."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from mbarl_ros.bringup.domain import enter_domain, running_domains
from mbarl_ros.bringup.sros2 import sros2_policy
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.environment import DISCOVERY_RANGE
from mbarl_ros.schema.exit_codes import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_USAGE
from mbarl_ros.schema.findings import ERROR, WARNING, Finding
from mbarl_ros.schema.load import load_robot
from mbarl_ros.task import Task


def main(arguments: list[str]) -> int:
    """Run ``robot check`` or ``doctor``; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        return EXIT_USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='mbarl')
    commands = parser.add_subparsers(required=True)
    robot = commands.add_parser('robot').add_subparsers(required=True, metavar='ACTION')
    check = robot.add_parser(
        'check',
        help='listen to a running robot and say what is wrong',
        description='Listen to a running robot, without moving it, and say what is heard. Exit '
        'code 0: no error.',
    )
    check.set_defaults(run=_check)
    check.add_argument('--robot', default='', help="robot profile; default: the task's own")
    check.add_argument('--task', default='', help='task whose ranges the state should be in')
    check.add_argument('--seconds', type=float, default=10.0, help='how long (default 10)')
    check.add_argument('--sim-time', action='store_true', help='follow /clock')
    policies = robot.add_parser(
        'policy',
        help='print the SROS2 policy of the graph on a robot',
        description='Print a policy file for `ros2 security`: what each node may do on this robot.',
    )
    policies.set_defaults(run=_policy)
    policies.add_argument('--robot', required=True, help='robot profile')
    doctor = commands.add_parser(
        'doctor',
        help='explain a graph that does not move',
        description='Explain, in a sentence each, what keeps a running graph from moving. Exit '
        'code 0: nothing is wrong.',
    )
    doctor.set_defaults(run=_doctor)
    doctor.add_argument('--seconds', type=float, default=3.0, help='how long (default 3)')
    for command in (check, doctor, policies):
        command.add_argument('--namespace', default='', help='ROS namespace of the graph')
    for command in (check, doctor):
        command.add_argument(
            '--domain',
            type=int,
            default=None,
            help='ROS domain; default: ROS_DOMAIN_ID, or that of the one graph which `mbarl up` '
            'runs on this machine',
        )
    return parser


def _check(options: argparse.Namespace) -> int:
    if not (options.robot or options.task):
        raise ConfigError('give --robot or --task')
    task = Task.load(options.task, options.robot or None) if options.task else None
    robot = task.robot if task else load_robot(options.robot)
    enter_domain(options.domain)
    from mbarl_ros.nodes.support.robot_check import Listener

    with Listener('robot_check', _namespace(options), options.sim_time) as listener:
        report = listener.check(robot, options.seconds, task)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ('topic', 'rate', 'age', 'frame', 'other ends'):
        table.add_column(name)
    for row in report.rows:
        table.add_row(*row)
    Console().print(table)
    code = _say(report.findings)
    if code:
        print(f'robot {robot.name} is not fit to be armed; discovery: {_discovery()}')
    else:
        warned = any(finding.level == WARNING for finding in report.findings)
        see = ', but see the warnings' if warned else ''
        print(f'robot {robot.name} is fit to be armed{see}')
    return code


def _doctor(options: argparse.Namespace) -> int:
    enter_domain(options.domain)
    from mbarl_ros.nodes.support.doctor import Doctor
    from mbarl_ros.nodes.support.robot_check import DISCOVERY, Listener

    with Listener('doctor', _namespace(options)) as listener:
        doctor = Doctor(listener)
        listener.spin(DISCOVERY)
        findings = doctor.examine(options.seconds, running_domains())
    code = _say(findings)
    if not findings:
        print('nothing is wrong that can be seen from here')
    return code


def _policy(options: argparse.Namespace) -> int:
    print(sros2_policy(load_robot(options.robot), options.namespace), end='')
    return 0


def _say(findings: Sequence[Finding]) -> int:
    for finding in findings:
        print(f'{finding.level}: {finding}')
    return EXIT_FAILURE if any(finding.level == ERROR for finding in findings) else 0


def _namespace(options: argparse.Namespace) -> str:
    return '/' + options.namespace.strip('/')


def _discovery() -> str:
    if os.environ[DISCOVERY_RANGE] == 'LOCALHOST':
        return f'this machine only; for a robot on another: export {DISCOVERY_RANGE}=SUBNET'
    return os.environ[DISCOVERY_RANGE]
