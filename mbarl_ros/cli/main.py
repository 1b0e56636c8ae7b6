"""The ``mbarl`` command."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import textwrap
from collections.abc import Sequence

from mbarl_ros import __version__
from mbarl_ros.schema.exit_codes import EXIT_INTERRUPTED, EXIT_USAGE

_EXAMPLES = """\
examples:
  mbarl up sim                          a simulated robot learns to find through the gap
  mbarl up sim task:=tabletop seed:=1   another task, another seed
  mbarl up sim run_dir:=runs/mine       name the run folder; the same again resumes it
  mbarl up record task:=pointmass       record demonstrations through the teleop topics
  mbarl teleop --task pointmass         drive it from the keyboard, in a second terminal
  mbarl robot check --robot arm.yaml    listen to a robot: is it fit to be armed?
  mbarl doctor                          why does nothing move?
  mbarl demos show demos/pointmass      look at demonstrations
  mbarl bench --agents mbarl,bc         agents over seeds on the tabletop, against the record
  mbarl up sim --help                   all arguments of the graph
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ['node']:
        return _node(arguments[1:])
    if arguments[:1] == ['demos']:
        from mbarl_ros.cli import demos

        return demos.main(arguments[1:])
    if arguments[:1] == ['bench']:
        from mbarl_ros.cli import bench

        return bench.main(arguments[1:])
    if arguments[:1] in (['robot'], ['doctor']):
        from mbarl_ros.cli import robot

        return robot.main(arguments)
    parser = argparse.ArgumentParser(
        prog='mbarl',
        description='A robot that practises on its own: model-based autonomous reinforcement '
        'learning on ROS 2.',
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'mbarl_ros {__version__}')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    up = commands.add_parser(
        'up',
        add_help=False,
        help='start a graph: sim, hardware, record or evaluate',
        description='Start all nodes of a graph, show how it goes, stop them together.',
    )
    up.add_argument('graph', nargs='?', metavar='GRAPH')
    up.add_argument('assignments', nargs='*', metavar='KEY:=VALUE')
    up.add_argument('-h', '--help', '--show-args', action='store_true', dest='show')
    commands.add_parser(
        'demos', help='list, check, show, replay, convert and import demonstrations'
    )
    commands.add_parser('bench', help='compare agents over seeds, without ROS, with pictures')
    commands.add_parser('robot', help='robot check: is a running robot fit to be armed?')
    commands.add_parser('doctor', help='explain a graph that does not move')
    teleop = commands.add_parser(
        'teleop',
        help='drive a robot from the keyboard',
        description='Drive a robot, through its safety gate, from the keyboard of this terminal. '
        'The keys are shown.',
    )
    teleop.add_argument('--task', default='pointmass', help='name or .yaml (default: pointmass)')
    teleop.add_argument('--robot', default='', help="robot profile; default: the task's own")
    teleop.add_argument('--namespace', default='', help='ROS namespace of the graph')
    teleop.add_argument(
        '--domain',
        type=int,
        default=None,
        help='ROS domain of the graph; default: ROS_DOMAIN_ID, or that of the one graph which '
        '`mbarl up` runs on this machine',
    )
    commands.add_parser('node', help='run one node: mbarl node NAME [--ros-args ...]')
    options = parser.parse_args(arguments)
    try:
        if options.command == 'teleop':
            return _teleop(options)
        return _up(options.graph, options.assignments, options.show)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _up(graph: str | None, assignments: list[str], show: bool) -> int:
    from mbarl_ros.schema.base import ConfigError

    try:
        if show or graph is None:
            print(_describe(graph))
            return 0 if show else EXIT_USAGE
        from mbarl_ros.bringup.up import up

        return up(graph, _assignments(assignments))
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        return EXIT_USAGE


def _teleop(options: argparse.Namespace) -> int:
    """Run the keyboard's node in this process, in the domain of the running graph."""
    from mbarl_ros.bringup.domain import enter_domain
    from mbarl_ros.schema.base import ConfigError

    try:
        enter_domain(options.domain)
    except ConfigError as error:
        print(f'error: {error}', file=sys.stderr)
        return EXIT_USAGE
    names = {'task': options.task, 'robot': options.robot}
    parameters = [f'{name}:={value}' for name, value in names.items() if value]
    given = [word for parameter in parameters for word in ('-p', parameter)]
    namespace = '/' + options.namespace.strip('/')
    return _node(['keyboard_teleop', '--ros-args', '-r', f'__ns:={namespace}', *given])


def _assignments(texts: list[str]) -> dict[str, str]:
    from mbarl_ros.schema.base import ConfigError

    given: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition(':=')
        if not separator:
            raise ConfigError(f"'{text}' is not an argument; write it as key:=value")
        given[name] = value
    return given


def _describe(graph: str | None) -> str:
    from mbarl_ros.bringup.arguments import GRAPHS, arguments_of

    if graph is None:
        graphs = '\n'.join(f'  {name:10} {about}' for name, (about, _) in GRAPHS.items())
        return (
            'usage: mbarl up GRAPH [KEY:=VALUE ...]\n\ngraphs:\n'
            + graphs
            + '\n\nmbarl up GRAPH --help lists the arguments of a graph.'
        )
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
    return (
        f'usage: mbarl up {graph} [KEY:=VALUE ...]\n\n{GRAPHS[graph][0]}.\n\n'
        'arguments:\n' + '\n'.join(lines)
    )


def _node(arguments: list[str]) -> int:
    """Run a node in this process; ``mbarl up`` starts each of its children like this."""
    from mbarl_ros.schema.executables import NODES
    from mbarl_ros.storage import lifeline

    if not arguments or arguments[0] not in NODES:
        name = arguments[0] if arguments else ''
        print(f"error: unknown node '{name}'; known: {', '.join(NODES)}", file=sys.stderr)
        return EXIT_USAGE
    # Until the node has handlers of its own, Ctrl-C is a quiet end and no traceback.
    signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_INTERRUPTED))
    lifeline.hold()
    import importlib

    module, _, function = NODES[arguments[0]].partition(':')
    sys.argv = arguments
    return int(getattr(importlib.import_module(module), function)() or 0)
