"""A job is one process of a sweep; an engine says where its process runs."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

THREADS = {'OMP_NUM_THREADS': '1'}
"""Environment of every job: with one thread, results do not depend on the machine's cores."""


@dataclass(frozen=True)
class Luggage:
    """What a job takes along to a machine that shares no file with this one.

    ``argument``: as there; its paths are relative to the folder that the process starts in.
    ``files``: path in that folder -> content, or file here. ``folder``: the one, there, that the
    job fills. ``stays``: names in it that are not sent back, since they are written here.
    """

    argument: Mapping[str, Any]
    files: Mapping[str, bytes | Path]
    folder: str
    stays: frozenset[str] = frozenset()


class Run(ABC):
    """The process of a job that has been started."""

    @abstractmethod
    def code(self) -> int | None:
        """Exit code; None while it runs. After an exit all of its files are here."""

    @abstractmethod
    def stop(self) -> None:
        """End it now."""


@dataclass(eq=False, kw_only=True)
class Job:
    """A Python module to run as a process: ``python -m module ARGUMENT``.

    ``argument`` reaches it as JSON. It fills ``folder``; its output goes to file ``log`` in there.
    It starts when the jobs ``after`` (titles) have succeeded. ``pack`` is called only where it runs
    on another machine.
    """

    title: str
    module: str
    argument: dict[str, Any]
    folder: Path
    log: Path
    pack: Callable[[], Luggage]
    after: tuple[str, ...] = ()
    run: Run | None = field(default=None, init=False)

    @property
    def ended(self) -> bool:
        """Whether the process has run and ended."""
        return self.run is not None and self.run.code() is not None

    @property
    def failed(self) -> bool:
        """Whether the process has ended with an error."""
        return self.ended and self.run.code() != 0

    @property
    def failure(self) -> str:
        """Why it failed: last line of its log, or its exit code."""
        last_line = ''
        with contextlib.suppress(OSError):
            last_line = self.log.read_text(errors='replace').strip().rpartition('\n')[2]
        return f'{last_line or f"exit code {self.run.code()}"}; see {self.log}'


class Engine(ABC):
    """Starts the processes of jobs. A context: no process outlives it."""

    @property
    @abstractmethod
    def slots(self) -> int:
        """How many jobs may be started at a time."""

    @property
    def capacity(self) -> int:
        """How many jobs run at a time; more than these would wait."""
        return self.slots

    @abstractmethod
    def start(self, job: Job) -> Run:
        """Start the process of a job.

        :raises ConfigError: the job cannot run there; the sentence names the remedy.
        """

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(self, *_: object) -> None: ...


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0))
