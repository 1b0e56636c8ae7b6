"""``mbarl bench``: agents x tasks x seeds without ROS, in parallel, and a report."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mbarl_ros.cli.engine import add_engine, engine, positive
from mbarl_ros.cli.run import run_command
from mbarl_ros.demos.metadata import DemonstrationError
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.exit_codes import EXIT_FAILURE, EXIT_SUCCESS
from mbarl_ros.studies.bench import run_seeds
from mbarl_ros.studies.seeds import SeedRun

_EPILOG = """\
An agent is the name or path of a preset, or a variant of one: PRESET:key=value,key=value with
dotted keys and YAML values (the key `name` renames it). `bc` is the behaviour clone of the
demonstrations, `random` acts at random. Names can be joined by commas; a variant is an argument of
its own:

  mbarl bench --agents mbarl,medal,bc 'mbarl:name=no model,model=null' mbarl:sac.cloning_weight=0

Each seed has a folder OUT/TASK/AGENT/seed_S with the configuration as used, evaluations.jsonl, the
policy and some earlier ones (as in the run folder of `mbarl up sim`: run it with `mbarl up evaluate
policy:=FOLDER`, film it with `mbarl render FOLDER`), metrics.jsonl and the log. Finished seeds are
not run again, interrupted ones start over; results are deterministic. At the end curves.png,
table.md and table.json are written to OUT/TASK.
"""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code: 0 if no seed failed."""
    options = _parser().parse_args(arguments)
    interrupted = 'interrupted; the same command continues'
    return run_command(
        lambda: _bench(options), DemonstrationError, OSError, interrupted=interrupted
    )


def _bench(options: argparse.Namespace) -> int:
    if options.report:
        if not _report(Path(options.report)):
            raise ConfigError(f'{options.report}: no finished seed in this folder')
        return EXIT_SUCCESS
    if options.stack > 1 and options.engine != 'local':
        raise ConfigError('--stack trains in one process of this machine; leave out --engine ray')
    failures = run_seeds(
        _runs(options), options.seeds, engine(options), options.evaluators, options.stack
    )
    for failure in failures:
        print(f'error: {failure}', file=sys.stderr)
    _report(Path(options.out))
    return EXIT_FAILURE if failures else EXIT_SUCCESS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mbarl bench',
        description='Compare agents on tasks over seeds, without ROS, in parallel processes of one '
        'thread each. Learner and phases are the same as on the robot.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--task',
        nargs='+',
        default=['tabletop'],
        help='names, .yaml files or gymnasium:ID (default: tabletop)',
    )
    parser.add_argument(
        '--agents', nargs='+', default=['mbarl,bc'], metavar='AGENT', help='see below'
    )
    parser.add_argument(
        '--seeds',
        type=seed_numbers,
        default='5',
        help='how many, or which ones: 2,7 (default: 5, which are 0 to 4)',
    )
    parser.add_argument('--budget', type=positive, help="environment steps; default: the task's")
    parser.add_argument(
        '--every',
        type=positive,
        default=0,
        metavar='STEPS',
        help='environment steps between two evaluations, of which every second is also one from '
        "wide starts; default: the task's. Evaluations of slow worlds take longer than practice",
    )
    parser.add_argument('--out', default='runs/bench', help='output folder (default: runs/bench)')
    parser.add_argument(
        '--evaluators',
        type=positive,
        default=1,
        metavar='N',
        help='processes beside that of each seed, which evaluate its policies while it practises '
        '(default: 1); results do not depend on it. More of them pay for slow worlds where cores '
        'are idle',
    )
    parser.add_argument(
        '--stack',
        type=positive,
        default=1,
        metavar='S',
        help='train S seeds of an agent and task as one stack in one process, meant for a GPU '
        '(default: 1). Results differ by rounding only',
    )
    parser.add_argument(
        '--demonstrations', default='', metavar='FOLDER', help="default: the task's"
    )
    parser.add_argument(
        '--demonstrations-per-goal',
        type=positive,
        metavar='N',
        help='use only the first N forward demonstrations of each goal and no backward ones; the '
        'agent is then called AGENT+demos=N',
    )
    parser.add_argument(
        '--report', metavar='OUT', help='only write the tables and plots of OUT again'
    )
    add_engine(parser, 'seeds')
    return parser


def seed_numbers(text: str) -> list[int]:
    """Seeds from how many, or which ones."""
    words = [word.strip() for word in text.split(',') if word.strip()]
    numbers = sorted({int(word) for word in words}) if all(map(str.isdecimal, words)) else []
    chosen = numbers if ',' in text else [seed for count in numbers for seed in range(count)]
    if not chosen:
        raise argparse.ArgumentTypeError(
            f'{text}: give the number of seeds, or seeds like 2,7 (seed 0 alone: 0,)'
        )
    return chosen


def _agents(words: list[str]) -> list[str]:
    split = [[word] if ':' in word else word.split(',') for word in words]
    return list(dict.fromkeys(agent for part in split for agent in part if agent))


def _runs(options: argparse.Namespace) -> list[SeedRun]:
    return [
        SeedRun(
            out=options.out,
            task=task,
            agent=agent,
            seed=0,
            budget=options.budget or 0,
            demonstrations=options.demonstrations,
            per_goal=options.demonstrations_per_goal,
            every=options.every,
        )
        for task in dict.fromkeys(options.task)
        for agent in _agents(options.agents)
    ]


def _report(out: Path) -> list[Path]:
    from mbarl_ros.studies.report import write_report

    written = write_report(out)
    for path in written:
        print(path)
    return written
