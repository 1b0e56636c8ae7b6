"""Sections of a report about the robot: demonstrations, gate, people, time, configuration."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mbarl_ros.demos.metadata import DemonstrationError, Metadata, folders, read_metadata
from mbarl_ros.learning.holdout import episode_numbers
from mbarl_ros.reports import drawing, history_data
from mbarl_ros.reports.attempts import ends, practised
from mbarl_ros.reports.page import Content, Html, facts, figure, folded, join, paragraph, table, tag
from mbarl_ros.reports.run_data import RunData
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.run_files import ARGUMENTS_FILE, SOFTWARE
from mbarl_ros.storage.transitions import DIRECTIONS, HUMAN, PHASES, SAFETY
from mbarl_ros.view.status import duration

_MOST_ROWS = 20  # of a table of events
_CLIPPED, _REFUSED = 'clipped entry ', 'refused entry '  # the gate's counts, before a name


def source_section(run: RunData) -> Html:
    """What was learned from what: task, robot, demonstrations, practice."""
    task, rows = run.task, run.transitions
    steps, rate = len(rows['phase']), task.robot.control_rate
    entries = ', '.join(entry.name for entry in task.config.observation)
    known = [
        ('task', f'{task.name}: {task.config.description}'),
        ('robot', f'{task.robot.name}, {rate:g} control steps per second'),
        ('agent', f'{run.agent.name}: {run.agent.description}'),
        ('observation', entries),
        ('action', ', '.join(entry.name for entry in task.config.action)),
        ('goals', f'{len(task.goals)}' if task.goal_conditioned else 'one, the same always'),
        ('environment steps', f'{steps:,}, which are {duration(steps / rate)} of robot time'),
        ('resets in training', _resets(run)),
    ]
    return join(facts(known), tag('h3', 'Demonstrations'), _demonstrations(run))


def _resets(run: RunData) -> str:
    for line in reversed(run.evaluations):
        if isinstance(line.get('training_resets'), int):
            return f'{line["training_resets"]}'
    counted = history_data.series(run.history, 'robot_sim', 'resets')
    if np.isfinite(counted).any():
        return f'{history_data.total(counted):.0f}'
    return 'not counted'


def _demonstrations(run: RunData) -> Html:
    if 'demonstrations' in run.damaged:
        return paragraph(run.damaged['demonstrations'], 'bad')
    shown = run.demonstrations
    if not len(shown['phase']):
        return paragraph('The run learned without demonstrations.')
    episode, rate = episode_numbers(ends(shown)), run.task.robot.control_rate
    rows: list[list[Content]] = []
    recorded = list(_recorded(run.folder / 'demonstrations'))
    for number, direction in enumerate(DIRECTIONS):
        which = shown['phase'] == number
        if not which.any():
            continue
        metadata = [each for each in recorded if each.direction == direction]
        who = Counter(each.operator or 'unknown' for each in metadata)
        days = sorted({each.recorded[:10] for each in metadata if each.recorded})
        steps = int(which.sum())
        rows.append(
            [
                direction,
                ', '.join(f'{name} ({count})' for name, count in who.items()),
                ' to '.join(dict.fromkeys([*days[:1], *days[-1:]])),
                f'{len(metadata)}',
                f'{len(np.unique(episode[which]))}',
                f'{steps:,}',
                f'{steps / rate:.1f}',
            ]
        )
    head = ['direction', 'who', 'recorded', 'recordings', 'episodes used', 'steps', 'seconds']
    note = (
        'Backward demonstrations of a task with goals count once for each goal; recordings that '
        'were discarded or did not succeed are not used.'
    )
    return join(table(head, rows, texts=3), paragraph(note, 'note'))


def _recorded(folder: Path) -> Iterator[Metadata]:
    for path in folders(folder):
        try:
            yield read_metadata(path)
        except DemonstrationError:
            continue  # told where the demonstrations are read


def gate_section(run: RunData) -> Html:
    """What the safety gate did.

    :raises ConfigError: the history has nothing of it.
    """
    history, gate = run.history, 'safety_gate'
    if not (keys := history_data.keys(history, gate)):
        raise ConfigError(
            'The run has no history of its safety gate (the monitor writes history.jsonl).'
        )
    counts = {
        key: history_data.total(history_data.series(history, gate, key))
        for key in keys
        if key not in ('state', 'estop')
    }
    states = history_data.stretches(history, gate, 'state')
    latched = [each for each in history_data.stretches(history, gate, 'estop') if each[0]]
    safety_steps = int((run.transitions['source'] == SAFETY).sum())
    known: list[tuple[str, Content]] = [
        ('commands changed by a limit', f'{counts.get("clipped", 0):,.0f}'),
        ('in which entries', _by_entry(counts, _CLIPPED)),
        ('commands refused and replaced by a stop', f'{counts.get("refused", 0):,.0f}'),
        ('for which entries', _by_entry(counts, _REFUSED)),
        ('malformed messages', f'{counts.get("malformed", 0):,.0f}'),
        ('environment steps under a stop', f'{safety_steps:,}'),
        ('e-stops', _estops(latched)),
    ]
    told = ('clipped', 'refused', 'malformed')
    other = [
        (key, f'{count:,.0f}')
        for key, count in counts.items()
        if count and not key.startswith((_CLIPPED, _REFUSED)) and key not in told
    ]
    parts = [facts(known)]
    if other:
        parts += [tag('h3', 'All counts'), table(['outcome', 'count'], other)]
    parts += [tag('h3', 'States'), _states(states), tag('h3', 'Control periods'), _periods(run)]
    return join(*parts)


def _by_entry(counts: dict[str, float], prefix: str) -> str:
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    told = [
        f'{key.removeprefix(prefix)} {count:,.0f}'
        for key, count in ranked
        if count and key.startswith(prefix)
    ]
    return ', '.join(told) or '-'


def _estops(latched: list[tuple[str, float]]) -> str:
    if not latched:
        return 'none seen'
    told = ', '.join(f'by {text} for about {duration(seconds)}' for text, seconds in latched[:5])
    return f'{len(latched)}: {told}'


def _states(states: list[tuple[str, float]]) -> Html:
    seconds: Counter[str] = Counter()
    times: Counter[str] = Counter()
    for text, each in states:
        seconds[text] += each
        times[text] += 1
    rows = [
        [text or '-', f'{times[text]}', duration(each)]
        for text, each in seconds.most_common(_MOST_ROWS)
    ]
    note = paragraph(
        'As the samples of the history saw it, every two seconds and more rarely in long runs: a '
        'shorter stop may be missing.',
        'note',
    )
    return join(table(['state', 'times', 'wall time'], rows), note)


def _periods(run: RunData) -> Html:
    node, history = 'policy_controller', run.history
    worst = history_data.series(history, node, 'period_error_max_ms')
    if not np.isfinite(worst).any():
        return paragraph('The run was in lockstep or has no such figures: no periods to keep.')
    usual = history_data.series(history, node, 'period_error_p99_ms')
    missed = history_data.total(history_data.series(history, node, 'missed_periods'))
    left_out = history_data.total(history_data.series(history, node, 'steps_left_out'))
    rate = history_data.series(history, node, 'control_rate')
    return facts(
        [
            ('control rate, median', f'{np.nanmedian(rate):.2f} Hz'),
            ('deviation from the period, p99, median', f'{np.nanmedian(usual):.1f} ms'),
            ('deviation from the period, p99, worst', f'{np.nanmax(usual):.1f} ms'),
            ('deviation from the period, greatest', f'{np.nanmax(worst):.1f} ms'),
            ('periods missed', f'{missed:,.0f}'),
            ('steps not recorded', f'{left_out:,.0f}'),
        ]
    )


def human_section(run: RunData) -> Html:
    """Where a person took over.

    :raises ConfigError: there are no transitions.
    """
    rows = practised(run)
    human = rows['source'] == HUMAN
    if not human.any():
        return paragraph('No person drove the robot during practice.')
    edges = np.flatnonzero(np.diff(np.concatenate([[0], human.astype(int), [0]])))
    spans = list(zip(edges[::2], edges[1::2], strict=True))
    rate = run.task.robot.control_rate
    text = (
        f'A person drove {human.sum():,} of {len(human):,} steps ({100 * human.mean():.1f} %), in '
        f'{len(spans)} stretches.'
    )
    longest = sorted(spans, key=lambda span: span[0] - span[1])[:_MOST_ROWS]
    lines = [
        [PHASES[rows['phase'][b]], f'{b:,}', f'{e - b:,}', f'{(e - b) / rate:.1f}']
        for b, e in sorted(longest)
    ]
    parts = [paragraph(text), table(['phase', 'from step', 'steps', 'seconds'], lines)]
    if len(spans) > _MOST_ROWS:
        parts.append(paragraph(f'The {_MOST_ROWS} longest are shown.', 'note'))
    return join(*parts)


def speed_section(run: RunData) -> Html:
    """Robot time, wall time, speed and lag of the learner.

    :raises ConfigError: there is no history.
    """
    history = run.history
    if not history:
        raise ConfigError('The run has no history.jsonl, so that its speed is not known.')
    minutes = (np.array([sample.time for sample in history]) - history[0].time) / 60
    updates = history_data.series(history, 'learner', 'updates_per_second')
    lag = history_data.series(history, 'learner', 'lag_steps')
    steps = history_data.series(history, 'learner', 'environment_steps')
    rate = run.task.robot.control_rate
    known = [
        ('wall time', duration(60 * minutes[-1])),
        ('robot time', duration(len(run.transitions['phase']) / rate)),
        ('gradient updates', _last(history_data.series(history, 'learner', 'updates'), ',.0f')),
        ('updates per second, median', _median(updates)),
        ('lag of the learner, median (steps)', _median(lag)),
        ('lag of the learner, greatest (steps)', _greatest(lag)),
    ]
    if not (np.isfinite(updates).any() and len(history) > 1):
        return facts(known)

    def draw(grid: np.ndarray) -> None:
        names = ('environment steps', 'updates per second', 'lag (steps)')
        for axes, values, name, colour in zip(
            grid[0], (steps, updates, lag), names, drawing.SERIES, strict=False
        ):
            axes.plot(minutes, values, color=colour, linewidth=1.6)
            axes.set(xlabel='wall time (min)', ylim=(0, None), xlim=(0, max(minutes[-1], 1e-3)))
            axes.set_title(name)

    caption = 'Over the wall time of the run; a step down to 0 is a restart.'
    return join(facts(known), figure(drawing.svg(draw, columns=3, height=2.6), caption))


def _last(values: np.ndarray, form: str) -> str:
    known = values[np.isfinite(values)]
    return format(known[-1], form) if len(known) else '-'


def _median(values: np.ndarray) -> str:
    return f'{np.nanmedian(values):.0f}' if np.isfinite(values).any() else '-'


def _greatest(values: np.ndarray) -> str:
    return f'{np.nanmax(values):,.0f}' if np.isfinite(values).any() else '-'


def configuration_section(run: RunData) -> Html:
    """Arguments, versions and YAML files as used."""
    arguments = {k: v for k, v in run.arguments.items() if k != SOFTWARE}
    software = run.arguments.get(SOFTWARE)
    parts = [tag('h3', 'Versions')]
    if isinstance(software, dict):
        parts.append(facts((str(name), str(text)) for name, text in software.items()))
    else:
        text = 'The run was made before runs wrote down their versions.'
        parts.append(paragraph(f'{text} mbarl_ros was {arguments.get("version", "unknown")}.'))
    parts.append(paragraph(f'This report was made on host {platform.node()}.', 'note'))
    parts.append(tag('h3', f'Arguments ({ARGUMENTS_FILE})'))
    parts.append(facts((str(name), f'{value}') for name, value in arguments.items()))
    parts.append(tag('h3', 'Files as used'))
    for name in ('task.yaml', 'robot.yaml', 'agent.yaml'):
        text = (run.folder / name).read_text(errors='replace')
        parts.append(folded(name, tag('pre', text)))
    return join(*parts)
