"""Progress of jobs that run side by side: bars on a terminal, or plain lines. On standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

LINE_PERIOD = 30.0
"""Seconds between two lines that say what runs."""


class ProgressLines:
    """Plain lines: one for each job that ends, and every half minute what runs."""

    def __init__(self, title: str, total: int, done: int) -> None:
        """``done`` of ``total`` jobs were finished before."""
        self.title, self.total, self.done = title, total, done
        self._next_line = time.monotonic() + LINE_PERIOD

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ended(self, text: str) -> None:
        """A job has ended; ``text`` says how."""
        self.done += 1
        self._print(text)

    def running(self, shares: Mapping[str, float]) -> None:
        """These jobs run; each has finished this share, 0 to 1."""
        if time.monotonic() >= self._next_line and shares:
            self._next_line = time.monotonic() + LINE_PERIOD
            self._print(', '.join(f'{name} {share:.0%}' for name, share in shares.items()))

    def _print(self, text: str) -> None:
        print(f'{self.title} {self.done}/{self.total}: {text}', file=sys.stderr, flush=True)


class ProgressBars(ProgressLines):
    """A bar for all jobs and one for each that runs, below the lines."""

    def __init__(self, title: str, total: int, done: int, console: Console | None = None) -> None:
        """``console`` defaults to standard error."""
        super().__init__(title, total, done)
        self._progress = Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=console or Console(stderr=True, highlight=False),
        )
        self._all = self._progress.add_task('', total=max(total, 1))
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def running(self, shares: Mapping[str, float]) -> None:
        """Update the bars; that of a job appears when it starts and goes when it has ended."""
        for name in self._bars.keys() - shares.keys():
            self._progress.remove_task(self._bars.pop(name))
        for name, share in shares.items():
            if name not in self._bars:
                self._bars[name] = self._progress.add_task(name, total=1.0)
            self._progress.update(self._bars[name], completed=share)
        title = f'{self.title} {self.done}/{self.total}'
        finished = self.done + sum(shares.values())
        self._progress.update(self._all, description=title, completed=finished)

    def _print(self, text: str) -> None:
        self._progress.console.print(Text(text))


def show_progress(title: str, total: int, done: int) -> ProgressLines:
    """Bars where standard error is a terminal, else lines."""
    kind = ProgressBars if sys.stderr.isatty() else ProgressLines
    return kind(title, total, done)
