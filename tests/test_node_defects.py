"""Nodes in this process: resuming, failing and reporting, as their users see it."""

import json
import os
import signal
import threading
from collections import deque
from signal import SIGHUP, SIGINT, SIGTERM
from types import SimpleNamespace

import numpy as np
import pytest
import rclpy
from std_srvs.srv import Trigger

from mbarl_ros.learning import checkpoint
from mbarl_ros.learning.evaluation import Outcome, evaluation_line
from mbarl_ros.nodes.learner import LearnerNode
from mbarl_ros.nodes.policy_evaluator import PolicyEvaluator
from mbarl_ros.nodes.state_classifier import StateClassifierNode
from mbarl_ros.nodes.support import runtime, world_reset
from mbarl_ros.nodes.support.executor import DataPlaneExecutor
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.exit_codes import EXIT_FAILURE, EXIT_USAGE
from mbarl_ros.storage.record_log import RecordLog
from mbarl_ros.storage.run_files import EVALUATIONS_FILE, TRANSITIONS_FILE
from mbarl_ros.storage.transitions import pack_log_record, select
from mbarl_sim.robot_sim import RobotSim
from support.nodes import AGENT, TASK, practised

pytestmark = [pytest.mark.graph, pytest.mark.together]


def write_log(folder, rows, first=0):
    """Append transitions to the log of a run folder."""
    folder.mkdir(exist_ok=True)
    log = RecordLog(folder / TRANSITIONS_FILE)
    log.append(pack_log_record(rows, TASK, TASK.spec_hash(AGENT), 'session', first))
    log.close()


def weights(classifier):
    return classifier._trainer.arrays()


# --- state_classifier: resume ----------------------------------------------------------------


def test_a_resumed_classifier_trains_on_what_the_log_has_beyond_its_checkpoint(tmp_path, node):
    rows = practised(700)
    write_log(tmp_path / 'whole', rows)
    expected = node(StateClassifierNode, run_dir=tmp_path / 'whole')  # all of it at once
    assert expected._trained == 700
    steps = expected._trainer.steps

    write_log(tmp_path / 'run', select(rows, slice(0, 500)))
    first = node(StateClassifierNode, run_dir=tmp_path / 'run')
    first.close()
    assert first._trained == 500 and 0 < first._trainer.steps < steps
    write_log(tmp_path / 'run', select(rows, slice(500, 700)), first=500)
    resumed = node(StateClassifierNode, run_dir=tmp_path / 'run')
    assert resumed._trained == 700
    assert resumed._trainer.steps == steps  # neither left out nor trained twice
    for name, array in weights(expected).items():
        np.testing.assert_array_equal(weights(resumed)[name], array, name)
    resumed.close()
    again = node(StateClassifierNode, run_dir=tmp_path / 'run')
    assert again._trainer.steps == steps


def test_a_classifier_checkpoint_that_is_newer_than_the_log_is_passed_over(tmp_path, node):
    rows = practised(600)
    run = tmp_path / 'run'
    write_log(run, select(rows, slice(0, 400)))
    node(StateClassifierNode, run_dir=run).close()
    write_log(run, select(rows, slice(400, 600)), first=400)
    node(StateClassifierNode, run_dir=run).close()
    (run / TRANSITIONS_FILE).unlink()  # and a copy of it from before is put back
    write_log(run, select(rows, slice(0, 400)))
    resumed = node(StateClassifierNode, run_dir=run)
    assert resumed._trained == 400
    _, meta = checkpoint.load(run / 'checkpoint' / 'classifier.1.safetensors', print)
    assert resumed._trainer.steps == meta['steps']


def test_a_classifier_keeps_no_checkpoint_of_what_the_learner_lacks(tmp_path, node):
    write_log(tmp_path, practised(400))
    classifier = node(StateClassifierNode, run_dir=tmp_path)
    classifier._on_disk = 380
    classifier.close()
    assert not (tmp_path / 'checkpoint').exists()


# --- learner: report -------------------------------------------------------------------------


