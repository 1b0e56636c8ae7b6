"""``mbarl explain``: why a run does not learn."""

from __future__ import annotations

import argparse
import json
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mbarl_ros.cli.run import run_command
from mbarl_ros.schema.exit_codes import EXIT_SUCCESS

if TYPE_CHECKING:
    from mbarl_ros.reports.facts import Cause
    from mbarl_ros.reports.run_data import RunData

_WIDTH = 100
_EPILOG = """\
RUN is a run folder of `mbarl up sim` or `mbarl up hardware`. The run may still go on, or have ended
by Ctrl-C. The likeliest cause comes first; those below it may be its consequences. Nothing is
printed as a cause without evidence in the data; a short run shows less.

  $ mbarl explain runs/mine
  runs/mine: pointmass, 1,500 steps, 0 of 6 attempts succeeded
  1. Wrong sign: vy moves the other way than in the demonstrations (wrong_sign)
     - vy and the change of y have a partial correlation of -0.87 in practice (672 steps) and of
       +1.00 in the demonstrations (177 steps)
     Try: correct the sign (`scale: {NAME: -1}` in the robot profile, or at the driver); if the
       demonstrations were recorded with the wrong one, record them again
"""


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='mbarl explain',
        description='Why is a run not learning? Causes with their evidence, and what to try.',
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'run', type=lambda text: Path(text).expanduser(), metavar='RUN', help='a run folder'
    )
    parser.add_argument(
        '--json', action='store_true', help='print the causes as JSON, for a program'
    )
    options = parser.parse_args(arguments)
    return run_command(lambda: _explain(options.run, as_json=options.json))


def _explain(folder: Path, *, as_json: bool) -> int:
    from mbarl_ros.reports.explain import explain
    from mbarl_ros.reports.run_data import read_run

    run = read_run(folder)
    causes = explain(run)
    if as_json:
        print(json.dumps([asdict(cause) for cause in causes], indent=2, ensure_ascii=False))
    else:
        print('\n'.join(_lines(run, causes)))
    return EXIT_SUCCESS


def _lines(run: RunData, causes: list[Cause]) -> list[str]:
    from mbarl_ros.reports.facts import Facts
    from mbarl_ros.reports.report import cut_log

    facts = Facts(run)
    lines = [f'{run.folder}: {run.task.name}, {facts.steps:,} steps, {facts.outcome}']
    if text := cut_log(run):
        lines.append(text)
    if not facts.steps:
        lines.append('There is no practice in it yet, so that little can be told.')
    if not causes and facts.steps:
        lines.append('Nothing in its data shows that anything is wrong.')
        if facts.steps < 4 * run.task.config.phases.forward_limit:
            lines.append('It is short; ask again after some more attempts.')
    for number, cause in enumerate(causes, 1):
        lines.append(f'{number}. {cause.title} ({cause.name})')
        lines += [_wrapped('   - ', text) for text in cause.evidence]
        lines.append(_wrapped('   Try: ', cause.remedy))
    return lines


def _wrapped(mark: str, text: str) -> str:
    indent = '     '
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=mark,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
