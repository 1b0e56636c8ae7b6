"""``mbarl robot check``, ``mbarl robot policy`` and ``mbarl doctor``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from mbarl_ros.bringup.domain import enter_domain, running_domains
from mbarl_ros.bringup.sros2 import sros2_policy
from mbarl_ros.cli.run import run_command
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.environment import DISCOVERY_RANGE
from mbarl_ros.schema.exit_codes import EXIT_FAILURE, EXIT_SUCCESS
from mbarl_ros.schema.findings import ERROR, WARNING, Finding
from mbarl_ros.schema.load import load_robot
from mbarl_ros.task import Task
from mbarl_ros.view.findings import print_findings, print_topics


def main(arguments: list[str]) -> int:
    """Run ``robot`` or ``doctor``; returns the exit code."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='mbarl')
    commands = parser.add_subparsers(required=True)
    robot = commands.add_parser('robot').add_subparsers(required=True, metavar='ACTION')
    check = robot.add_parser(
        'check',
        help='check the topics of a running robot',
        description='Check the topics of a running robot against its profile, without moving it. '
        'Exit code 0: no error.',
    )
    check.set_defaults(run=_check)
    check.add_argument('--robot', default='', help="robot profile; default: the task's")
    check.add_argument('--task', default='', help='also check the ranges of this task')
    check.add_argument('--seconds', type=float, default=10.0, help='duration (default: 10)')
    check.add_argument('--sim-time', action='store_true', help='follow /clock')
    policy = robot.add_parser(
        'policy',
        help='print the SROS2 policy for a robot',
        description='Print a policy file for `ros2 security`: the topics and services of each node '
        'on this robot.',
    )
    policy.set_defaults(run=_policy)
    policy.add_argument('--robot', required=True, help='robot profile')
    doctor = commands.add_parser(
        'doctor',
        help='explain why a graph does not move',
        description='Explain, one sentence per cause, why a running graph does not move. Exit '
        'code 0: nothing is wrong.',
    )
    doctor.set_defaults(run=_doctor)
    doctor.add_argument('--seconds', type=float, default=3.0, help='duration (default: 3)')
    for command in (check, doctor, policy):
        command.add_argument('--namespace', default='', help='ROS namespace of the graph')
    for command in (check, doctor):
        command.add_argument(
            '--domain',
            type=int,
            default=None,
            help='ROS domain; default: ROS_DOMAIN_ID, or the domain of the only graph that '
            '`mbarl up` runs on this machine',
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
    print_topics(report.rows)
    print_findings(report.findings)
    code = _exit_code(report.findings)
    if code != EXIT_SUCCESS:
        print(f'robot {robot.name} is not fit to be armed; discovery: {_discovery()}')
    elif any(finding.level == WARNING for finding in report.findings):
        print(f'robot {robot.name} is fit to be armed, but see the warnings')
    else:
        print(f'robot {robot.name} is fit to be armed')
    return code


def _doctor(options: argparse.Namespace) -> int:
    enter_domain(options.domain)
    from mbarl_ros.nodes.support.doctor import Doctor
    from mbarl_ros.nodes.support.robot_check import DISCOVERY, Listener

    with Listener('doctor', _namespace(options)) as listener:
        doctor = Doctor(listener)
        listener.spin(DISCOVERY)
        findings = doctor.examine(options.seconds, running_domains())
    print_findings(findings)
    if not findings:
        print('nothing is wrong, as far as the graph shows')
    return _exit_code(findings)


def _policy(options: argparse.Namespace) -> int:
    print(sros2_policy(load_robot(options.robot), options.namespace), end='')
    return EXIT_SUCCESS


def _exit_code(findings: Sequence[Finding]) -> int:
    failed = any(finding.level == ERROR for finding in findings)
    return EXIT_FAILURE if failed else EXIT_SUCCESS


def _namespace(options: argparse.Namespace) -> str:
    return '/' + options.namespace.strip('/')


def _discovery() -> str:
    discovery = os.environ[DISCOVERY_RANGE]
    if discovery == 'LOCALHOST':
        return f'this machine only; for a robot on another machine: export {DISCOVERY_RANGE}=SUBNET'
    return discovery
