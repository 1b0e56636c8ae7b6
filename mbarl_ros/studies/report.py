"""Report of ``mbarl bench``: learning curves beside the published ones, and a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.storage.files import write_file
from mbarl_ros.studies.curves import plot_curves
from mbarl_ros.studies.summary import (
    FLOOR_FROM,
    LEVELS,
    WIDE_LEVELS,
    WINDOW,
    AgentResult,
    Curve,
    can_succeed,
    collect,
    published,
)

UNPREDICTED = 0.5  # share of an entry's change that a model leaves unexplained: no use
CURVES_FILE, TABLE_FILE, FIGURES_FILE = 'curves.png', 'table.md', 'table.json'


def table_rows(agents: Iterable[AgentResult]) -> list[dict[str, Any]]:
    """Numbers of the table, one entry per agent; None where a number does not exist."""
    rows = []
    for agent in agents:
        since, late = agent.deployed.late
        row: dict[str, Any] = {'agent': agent.name, 'seeds': agent.seeds}
        for level in LEVELS:
            row[f'steps_to_{level}'] = agent.deployed.steps_to(level) if agent.practises else None
        row |= {
            'late_from': since,
            'late_to': int(agent.deployed.steps[-1]),
            'late_success': late,
            'late_std': agent.deployed.late_std,
            'final_wide_success': float(agent.wide.mean[-1]) if agent.wide else None,
            'final_wide_std': float(agent.wide.std[-1]) if agent.wide else None,
            'late_return': agent.returns.late[1] if agent.returns else None,
            'late_return_std': agent.returns.late_std if agent.returns else None,
            'final_return': float(agent.returns.mean[-1]) if agent.returns else None,
            'final_return_std': float(agent.returns.std[-1]) if agent.returns else None,
            'floor': agent.floor.mean if agent.floor else None,
            'floor_of_any_seed': agent.floor.worst if agent.floor else None,
            'model_error': agent.model_error,
            'practice_seconds': agent.seconds,
            **_practice(agent.practice),
            'deployed': agent.deployed.to_json(),
            'wide': agent.wide.to_json() if agent.wide else None,
            'returns': agent.returns.to_json() if agent.returns else None,
        }
        for level in WIDE_LEVELS:
            steps = None
            if agent.wide and agent.practises:
                steps = agent.wide.steps_to(level, smoothed=False) or None
            row[f'wide_steps_to_{level}'] = steps
        rows.append(row)
    return rows


def _practice(curve: Curve | None) -> dict[str, float | None]:
    """Reward of 1,000 steps of practice, on average over the run, and its deviation."""
    if curve is None or not curve.steps[-1]:
        return {'practice_reward': None, 'practice_reward_std': None}
    share = 1000.0 / int(curve.steps[-1])
    return {
        'practice_reward': float(curve.mean[-1]) * share,
        'practice_reward_std': float(curve.std[-1]) * share,
    }


def markdown(
    task: str,
    rows: Sequence[dict[str, Any]],
    published_curves: dict[str, Curve],
    *,
    success: bool = True,
) -> str:
    """The table as Markdown: the agents of the bench, then the published methods.

    :param success: with the columns of success; those of returns are there where a row has any
    """
    columns = _columns(
        returns=any(row['late_return'] is not None for row in rows),
        success=success,
        practice=any(row['practice_reward'] is not None for row in rows),
        floor=any(row['floor'] is not None for row in rows),
    )
    text = [f'## {task}', '', _line(columns), _line('---' for _ in columns)]
    text += [_line(cell(row) for cell in columns.values()) for row in rows]
    level = LEVELS[-1]
    for name, curve in sorted(
        published_curves.items(), key=lambda item: item[1].steps_to(level) or np.inf
    ):
        since, late = curve.late
        cells = {'agent': f'*{name}, published*', 'seeds': str(curve.seeds)}
        cells |= {f'steps to {level}': _steps(curve.steps_to(level)) for level in LEVELS}
        cells[_LATE_SUCCESS] = f'{late:.2f} ({since:,} to {curve.steps[-1]:,})'
        text.append(_line(cells.get(header, '-') for header in columns))
    text += ['', _FOOTNOTE]
    return '\n'.join(text) + '\n'


_LATE_SUCCESS = 'success in its later half'
_FOOTNOTE = (
    f'Steps to x: first evaluation at which the mean over seeds, averaged over {WINDOW} '
    'evaluations around it, is at least x; wide without averaging. Return: mean sum of rewards of '
    f'a deployed episode. Least above the clone: from {FLOOR_FROM:,} steps on. Reward of '
    'practice: the continuing evaluation of EARL, with all phases. '
    'Spread: sample standard deviation over seeds. Minutes: processor time of practice and '
    'training, on one core.'
)


def _not_predicted(row: dict[str, Any]) -> str:
    """A line on the state entries that the agent's model cannot be trusted with, if any."""
    worst = sorted(row['model_error'].items(), key=lambda item: -item[1])
    entries = ', '.join(f'{name} ({error:.2f})' for name, error in worst if error > UNPREDICTED)
    if not entries:
        return ''
    return (
        f'\nNot to be trusted, {row["agent"]}: the model leaves unexplained most of the change of '
        f'{entries}.\n'
    )


