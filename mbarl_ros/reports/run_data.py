"""Everything that a run folder holds, read once, for its report and for ``mbarl explain``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbarl_ros.demos.metadata import DemonstrationError
from mbarl_ros.demos.reader import load_demonstrations
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import load_agent
from mbarl_ros.storage.history import Sample, read_history
from mbarl_ros.storage.run_files import (
    ARGUMENTS_FILE,
    EVALUATIONS_FILE,
    RESULT_FILE,
    TRANSITIONS_FILE,
    read_json_lines,
)
from mbarl_ros.storage.sequence_tracker import SequenceTracker
from mbarl_ros.storage.transitions import Transitions, stack
from mbarl_ros.task import Task


@dataclass(frozen=True)
class RunData:
    """A run as it lies on disk.

    ``transitions``: all that were executed, in their order; ``demonstrations``: of the copy in the
    run folder, no rows where there were none; ``evaluations``: lines of ``evaluations.jsonl``;
    ``history``: what the nodes reported; ``result``: how it ended, empty while it runs.
    """

    folder: Path
    task: Task
    agent: AgentConfig
    arguments: Mapping[str, Any]
    transitions: Transitions
    demonstrations: Transitions
    evaluations: list[dict[str, Any]]
    history: list[Sample]
    result: Mapping[str, Any]


def read_run(folder: Path) -> RunData:
    """Read a run folder of ``mbarl up sim`` or ``hardware``; the run may still go on.

    :raises ConfigError: it is none, or a file in it is damaged; names folder or file.
    """
    folder = folder.expanduser()
    if not (folder / ARGUMENTS_FILE).is_file():
        raise ConfigError(
            f'{folder}: is no run folder (there is no {ARGUMENTS_FILE} in it); give one that '
            '`mbarl up sim` or `mbarl up hardware` has made'
        )
    task = Task.load(str(folder / 'task.yaml'), str(folder / 'robot.yaml'))
    agent = load_agent(str(folder / 'agent.yaml'))
    log = folder / TRANSITIONS_FILE
    transitions = stack([], task)
    if log.exists():
        transitions = SequenceTracker().load_log(log, task, task.spec_hash(agent))
    return RunData(
        folder=folder,
        task=task,
        agent=agent,
        arguments=_json(folder / ARGUMENTS_FILE),
        transitions=transitions,
        demonstrations=_demonstrations(folder, task),
        evaluations=read_json_lines(folder / EVALUATIONS_FILE, skip_damaged=True),
        history=read_history(folder),
        result=_json(folder / RESULT_FILE) if (folder / RESULT_FILE).exists() else {},
    )


def _demonstrations(folder: Path, task: Task) -> Transitions:
    copy = folder / 'demonstrations'
    if not copy.is_dir():
        return stack([], task)
    try:
        return load_demonstrations(copy, task, run_dir=folder)
    except DemonstrationError as error:
        raise ConfigError(str(error)) from None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f'{path}: cannot be read: {error}') from None
    if not isinstance(content, dict):
        raise ConfigError(f'{path}: is damaged')
    return content