def test_the_learner_reports_while_the_training_thread_empties_its_inbox():
    learner = LearnerNode.__new__(LearnerNode)
    learner._changed = threading.Condition()
    learner._stopping = False

    class Chunk:
        """Transitions at whose counting the other thread wants to empty the inbox."""

        taker = None

        def __getitem__(self, _name):
            if Chunk.taker is None:
                Chunk.taker = threading.Thread(target=take)
                Chunk.taker.start()
                Chunk.taker.join(0.3)  # it has to wait, or does it now
            return range(20)

    def take():
        with learner._changed:
            learner._inbox.clear()

    learner._inbox = deque([Chunk(), Chunk(), Chunk()])
    assert learner._waiting() == 60
    Chunk.taker.join(5)
    assert not learner._inbox


# --- runtime: how a node that cannot start says so -------------------------------------------


@pytest.fixture
def start(monkeypatch, capfd):
    """Starts a node whose constructor calls ``fail``; its exit code and standard error."""
    before = {name: signal.getsignal(name) for name in (SIGINT, SIGTERM, SIGHUP)}
    monkeypatch.setattr(runtime, 'without_shared_memory', lambda environ: {})
    codes = []

    def start(fail):
        class Failing(runtime.BaseNode):
            def __init__(self):
                super().__init__('failing')
                fail(self)

        monkeypatch.setattr(os, '_exit', codes.append)
        runtime.main_exit(Failing)
        return codes[-1], capfd.readouterr().err

    yield start
    for name, handler in before.items():
        signal.signal(name, handler)


def wrong_number(_node):
    int('seven')


def wrong_file(_node):
    open('/nowhere/file')


def wrong_type(_node):
    None.append(1)


@pytest.mark.parametrize('fail', [wrong_number, wrong_file, wrong_type])
def test_a_programming_error_in_a_constructor_shows_its_traceback(start, fail):
    code, text = start(fail)
    assert code == EXIT_FAILURE
    assert 'Traceback' in text and fail.__name__ in text


def wrong_key(_node):
    raise ConfigError('key x: is wrong')


def wrong_topic(node):
    node.create_publisher(runtime.message_class('std_msgs/msg/Empty'), 'a b', 1)


@pytest.mark.parametrize('fail', [wrong_key, wrong_topic])
def test_a_mistake_of_the_user_is_one_sentence(start, fail):
    code, text = start(fail)
    assert code == EXIT_USAGE
    assert text.startswith('error: ') and 'Traceback' not in text


def test_damaged_demonstrations_are_named_in_one_sentence(tmp_path, node):
    folder = tmp_path / 'demos' / 'forward_000'
    folder.mkdir(parents=True)
    (folder / 'demonstration.json').write_text('{"task": ')
    for kind in (LearnerNode, StateClassifierNode, RobotSim):
        with pytest.raises(ConfigError, match='forward_000'):
            node(kind, demonstrations=tmp_path / 'demos')


def test_a_checkpoint_of_another_network_is_named_in_one_sentence(tmp_path, node):
    write_log(tmp_path, practised(400))
    node(StateClassifierNode, run_dir=tmp_path).close()
    path = tmp_path / 'checkpoint' / 'classifier.safetensors'
    arrays, meta = checkpoint.load(path, print)
    arrays['classifier/network/0'] = arrays['classifier/network/0'][..., :1]
    checkpoint.save(path, arrays, meta)
    with pytest.raises(ConfigError, match='classifier.safetensors: .*other agent'):
        node(StateClassifierNode, run_dir=tmp_path)


def test_a_step_log_that_cannot_be_written_is_named_in_one_sentence(node):
    with pytest.raises(ConfigError, match="'step_log': /nowhere/steps"):
        node(RobotSim, step_log='/nowhere/steps')


def test_a_damaged_line_of_evaluations_is_named_with_file_and_number(tmp_path, node):
    good = {'environment_steps': 0, 'wall_seconds': 1.0, 'training_resets': 0}
    good = json.dumps({**good, 'deployed_success': 0.5})
    for bad in ('{"environment', '[]', '{"environment_steps": 1}'):
        (tmp_path / EVALUATIONS_FILE).write_text(f'{good}\n{bad}\n{good}\n')
        with pytest.raises(ConfigError, match=f'{EVALUATIONS_FILE}: line 2 is damaged'):
            node(PolicyEvaluator, run_dir=tmp_path)


# --- policy_evaluator: curves ----------------------------------------------------------------


def evaluator_of(folder):
    evaluator = PolicyEvaluator.__new__(PolicyEvaluator)
    evaluator.run_dir, evaluator._target, evaluator.finished = folder, 1.0, True
    evaluator._board, evaluator._board_lock = None, threading.Lock()
    evaluator._lines, warnings = [], []
    evaluator.get_logger = lambda: SimpleNamespace(warning=warnings.append)
    return evaluator, warnings