def _columns(
    *, returns: bool, success: bool, practice: bool, floor: bool
) -> dict[str, Callable[[dict[str, Any]], str]]:
    """Header -> cell of a row."""

    def spread(key: str, digits: int) -> Callable[[dict[str, Any]], str]:
        value, deviation = key, f'{key.removesuffix("_success")}_std'
        return lambda row: (
            '-' if row[value] is None else f'{row[value]:.{digits}f} ± {row[deviation]:.{digits}f}'
        )

    def late(key: str) -> Callable[[dict[str, Any]], str]:
        cell = spread(key, 2)
        return lambda row: (
            cell(row) + (f' ({row["late_from"]:,} to {row["late_to"]:,})' if row['late_to'] else '')
        )

    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        'agent': lambda row: row['agent'],
        'seeds': lambda row: str(len(row['seeds'])),
    }
    if returns:
        columns |= {
            'return in its later half': late('late_return'),
            'final return': spread('final_return', 2),
        }
    if success:
        early, level = LEVELS
        columns |= {
            f'steps to {early}': lambda row: _steps(row[f'steps_to_{early}']),
            f'steps to {level}': lambda row: _steps(row[f'steps_to_{level}']),
            _LATE_SUCCESS: late('late_success'),
        }
    if success and floor:
        columns['least above the clone: mean, any seed'] = lambda row: (
            '-' if row['floor'] is None else f'{row["floor"]:+.2f}, {row["floor_of_any_seed"]:+.2f}'
        )
    if not returns:
        first, second = WIDE_LEVELS
        columns |= {
            f'wide: steps to {first}': lambda row: _steps(row[f'wide_steps_to_{first}']),
            f'to {second}': lambda row: _steps(row[f'wide_steps_to_{second}']),
            'final wide success': spread('final_wide_success', 3),
        }
    if practice:
        columns['reward per 1,000 steps of practice'] = spread('practice_reward', 1)
    columns['minutes per seed'] = lambda row: f'{row["practice_seconds"] / 60:.1f}'
    return columns


def _line(cells: Iterable[str]) -> str:
    return f'| {" | ".join(cells)} |'


def _steps(steps: int | None) -> str:
    return '-' if steps is None else f'{steps:,}'


def write_report(out: Path) -> list[Path]:
    """Write plot and tables into each folder OUT/TASK with a finished seed; returns their paths."""
    written = []
    for folder in sorted(out.iterdir() if out.is_dir() else []):
        agents, unfinished = collect(folder) if folder.is_dir() else ([], [])
        if not agents:
            continue
        published_curves = published(folder.name)
        rows = table_rows(agents)
        text = markdown(folder.name, rows, published_curves, success=can_succeed(agents))
        text += ''.join(map(_not_predicted, rows))
        if unfinished:
            text += f'\nNot finished, left out: {", ".join(unfinished)}.\n'
        data = {'task': folder.name, 'agents': rows}
        write_file(folder / TABLE_FILE, text.encode())
        write_file(folder / FIGURES_FILE, (json.dumps(data, indent=2) + '\n').encode())
        plot_curves(folder.name, agents, published_curves, folder / CURVES_FILE)
        written += [folder / name for name in (CURVES_FILE, TABLE_FILE, FIGURES_FILE)]
    return written
