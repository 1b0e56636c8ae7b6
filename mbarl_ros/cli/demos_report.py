"""What `mbarl demos` prints about demonstrations: table, findings, what they show as a set."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from mbarl_ros.demos.comparison import compare
from mbarl_ros.demos.episodes import Episode
from mbarl_ros.demos.reader import check_demonstration
from mbarl_ros.demos.recording import unfinished
from mbarl_ros.schema.findings import ERROR, INFO, WARNING, Finding
from mbarl_ros.task import Task

_LISTED = 10  # warnings below the table of `mbarl demos list`


def print_table(table: Table) -> None:
    """Print a table as wide as its content: the terminal may wrap lines, but no name is cut."""
    Console(width=10_000).print(table)


def print_list(paths: list[Path], task: Task) -> None:
    """Print a line for each demonstration, and what is wrong with them."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ('demonstration', 'verdict', 'reached', 'steps', 'left out', 'seconds', 'by', ''):
        right = name in ('steps', 'left out', 'seconds')
        table.add_column(name, justify='right' if right else 'left')
    used, episodes, said = 0, [], []
    for path in paths:
        episode, findings = check_demonstration(path, task)
        said += [(path.name, finding) for finding in findings if finding.level == WARNING]
        counts = _counts(findings)
        if episode is None:
            table.add_row(path.name, '', '', '', '', '', '', counts)
            continue
        used += episode.succeeded(task)
        episodes.append(episode)
        forward = episode.direction == 'forward'
        table.add_row(
            path.name,
            episode.verdict,
            ('yes' if episode.reached(task) else 'no') if forward else '',
            str(len(episode.actions)),
            str((~episode.whole).sum() or ''),
            f'{episode.stamps[-1] - episode.stamps[0]:.1f}',
            episode.operator,
            counts,
        )
    print_table(table)
    for name, finding in said[:_LISTED]:
        print(f'{name}: {finding.level}: {finding}')
    if len(said) > _LISTED:
        print(f'and {len(said) - _LISTED} warnings more; `mbarl demos check` says them all')
    print_set(episodes, task)
    print(f'{used} of {len(paths)} are used for learning (task {task.name})')
    left = unfinished(paths[0].parent)
    if left:
        print(
            f'{left} recordings are in progress or were interrupted; `mbarl demos check` finishes '
            'interrupted ones'
        )


def _counts(findings: list[Finding]) -> str:
    """Number of findings by level, such as ``2 warnings, 1 note``."""
    words = {ERROR: 'error', WARNING: 'warning', INFO: 'note'}
    counts = Counter(words[finding.level] for finding in findings)
    return ', '.join(
        f'{counts[word]} {word}{"s" if counts[word] > 1 else ""}'
        for word in words.values()
        if counts[word]
    )


def print_report(name: str, episode: Episode | None, findings: list[Finding]) -> None:
    """Print the findings about one demonstration; without an episode it cannot be used."""
    steps = 'cannot be used' if episode is None else f'{len(episode.actions)} steps'
    print(f'{name}: {steps}')
    for finding in findings:
        print(f'  {finding.level}: {finding}')


def print_set(episodes: list[Episode], task: Task) -> None:
    """Print what demonstrations show as a set."""
    for finding in compare(episodes, task):
        where = 'all together' if len(episodes) > 1 else episodes[0].name
        print(f'{where}: {finding.level}: {finding}')
