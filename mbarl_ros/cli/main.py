"""The ``mbarl`` command."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import textwrap
from collections.abc import Sequence

from mbarl_ros import __version__
from mbarl_ros.schema.exit_codes import EXIT_INTERRUPTED, EXIT_SUCCESS, EXIT_USAGE

_EXAMPLES = """\
examples:
  mbarl up sim                          a simulated robot learns to drive through a gap
  mbarl up sim task:=tabletop seed:=1   another task, another seed
  mbarl up sim run_dir:=runs/mine       name the run folder; the same command again resumes it
  mbarl up fleet robots:=4              four simulated robots, one learner
  mbarl up record task:=pointmass       record demonstrations through the teleop topics
  mbarl teleop --task pointmass         drive from the keyboard, in a second terminal
  mbarl robot new my_arm                write a profile and a task for a running robot
  mbarl robot check --robot arm.yaml    is a running robot fit to be armed?
  mbarl doctor                          why does nothing move?
  mbarl stop                            e-stop of all robots
  mbarl demos show demos/pointmass      plot demonstrations in the terminal
  mbarl render runs/mine --output a.gif film a policy, or a demonstration
  mbarl report runs/mine --output a.html write a report of a run, or compare several
  mbarl explain runs/mine               why does it not learn?
  mbarl bench --agents mbarl,bc         compare agents over seeds on the tabletop task
  mbarl study dyna-maze                 Dyna-Q on the maze of Sutton and Barto, as figures
  mbarl tune --search chunk=25,50,100   search settings of a preset over seeds
  mbarl up sim --help                   all arguments of the graph
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    command, rest = (arguments[0], arguments[1:]) if arguments else ('', [])
    # These commands have parsers of their own. Nothing else is imported for a node, which would
    # end with a traceback if Ctrl-C came before its handler.
    if command == 'node':
        return _node(rest)
    if command == 'demos':
        from mbarl_ros.cli import demos

        return demos.main(rest)
    if command == 'render':
        from mbarl_ros.cli import render

        return render.main(rest)
    if command == 'report':
        from mbarl_ros.cli import report

        return report.main(rest)
    if command == 'explain':
        from mbarl_ros.cli import explain

        return explain.main(rest)
    if command == 'bench':
        from mbarl_ros.cli import bench

        return bench.main(rest)
    if command == 'study':
        from mbarl_ros.cli import study

        return study.main(rest)
    if command == 'tune':
        from mbarl_ros.cli import tune

        return tune.main(rest)
    if command in ('robot', 'doctor', 'stop'):
        from mbarl_ros.cli import robot

        return robot.main(arguments)
    from mbarl_ros.cli.run import run_command

    options = _parser().parse_args(arguments)
    return run_command(lambda: options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mbarl',
        description='Model-based autonomous reinforcement learning on ROS 2: a robot practises on '
        'its own.',
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'mbarl_ros {__version__}')
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    up = commands.add_parser(
        'up', add_help=False, help='run a graph: sim, fleet, hardware, record, evaluate or replay'
    )
    up.set_defaults(run=_up)
    up.add_argument('graph', nargs='?', metavar='GRAPH')
    up.add_argument('assignments', nargs='*', metavar='KEY:=VALUE')
    up.add_argument('-h', '--help', '--show-args', action='store_true', dest='show')
    commands.add_parser(
        'demos', help='list, check, show, replay, convert and import demonstrations'
    )
    commands.add_parser('render', help='film policies and demonstrations: GIF, MP4, PNG')
    commands.add_parser('report', help='write a report of runs: HTML, PDF')
    commands.add_parser('explain', help='explain why a run does not learn')
    commands.add_parser('bench', help='compare agents over seeds, without ROS')
    commands.add_parser('study', help='run a study of the literature: figures and verdicts')
    commands.add_parser('tune', help='search settings of a preset over tasks and seeds')
    commands.add_parser(
        'robot', help='check a running robot; begin a profile; print its SROS2 policy'
    )
    commands.add_parser('doctor', help='explain why a graph does not move')
    commands.add_parser('stop', help='latch the e-stop of all robots')
    teleop = commands.add_parser(
        'teleop',
        help='drive a robot from the keyboard',
        description='Drive a robot, through its safety gate, from the keyboard of this terminal. '
        'The keys are shown.',
    )
    teleop.set_defaults(run=_teleop)
    teleop.add_argument('--task', default='pointmass', help='name or .yaml (default: pointmass)')
    teleop.add_argument('--robot', default='', help="robot profile; default: the task's")
    teleop.add_argument('--namespace', default='', help='ROS namespace of the graph')
    teleop.add_argument(
        '--domain',
        type=int,
        default=None,
        help='ROS domain of the graph; default: ROS_DOMAIN_ID, or the domain of the only graph '
        'that `mbarl up` runs on this machine',
    )
    commands.add_parser('node', help='run one node: mbarl node NAME [--ros-args ...]')
    return parser


