"""An agent preset that practises on an episodic task with rewards at each step, for the studies."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mbarl_ros.control.planning_policy import PlanningPolicy
from mbarl_ros.control.policy import pack_policy, unpack_policy
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.schema.load import load_agent, override
from mbarl_ros.storage.files import write_file
from mbarl_ros.storage.transitions import FORWARD, PHASES, stack
from mbarl_ros.storage.wire import pack, unpack
from mbarl_ros.studies.direct import DirectRun
from mbarl_ros.task import Task

POLICY_FILE, VISITED_FILE = 'policy.safetensors', 'visited.safetensors'


def load_settings(settings: Mapping[str, Any]) -> tuple[Task, AgentConfig]:
    """Task and agent of a cell: ``task``, ``preset`` and ``changes`` of dotted keys."""
    agent = override(load_agent(settings['preset']), settings['changes'], 'study')
    return Task.load(settings['task']), agent


def practise(
    settings: Mapping[str, Any], folder: Path, report_progress: Callable[[float], None]
) -> dict[str, Any]:
    """Practise for ``settings['decisions']`` control steps; keep policy and visited observations.

    :returns: ``returns``: (environment steps at its end, return) of each practised episode, and
        ``processor_seconds``. Both count frames of the environment: a control step is
        ``settings['repeat']`` of its own steps.
    """
    task, agent = load_settings(settings)
    direct = DirectRun(task, agent, stack([], task), settings['seed'])
    repeat, total, decisions = settings['repeat'], 0.0, 0
    returns: list[tuple[int, float]] = []
    visited: list[np.ndarray] = []
    start = time.process_time()
    while decisions < settings['decisions']:
        rows = direct.collect()
        direct.train(rows)
        visited.append(rows['observation'])
        for reward, ended in zip(rows['reward'], _ended(rows), strict=True):
            decisions += 1
            total += float(reward) * repeat
            if ended:
                returns.append((decisions * repeat, total))
                total = 0.0
        report_progress(decisions / settings['decisions'])
    arrays = direct.learner.policy_arrays()
    data = pack_policy(arrays, task, agent, direct.learner.environment_steps, applies_from=0)
    write_file(folder / POLICY_FILE, data)
    rows = {'observation': np.concatenate(visited)}
    write_file(folder / VISITED_FILE, pack(rows, {}, 'visited'))
    seconds = round(time.process_time() - start, 1)
    return {'returns': returns, 'processor_seconds': seconds}


def _ended(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    return (rows['terminated'] | rows['truncated']).astype(bool)


def load_planner(settings: Mapping[str, Any], folder: Path) -> tuple[PlanningPolicy, np.ndarray]:
    """The planner as it was at the end of :func:`practise`, and the observations it visited."""
    task, agent = load_settings(settings)
    arrays, _ = unpack_policy((folder / POLICY_FILE).read_bytes(), task, agent)
    planner = PlanningPolicy(task, agent, settings['seed'])
    planner.load(arrays, PHASES[FORWARD])
    rows, _ = unpack((folder / VISITED_FILE).read_bytes(), 'visited')
    return planner, rows['observation']
