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
from sensor_msgs.msg import JointState
from std_msgs.msg import UInt8MultiArray

from mbarl_ros.bringup import graphs
from mbarl_ros.bringup.run_folder import RunFolder
from mbarl_ros.control.policy import pack_policy
from mbarl_ros.demos.reader import load_demonstrations
from mbarl_ros.learning import checkpoint
from mbarl_ros.learning.learner import Learner
from mbarl_ros.nodes.support.qos import LATCHED
from mbarl_ros.nodes.support.runtime import bytes_message
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import load_agent
from mbarl_ros.storage.files import lock_file
from mbarl_ros.storage.transitions import HUMAN, POLICY
from mbarl_ros.task import Task
from support.graph import LEARNING, Graph, small_agent
from support.kills import practise_and_kill
from support.run_data import spooled

pytestmark = pytest.mark.together

# tests/faults.py raises these to 100.
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
    # Only the step in flight, whose outcome a killed controller had not yet received.
    assert outcome.unexplained == 0 and outcome.missing <= CONTROLLER_KILLS + 1, outcome
    assert outcome.stored >= outcome.executed - outcome.missing > 200
    assert outcome.updates > 0 and outcome.steps_trained > outcome.stored - 50
    assert not list((tmp_path / 'run' / 'spool').glob('*.log'))  # all of it was acknowledged


class Late:
    """Passes messages on in order, each twentieth 1.3 s late, as a lost datagram makes them."""

    def __init__(self, graph, kind, source, target):
        self.count, self._waiting = 0, deque()
        self._publisher = graph.node.create_publisher(kind, target, 200)
        graph.node.create_subscription(kind, source, self._take, 200)
        graph.node.create_timer(0.02, self._pass_on)

    def _take(self, message):
        self.count += 1
        self._waiting.append((time.monotonic() + 1.3 * (self.count % 20 == 0), message))
        self._pass_on()

    def _pass_on(self):
        while self._waiting and time.monotonic() >= self._waiting[0][0]:
            self._publisher.publish(self._waiting.popleft()[1])


@pytest.mark.parametrize(
    ('topic', 'kind'), [('safety_gate/executed', JointState), ('cmd_vel', Twist)]
)
def test_in_lockstep_a_late_message_of_the_gate_loses_and_doubles_no_step(tmp_path, topic, kind):
    """The simulation repeats its state meanwhile. First the policy drives alone, then a person
    takes over now and then.
    """
    with Graph(tmp_path, task='pointmass') as graph:
        late = Late(graph, kind, 'late', topic)
        stick = graph.node.create_publisher(Twist, 'teleop/cmd_vel', 10)
        pushed = Twist()
        pushed.linear.x = 0.5
        graph.start('robot_sim', step_log=str(tmp_path / 'steps.jsonl'))
        graph.start('safety_gate', remap={topic: 'late'})
        graph.start('policy_controller', policy='random')
        graph.wait_for_steps(50)
        assert late.count > 40
        alone, late.count = graph.value('policy_controller', 'environment_steps'), 0
        graph.node.create_timer(
            0.05, lambda: stick.publish(pushed) if time.monotonic() % 1 < 0.5 else None
        )
        graph.wait_for_steps(int(alone) + 50)
        graph.kill('policy_controller', signal.SIGINT)
    rows = spooled(tmp_path, Task.load('pointmass'))
    assert late.count > 40 and len(rows) >= alone + 50
    assert {POLICY, HUMAN} <= set(rows['source'])
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


@pytest.fixture(scope='module')
def learning(tmp_path_factory):
    folder = tmp_path_factory.mktemp('learning')
    with Graph(folder, task='pointmass', agent=small_agent(folder)) as graph:
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


