"""What was executed is never lost: kill -9, a full disk, two processes at one folder."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import deque

import numpy as np
import pytest
from geometry_msgs.msg import Twist
from graph import LEARNING, Graph, small_agent, spooled
from kills import practise_and_kill
from sensor_msgs.msg import JointState

from mbarl_ros.learning import checkpoint
from mbarl_ros.task import Task

pytestmark = pytest.mark.together

# benchmarks/faults.py raises these to 100.
LEARNER_KILLS = 5
CONTROLLER_KILLS = 5
CHECKPOINT_KILLS = 10

SAVE_FOR_EVER = """
import itertools, sys
import numpy as np
from mbarl_ros.learning import checkpoint
start = int(sys.argv[2])
for step in itertools.count(start):
    checkpoint.save(sys.argv[1], {'x': np.full(200_000, step % 1000, np.float32)}, {'step': step})
    print(step, flush=True)
"""


def test_random_kills_of_learner_and_controller_lose_nothing_and_count_nothing_twice(tmp_path):
    kills = {'learner': LEARNER_KILLS, 'policy_controller': CONTROLLER_KILLS}
    outcome = practise_and_kill(tmp_path, kills, seed=int.from_bytes(os.urandom(2), 'little'))
    print(outcome)
    assert outcome.doubled == outcome.wrong == 0, outcome
    # Only the step in flight, whose outcome a killed controller had not yet heard.
    assert outcome.unexplained == 0 and outcome.missing <= CONTROLLER_KILLS + 1, outcome
    assert outcome.stored >= outcome.executed - outcome.missing > 200
    assert outcome.updates > 0 and outcome.steps_trained > outcome.stored - 50
    assert not list((tmp_path / 'run' / 'spool').glob('*.log'))  # all of it was acknowledged


class Late:
    """Passes messages on in order, each twentieth 1.3 s late, as a lost datagram makes them."""

    def __init__(self, graph, kind, heard, said):
        self.count, self._waiting = 0, deque()
        self._publisher = graph.node.create_publisher(kind, said, 200)
        graph.node.create_subscription(kind, heard, self._take, 200)
        graph.node.create_timer(0.02, self._pass_on)

    def _take(self, message):
        self.count += 1
        self._waiting.append((time.monotonic() + 1.3 * (self.count % 20 == 0), message))
        self._pass_on()

    def _pass_on(self):
        while self._waiting and time.monotonic() >= self._waiting[0][0]:
            self._publisher.publish(self._waiting.popleft()[1])


@pytest.mark.parametrize('person', [False, True], ids=['alone', 'with a person'])
@pytest.mark.parametrize(
    ('topic', 'kind'), [('safety_gate/executed', JointState), ('cmd_vel', Twist)]
)
def test_in_lockstep_a_late_message_of_the_gate_loses_and_doubles_no_step(
    tmp_path, topic, kind, person
):
    """The simulation says its state again meanwhile."""
    with Graph(tmp_path, task='pointmass') as graph:
        late = Late(graph, kind, 'late', topic)
        stick = graph.node.create_publisher(Twist, 'teleop/cmd_vel', 10)
        pushed = Twist()
        pushed.linear.x = 0.5
        if person:  # now and then
            graph.node.create_timer(
                0.05, lambda: stick.publish(pushed) if time.monotonic() % 1 < 0.5 else None
            )
        graph.start('robot_sim', step_log=str(tmp_path / 'steps.jsonl'))
        graph.start('safety_gate', remap={topic: 'late'})
        graph.start('policy_controller', policy='random')
        graph.wait_for_steps(50)
        graph.kill('policy_controller', signal.SIGINT)
    rows = spooled(tmp_path, Task.load('pointmass'))
    assert late.count > 40 and len(rows) >= 50
    np.testing.assert_array_equal(np.rint(np.diff(rows['stamp']) * 10), 1)
    steps = [json.loads(line) for line in (tmp_path / 'steps.jsonl').read_text().splitlines()]
    executed = {round(step['stamp'] * 1e-8): step['command'] for step in steps}
    for row in rows:
        np.testing.assert_allclose(executed[round(row['stamp'] * 10)], row['action'], atol=1e-6)


def test_kills_aimed_at_the_checkpoints_own_write_leave_a_usable_folder(tmp_path):
    path = tmp_path / 'checkpoint' / 'learner.safetensors'
    rng = np.random.default_rng()
    newest = 0
    for _ in range(CHECKPOINT_KILLS):
        command = [sys.executable, '-c', SAVE_FOR_EVER, str(path), str(newest + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout.readline() == f'{newest + 1}\n'
            time.sleep(rng.uniform(0.0, 0.05))
            writer.kill()
            written = [newest + 1, *map(int, writer.stdout.read().split())][-1]
        arrays, meta = checkpoint.load(path, print)
        assert meta['step'] >= written and (arrays['x'] == meta['step'] % 1000).all()
        newest = meta['step']
    assert len(list(path.parent.iterdir())) <= checkpoint.KEPT + 1  # leftovers do not add up


@pytest.fixture
def learning(tmp_path):
    agent = small_agent(tmp_path)
    with Graph(tmp_path, task='pointmass', agent=agent) as graph:
        graph.start(*LEARNING)
        graph.wait_for('training', lambda: graph.value('learner', 'environment_steps') >= 100)
        yield graph


def limit_files(process, size):
    """From now on this process's files cannot grow beyond ``size`` bytes, like on a full disk."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_full_disk_stops_nobody_is_said_and_costs_nothing(learning):
    graph = learning
    run = graph.folder / 'run'
    for name in ('learner', 'policy_controller'):
        limit_files(graph.processes[name], 1)
    graph.wait_for(
        'words about the disk',
        lambda: all(
            'File too large' in graph.statuses.get(name, {}).get('message', '')
            for name in ('learner', 'policy_controller')
        ),
    )
    assert 'memory only' in graph.statuses['policy_controller']['message']
    full = (run / 'transitions.log').stat().st_size
    waiting = graph.value('policy_controller', 'unacknowledged')
    graph.spin(2.0)
    assert (run / 'transitions.log').stat().st_size == full
    assert graph.value('policy_controller', 'unacknowledged') >= waiting > 0
    for name in ('learner', 'policy_controller'):
        limit_files(graph.processes[name], resource.RLIM_INFINITY)
    before = graph.value('learner', 'environment_steps')
    graph.wait_for(
        'training to go on', lambda: graph.value('learner', 'environment_steps') >= before + 200
    )
    graph.wait_for(
        'silence about the disk',
        lambda: 'File too large' not in str(graph.statuses.get('policy_controller')),
    )
    assert all(process.poll() is None for process in graph.processes.values())


def test_two_learners_or_two_controllers_on_one_run_folder_are_refused(learning):
    graph = learning
    for executable in ('learner', 'policy_controller'):
        graph.start(executable, alias=f'second_{executable}')
        process = graph.processes.pop(f'second_{executable}')
        assert process.wait(60) == 2
        words = (graph.folder / f'second_{executable}.log').read_text()
        assert 'another process writes to it' in words and 'Traceback' not in words
    steps = graph.value('learner', 'environment_steps')
    graph.wait_for('the first', lambda: graph.value('learner', 'environment_steps') >= steps + 50)


def test_a_folder_that_cannot_be_written_is_one_sentence_of_the_learner(tmp_path):
    with Graph(tmp_path, task='pointmass', agent=small_agent(tmp_path)) as graph:
        graph.start('learner', run_dir='/proc/run')
        assert graph.processes['learner'].wait(60) == 2
    words = (tmp_path / 'learner.log').read_text()
    assert '/proc/run' in words and 'Traceback' not in words
