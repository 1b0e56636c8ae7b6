"""What a study is: cells that run in processes of their own, and a report on their results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

Results = dict[str, dict[str, Any]]
"""Cell name -> ``{'settings': ..., 'result': ...}``, of the cells that are finished."""


@dataclass(frozen=True)
class Cell:
    """One run of a study: what is the same in each repetition of it.

    ``name`` is unique and the name of its folder. ``settings`` can be written as JSON; together
    with the code they determine the result. ``after`` names the cells whose folders it reads.
    """

    name: str
    settings: dict[str, Any]
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A claim, whether it holds, and a sentence with the numbers and the statistic.

    ``holds`` is None where cells are missing that would decide it.
    """

    claim: str
    holds: bool | None
    evidence: str


@dataclass(frozen=True)
class Report:
    """What a study has found, in Markdown, for somebody who has never seen the project.

    ``figures`` are (file name, caption), ``tables`` (title, header, rows).
    """

    introduction: str
    verdicts: Sequence[Verdict]
    figures: Sequence[tuple[str, str]] = ()
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[Any]]]] = ()
    notes: str = ''


class Study(ABC):
    """A question, the cells that answer it, and the report. Registered in :mod:`~.registry`."""

    name: ClassVar[str]
    title: ClassVar[str]
    description: ClassVar[str]
    """One line for the list of studies."""

    reuses: ClassVar[tuple[str, ...]] = ()
    """Names of studies with some of the same cells; what they have finished is not run again."""

    @abstractmethod
    def cells(self, quick: bool) -> list[Cell]:
        """All cells, in the order in which they should run.

        :param quick: a small version that runs within two minutes, to see that everything works
        """

    @abstractmethod
    def run(
        self,
        settings: Mapping[str, Any],
        folder: Path,
        report_progress: Callable[[float], None],
    ) -> dict[str, Any]:
        """Run one cell, in a process of its own with one thread; returns a result for JSON.

        A result that is not finite fails the cell.

        :param folder: the cell's own, to write files in; ``folder.parent / name`` is that of a cell
            named in ``after``
        :param report_progress: takes the finished share, 0 to 1
        """

    @abstractmethod
    def report(self, results: Results, folder: Path, quick: bool) -> Report:
        """Draw the figures into ``folder`` as PNG and judge the claims.

        :param results: at least one; others may be missing, where cells failed or are yet to run
        """
