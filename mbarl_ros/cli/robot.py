"""``mbarl robot check``, ``new`` and ``policy``, ``mbarl doctor`` and ``mbarl stop``."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from mbarl_ros.bringup.domain import enter_domain, running_domains
from mbarl_ros.bringup.sros2 import sros2_policy
from mbarl_ros.cli.run import run_command
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.environment import DISCOVERY_RANGE
from mbarl_ros.schema.exit_codes import EXIT_FAILURE, EXIT_SUCCESS
from mbarl_ros.schema.findings import ERROR, WARNING, Finding
from mbarl_ros.schema.load import find, is_path, load_robot
from mbarl_ros.schema.open_questions import open_questions
from mbarl_ros.task import Task
from mbarl_ros.view.findings import print_findings, print_topics

_NO_ANSWER = 'its safety gate does not answer; use the e-stop at the robot'


def main(arguments: list[str]) -> int:
    """Run ``robot``, ``doctor`` or ``stop``; returns the exit code."""
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
    new = _add_new(robot)
    policy = robot.add_parser(
        'policy',
        help='print the SROS2 policy for a robot',
        description='Print a policy file for `ros2 security`: the topics and services of each node '
        'on this robot.',
    )
    policy.set_defaults(run=_policy)
    policy.add_argument('--robot', required=True, help='robot profile')
    policy.add_argument(
        '--fleet', action='store_true', help='it is one of several robots with one learner'
    )
    doctor = commands.add_parser(
        'doctor',
        help='explain why a graph does not move',
        description='Explain, one sentence per cause, why a running graph does not move. Exit '
        'code 0: nothing is wrong.',
    )
    doctor.set_defaults(run=_doctor)
    doctor.add_argument('--seconds', type=float, default=3.0, help='duration (default: 3)')
    stop = commands.add_parser(
        'stop',
        help='latch the e-stop of all robots',
        description='Latch the e-stop of every safety gate in a namespace and in those of its '
        'robots. Exit code 0: every gate that was found reports an e-stop.',
    )
    stop.set_defaults(run=_stop)
    stop.add_argument('--seconds', type=float, default=10.0, help='longest wait (default: 10)')
    for command in (check, doctor, policy, new, stop):
        command.add_argument('--namespace', default='', help='ROS namespace of the graph')
    for command in (check, doctor, new, stop):
        command.add_argument(
            '--domain',
            type=int,
            default=None,
            help='ROS domain; default: ROS_DOMAIN_ID, or the domain of the only graph that '
            '`mbarl up` runs on this machine',
        )
    return parser


def _add_new(actions: argparse._SubParsersAction) -> argparse.ArgumentParser:
    new = actions.add_parser(
        'new',
        help='write a profile and a task for a running robot',
        description='Listen to a running robot, ask what it does not tell, and write a robot '
        'profile NAME.yaml and a task NAME_task.yaml to start from. Nothing moves. What nobody '
        'knows is a comment TODO in them.',
    )
    new.set_defaults(run=_new)
    new.add_argument(
        'name', nargs='?', default='', help='name of the robot; default: of its URDF, or my_robot'
    )
    new.add_argument('--seconds', type=float, default=5.0, help='duration (default: 5)')
    new.add_argument(
        '--topics', nargs='+', default=[], metavar='TOPIC', help='use these topics only'
    )
    new.add_argument(
        '--joints',
        nargs='+',
        default=[],
        metavar='TOPIC:=KIND:JOINTS',
        help='what a command topic takes, velocity or position, and the joints in its order: '
        'arm/commands:=velocity:shoulder,elbow',
    )
    new.add_argument('--frame', default='', help='frame of velocities of the tip (MoveIt Servo)')
    new.add_argument(
        '--degrees', action='store_true', help='joints are in degrees (but for the gripper)'
    )
    new.add_argument('--sim-time', action='store_true', help='follow /clock')
    return new


def _new(options: argparse.Namespace) -> int:
    if options.name and not re.fullmatch(r'[A-Za-z]\w*', options.name):
        raise ConfigError(f"name '{options.name}': use letters, digits and _, a letter first")
    enter_domain(options.domain)
    from mbarl_ros.nodes.support.profile_files import write_files
    from mbarl_ros.nodes.support.profile_plan import Wishes, parse_joints
    from mbarl_ros.nodes.support.robot_check import Listener
    from mbarl_ros.nodes.support.robot_discovery import discover

    given = [parse_joints(text) for text in options.joints]
    joints = {topic: (kind, names) for topic, kind, names in given}
    wishes = Wishes(_ask, options.topics, joints, options.frame, options.degrees)
    with Listener('robot_new', _namespace(options), options.sim_time) as listener:
        found = discover(listener, options.seconds)
    robot, task = write_files(Path(), options.name, found, wishes)
    questions = [*open_questions(robot), *open_questions(task)]
    print_findings(questions)
    print(f'wrote {robot} and {task}, with {len(questions)} open questions; then:')
    print(f'  mbarl robot check --robot {robot} --task {task}')
    return EXIT_SUCCESS


def _ask(question: str, answers: Sequence[str], option: str) -> str:
    """Ask in the terminal; where there is none, say which option answers the question."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError(f'{question}; there is no terminal to answer in: give {option}')
    while True:
        try:
            answer = input(f'{question} ').strip()
        except EOFError:
            raise ConfigError(f'{question}; no answer: give {option}') from None
        if answer and (not answers or answer in answers):
            return answer
        print(f'one of: {", ".join(answers)}' if answers else 'an answer is needed')


