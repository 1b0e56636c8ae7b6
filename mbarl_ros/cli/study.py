"""``mbarl study``: experiments that the package grew from, each with a report and verdicts."""

from __future__ import annotations

import argparse
import sys

from rich import box
from rich.console import Console
from rich.table import Table

from mbarl_ros.cli.engine import add_engine, engine
from mbarl_ros.cli.run import run_command
from mbarl_ros.demos.metadata import DemonstrationError
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.exit_codes import EXIT_FAILURE, EXIT_SUCCESS
from mbarl_ros.studies.registry import STUDIES, load_study
from mbarl_ros.studies.study_report import verdict_word
from mbarl_ros.studies.study_run import StudyRun

_EPILOG = """\
A study is a set of cells, each in a folder OUT/NAME/cells/CELL and a process of its own with one
thread. Finished cells are not run again, interrupted and failed ones start over; results are
deterministic. At the end report.md, results.json and the figures are written to OUT/NAME
(OUT/NAME-quick with --quick).

Exit code 0: all cells ran, whether the claims hold or not. 1: a cell failed.
"""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code: 0 if no cell failed."""
    options = _parser().parse_args(arguments)
    interrupted = 'interrupted; the same command continues'
    return run_command(
        lambda: _study(options), DemonstrationError, OSError, interrupted=interrupted
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mbarl study',
        description='Run a study of the literature: one command that ends in figures, tables and '
        'a verdict on each claim. Without NAME: list the studies.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('name', nargs='?', metavar='NAME', help=', '.join(STUDIES))
    parser.add_argument(
        '--quick', action='store_true', help='a small version within two minutes, not the record'
    )
    parser.add_argument(
        '--out', default='runs/studies', help='output folder (default: runs/studies)'
    )
    parser.add_argument(
        '--report', action='store_true', help='only write the report of the finished cells again'
    )
    add_engine(parser, 'cells')
    return parser


def _study(options: argparse.Namespace) -> int:
    if options.name is None:
        _list()
        return EXIT_SUCCESS
    run = StudyRun(options.name, options.out, options.quick)
    failures = [] if options.report else run.run(engine(options))
    for failure in failures:
        print(f'error: {failure}', file=sys.stderr)
    if failures:
        print(
            f'error: {len(failures)} cells failed; {run.command} runs them again', file=sys.stderr
        )
    if not failures or run.finished():
        _report(run)
    return EXIT_FAILURE if failures else EXIT_SUCCESS


def _report(run: StudyRun) -> None:
    report, paths = run.write_report()
    for verdict in report.verdicts:
        print(f'{verdict_word(verdict)}: {verdict.claim}\n    {verdict.evidence}')
    for path in paths:
        print(path)


def _list() -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ('study', 'what it shows'):
        table.add_column(name)
    for name in STUDIES:
        try:
            table.add_row(name, load_study(name).description)
        except ConfigError as error:
            table.add_row(name, str(error))
    Console(width=10_000).print(table)
