"""``mbarl report``: what a run has learned and how, as one file to read, send and print."""

from __future__ import annotations

import argparse
from pathlib import Path

from mbarl_ros.cli.run import run_command
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.exit_codes import EXIT_SUCCESS
from mbarl_ros.storage.run_files import write_text

_EPILOG = """\
A RUN is a run folder of `mbarl up sim` or `hardware`; the run may still go on. Several are
compared: they are grouped by task and agent, with interval estimates over their seeds. A folder of
`mbarl bench` (OUT, OUT/TASK or OUT/TASK/AGENT) joins the comparison with all its seeds.

  mbarl report runs/mine --output mine.html
  mbarl report runs/mine --output mine.html --pdf mine.pdf --no-films
  mbarl report runs/pointmass-mbarl-* --output seeds.html
  mbarl report runs/bench/tabletop --output bench.html
"""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _report(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mbarl report',
        description='Write a report of a run as one HTML file that needs nothing else: success '
        'with intervals, practice, the model against what happened, classifier, safety gate, '
        'interventions, films, configuration.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('runs', nargs='+', type=_path, metavar='RUN', help='see below')
    add('--output', type=_path, metavar='FILE.html', required=True)
    add(
        '--pdf',
        type=_path,
        metavar='FILE.pdf',
        help='print it too; needs Chromium or Chrome on the PATH',
    )
    add('--no-films', action='store_true', help='film no policies, which takes most of the time')
    add('--overwrite', action='store_true', help='replace files that exist')
    return parser


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _report(options: argparse.Namespace) -> int:
    for path in filter(None, (options.output, options.pdf)):
        if path.is_dir() or (path.exists() and not options.overwrite):
            raise ConfigError(f'{path}: exists already; give another name, or --overwrite')
    from mbarl_ros.reports.explain import explain
    from mbarl_ros.reports.paper import print_page
    from mbarl_ros.reports.report import write_report

    page = write_report(options.runs, explain, films=not options.no_films)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.output, page)
    print(f'{options.output}: {options.output.stat().st_size / 1e6:.2f} MB', flush=True)
    if options.pdf:
        print_page(options.output, options.pdf)
        print(options.pdf)
    return EXIT_SUCCESS