def evaluated(evaluator, steps):
    evaluator._lines.append(evaluation_line(TASK, 'mbarl', 0, steps, Outcome(0.5, 10.0)))
    evaluator._write_curves(evaluator._lines[-1])


def test_an_evaluator_writes_one_tensorboard_file_for_all_its_evaluations(tmp_path):
    evaluator, warnings = evaluator_of(tmp_path)
    sizes = []
    for steps in (0, 500, 1000):
        evaluated(evaluator, steps)
        (file,) = (tmp_path / 'tensorboard' / 'evaluator').iterdir()
        sizes.append(file.stat().st_size)
    assert sizes[0] < sizes[1] < sizes[2]  # to be seen while the run goes on
    evaluator.close()
    assert not warnings
    assert evaluator._board.file_writer is None  # it was closed


def test_a_disk_that_refuses_curves_does_not_end_the_evaluations(tmp_path):
    evaluator, warnings = evaluator_of(tmp_path)
    (tmp_path / 'tensorboard').write_text('in the way')
    evaluated(evaluator, 0)
    assert len(warnings) == 1
    (tmp_path / 'tensorboard').unlink()
    evaluated(evaluator, 500)
    evaluator.close()
    assert len(warnings) == 1 and any((tmp_path / 'tensorboard' / 'evaluator').iterdir())


# --- robot_sim: which state is the first after a reset ---------------------------------------


class Client:
    """A service client whose answers come when the test says so."""

    def __init__(self):
        self.futures, self.errors = [], []

    def create_client(self, *_):
        return self

    def service_is_ready(self):
        return True

    def call_async(self, _request):
        self.futures.append(rclpy.task.Future())
        return self.futures[-1]

    def get_logger(self):
        return SimpleNamespace(error=self.errors.append)


@pytest.mark.parametrize('state_first', [True, False])
def test_the_first_state_after_a_reset_is_known_whether_it_or_the_answer_comes_first(state_first):
    client, answers = Client(), []
    reset = world_reset.WorldReset(client, lambda: answers.append(1))
    assert not reset.done(100) and len(client.futures) == 1
    answer = Trigger.Response(success=True, message=world_reset.reset_answer(3, 200))
    if state_first:
        assert not reset.done(200)
    client.futures[0].set_result(answer)
    assert answers and not reset.done(100)
    assert reset.done(200) and len(client.futures) == 1
    assert not reset.done(300) and len(client.futures) == 2  # the next one


def test_an_answer_without_a_stamp_is_reported_and_the_reset_requested_again():
    client = Client()
    reset = world_reset.WorldReset(client, lambda: None)
    reset.done(100)
    for message in ('reset 3 at 200 ns', '{}', '[]', '{"stamp_ns": null}'):
        client.futures[-1].set_result(Trigger.Response(success=True, message=message))
        assert not reset.done(300) and 'robot_sim/reset' in client.errors[-1]
        assert not reset.done(300)
    assert len(client.futures) == 5


def test_the_answer_of_a_simulated_robot_to_a_reset_is_for_programs(node):
    robot = node(RobotSim)
    first = world_reset.first_stamp(robot._on_reset(None, Trigger.Response()).message)
    assert first == robot._time_ns > 0
    answer = json.loads(robot._on_reset(None, Trigger.Response()).message)
    assert answer == {'resets': 2, 'stamp_ns': 2 * first}


# --- executor: entities that a lifecycle transition destroys ---------------------------------


def test_an_executor_serves_on_after_entities_were_destroyed(node):
    robot = node(RobotSim)
    executor = DataPlaneExecutor(lambda late: None, time_critical=True)
    executor.add_node(robot)
    kind, undo = runtime.message_class('std_msgs/msg/Empty'), []

    def replace():
        for destroy, entity in undo[-2:]:
            destroy(entity)
        undo.append((robot.destroy_subscription, robot.create_subscription(kind, 'x', print, 1)))
        undo.append((robot.destroy_timer, robot.create_timer(0.001, int, clock=robot.steady)))

    robot.create_timer(0.002, replace, clock=robot.steady)
    executor.spin_until(lambda: len(undo) >= 200)
    executor.shutdown()
