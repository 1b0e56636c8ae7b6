"""The end of a run, in a few lines."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from mbarl_ros.schema.exit_codes import EXIT_BUDGET, EXIT_INTERRUPTED, EXIT_SUCCESS
from mbarl_ros.storage.run_files import RESULT_FILE
from mbarl_ros.view.status import RunInfo, duration

_REASONS = {
    EXIT_SUCCESS: 'target reached',
    EXIT_BUDGET: 'step budget used up',
    EXIT_INTERRUPTED: 'interrupted',
}


def summary(
    run: RunInfo,
    result: Mapping[str, Any] | None,
    code: int,
    wall_seconds: float,
    arguments: Mapping[str, Any],
    stored: int = 0,
) -> str:
    """Why and with which result a run ended, and the command that continues it.

    :param result: parsed ``result.json``, if there is one
    :param code: exit code of ``mbarl up``
    :param arguments: arguments of ``mbarl up`` that resume the run
    :param stored: environment steps in the transition log; those of a learner that lags are more
        than it was trained on
    """
    result = result or {}
    lines = [f'run ended: {_REASONS.get(code, "failed")} after {duration(wall_seconds)}']
    if result.get('error'):
        lines.append(f'  {result["error"]}')
    rate, clone = result.get('deployed_success'), result.get('clone_success')
    if rate is not None:
        text = f'  deployed success    {rate:.2f}'
        if result.get('episodes'):
            text += f' over {result["episodes"]} evaluation starts'
        lines.append(text + (f' (target {run.target:.2f})' if run.target else ''))
    if clone is not None:
        lines.append(f'  clone of the demos  {clone:.2f}')
    if result.get('environment_steps') is not None:
        lines.append(
            f'  environment steps   {result["environment_steps"]:,} '
            f'({duration(result.get("robot_seconds"))} of robot time, '
            f'{result.get("training_resets", "-")} resets)'
        )
    lines += [f'  {path}' for path in sorted(run.run_dir.glob('*.png'))]
    if (run.run_dir / RESULT_FILE).is_file():
        lines.append(f'  {run.run_dir / RESULT_FILE}')
    done = max(stored, run.budget) if code == EXIT_BUDGET else stored
    if run.budget and done >= run.budget:
        arguments = {**arguments, 'steps': _next_budget(run.budget, done)}
    if code != EXIT_SUCCESS:
        words = (f'{name}:={value}' for name, value in arguments.items())
        lines.append(f'continue with: {shlex.join(["mbarl", "up", run.graph, *words])}')
    return '\n'.join(lines)


def _next_budget(budget: int, done: int) -> int:
    """The first multiple of a budget that leaves at least half of it; a resumed run needs steps."""
    return -(-(2 * done + budget) // (2 * budget)) * budget
