"""Nodes killed at random while a simulated robot learns, against the simulator's own log."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from graph import LEARNING, Graph, small_agent

from mbarl_ros.learning import checkpoint
from mbarl_ros.schema.load import load_agent
from mbarl_ros.storage.record_log import read_records
from mbarl_ros.storage.run_files import TRANSITIONS_FILE
from mbarl_ros.storage.sequence_tracker import SequenceTracker
from mbarl_ros.storage.transitions import row_dtype, unpack_log_record, unpack_log_rows
from mbarl_ros.task import Task

_AT_WORK = 20  # steps after which a node that was started again is surely at work
_LATEST = 1.5  # seconds from then to its death, at most


@dataclass(frozen=True)
class Outcome:
    """What was left after the kills.

    ``executed`` and ``stored``: steps by the simulator's log and by the learner's; ``missing``: in
    the first, not in the second; ``unexplained``: those of them that were not a controller's last;
    ``doubled``: surplus rows of the second; ``wrong``: rows that differ from what really happened.
    """

    kills: Mapping[str, int]
    executed: int
    stored: int
    missing: int
    unexplained: int
    doubled: int
    wrong: int
    steps_trained: int
    updates: int
    fell_back: int  # times that a checkpoint was found damaged at a restart
    seconds: float


def practise_and_kill(folder: Path, kills: Mapping[str, int], seed: int) -> Outcome:
    """Kill each named node (``learner``, ``policy_controller``) so often, at random moments.

    Each is started again at once, as a supervisor does it. At the end the learner must have
    trained on everything.

    A step of which a killed controller had not yet heard the outcome is no transition, and there
    is at most one for each of its deaths, and one when the robot is taken away at the end.
    """
    rng = np.random.default_rng(seed)
    agent = small_agent(folder)
    began = time.monotonic()
    with Graph(folder, task='pointmass', agent=agent, seed=seed) as graph:
        graph.start('robot_sim', step_log=str(folder / 'steps.jsonl'))
        graph.start(*LEARNING[1:])
        _kill(graph, kills, rng)
        before = graph.wait_for('learner', lambda: graph.statuses.get('learner'))
        target = float(before['environment_steps']) + 200
        graph.wait_for(
            'learning to go on', lambda: graph.value('learner', 'environment_steps') >= target, 120
        )
        assert graph.kill('robot_sim', 2) == 0
        graph.spin(2.0)  # diagnostics come once a second: none from before its end
        graph.wait_for(
            'acknowledgement of all',
            lambda: graph.value('policy_controller', 'unacknowledged') == 0,
        )
        graph.wait_for('end of training', lambda: _idle(graph, agent))
        assert graph.kill('policy_controller', 2) == 0
        assert graph.kill('learner', 2) == 0
    return _compare(folder, agent, kills, time.monotonic() - began)


def _kill(graph: Graph, kills: Mapping[str, int], rng: np.random.Generator) -> None:
    left, due, first = dict(kills), {}, {}
    while any(left.values()):
        graph.spin(0.02)
        for name in [name for name in left if left[name]]:
            steps = graph.value(name, 'environment_steps')
            # Only who is at work can lose something.
            working = steps > 0 and steps >= first.setdefault(name, steps) + _AT_WORK
            if working and name not in due:
                due[name] = time.monotonic() + rng.uniform(0.0, _LATEST)
            if time.monotonic() >= due.get(name, np.inf):
                graph.kill(name)
                graph.start(name)
                left[name] -= 1
                del due[name], first[name]


def _idle(graph: Graph, agent: str) -> bool:
    return 0 <= graph.value('learner', 'lag_steps') < load_agent(agent).chunk


def _compare(folder: Path, agent: str, kills: Mapping[str, int], seconds: float) -> Outcome:
    task = Task.load('pointmass')
    tracker = SequenceTracker()
    run = folder / 'run'
    spec = task.spec_hash(load_agent(agent))
    rows = tracker.replay(run / TRANSITIONS_FILE, task, spec)
    steps = {}
    for line in (folder / 'steps.jsonl').read_text().splitlines():
        step = json.loads(line)
        steps[step['stamp']] = step
    stamps = np.rint(rows['stamp'] * 1e9).astype(np.int64).tolist()
    wrong = 0
    for row, stamp in enumerate(stamps):
        step = steps.get(stamp)
        wrong += step is None or not all(
            np.allclose(found, told, atol=1e-6)
            for found, told in (
                (rows['observation'][row, : task.state_dim], step['state']),
                (rows['next_observation'][row, : task.state_dim], step['next_state']),
                (task.command(rows['action'][row]), step['command']),
            )
        )
    order, stored = [*sorted(steps), None], set(stamps)
    missing = [number for number, stamp in enumerate(order[:-1]) if stamp not in stored]
    beginnings = {None}  # where a new controller went on, or the end
    for record in read_records(run / TRANSITIONS_FILE):
        part, _, first = unpack_log_record(record, row_dtype(task), spec)
        if first == 0:
            beginnings.add(round(unpack_log_rows([part], task)['stamp'][0] * 1e9))
    _, meta = checkpoint.load(run / 'checkpoint' / 'learner.safetensors', print)
    return Outcome(
        kills=kills,
        executed=len(steps),
        stored=len(stamps),
        missing=len(missing),
        unexplained=sum(order[number + 1] not in beginnings for number in missing),
        doubled=len(stamps) - len(stored),
        wrong=wrong,
        steps_trained=meta['environment_steps'],
        updates=meta['updates'],
        fell_back=(folder / 'learner.log').read_text().count('going on with'),
        seconds=seconds,
    )
