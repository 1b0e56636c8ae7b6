"""What came of ``mbarl bench``: curves against the published record, and a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.config import config_dir
from mbarl_ros.studies.seeds import read_lines, read_result
from mbarl_ros.wire import write_file

WINDOW = 5  # evaluations, for all that is called smoothed
LEVELS = (0.5, 0.9)
WIDE_LEVELS = (0.8, 0.95)
CURVES_FILE, TABLE_FILE, FIGURES_FILE = 'curves.png', 'table.md', 'table.json'


@dataclass(frozen=True)
class Curve:
    """Success over seeds: ``mean`` and sample ``std`` [n] at environment steps ``steps`` [n]."""

    steps: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    seeds: int
    late_std: float = 0.0  # over seeds, of their mean success in the second half

    @property
    def late(self) -> tuple[int, float]:
        """Second half of the steps: from which step on, and mean success in it."""
        half = _late(self.steps)
        return int(self.steps[half][0]), float(self.mean[half].mean())

    def reach(self, level: float, *, smoothed: bool = True) -> int | None:
        """First step at which the (smoothed) mean is at least ``level``, if there is one.

        Centred smoothing over five evaluations, as for the published figures: it looks two
        evaluations ahead.
        """
        mean = smooth(self.mean) if smoothed else self.mean
        reached = np.flatnonzero(mean >= level - 1e-9)
        return int(self.steps[reached[0]]) if len(reached) else None

    def data(self) -> dict[str, list]:
        """What a picture of it needs, for JSON."""
        return {
            'steps': self.steps.tolist(),
            'mean': np.round(self.mean, 4).tolist(),
            'std': np.round(self.std, 4).tolist(),
        }


@dataclass(frozen=True)
class Agent:
    """Finished seeds of one agent; ``wide`` is None where there are no wide starts."""

    name: str
    seeds: list[int]
    deployed: Curve
    wide: Curve | None
    seconds: float

    @property
    def practises(self) -> bool:
        """Whether it took any environment steps (``bc`` does not)."""
        return bool(self.deployed.steps[-1])


def _late(steps: np.ndarray) -> np.ndarray:
    return steps >= steps[-1] / 2


def smooth(values: np.ndarray) -> np.ndarray:
    """Centred running mean over five entries [n]; at the ends over those that there are."""
    width = min(WINDOW, len(values) - 1 + len(values) % 2)
    ones = np.ones(width)
    return np.convolve(values, ones, 'same') / np.convolve(np.ones(len(values)), ones, 'same')


def curve(seeds: Sequence[Sequence[dict[str, Any]]], key: str) -> Curve | None:
    """Curve of ``key`` over the lines of several seeds, at the steps that all of them have."""
    values = [
        {line['environment_steps']: line[key] for line in lines if line[key] is not None}
        for lines in seeds
    ]
    steps = sorted(set.intersection(*(set(seed) for seed in values)))
    if not steps:
        return None
    table = np.array([[seed[step] for step in steps] for seed in values])
    spread = table.std(0, ddof=1) if len(table) > 1 else np.zeros(len(steps))
    late = table[:, _late(np.array(steps))].mean(1)
    late_spread = float(late.std(ddof=1)) if len(table) > 1 else 0.0
    return Curve(np.array(steps), table.mean(0), spread, len(table), late_spread)


def collect(folder: Path) -> tuple[list[Agent], list[str]]:
    """Agents of OUT/TASK, the soonest to succeed first, and the seeds that are not finished."""
    agents, unfinished = [], []
    for path in sorted(folder.iterdir()):
        lines, seeds, seconds = [], [], []
        for seed in sorted(path.glob('seed_*')):
            result = read_result(seed)
            if result is None:
                unfinished.append(f'{path.name} {seed.name}')
                continue
            lines.append(read_lines(seed))
            seeds.append(result['seed'])
            seconds.append(result['practice_seconds'])
        if lines:
            deployed, wide = curve(lines, 'deployed_success'), curve(lines, 'wide_success')
            name = lines[0][0]['agent']
            agents.append(Agent(name, sorted(seeds), deployed, wide, float(np.mean(seconds))))
    return sorted(agents, key=_rank), unfinished


def _rank(agent: Agent) -> tuple[Any, ...]:
    reached = (agent.deployed.reach(level) or np.inf for level in reversed(LEVELS))
    return (not agent.practises, *reached, agent.name)


def published(task: str) -> dict[str, Curve]:
    """What others have published for a task (``benchmarks/published``), by method."""
    curves = {}
    for path in (config_dir().parent / 'benchmarks' / 'published').glob(f'*_{task}.json'):
        for name, method in json.loads(path.read_text())['methods'].items():
            arrays = (np.array(method[key]) for key in ('steps', 'mean', 'std'))
            curves[name] = Curve(*arrays, method['seeds'])
    return curves


def figures(agents: Iterable[Agent]) -> list[dict[str, Any]]:
    """The numbers of the table, an entry for each agent; None where there is no such number."""
    rows = []
    for agent in agents:
        since, late = agent.deployed.late
        row: dict[str, Any] = {'agent': agent.name, 'seeds': agent.seeds}
        for level in LEVELS:
            steps = agent.deployed.reach(level) if agent.practises else None
            row[f'steps_to_{level}'] = steps
        row |= {
            'late_from': since,
            'late_to': int(agent.deployed.steps[-1]),
            'late_success': late,
            'late_std': agent.deployed.late_std,
            'final_wide_success': float(agent.wide.mean[-1]) if agent.wide else None,
            'final_wide_std': float(agent.wide.std[-1]) if agent.wide else None,
            'practice_seconds': agent.seconds,
            'deployed': agent.deployed.data(),
            'wide': agent.wide.data() if agent.wide else None,
        }
        for level in WIDE_LEVELS:
            found = agent.wide and agent.practises and agent.wide.reach(level, smoothed=False)
            row[f'wide_steps_to_{level}'] = found or None
        rows.append(row)
    return rows


def markdown(task: str, rows: Sequence[dict[str, Any]], record: dict[str, Curve]) -> str:
    """The table as text, our agents first, then what is published."""
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
    for name, found in sorted(record.items(), key=lambda item: item[1].reach(level) or np.inf):
        reached = ' | '.join(_steps(found.reach(level)) for level in LEVELS)
        since, late = found.late
        text.append(
            f'| *{name}, published* | {found.seeds} | {reached} | '
            f'{late:.2f} ({since:,} to {found.steps[-1]:,}) | - | - | - | - |'
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
    """Write picture and tables into each OUT/TASK with a finished seed; their paths."""
    from mbarl_ros.studies.curves import plot_curves

    written = []
    for folder in sorted(out.iterdir() if out.is_dir() else []):
        agents, unfinished = collect(folder) if folder.is_dir() else ([], [])
        if not agents:
            continue
        record = published(folder.name)
        rows = figures(agents)
        text = markdown(folder.name, rows, record)
        if unfinished:
            text += f'\nNot finished, left out: {", ".join(unfinished)}.\n'
        data = {'task': folder.name, 'agents': rows}
        write_file(folder / TABLE_FILE, text.encode())
        write_file(folder / FIGURES_FILE, (json.dumps(data, indent=2) + '\n').encode())
        plot_curves(folder.name, agents, record, folder / CURVES_FILE)
        written += [folder / name for name in (CURVES_FILE, TABLE_FILE, FIGURES_FILE)]
    return written
