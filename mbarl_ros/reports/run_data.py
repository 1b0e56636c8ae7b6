"""Everything that a run folder holds, read once, for its report and for ``mbarl explain``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from mbarl_ros.demos.metadata import DemonstrationError
from mbarl_ros.demos.reader import load_demonstrations
from mbarl_ros.reports.robot_phases import RobotPhases
from mbarl_ros.schema.agent import AgentConfig
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import load_agent
from mbarl_ros.storage.history import Sample, read_history
from mbarl_ros.storage.robot_numbers import RobotNumbers
from mbarl_ros.storage.run_files import (
    ARGUMENTS_FILE,
    EVALUATIONS_FILE,
    RESULT_FILE,
    ROBOTS_FILE,
    TRANSITIONS_FILE,
    read_json,
    read_json_lines,
)
from mbarl_ros.storage.sequence_tracker import SequenceTracker
from mbarl_ros.storage.transitions import Transitions, concatenate, select, stack
from mbarl_ros.task import Task

Part = TypeVar('Part')


@dataclass(frozen=True)
class RunData:
    """A run as it lies on disk.

    ``transitions``: all that were executed, in their order; those of several robots phase by phase,
    as the learner uses them, at last the phases that have not ended; ``demonstrations``: of the
    copy in the run folder, no rows where there were none; ``evaluations``: lines of
    ``evaluations.jsonl``; ``history``: what the nodes reported; ``result``: how it ended, empty
    while it runs. ``robots``: of several robots, name -> number in ``transitions``.
    ``damaged``: name of a part that could not be read, and is empty here -> a sentence about it.
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
    damaged: Mapping[str, str] = field(default_factory=dict)
    robots: Mapping[str, int] = field(default_factory=dict)

    def by_robot(self) -> dict[str, RunData]:
        """What each of several robots did: its transitions, and its nodes and the shared ones."""
        return {name: self._of(name, number) for name, number in self.robots.items()}

    def _of(self, name: str, number: int) -> RunData:
        own = select(self.transitions, self.transitions['robot'] == number)
        history = [Sample(sample.time, _status_of(name, sample.status)) for sample in self.history]
        return replace(self, transitions=own, history=history, robots={})


def _status_of(robot: str, status: Mapping[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    labels = {node: node.removeprefix(f'{robot}/') for node in status}
    return {label: status[node] for node, label in labels.items() if '/' not in label}


def read_run(folder: Path, *, tolerant: bool = False) -> RunData:
    """Read a run folder of ``mbarl up sim``, ``fleet`` or ``hardware``; the run may still go on.

    :param tolerant: leave out ``transitions``, ``demonstrations``, ``result`` or ``robots``
        where they are damaged; without its task, agent and arguments nothing can be told of a run
    :raises ConfigError: it is none, or a file in it is damaged; names folder or file.
    """
    folder = folder.expanduser()
    if not (folder / ARGUMENTS_FILE).is_file():
        raise ConfigError(
            f'{folder}: is no run folder (there is no {ARGUMENTS_FILE} in it); give one that '
            '`mbarl up sim` or `mbarl up hardware` has made'
        )
    arguments = read_json(folder / ARGUMENTS_FILE, 'restore it, or give another run')
    if arguments.get('host') == 'robot':
        raise ConfigError(
            f"{folder}: is the robot's side of a run on two hosts, without its transitions; give "
            'the run folder of host:=learner'
        )
    task = Task.load(str(folder / 'task.yaml'), str(folder / 'robot.yaml'))
    agent = load_agent(str(folder / 'agent.yaml'))
    damaged: dict[str, str] = {}

    def part(name: str, read: Callable[[], Part], empty: Part) -> Part:
        try:
            return read()
        except ConfigError as error:
            if not tolerant:
                raise
            damaged[name] = str(error)
            return empty

    return RunData(
        folder=folder,
        task=task,
        agent=agent,
        arguments=arguments,
        transitions=part('transitions', lambda: _transitions(folder, task, agent), stack([], task)),
        demonstrations=part(
            'demonstrations', lambda: _demonstrations(folder, task), stack([], task)
        ),
        evaluations=read_json_lines(folder / EVALUATIONS_FILE, skip_damaged=True),
        history=read_history(folder),
        result=part('result', lambda: read_json(folder / RESULT_FILE, 'remove it'), {}),
        damaged=damaged,
        robots=part('robots', lambda: _robots(folder), {}),
    )


def _transitions(folder: Path, task: Task, agent: AgentConfig) -> Transitions:
    log = folder / TRANSITIONS_FILE
    if not log.exists():
        return stack([], task)
    try:
        rows = SequenceTracker().load_log(log, task, task.spec_hash(agent))
    except OSError as error:
        raise ConfigError(f'{log}: cannot be read: {error.strerror}') from None
    phases = RobotPhases(task)
    due, _ = phases.add(rows)
    return concatenate([due, phases.rest()])


def _robots(folder: Path) -> dict[str, int]:
    path = folder / ROBOTS_FILE
    try:
        return RobotNumbers(path).names
    except OSError as error:
        raise ConfigError(f'{path}: cannot be read: {error.strerror}') from None


def _demonstrations(folder: Path, task: Task) -> Transitions:
    copy = folder / 'demonstrations'
    if not copy.is_dir():
        return stack([], task)
    try:
        return load_demonstrations(copy, task, run_dir=folder)
    except DemonstrationError as error:
        raise ConfigError(str(error)) from None