def test_evaluations_that_a_full_disk_refuses_are_said_and_written_later(tmp_path):
    task, preset = Task.load('pointmass'), small_agent(tmp_path)
    agent = load_agent(preset)
    demonstrations = load_demonstrations(task.config.demonstrations, task)
    weights = Learner(task, agent, demonstrations, 0).policy_arrays()
    run = tmp_path / 'run'
    with Graph(tmp_path, task='pointmass', agent=preset) as graph:
        policies = graph.node.create_publisher(UInt8MultiArray, 'learner/policy', LATCHED)

        def evaluate(steps):
            policies.publish(bytes_message(pack_policy(weights, task, agent, steps, 0), 'policy'))

        def reports(word):
            return word in graph.statuses.get('policy_evaluator', {}).get('message', word)

        obstacle = run / '.evaluations.jsonl.tmp'
        obstacle.mkdir()  # what even root cannot write
        (run / '.result.json.tmp').mkdir()
        (run / 'tensorboard').write_text('a file, where a folder should be')
        graph.start('policy_evaluator', budget=1000, target=1.0)
        evaluate(0)
        graph.wait_for(
            'words about the disk',
            lambda: graph.value('policy_evaluator', 'evaluations') == 1 and reports('make room'),
        )
        assert not (run / 'evaluations.jsonl').exists()
        obstacle.rmdir()
        evaluate(500)
        graph.wait_for('both lines', (run / 'evaluations.jsonl').exists)
        graph.wait_for(
            'silence about the disk', lambda: not graph.statuses['policy_evaluator']['message']
        )
        evaluate(1000)
        evaluator = graph.processes.pop('policy_evaluator')
        graph.wait_for('end of the run', lambda: evaluator.poll() is not None)
    assert evaluator.returncode == 3
    lines = (run / 'evaluations.jsonl').read_text().splitlines()
    assert [json.loads(line)['environment_steps'] for line in lines] == [0, 500, 1000]
    words = (tmp_path / 'policy_evaluator.log').read_text()
    assert f'{run}/result.json: cannot be written: Is a directory; make it writable' in words
    assert 'tensorboard/ left out' in words and 'Traceback' not in words


# --- the run folder --------------------------------------------------------------------------


@pytest.fixture
def run_plan(tmp_path):
    plan = graphs.plan('sim', {'run_dir': str(tmp_path / 'run')})
    RunFolder(plan).close()
    return plan


@pytest.mark.parametrize(
    ('obstacle', 'file'),
    [
        ('.lock', '.lock'),
        ('.task.yaml.tmp', 'task.yaml'),
        ('.arguments.json.tmp', 'arguments.json'),
        ('result.json', 'result.json'),
    ],
)
def test_a_run_folder_that_cannot_be_written_is_one_sentence(run_plan, obstacle, file):
    path = run_plan.run_dir / obstacle
    path.unlink(missing_ok=True)
    path.mkdir()  # what even root cannot write
    message = f'^{run_plan.run_dir / file}: cannot be written: Is a directory; make it writable'
    with pytest.raises(ConfigError, match=message):
        RunFolder(run_plan)


def test_a_full_disk_is_said_before_a_run_starts_and_costs_nothing(run_plan):
    run = run_plan.run_dir
    (run / '.task.yaml.tmp').symlink_to('/dev/full')
    before = (run / 'task.yaml').read_text()
    with pytest.raises(ConfigError, match='task.yaml: cannot be written: No space .*make room'):
        RunFolder(run_plan)
    assert (run / 'task.yaml').read_text() == before
    again = RunFolder(run_plan)
    assert again.resumed
    again.close()


def test_a_run_that_cannot_say_that_it_was_interrupted_has_ended_all_the_same(run_plan):
    run = RunFolder(run_plan)
    (run.path / '.result.json.tmp').symlink_to('/dev/full')
    with pytest.raises(ConfigError, match='result.json: cannot be written: No space'):
        run.write_interrupted_result()
    run.close()


def test_a_lock_on_a_full_disk_is_a_lock(tmp_path):
    lock = tmp_path / 'lock'
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        held = lock_file(lock, 'in use')
        with pytest.raises(ConfigError, match=r'in use \(process unknown\)'):
            lock_file(lock, 'in use')
        held.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
