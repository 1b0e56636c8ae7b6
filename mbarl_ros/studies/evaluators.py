"""Processes that evaluate policies while practice goes on, each with a world of its own."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import numpy as np

from mbarl_ros.control.planning_policy import Actor, deployed_policy
from mbarl_ros.control.policy import DEPLOYED
from mbarl_ros.learning.evaluation import Outcome, WideStarts, attempts_in_turn, outcome
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.task import Task


class Evaluators:
    """Evaluates policies by the deployed protocol, each in a world of its own seed.

    Results do not depend on the number of processes: no episode depends on another.
    """

    def __init__(self, task: Task, agent: AgentConfig, processes: int) -> None:
        """Start no process before the first policy.

        :param processes: how many share the episodes of an evaluation
        """
        self._task, self._processes = task, processes
        self._pool = ProcessPoolExecutor(
            processes, multiprocessing.get_context('spawn'), _prepare, (task, agent)
        )

    def submit(self, arrays: dict[str, np.ndarray], *, seed: int, wide: bool) -> Evaluation:
        """Begin to evaluate policy ``arrays``, from wide starts as well if ``wide``.

        :param seed: of the world, and of a planner's random numbers
        """
        config = self._task.config.evaluation
        standard = [
            self._pool.submit(_standard, arrays, seed, part)
            for part in self._parts(config.episodes)
        ]
        if not wide:
            return Evaluation(self._task, standard, [])
        # Worlds without physics step side by side, in one process.
        parts: list[Sequence[int] | None] = (
            [None] if config.wide.ranges else self._parts(config.wide.episodes)
        )
        return Evaluation(
            self._task, standard, [self._pool.submit(_wide, arrays, seed, part) for part in parts]
        )

    def _parts(self, episodes: int) -> list[Sequence[int]]:
        return [range(episodes)[first :: self._processes] for first in range(self._processes)]

    def close(self) -> None:
        """End the processes; what has not begun is dropped."""
        self._pool.shutdown(cancel_futures=True)


class Evaluation:
    """An evaluation that is under way."""

    def __init__(self, task: Task, standard: list[Future], wide: list[Future]) -> None:
        """``standard`` and ``wide``: results [2, n] of their episodes."""
        self._task, self._standard, self._wide = task, standard, wide

    def done(self) -> bool:
        """Whether the results are there."""
        return all(part.done() for part in self._standard + self._wide)

    def results(self) -> tuple[Outcome, float | None]:
        """Outcome from standard starts, and success from wide starts; waits for them."""
        standard, wide = (
            [part.result() for part in parts] for parts in (self._standard, self._wide)
        )
        success = float(np.concatenate(wide, axis=1)[0].mean()) if wide else None
        return outcome(self._task, np.concatenate(standard, axis=1)), success


class _Context:
    """What a process keeps between evaluations."""

    task: Task
    agent: AgentConfig
    worlds: dict[int, Any]
    wide: WideStarts | None = None


def _prepare(task: Task, agent: AgentConfig) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    np.seterr(over='ignore')
    _Context.task, _Context.agent, _Context.worlds = task, agent, {}


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _policy(arrays: dict[str, np.ndarray], seed: int) -> Actor:
    return deployed_policy(arrays, DEPLOYED, _Context.task, _Context.agent, seed)


def _standard(arrays: dict[str, np.ndarray], seed: int, indices: Sequence[int]) -> np.ndarray:
    if seed not in _Context.worlds:
        _Context.worlds[seed] = _Context.task.load_world(seed=seed)
    world = _Context.worlds[seed]
    return attempts_in_turn(_Context.task, world, _policy(arrays, seed), indices)


def _wide(arrays: dict[str, np.ndarray], seed: int, indices: Sequence[int] | None) -> np.ndarray:
    if _Context.wide is None:
        _Context.wide = WideStarts(_Context.task)
    return _Context.wide.attempts(_policy(arrays, seed), indices)