def _up(options: argparse.Namespace) -> int:
    if options.show or options.graph is None:
        print(_describe(options.graph) if options.graph else _describe_graphs())
        return EXIT_SUCCESS if options.show else EXIT_USAGE
    from mbarl_ros.bringup.up import up

    return up(options.graph, _assignments(options.assignments))


def _assignments(texts: list[str]) -> dict[str, str]:
    from mbarl_ros.schema.base import ConfigError

    values: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition(':=')
        if not separator:
            raise ConfigError(f"'{text}' is not an argument; write it as key:=value")
        values[name] = value
    return values


def _describe_graphs() -> str:
    from mbarl_ros.bringup.arguments import GRAPHS

    graphs = '\n'.join(f'  {name:10} {about}' for name, (about, _) in GRAPHS.items())
    return (
        'usage: mbarl up GRAPH [KEY:=VALUE ...]\n\n'
        f'graphs:\n{graphs}\n\n'
        'mbarl up GRAPH --help lists the arguments of a graph.'
    )


def _describe(graph: str) -> str:
    from mbarl_ros.bringup.arguments import GRAPHS, arguments_of

    lines = []
    for argument in arguments_of(graph):
        default = f" (default: '{argument.default}')" if argument.default else ''
        lines.append(
            textwrap.fill(
                f'{argument.description}{default}',
                100,
                initial_indent=f'  {argument.name:17} ',
                subsequent_indent=' ' * 20,
            )
        )
    about, _ = GRAPHS[graph]
    return f'usage: mbarl up {graph} [KEY:=VALUE ...]\n\n{about}.\n\narguments:\n' + '\n'.join(
        lines
    )


def _teleop(options: argparse.Namespace) -> int:
    """Run the keyboard node in this process, in the domain of the running graph."""
    from mbarl_ros.bringup.domain import enter_domain

    enter_domain(options.domain)
    parameters = {'task': options.task, 'robot': options.robot}
    words = [
        word for name, value in parameters.items() if value for word in ('-p', f'{name}:={value}')
    ]
    namespace = '/' + options.namespace.strip('/')
    return _node(['keyboard_teleop', '--ros-args', '-r', f'__ns:={namespace}', *words])


def _node(arguments: list[str]) -> int:
    """Run a node in this process; ``mbarl up`` starts its child processes with this command."""
    from mbarl_ros.schema.executables import NODES
    from mbarl_ros.storage import lifeline

    name = arguments[0] if arguments else ''
    if name not in NODES:
        print(f"error: unknown node '{name}'; known: {', '.join(NODES)}", file=sys.stderr)
        return EXIT_USAGE
    # Until the node installs its own handlers, Ctrl-C ends the process without a traceback.
    signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_INTERRUPTED))
    lifeline.hold()
    module, _, function = NODES[name].partition(':')
    sys.argv = arguments
    return int(getattr(importlib.import_module(module), function)() or EXIT_SUCCESS)
