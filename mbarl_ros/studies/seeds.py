"""One seed of ``mbarl bench`` and its folder: configuration, evaluations, policy.

This module does not load torch, since the process that monitors the workers imports it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mbarl_ros import __version__
from mbarl_ros.demos.reader import load_demonstrations
from mbarl_ros.schema.agent import AgentConfig, SacConfig
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import load_agent, override, without_demonstrations
from mbarl_ros.storage.files import write_file
from mbarl_ros.storage.run_files import (
    EVALUATIONS_FILE,
    POLICY_FILE,
    RESULT_FILE,
    check_same,
    kept_policies,
    read_json_lines,
    write_config,
)
from mbarl_ros.storage.transitions import Transitions, stack
from mbarl_ros.task import Task

CLONE, RANDOM = 'bc', 'random'
METRICS_FILE = 'metrics.jsonl'
SEED_FILE = 'seed.yaml'
LOG_FILE = 'bench.log'
CONFIGURATION_FILES = frozenset({'agent.yaml', 'task.yaml', 'robot.yaml', SEED_FILE})


def _pseudo(name: str, description: str) -> AgentConfig:
    # The settings fix only the layout of the policy message; the learner is not used.
    sac = SacConfig()
    return AgentConfig(name=name, description=description, backward='none', model=None, sac=sac)


_PSEUDO_AGENTS = {
    CLONE: _pseudo(CLONE, 'Behaviour clone of the demonstrations, no practice: the floor'),
    RANDOM: _pseudo(RANDOM, 'Uniformly random actions, no practice'),
}


def pseudo_agent(agent: AgentConfig) -> str | None:
    """``bc`` or ``random`` where the agent is one of them, which do not practise; else None."""
    for name, pseudo in _PSEUDO_AGENTS.items():
        if agent.model_copy(update={'name': name}) == pseudo:
            return name
    return None


def load_variant(text: str) -> AgentConfig:
    """Agent from ``PRESET`` or ``PRESET:key=value,key=value``.

    ``PRESET`` is a name, a path, ``bc``, the behaviour clone, or ``random``. Keys are dotted,
    values are YAML. A variant is called by this text, unless key ``name`` gives another name.

    :raises ConfigError: unknown preset or key, or a value that cannot be used.
    """
    preset, separator, changes = text.partition(':')
    if preset in _PSEUDO_AGENTS:
        if separator:
            raise ConfigError(f"agent '{text}': {preset} has no settings")
        return _PSEUDO_AGENTS[preset]
    agent = load_agent(preset)
    if not separator:
        return agent
    values: dict[str, Any] = {}
    for change in re.split(r',(?=[\w.]+=)', changes):
        key, equals, value = change.partition('=')
        if not key or not equals:
            raise ConfigError(f"agent '{text}': '{change}' is not of the form key=value")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"agent '{text}': key '{key}': '{value}' is not valid YAML") from None
    return override(agent, {'name': f'{agent.name}:{changes}'} | values, f"agent '{text}'")


@dataclass(frozen=True)
class SeedRun:
    """One seed of one agent on one task, below folder ``out``.

    ``demonstrations`` is a folder, or empty for the task's. If ``per_goal`` is not None, only the
    first ``per_goal`` forward demonstrations of each goal are used. ``every``: environment steps
    between two evaluations, of which every second is also one from wide starts; 0: the task's.
    """

    out: str
    task: str
    agent: str
    seed: int
    budget: int
    demonstrations: str = ''
    per_goal: int | None = None
    every: int = 0

    def load(self) -> tuple[Task, AgentConfig, Transitions]:
        """Task, agent and demonstrations; with the seed they determine the result.

        Where the task has no demonstrations there are no rows, and the agent does without.

        :raises ConfigError: task, agent or their demonstrations cannot be used, or not together.
        :raises DemonstrationError: a demonstration cannot be used.
        """
        task, agent = Task.load(self.task), load_variant(self.agent)
        if pseudo_agent(agent) is None:
            task.check_agent(agent)
        if self.every:
            times = {'evaluation.every': self.every}
            if task.config.evaluation.wide is not None:
                times['evaluation.wide.every'] = 2 * self.every
            task.config = override(task.config, times, f"task '{task.name}'")
        if self.per_goal is not None:
            name = f'{agent.name}+demos={self.per_goal}'
            agent = agent.model_copy(update={'name': name})
        folder = self.demonstrations or task.config.demonstrations
        if folder is None:
            return task, self._without_demonstrations(agent, task), stack([], task)
        return task, agent, load_demonstrations(folder, task, self.per_goal)

    @staticmethod
    def _without_demonstrations(agent: AgentConfig, task: Task) -> AgentConfig:
        kind = pseudo_agent(agent)
        if kind == RANDOM:
            return agent
        if kind == CLONE:
            raise ConfigError(
                f"agent '{CLONE}' clones demonstrations; task '{task.name}' has none: add the key "
                "'demonstrations' or give --demonstrations"
            )
        return without_demonstrations(agent, task.config)


def seed_folder(out: Path | str, task: Task, agent: AgentConfig, seed: int) -> Path:
    """Folder of a seed: OUT/TASK/AGENT/seed_S."""
    return Path(out) / task.name / re.sub(r'[^\w.=,+-]+', '_', agent.name) / f'seed_{seed}'


def configurations(
    task: Task, agent: AgentConfig, demonstrations: Transitions, seed: int
) -> dict[str, dict[str, Any]]:
    """Configuration files of a seed's folder: file name -> content."""
    digest = hashlib.sha256()
    for name in sorted(demonstrations):
        digest.update(np.ascontiguousarray(demonstrations[name]).tobytes())
    return {
        'agent.yaml': agent.model_dump(mode='json'),
        'task.yaml': task.config.model_dump(mode='json'),
        'robot.yaml': task.robot.model_dump(mode='json'),
        SEED_FILE: {
            'seed': seed,
            'demonstration_rows': len(demonstrations['phase']),
            'demonstration_digest': digest.hexdigest()[:16],
        },
    }


