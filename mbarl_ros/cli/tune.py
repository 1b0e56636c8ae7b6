"""``mbarl tune``: searches settings of a preset over tasks and seeds."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mbarl_ros.cli.bench import seed_numbers
from mbarl_ros.cli.engine import add_engine, engine, positive
from mbarl_ros.cli.run import run_command
from mbarl_ros.demos.metadata import DemonstrationError
from mbarl_ros.schema.exit_codes import EXIT_FAILURE, EXIT_SUCCESS
from mbarl_ros.studies.search_space import read_space
from mbarl_ros.studies.seeds import load_variant
from mbarl_ros.studies.tune import Plan, Tune

_EPILOG = """\
KEY is a dotted key of the preset; its RANGE is log:LOW:HIGH, float:LOW:HIGH or int:LOW:HIGH, or
values with commas. A .yaml file may hold lines KEY: RANGE instead.

  mbarl tune --task pointmass push --search sac.learning_rate=log:1e-4:3e-3 chunk=25,50,100

Each trial runs as seeds of a bench do; bad ones are stopped early. The best few run again on fresh
seeds, beside the preset as it is. OUT gets best.yaml (`mbarl up sim agent:=OUT/best.yaml`),
tune.md, tune.json and tune.png. Ctrl-C at any moment: the same command goes on; with a larger
--trials it searches on.

Exit code 0: all fresh seeds ran. 1: one failed; the report is of the settings that finished.
"""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code: 0 if no fresh seed failed."""
    options = _parser().parse_args(arguments)
    interrupted = 'interrupted; the same command continues'
    return run_command(lambda: _tune(options), DemonstrationError, OSError, interrupted=interrupted)


def _tune(options: argparse.Namespace) -> int:
    plan = Plan(
        out=Path(options.out),
        tasks=list(dict.fromkeys(options.task)),
        preset=options.agent,
        space=read_space(options.search, load_variant(options.agent)),
        trials=options.trials,
        seeds=options.seeds,
        fresh=options.fresh_seeds,
        finalists=options.finalists,
        budget=options.budget,
        every=options.every,
        evaluators=options.evaluators,
    )
    where = engine(options)  # before a folder is made: arguments of another engine are refused
    trials, finals = Tune(plan).run(where)
    from mbarl_ros.studies.tune_report import write_report

    verdict, paths = write_report(plan, trials, finals)
    print(verdict)
    for path in paths:
        print(path)
    for failure in finals.failures:
        print(f'error: {failure}', file=sys.stderr)
    return EXIT_FAILURE if finals.failures else EXIT_SUCCESS


def _several(text: str) -> int:
    if positive(text) < 2:
        raise argparse.ArgumentTypeError('one seed tells nothing about how sure a result is')
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mbarl tune',
        description='Search settings of a preset over tasks and seeds, without ROS, and report how '
        'sure the best ones are.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--search', nargs='+', default=[], metavar='KEY=RANGE', help='what to vary, see below'
    )
    parser.add_argument(
        '--task', nargs='+', default=['pointmass'], help='names or .yaml files (default: pointmass)'
    )
    parser.add_argument(
        '--agent',
        default='mbarl',
        help='preset, or a variant of one as in `mbarl bench` (default: mbarl)',
    )
    parser.add_argument('--trials', type=positive, default=30, help='settings to try (default: 30)')
    parser.add_argument(
        '--seeds', type=seed_numbers, default='3', help='of each trial: how many, or which ones'
    )
    parser.add_argument(
        '--finalists', type=positive, default=3, help='settings that run again (default: 3)'
    )
    parser.add_argument(
        '--fresh-seeds', type=_several, default=5, help='seeds that they run on (default: 5)'
    )
    parser.add_argument(
        '--budget',
        type=positive,
        default=0,
        help="environment steps of a seed; default: the task's",
    )
    parser.add_argument(
        '--every',
        type=positive,
        default=0,
        metavar='STEPS',
        help="environment steps between two evaluations; default: the task's",
    )
    parser.add_argument('--out', default='runs/tune', help='output folder (default: runs/tune)')
    parser.add_argument(
        '--evaluators',
        type=positive,
        default=1,
        metavar='N',
        help='processes beside that of each seed, which evaluate its policies (default: 1)',
    )
    add_engine(parser, 'seeds')
    return parser
