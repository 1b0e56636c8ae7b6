"""Findings: what a check of a recording, a robot or a graph has to say."""

from __future__ import annotations

from dataclasses import dataclass

ERROR, WARNING, INFO = LEVELS = ('error', 'warning', 'info')


@dataclass(frozen=True)
class Finding:
    """Something to know about a recording; ``time`` is in s since its first message."""

    level: str
    text: str
    time: float | None = None

    def __str__(self) -> str:
        when = '' if self.time is None else f' at {self.time:.2f} s'
        return f'{self.text}{when}'