def _check(options: argparse.Namespace) -> int:
    if not (options.robot or options.task):
        raise ConfigError('give --robot or --task')
    task = Task.load(options.task, options.robot or None) if options.task else None
    robot = task.robot if task else load_robot(options.robot)
    enter_domain(options.domain)
    from mbarl_ros.nodes.support.robot_check import Listener

    with Listener('robot_check', _namespace(options), options.sim_time) as listener:
        report = listener.check(robot, options.seconds, task)
    findings = [*report.findings, *_open_questions(options, task)]
    print_topics(report.rows)
    print_findings(findings)
    code = _exit_code(findings)
    if code != EXIT_SUCCESS:
        print(f'robot {robot.name} is not fit to be armed; discovery: {_discovery()}')
    elif any(finding.level == WARNING for finding in findings):
        print(f'robot {robot.name} is fit to be armed, but see the warnings')
    else:
        print(f'robot {robot.name} is fit to be armed')
    return code


def _open_questions(options: argparse.Namespace, task: Task | None) -> list[Finding]:
    """What the robot profile and the task leave open."""
    robot = options.robot or (task.config.robot if task else '')
    files = [('robots', robot), ('tasks', options.task)]
    return [
        finding
        for kind, name in files
        if is_path(name)
        for finding in open_questions(find(kind, name))
    ]


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


def _stop(options: argparse.Namespace) -> int:
    enter_domain(options.domain)
    from mbarl_ros.control.control_loop import ESTOP
    from mbarl_ros.nodes.support.robot_check import Listener
    from mbarl_ros.nodes.support.stop_all import stop_all

    with Listener('stop', _namespace(options)) as listener:
        states = stop_all(listener, options.seconds)
    for robot, state in sorted(states.items()):
        print(f'{robot or "robot"}: {state or _NO_ANSWER}')
    if not states:
        print(f'no safety gate found; discovery: {_discovery()}')
    return EXIT_SUCCESS if states and set(states.values()) == {ESTOP} else EXIT_FAILURE


def _policy(options: argparse.Namespace) -> int:
    if options.fleet and not options.namespace.strip('/'):
        raise ConfigError('--fleet: give the namespace of this robot: --namespace robot_1')
    robot = load_robot(options.robot)
    print(sros2_policy(robot, options.namespace, fleet=options.fleet), end='')
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
