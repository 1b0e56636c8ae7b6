"""Kills nodes at random while a robot learns; compares the data with the simulator's own log."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mbarl_ros.learning import checkpoint
from mbarl_ros.schema.load import load_agent
from mbarl_ros.storage.record_log import read_records
from mbarl_ros.storage.run_files import TRANSITIONS_FILE
from mbarl_ros.storage.sequence_tracker import SequenceTracker
from mbarl_ros.storage.transitions import row_dtype, unpack_log_record, unpack_log_rows
from mbarl_ros.task import Task
from support.graph import LEARNING, Graph, small_agent

_WORKING_AFTER = 20  # steps after which a restarted node is surely working
_MAX_DELAY = 1.5  # s from then to its kill


@dataclass(frozen=True)
class Outcome:
    """The data after the kills.

    ``executed``: steps in the simulator's log. ``stored``: rows in the learner's log. ``missing``:
    executed steps that are not stored. ``unexplained``: missing steps that were not the last of a
    controller. ``doubled``: rows stored more than once. ``wrong``: rows that differ from the
    executed step.
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
    fell_back: int  # restarts that found a damaged checkpoint
    seconds: float


def practise_and_kill(folder: Path, kills: Mapping[str, int], seed: int) -> Outcome:
    """Kill each named node (``learner``, ``policy_controller``) so often, at random moments.

    Each is restarted at once, as a supervisor does it. At the end the learner must have trained
    on everything.

    A step whose outcome a killed controller had not yet received is no transition. There is at
    most one for each of its kills, and one more when the simulator is stopped at the end.
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
        graph.spin(2.0)  # longer than the diagnostics period: none from before its end counts
        graph.wait_for(
            'acknowledgement of all',
            lambda: graph.value('policy_controller', 'unacknowledged') == 0,
        )
        graph.wait_for('end of training', lambda: _idle(graph, agent))
        assert graph.kill('policy_controller', 2) == 0
        assert graph.kill('learner', 2) == 0
    return _compare(folder, agent, kills, time.monotonic() - began)


def _kill(graph: Graph, kills: Mapping[str, int], rng: np.random.Generator) -> None:
    remaining, due, first = dict(kills), {}, {}
    while any(remaining.values()):
        graph.spin(0.02)
        for name in [name for name in remaining if remaining[name]]:
            steps = graph.value(name, 'environment_steps')
            # A node that does not work has nothing to lose.
            working = steps > 0 and steps >= first.setdefault(name, steps) + _WORKING_AFTER
            if working and name not in due:
                due[name] = time.monotonic() + rng.uniform(0.0, _MAX_DELAY)
            if time.monotonic() >= due.get(name, np.inf):
                graph.kill(name)
                graph.start(name)
                remaining[name] -= 1
                del due[name], first[name]


def _idle(graph: Graph, agent: str) -> bool:
    return 0 <= graph.value('learner', 'lag_steps') < load_agent(agent).chunk


def _compare(folder: Path, agent: str, kills: Mapping[str, int], seconds: float) -> Outcome:
    task = Task.load('pointmass')
    tracker = SequenceTracker()
    run = folder / 'run'
    spec = task.spec_hash(load_agent(agent))
    rows = tracker.load_log(run / TRANSITIONS_FILE, task, spec)
    steps = {}
    for line in (folder / 'steps.jsonl').read_text().splitlines():
        step = json.loads(line)
        steps[step['stamp']] = step
    stamps = np.rint(rows['stamp'] * 1e9).astype(np.int64).tolist()
    wrong = 0
    for row, stamp in enumerate(stamps):
        step = steps.get(stamp)
        wrong += step is None or not all(
            np.allclose(stored, executed, atol=1e-6)
            for stored, executed in (
                (rows['observation'][row, : task.state_dim], step['state']),
                (rows['next_observation'][row, : task.state_dim], step['next_state']),
                (task.command(rows['action'][row]), step['command']),
            )
        )
    order, stored = [*sorted(steps), None], set(stamps)
    missing = [number for number, stamp in enumerate(order[:-1]) if stamp not in stored]
    starts = {None}  # first steps of each controller, and the end
    for record in read_records(run / TRANSITIONS_FILE):
        part, _, first = unpack_log_record(record, row_dtype(task), spec)
        if first == 0:
            starts.add(round(unpack_log_rows([part], task)['stamp'][0] * 1e9))
    _, meta = checkpoint.load(run / 'checkpoint' / 'learner.safetensors', print)
    return Outcome(
        kills=kills,
        executed=len(steps),
        stored=len(stamps),
        missing=len(missing),
        unexplained=sum(order[number + 1] not in starts for number in missing),
        doubled=len(stamps) - len(stored),
        wrong=wrong,
        steps_trained=meta['environment_steps'],
        updates=meta['updates'],
        fell_back=(folder / 'learner.log').read_text().count('going on with'),
        seconds=seconds,
    )
