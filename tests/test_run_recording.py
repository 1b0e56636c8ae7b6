"""The recording of a run: complete, readable after a kill and a full disk, without influence."""

import resource
import signal
from collections import Counter, defaultdict

import numpy as np
import pytest
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from mbarl_ros.demos import run_recording
from mbarl_ros.demos.bag import import_bag
from mbarl_ros.demos.mcap_file import read_mcap
from mbarl_ros.demos.reader import read_demonstration
from mbarl_ros.demos.recording import topic_of
from mbarl_ros.demos.run_recording import RunRecording, finish_torn, recordings
from mbarl_ros.schema.load import load_agent
from mbarl_ros.storage.run_files import RECORDING_FOLDER, TRANSITIONS_FILE
from mbarl_ros.storage.sequence_tracker import SequenceTracker
from mbarl_ros.task import Task
from support.graph import LEARNING, Graph, small_agent

pytestmark = pytest.mark.together

STEPS = 100
RECORDED = ('/safety_gate/executed', '/odom', '/visualizer/state')
TEXT = {'phase': topic_of('/phase', 'std_msgs/msg/String')}
MESSAGE = b'\x00\x01\x00\x00' + b'\x04\x00\x00\x00abc\x00'


def practise(folder, *, kill=False, record=True):
    """Practise; kill the recorder on the way if asked. The run folder, and steps at the kill."""
    folder.mkdir()
    with Graph(folder, task='pointmass', agent=small_agent(folder)) as graph:
        if record:
            graph.start('run_recorder')
            graph.wait_for('recorder', lambda: 'run_recorder' in graph.statuses)
        graph.start(*LEARNING)
        graph.wait_for_steps(STEPS)
        if record:  # it finds each topic in its own time, and a small agent is fast
            graph.wait_for('first file', lambda: records(folder, 'recording_0.mcap'))
        steps = graph.value('policy_controller', 'environment_steps')
        if kill:
            graph.kill('run_recorder')
            graph.wait_for_steps(steps + STEPS)
            graph.start('run_recorder')
            graph.wait_for('second file', lambda: records(folder, 'recording_1.mcap'))
        for name in ('policy_controller', 'learner'):
            assert graph.kill(name, signal.SIGINT) == 0
        if record:
            assert graph.kill('run_recorder', signal.SIGINT) == 0
    return folder / 'run', steps


def records(folder, name):
    """Whether the recorder has written some steps of each topic to a file."""
    path = folder / 'run' / RECORDING_FOLDER / name
    found = stamps(path) if path.exists() else {}
    # More than the tests ask for: the learner stores a step once the next state has come, and an
    # import begins where all topics are there.
    return all(len(found.get(topic, ())) > STEPS + 20 for topic in RECORDED)


def executed(run):
    """Transitions that the learner has stored."""
    task = Task.load('pointmass')
    spec = task.spec_hash(load_agent(str(run.parent / 'small.yaml')))
    return SequenceTracker().load_log(run / TRANSITIONS_FILE, task, spec)


