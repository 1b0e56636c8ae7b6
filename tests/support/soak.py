"""Hours of practice in real time over a lossy link, with a learner that is killed now and then."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from mbarl_ros.task import Task
from support.graph import Graph

BYTES = 'std_msgs/msg/UInt8MultiArray'
# Topics that go over the link: all that control, learning and acknowledgement need.
LINK = {
    'safety_gate/executed': 'sensor_msgs/msg/JointState',
    'safety_gate/state': 'std_msgs/msg/String',
    'policy_controller/command': 'sensor_msgs/msg/JointState',
    'policy_controller/transitions': BYTES,
    'learner/policy': BYTES,
    'learner/acknowledged': BYTES,
    'state_classifier/classifier': BYTES,
}
_SAMPLE = 5.0  # s
WORLD_PRIORITY = 45  # above the gate's 40


@dataclass(frozen=True)
class Soak:
    """Result of a soak.

    ``stuck``: longest time (s) without a new transition. ``growth``: relative growth of each
    process's memory from the second quarter of the time to the last. ``unacknowledged``:
    transitions that the learner did not have at the end. ``success``: success rate of the forward
    attempts in the first and in the last quarter.
    """

    seconds: float
    steps: int
    updates: int
    learner_kills: int
    stuck: float
    growth: dict[str, float]
    memory_mb: dict[str, float]
    unacknowledged: int
    attempts: tuple[int, int]
    success: tuple[float, float]
    deactivations: int
    faults: dict[str, float]


def soak(
    folder: Path,
    seconds: float,
    kill_every: float,
    *,
    task: str = 'pointmass',
    agent: str = 'mbarl',
    loss: float = 0.1,
    stall: float = 0.1,
    delay: float = 0.2,
    seed: int = 0,
) -> Soak:
    """Practise while a share ``loss`` of all messages is lost and ``stall`` is ``delay`` s late."""
    robot = Task.load(task).robot
    topics = dict(LINK)
    topics |= {topic.topic: topic.type for topic in (*robot.state, *robot.command)}
    remap = {topic: f'lossy/{topic}' for topic in topics}
    trouble = {'topics': topics, 'loss': loss, 'stall': stall, 'delay': delay, 'seed': seed}
    own = {
        name: {topic: remap[topic] for topic in topics}
        for name, topics in _subscriptions(robot).items()
    }
    with Graph(folder, task=task, agent=agent, mode='realtime', seed=seed) as graph:
        script = Path(__file__).with_name('lossy_link.py')
        with (folder / 'lossy_link.log').open('ab') as log:
            graph.processes['lossy_link'] = subprocess.Popen(
                [sys.executable, str(script), json.dumps(trouble)],
                env=graph.environment,
                stdout=log,
                stderr=log,
            )
        graph.start('robot_sim', remap=own['robot_sim'], publish_clock=False)
        for name in ('lossy_link', 'robot_sim'):
            _run_in_real_time(graph.processes[name])
        for name in ('safety_gate', 'policy_controller', 'learner', 'state_classifier'):
            graph.start(name, remap=own[name])
        graph.wait_for(
            'training', lambda: graph.value('learner', 'updates') > 0 or graph.gave_up(), 300
        )
        assert not graph.gave_up(), graph.logs()
        return _watch(graph, seconds, kill_every, own['learner'])


def _run_in_real_time(process: subprocess.Popen) -> None:
    """Keep the robot and the link independent of the load of this machine."""
    with contextlib.suppress(PermissionError):  # then they depend on it
        os.sched_setscheduler(process.pid, os.SCHED_FIFO, os.sched_param(WORLD_PRIORITY))


def _subscriptions(robot) -> dict[str, tuple[str, ...]]:
    state = tuple(topic.topic for topic in robot.state)
    return {
        'robot_sim': tuple(topic.topic for topic in robot.command),
        'safety_gate': (*state, 'policy_controller/command'),
        'policy_controller': (
            *state,
            'safety_gate/executed',
            'safety_gate/state',
            'learner/policy',
            'learner/acknowledged',
        ),
        'learner': ('policy_controller/transitions', 'state_classifier/classifier'),
        'state_classifier': ('policy_controller/transitions', 'learner/acknowledged'),
    }


def _watch(graph: Graph, seconds: float, kill_every: float, remap: dict[str, str]) -> Soak:
    start = time.monotonic()
    due, kills, stuck = start + kill_every, 0, 0.0
    newest, newest_at = -1.0, start
    memory: dict[str, list[tuple[float, float]]] = defaultdict(list)
    marks: list[tuple[float, float, float]] = []  # when, attempts, successes
    deactivations, active = 0, True
    while (passed := time.monotonic() - start) < seconds:
        graph.spin(_SAMPLE)
        ended = [name for name, process in graph.processes.items() if process.poll() is not None]
        assert not ended, (ended, graph.logs())
        steps = graph.value('policy_controller', 'environment_steps')
        now = time.monotonic()
        if steps > newest:
            newest, newest_at = steps, now
        stuck = max(stuck, now - newest_at)
        for name, process in graph.processes.items():
            memory[name].append((passed, _resident_mb(process.pid)))
        counts = [graph.value('policy_controller', key) for key in ('attempts', 'successes')]
        marks.append((passed, *counts))
        lives = graph.statuses.get('policy_controller', {}).get('lifecycle') == 'active'
        deactivations += active and not lives
        active = lives
        if now > due and seconds - passed > 2 * _SAMPLE:
            graph.kill('learner')
            graph.start('learner', remap=remap)
            due, kills = due + kill_every, kills + 1
    graph.kill('robot_sim')
    graph.spin(2.0)  # longer than the diagnostics period: none from before its end counts
    graph.wait_for(
        'acknowledgement',
        lambda: graph.value('policy_controller', 'unacknowledged') == 0,
        120,
    )
    quarters = [
        _between(marks, first * seconds, last * seconds) for first, last in ((0, 0.25), (0.75, 1))
    ]
    return Soak(
        seconds=seconds,
        steps=int(newest),
        updates=int(graph.value('learner', 'updates')),
        learner_kills=kills,
        stuck=round(stuck, 1),
        growth={name: round(_growth(values, seconds), 4) for name, values in memory.items()},
        memory_mb={name: round(values[-1][1], 1) for name, values in memory.items()},
        unacknowledged=int(graph.value('policy_controller', 'unacknowledged')),
        attempts=tuple(attempts for attempts, _ in quarters),
        success=tuple(round(share, 3) for _, share in quarters),
        deactivations=deactivations,
        faults={
            key: graph.value('safety_gate', key, 0)
            for key in ('policy passed', 'policy clipped', 'policy late', 'policy gone', 'refused')
        },
    )


def _resident_mb(pid: int) -> float:
    pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


def _growth(values: list[tuple[float, float]], seconds: float) -> float:
    """Growth of the largest size, because a learner that was just restarted is small."""
    early = [size for at, size in values if seconds / 4 <= at < seconds / 2]
    late = [size for at, size in values if at >= 0.75 * seconds]
    return max(late) / max(early) - 1.0


def _between(
    marks: list[tuple[float, float, float]], start: float, end: float
) -> tuple[int, float]:
    """Attempts, and the share of them that succeeded."""
    within = [counts for at, *counts in marks if start <= at <= end]
    attempts, successes = (within[-1][i] - within[0][i] for i in range(2))
    return int(attempts), successes / attempts if attempts else 0.0
