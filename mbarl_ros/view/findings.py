"""Results of a check of a robot or a graph, printed for a person."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from mbarl_ros.schema.findings import Finding

_TOPIC_COLUMNS = ('topic', 'rate', 'age', 'frame', 'other ends')


def print_topics(rows: Iterable[Sequence[str]]) -> None:
    """Print a table of the robot's topics, one row [5] of texts per topic."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in _TOPIC_COLUMNS:
        table.add_column(name)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def print_findings(findings: Iterable[Finding]) -> None:
    """Print one line per finding."""
    for finding in findings:
        print(f'{finding.level}: {finding}')