def stamps(path):
    """Topic -> header stamps, ns, of its messages; decoded by the definitions in the file."""
    store, known, found = get_typestore(Stores.EMPTY), set(), defaultdict(list)
    for topic, _, data in read_mcap(path, torn=True):
        if topic.type not in known:
            types = get_types_from_msg(topic.definition, topic.type)
            store.register({name: kind for name, kind in types.items() if name not in store.types})
            known.add(topic.type)
        message = store.deserialize_cdr(data, topic.type)
        stamp = getattr(getattr(message, 'header', None), 'stamp', None)
        found[topic.name].append(stamp.sec * 10**9 + stamp.nanosec if stamp else None)
    return found


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Run folder of a recorded run in lockstep."""
    return practise(tmp_path_factory.mktemp('recorded') / 'graph')[0]


def test_each_executed_step_is_recorded(run):
    transitions = executed(run)
    (path,) = recordings(run / RECORDING_FOLDER)
    found = stamps(path)
    steps = set(np.round(transitions['stamp'] * 1e9).astype(np.int64).tolist())
    assert len(steps) >= STEPS
    for topic in RECORDED:
        # A run does not wait for its recorder, which finds the topics in the first seconds.
        recorded = set(found[topic])
        assert len(steps & recorded) >= STEPS
        assert all(stamp < min(recorded) for stamp in steps - recorded), topic
    assert len(found['/visualizer/state']) == len(set(found['/visualizer/state']))
    assert {'/diagnostics', '/policy_controller/phase', '/safety_gate/state'} <= set(found)


def test_other_tools_open_it_and_its_clock_is_robot_time(run):
    (path,) = recordings(run / RECORDING_FOLDER)
    with path.open('rb') as file:
        reader = make_reader(file)
        summary = reader.get_summary()
        (metadata,) = reader.iter_metadata()
    assert {channel.message_encoding for channel in summary.channels.values()} == {'cdr'}
    assert {schema.encoding for schema in summary.schemas.values()} == {'ros2msg'}
    assert metadata.metadata['task'] == 'pointmass'
    ours = Counter(topic.name for topic, *_ in read_mcap(path))
    with AnyReader([path]) as bag:
        assert bag.message_count == summary.statistics.message_count == sum(ours.values())
        for connection, _, data in bag.messages():
            bag.deserialize(data, connection.msgtype)
    seconds = executed(run)['stamp'].max()
    assert summary.statistics.message_start_time == 0
    assert 0 <= summary.statistics.message_end_time * 1e-9 - seconds < 20


def test_a_recording_can_be_imported_as_one_demonstration(run, tmp_path):
    folder = import_bag(run / RECORDING_FOLDER, Task.load('pointmass'), tmp_path)
    demonstration = read_demonstration(folder, Task.load('pointmass'))
    assert len(demonstration.commands) >= STEPS


def test_recording_changes_nothing_in_lockstep(run, tmp_path):
    recorded, other = executed(run), executed(practise(tmp_path / 'graph', record=False)[0])
    rows = min(len(recorded['phase']), len(other['phase']))
    assert rows >= STEPS
    for name in recorded:
        np.testing.assert_array_equal(recorded[name][:rows], other[name][:rows], name)


def test_a_killed_recorder_costs_its_last_second_and_the_run_goes_on(tmp_path):
    run, steps = practise(tmp_path / 'graph', kill=True)
    first, second = recordings(run / RECORDING_FOLDER)
    with first.open('rb') as file:  # finished by the second recorder
        assert make_reader(file).get_summary().statistics.message_count > 0
    kept = np.array(stamps(first)['/safety_gate/executed']) * 1e-9
    stored = executed(run)['stamp']
    assert len(stored) >= steps + STEPS
    between = stored[(stored >= kept.min() - 1e-3) & (stored <= kept.max() + 1e-3)]
    assert len(between) > STEPS and set(np.round(kept, 3)) >= set(np.round(between, 3))
    assert min(stamps(second)['/safety_gate/executed']) * 1e-9 > kept.max()


def test_a_torn_file_keeps_what_was_flushed_and_what_it_says_of_itself(tmp_path):
    about = {'seed': '3', 'log_time': 'ROS time'}
    recording = RunRecording(tmp_path, TEXT, {}, about, keep_free=0)
    for stamp in range(100):
        recording.write('phase', stamp, MESSAGE)
        if stamp == 59:
            recording.flush()
    torn = tmp_path / 'copy'
    torn.mkdir()
    path = torn / recording.path.name
    path.write_bytes(recording.path.read_bytes()[:-3])  # in the middle of the last index
    assert len(list(read_mcap(path, torn=True))) == 60
    (sentence,) = finish_torn(torn)
    assert 'finished with 60 messages' in sentence and len(list(read_mcap(path))) == 60
    assert finish_torn(torn) == []
    with path.open('rb') as file:
        (metadata,) = make_reader(file).iter_metadata()
    assert metadata.metadata == about


def test_a_full_disk_stops_the_recording_until_there_is_room(tmp_path, monkeypatch):
    monkeypatch.setattr(run_recording, 'RETRY_PERIOD', 0.0)
    recording = RunRecording(tmp_path, TEXT, {'phase': 1}, {}, keep_free=0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    recording.write('phase', 1, MESSAGE)
    recording.flush()
    try:  # the system refuses to make any file larger than this, as a full disk would
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
        recording.write('phase', 2, MESSAGE)
        recording.flush()
        assert 'recording stopped: File too large' in recording.problem
        recording.write('phase', 3, MESSAGE)
        assert recording.lost == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    recording.write('phase', 4, MESSAGE)
    assert recording.problem == ''
    recording.close()
    finish_torn(tmp_path)
    logs = [stamp for path in recordings(tmp_path) for _, stamp, _ in read_mcap(path)]
    assert logs == [1, 4, 4]  # what was latched, and the new message


def test_room_is_left_for_the_run_itself(tmp_path):
    recording = RunRecording(tmp_path, TEXT, {}, {}, keep_free=1 << 60)
    recording.write('phase', 1, MESSAGE)
    assert 'MiB free on the disk' in recording.problem and recording.lost == 1
    assert recordings(tmp_path) == []


def test_each_file_begins_with_what_is_latched(tmp_path):
    recording = RunRecording(tmp_path, TEXT, {'phase': 1}, {}, keep_free=0, split_bytes=1)
    recording.write('phase', 5, MESSAGE)
    recording.flush()
    recording.close()
    first, second = recordings(tmp_path)
    assert [data for _, _, data in read_mcap(second)] == [MESSAGE]
    assert len(list(read_mcap(first))) == 1
