"""Report of ``mbarl bench``: learning curves beside the published ones, and a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.storage.files import write_file
from mbarl_ros.studies.curves import plot_curves
from mbarl_ros.studies.summary import (
    LEVELS,
    WIDE_LEVELS,
    WINDOW,
    AgentResult,
    Curve,
    collect,
    published,
)

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
            'practice_seconds': agent.seconds,
            'deployed': agent.deployed.to_json(),
            'wide': agent.wide.to_json() if agent.wide else None,
        }
        for level in WIDE_LEVELS:
            steps = None
            if agent.wide and agent.practises:
                steps = agent.wide.steps_to(level, smoothed=False) or None
            row[f'wide_steps_to_{level}'] = steps
        rows.append(row)
    return rows


def markdown(task: str, rows: Sequence[dict[str, Any]], published_curves: dict[str, Curve]) -> str:
    """The table as Markdown: the agents of the bench, then the published methods."""
    early, level = LEVELS
    text = [
        f'## {task}',
        '',
        f'| agent | seeds | steps to {early} | steps to {level} | success in its later half | '
        f'wide: steps to {WIDE_LEVELS[0]} | to {WIDE_LEVELS[1]} | final wide success | '
        'minutes per seed |',
        '| --- | --- | --- | --- | --- | --- | --- | --- | --- |',
    ]
    for row in rows:
        late = f'{row["late_success"]:.2f} ± {row["late_std"]:.2f}'
        if row['late_to']:
            late += f' ({row["late_from"]:,} to {row["late_to"]:,})'
        wide = '-'
        if row['final_wide_success'] is not None:
            wide = f'{row["final_wide_success"]:.3f} ± {row["final_wide_std"]:.3f}'
        reached = ' | '.join(_steps(row[f'steps_to_{level}']) for level in LEVELS)
        wide_steps = ' | '.join(_steps(row[f'wide_steps_to_{level}']) for level in WIDE_LEVELS)
        minutes = row['practice_seconds'] / 60
        text.append(
            f'| {row["agent"]} | {len(row["seeds"])} | {reached} | {late} | {wide_steps} | {wide} '
            f'| {minutes:.1f} |'
        )
    for name, curve in sorted(
        published_curves.items(), key=lambda item: item[1].steps_to(level) or np.inf
    ):
        reached = ' | '.join(_steps(curve.steps_to(level)) for level in LEVELS)
        since, late = curve.late
        text.append(
            f'| *{name}, published* | {curve.seeds} | {reached} | '
            f'{late:.2f} ({since:,} to {curve.steps[-1]:,}) | - | - | - | - |'
        )
    text += [
        '',
        f'Steps to x: first evaluation at which the mean over seeds, averaged over {WINDOW} '
        'evaluations around it, is at least x; wide without averaging. Spread: sample standard '
        'deviation over seeds. Minutes: processor time of practice and training, on one core.',
    ]
    return '\n'.join(text) + '\n'


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
        text = markdown(folder.name, rows, published_curves)
        if unfinished:
            text += f'\nNot finished, left out: {", ".join(unfinished)}.\n'
        data = {'task': folder.name, 'agents': rows}
        write_file(folder / TABLE_FILE, text.encode())
        write_file(folder / FIGURES_FILE, (json.dumps(data, indent=2) + '\n').encode())
        plot_curves(folder.name, agents, published_curves, folder / CURVES_FILE)
        written += [folder / name for name in (CURVES_FILE, TABLE_FILE, FIGURES_FILE)]
    return written