def check_folder(folder: Path, configs: dict[str, dict[str, Any]]) -> None:
    """Refuse a folder that was made with other settings.

    :raises ConfigError: the message names the folder, the file and the key.
    """
    remedy = 'give the same settings or another --out, or remove the folder'
    for name, config in configs.items():
        check_same(folder / name, config, str(folder), remedy)


def prepare_folder(folder: Path, configs: dict[str, dict[str, Any]]) -> None:
    """Write the configuration and remove the results of an interrupted run."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, config in configs.items():
        write_config(folder / name, config)
    results = [folder / name for name in (RESULT_FILE, EVALUATIONS_FILE, METRICS_FILE, POLICY_FILE)]
    for path in (*results, *kept_policies(folder).values()):
        path.unlink(missing_ok=True)


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append a record to a file of JSON lines."""
    with path.open('a') as file:
        file.write(json.dumps(record) + '\n')


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """Evaluations of a seed so far.

    :raises ConfigError: a line is damaged.
    """
    return read_json_lines(folder / EVALUATIONS_FILE)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Metrics of a seed's learner at each evaluation so far.

    :raises ConfigError: a line is damaged.
    """
    return read_json_lines(folder / METRICS_FILE)


def write_result(folder: Path) -> None:
    """Mark a seed as finished: write its last evaluation as ``result.json``."""
    result = {**read_evaluations(folder)[-1], 'reason': 'budget', 'version': __version__}
    write_file(folder / RESULT_FILE, (json.dumps(result, indent=2) + '\n').encode())


def read_result(folder: Path) -> dict[str, Any] | None:
    """Last evaluation of a finished seed; None if it is not finished.

    :raises ConfigError: the file is damaged.
    """
    path = folder / RESULT_FILE
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        raise ConfigError(f'{path}: is damaged; remove it, and the seed runs again') from None


def is_finished(folder: Path, agent: AgentConfig, budget: int) -> bool:
    """Whether a seed has practised for ``budget`` environment steps or more."""
    result = read_result(folder)
    return result is not None and (
        pseudo_agent(agent) is not None or result['environment_steps'] >= budget
    )
