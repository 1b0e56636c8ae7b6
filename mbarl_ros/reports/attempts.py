"""Phases of practice, as the transitions of a run tell them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mbarl_ros.learning.holdout import episode_numbers
from mbarl_ros.reports.robot_phases import RobotPhases
from mbarl_ros.reports.run_data import RunData
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.transitions import FORWARD, HUMAN, Transitions
from mbarl_ros.task import Task


@dataclass(frozen=True)
class Phases:
    """Each phase of a run: arrays [n] of its number in ``PHASES``, first step and length in steps.

    ``success``: a forward phase succeeded, a backward one reached the state that it was sent to;
    ``early``: it ended before its step limit; ``human``: steps that a person drove.
    """

    phase: np.ndarray
    first: np.ndarray
    steps: np.ndarray
    success: np.ndarray
    early: np.ndarray
    human: np.ndarray

    def forward(self) -> np.ndarray:
        """Numbers of the forward phases."""
        return np.flatnonzero(self.phase == FORWARD)


def practised(run: RunData) -> Transitions:
    """The transitions of a run, at least one.

    :raises ConfigError: there are none; says why.
    """
    if not len(run.transitions['phase']):
        raise ConfigError(run.damaged.get('transitions', 'The run has no transitions yet.'))
    return run.transitions


def ends(transitions: Transitions) -> np.ndarray:
    """Where a phase ends, bool [n]."""
    return (transitions['terminated'] | transitions['truncated']).astype(bool)


def phases(task: Task, transitions: Transitions) -> Phases:
    """The phases that have ended; one that was going on when the run ended is left out."""
    transitions, ended = RobotPhases(task).add(transitions)
    last = np.flatnonzero(ended)
    first = np.append(0, last[:-1] + 1)[: len(last)]
    kind = transitions['phase'][last]
    steps = last - first + 1
    reached = transitions['terminated'][last].astype(bool)
    # A world that has ended terminates a phase too, which is no success by itself.
    over = task.ended(transitions['next_observation'][last])
    succeeded = task.success(transitions['next_observation'][last])
    success = reached & np.where(kind == FORWARD, succeeded, ~over)
    driven = transitions['source'][: last[-1] + 1 if len(last) else 0] == HUMAN
    human = np.bincount(episode_numbers(ended)[: len(driven)], driven, len(last)).astype(int)
    limits = np.array([*task.config.phases.limits])
    early = steps < limits[kind]
    whole = ends(transitions)[last]  # of several robots, one may have been cut by a crash
    return Phases(*(each[whole] for each in (kind, first, steps, success, early, human)))
