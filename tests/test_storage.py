"""What travels and what is kept: wire format, transition log, tracker."""

import resource
import shutil
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbarl_ros.bringup import graphs
from mbarl_ros.bringup.run_folder import RunFolder
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import load_agent
from mbarl_ros.storage import wire
from mbarl_ros.storage.files import write_file
from mbarl_ros.storage.record_log import RecordLog, read_records
from mbarl_ros.storage.run_files import check_same, read_json_lines
from mbarl_ros.storage.sequence_tracker import SequenceTracker
from mbarl_ros.storage.spool import Spool
from mbarl_ros.storage.transitions import (
    DTYPES,
    pack_log_record,
    pack_transitions,
    select,
    shapes,
    stack,
    unpack_transitions,
)
from mbarl_ros.studies import seeds
from mbarl_ros.task import Task

TASK = Task.load('pointmass')
SPEC = TASK.spec_hash(load_agent('mbarl'))
NAN, FAR = {'reward': np.nan}, {'action': 5.0}


def some_transitions(count: int, first: int = 0):
    rng = np.random.default_rng(count)
    rows = {
        name: rng.random((count, *shape[1:])).astype(DTYPES[name])
        for name, shape in shapes(TASK).items()
    }
    rows['sequence'] = np.arange(first, first + count)
    return rows


def test_transitions_survive_the_wire_bit_for_bit():
    rows = some_transitions(7)
    back, session, first = unpack_transitions(pack_transitions(rows, SPEC, 'a', 3), TASK, SPEC)
    assert (session, first) == ('a', 3)
    for name in rows:
        assert back[name].dtype == rows[name].dtype and (back[name] == rows[name]).all()


def test_scalars_keep_their_shape():
    back, _ = wire.unpack(wire.pack({'x': np.array(3.0)}, {}, 'checkpoint'), 'checkpoint')
    assert back['x'].shape == () and back['x'] == 3.0


def test_another_spec_is_refused_and_both_sides_are_named():
    data = pack_transitions(some_transitions(1), 'other/sac:1', 'a', 0)
    with pytest.raises(wire.WireError, match=rf'other/sac:1.*{SPEC.split(":")[0]}'):
        unpack_transitions(data, TASK, SPEC)


@pytest.mark.parametrize('name', ['observation', 'action', 'reward', 'stamp'])
def test_nan_in_any_array_is_refused_by_name(name):
    rows = some_transitions(3)
    rows[name][1] = np.nan
    with pytest.raises(wire.WireError, match=name):
        unpack_transitions(pack_transitions(rows, SPEC, 'a', 0), TASK, SPEC)


@pytest.mark.parametrize(
    'damage',
    [
        lambda rows: rows.pop('reward'),
        lambda rows: rows.update(extra=np.zeros(3)),
        lambda rows: rows.update(action=rows['action'][:2]),
        lambda rows: rows.update(action=rows['action'].astype(np.float64)),
        lambda rows: rows.update(action=rows['action'] + 5),
        lambda rows: rows.update(phase=rows['phase'] + 7),
    ],
)
def test_malformed_transitions_are_refused(damage):
    rows = some_transitions(3)
    damage(rows)
    with pytest.raises(wire.WireError):
        unpack_transitions(pack_transitions(rows, SPEC, 'a', 0), TASK, SPEC)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
def test_no_bytes_whatever_do_more_than_raise_a_wire_error(noise, position, value):
    data = bytearray(pack_transitions(some_transitions(2), SPEC, 'a', 0))
    data[position % len(data)] = value
    for message in (noise, bytes(data), bytes(data[: position % len(data)])):
        try:
            unpack_transitions(message, TASK, SPEC)
        except wire.WireError:
            pass


def test_oversized_messages_are_refused_before_parsing():
    with pytest.raises(wire.WireError, match='exceed'):
        wire.unpack(b'x' * 100, 'policy', max_bytes=10)


def three_records(path):
    """A closed log: b'first', b'second' and b'third record'."""
    log = RecordLog(path)
    for record in (b'first', b'second', b'third record'):
        log.append(record)
    log.close()
    return path


@pytest.mark.parametrize('cut', range(1, 25))
def test_a_torn_tail_costs_only_the_torn_record(tmp_path, cut):
    path = three_records(tmp_path / 'log')
    path.write_bytes(path.read_bytes()[:-cut])
    kept = list(read_records(path))
    assert kept == [b'first', b'second'][: 2 if cut <= 20 else 1]
    log = RecordLog(path)
    log.append(b'after')
    assert list(read_records(path)) == [*kept, b'after']


def test_the_ledger_takes_each_transition_once_over_restarts_of_both_sides():
    tracker, rows = SequenceTracker(), some_transitions(10)

    def deliver(session, first, last):
        fresh = tracker.new_rows(select(rows, slice(first, last)), session, first)
        if fresh is None:
            return None
        tracker.record_received(session, len(fresh['sequence']))
        return fresh['sequence'].tolist()

    assert deliver('one', 0, 4) == [0, 1, 2, 3]
    assert deliver('one', 6, 8) is None  # 4 and 5 are missing: send again
    assert deliver('one', 2, 8) == [4, 5, 6, 7]
    assert deliver('one', 0, 8) == []
    assert deliver('two', 0, 3) == [8, 9, 10]  # the controller was restarted
    assert tracker.session_start('two') == 8 and tracker.total == 11


def test_a_log_replays_into_the_ledger(tmp_path):
    log = RecordLog(tmp_path / 'log')
    log.append(pack_log_record(some_transitions(5), TASK, SPEC, 'one', 0))
    log.append(pack_log_record(some_transitions(3), TASK, SPEC, 'a\n"b"', 0))
    log.append(pack_log_record(some_transitions(2), TASK, SPEC, 'one', 5))
    log.append(pack_log_record(some_transitions(2), TASK, SPEC, 'one', 5))  # written twice
    tracker = SequenceTracker()
    rows = tracker.load_log(tmp_path / 'log', TASK, SPEC)
    assert rows['sequence'].tolist() == list(range(10))
    for name in set(DTYPES) - {'sequence'}:
        parts = [some_transitions(count)[name] for count in (5, 3, 2)]
        np.testing.assert_array_equal(rows[name], np.concatenate(parts))
    assert tracker.received == {'one': 7, 'a\n"b"': 3} and tracker.last_session == 'one'


def test_days_of_small_records_are_read_back_whole_and_without_much_memory(tmp_path):
    count = 2007
    rows = some_transitions(count)
    log = RecordLog(tmp_path / 'log')
    for i in range(count):
        log.append(pack_log_record(select(rows, slice(i, i + 1)), TASK, SPEC, 'one', i), sync=False)
    log.close()
    tracemalloc.start()
    back = SequenceTracker().load_log(tmp_path / 'log', TASK, SPEC)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    for name, array in rows.items():
        np.testing.assert_array_equal(back[name], array)
    data = sum(array.nbytes for array in rows.values())
    assert (tmp_path / 'log').stat().st_size < 3 * data
    assert peak < 10 * data


@pytest.mark.parametrize(
    ('record', 'word'),
    [
        (pack_transitions(some_transitions(1), SPEC, 'one', 0), 'is not a transition log'),
        (b'5\nrows', 'is not a transition log'),
        (
            pack_log_record(some_transitions(1), TASK, 'other-1234', 'one', 0),
            "is of 'other-1234', this",
        ),
        (pack_log_record(some_transitions(1), TASK, SPEC, 'one', 4), 'transitions are missing'),
        (pack_log_record(some_transitions(1), TASK, SPEC, 'one', 0)[:-1], 'is damaged'),
        (pack_log_record(some_transitions(1), TASK, SPEC, ['one'], 0), 'is damaged'),
        (pack_log_record(some_transitions(1), TASK, SPEC, 'one', -1), 'is damaged'),
        (pack_log_record(some_transitions(1) | NAN, TASK, SPEC, 'one', 0), 'transitions: array'),
        (
            pack_log_record(some_transitions(1) | FAR, TASK, SPEC, 'one', 0),
            'transitions: actions must',
        ),
    ],
)
def test_a_log_of_something_else_is_refused_with_its_name(tmp_path, record, word):
    log = RecordLog(tmp_path / 'log')
    log.append(record)
    log.close()
    with pytest.raises(ConfigError, match=f'{tmp_path / "log"}: {word}.*another run_dir'):
        SequenceTracker().load_log(tmp_path / 'log', TASK, SPEC)


@pytest.mark.parametrize('where', ['payload', 'length'])
def test_damage_in_the_middle_of_a_log_is_refused_and_nothing_is_cut_off(tmp_path, where):
    path = three_records(tmp_path / 'log')
    data = bytearray(path.read_bytes())
    data[{'payload': 22, 'length': 16}[where]] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=f'{path}: damaged at byte 13'):
        RecordLog(path)
    assert path.read_bytes() == data


def test_zeros_that_a_power_cut_leaves_are_a_torn_tail(tmp_path):
    path = tmp_path / 'log'
    log = RecordLog(path)
    log.append(b'first')
    log.close()
    path.write_bytes(path.read_bytes() + bytes(5000))
    assert list(read_records(path)) == [b'first']
    assert RecordLog(path).torn_bytes == 5000


def test_a_log_has_one_writer(tmp_path):
    log = RecordLog(tmp_path / 'log')
    with pytest.raises(ConfigError, match='another process writes to it'):
        RecordLog(tmp_path / 'log')
    log.close()
    RecordLog(tmp_path / 'log')


def test_a_full_disk_leaves_a_log_as_it_was(tmp_path, full_disk):
    log = RecordLog(tmp_path / 'log')
    log.append(b'first')
    full_disk(40)
    with pytest.raises(OSError):
        log.append(b'x' * 100)
    full_disk(None)
    log.append(b'second')
    assert list(read_records(tmp_path / 'log')) == [b'first', b'second']


@pytest.fixture
def full_disk():
    """Call with a size: no file of this process can grow beyond it; with None: as before."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        soft = limits[0] if size is None else size
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, limits[1]))

    yield limit
    limit(None)


def add(spool, numbers):
    rows = some_transitions(max(numbers) + 1)
    for number in numbers:
        spool.add({name: array[number] for name, array in rows.items()})


def stamps(spool):
    rows, first = spool.next_rows()
    assert rows['sequence'].tolist() == list(range(first, first + len(rows['sequence'])))
    return rows['stamp'].tolist()


def test_what_a_killed_controller_left_goes_out_first_and_is_gone_once_acknowledged(tmp_path):
    killed = Spool(TASK, SPEC, tmp_path)
    add(killed, range(30))
    stamps(killed)
    killed.acknowledge(10)
    kept = some_transitions(30)['stamp'].tolist()
    name = killed.own.name
    del killed  # its files lie there as a kill leaves them
    path = next(tmp_path.glob('*.log'))
    path.write_bytes(path.read_bytes()[:-3])  # torn in the last row

    spool = Spool(TASK, SPEC, tmp_path)
    add(spool, [0])
    assert spool.recovered == 29 and spool.head.name == name
    assert stamps(spool) == kept[:29]  # also the acknowledged: the learner knows them
    spool.acknowledge(10)
    spool.acknowledge(30)  # before a power cut it had sent more than the disk kept
    assert not path.exists() and spool.head is spool.own
    with pytest.raises(ValueError, match='only 0 were ever sent'):
        spool.acknowledge(1)
    assert len(stamps(spool)) == 1
    spool.acknowledge(1)
    with pytest.raises(ValueError, match='another learner'):
        spool.acknowledge(0)
    spool.close()
    assert not list(tmp_path.iterdir())


def test_a_spool_that_became_read_only_stops_nobody(tmp_path):
    spool = Spool(TASK, SPEC, tmp_path)
    add(spool, range(3))
    path = next(tmp_path.glob('*.log'))
    spool._end_segment()
    path.rename(tmp_path / 'elsewhere')
    path.mkdir()  # what even root cannot unlink
    stamps(spool)
    spool.acknowledge(3)
    assert spool.unacknowledged == 0
    path.rmdir()
    (tmp_path / 'elsewhere').rename(path)
    add(spool, [3])
    stamps(spool)
    spool.acknowledge(4)
    assert not path.exists()


def test_what_is_still_in_memory_only_is_said_until_it_is_written(tmp_path):
    folder = tmp_path / 'spool'
    folder.write_text('in the way')
    spool = Spool(TASK, SPEC, folder)
    row = {name: array[0] for name, array in some_transitions(1).items()}
    for _ in range(2500):
        spool.add(row)
    assert 'in memory only' in spool.problem
    folder.unlink()
    said = []
    while spool.problem:
        said.append(spool.problem)
        spool.retry()
    assert len(said) == 3 and 'catching up' in said[-1]
    assert sum(len(list(read_records(path))) - 1 for path in folder.iterdir()) == 2500


def test_the_spool_does_not_grow_while_the_learner_acknowledges(tmp_path):
    spool = Spool(TASK, SPEC, tmp_path)
    row = {name: array[0] for name, array in some_transitions(1).items()}
    for number in range(5000):
        spool.add(row)
        if number % 50 == 49:
            spool.next_rows()
            spool.acknowledge(number - 10)
    assert len(list(tmp_path.iterdir())) <= 2
    assert spool.unacknowledged < 100


def test_a_full_disk_is_said_and_the_spool_catches_up(tmp_path, full_disk):
    spool = Spool(TASK, SPEC, tmp_path)
    add(spool, range(5))
    full_disk(1)
    add(spool, range(5))
    spool.retry()
    assert 'in memory only' in spool.problem and spool.unacknowledged == 10
    stamps(spool)
    spool.acknowledge(7)  # more than are in files
    full_disk(None)
    spool.retry()
    add(spool, [9])
    assert not spool.problem
    del spool
    again = Spool(TASK, SPEC, tmp_path)
    assert again.head.acknowledged == 7 and again.recovered == 4


def test_a_long_backlog_is_written_in_portions_while_it_is_acknowledged(tmp_path, full_disk):
    spool = Spool(TASK, SPEC, tmp_path)
    row = {name: array[0] for name, array in some_transitions(1).items()}
    full_disk(1)
    for _ in range(5000):
        spool.add(row)
    full_disk(None)
    for _ in range(4):
        spool.next_rows()
    spool.retry()
    spool.acknowledge(3500)  # beyond what is written by now
    spool.add(row)
    spool.add(row)
    assert not spool.problem
    del spool
    again = Spool(TASK, SPEC, tmp_path)
    assert again.head.end == 5002 and again.head.acknowledged <= 3500


def test_a_spool_of_other_settings_or_of_a_living_controller_is_refused(tmp_path):
    living = Spool(TASK, SPEC, tmp_path)
    add(living, [0])
    with pytest.raises(ConfigError, match='another process writes to it'):
        Spool(TASK, SPEC, tmp_path)
    del living
    with pytest.raises(ConfigError, match=f"'{SPEC}' are waiting here, this run is 'other'"):
        Spool(TASK, 'other', tmp_path)


def test_an_unwritable_spool_does_not_stop_the_robot(tmp_path):
    (tmp_path / 'spool').write_text('a file, where a folder should be')
    spool = Spool(TASK, SPEC, tmp_path / 'spool')
    add(spool, range(5))
    assert 'in memory only' in spool.problem and len(stamps(spool)) == 5


def test_a_restarted_controller_sends_what_it_has_to_a_learner_with_a_new_run_folder(tmp_path):
    killed = Spool(TASK, SPEC, tmp_path)
    add(killed, range(2500))
    while killed.own.sent < 2500:
        killed.next_rows()
    killed.acknowledge(1100)  # the file with the first 1,000 is gone
    kept = some_transitions(2500)['stamp'].tolist()
    del killed

    for stored in (0, 400):  # the learner that lacks the first 1,000; the same after a restart
        spool = None
        spool, learner = Spool(TASK, SPEC, tmp_path), SequenceTracker()
        if stored:
            learner.record_received(spool.head.name, stored)
        else:
            lost = spool.head.name
            spool.acknowledge(0)
            assert spool.head.name != lost
        sent = []
        while spool.head is not spool.own and len(sent) < 1500:
            rows, first = spool.next_rows()
            assert first == len(sent)
            sent += rows['stamp'].tolist()
            new = learner.new_rows(rows, spool.head.name, first)
            learner.record_received(spool.head.name, len(new['sequence']))
        assert sent == kept[1000:] and learner.total == 1500
    spool.acknowledge(1500)
    spool.close()
    assert spool.head is spool.own and not list(tmp_path.glob('*.log'))


def test_a_deleted_log_says_so_and_takes_nothing(tmp_path):
    log = RecordLog(tmp_path / 'run' / 'log')
    log.append(b'first')
    shutil.rmtree(tmp_path / 'run')
    with pytest.raises(FileNotFoundError):
        log.append(b'second')


def test_a_deleted_spool_is_written_again(tmp_path):
    spool = Spool(TASK, SPEC, tmp_path / 'spool')
    add(spool, range(30))
    shutil.rmtree(tmp_path / 'spool')
    add(spool, [30])
    assert spool.problem
    spool.retry()
    assert not spool.problem
    stamps(spool)
    spool.acknowledge(10)
    add(spool, [31])
    del spool
    assert Spool(TASK, SPEC, tmp_path / 'spool').unacknowledged == 32


def test_stacking_nothing_gives_empty_arrays_of_the_right_shape():
    assert stack([], TASK)['observation'].shape == (0, TASK.observation_dim)


def test_an_atomic_write_leaves_nothing_beside_it(tmp_path):
    write_file(tmp_path / 'file', b'one')
    write_file(tmp_path / 'file', b'two')
    assert [path.name for path in tmp_path.iterdir()] == ['file']
    assert (tmp_path / 'file').read_bytes() == b'two'


# --- files of a run folder -------------------------------------------------------------------


@pytest.mark.parametrize('text', ['', '# a comment only\n', '- a list\n', '3\n', 'a: [', '\0\xff'])
def test_a_damaged_configuration_of_a_run_folder_is_one_sentence(tmp_path, text):
    plan = graphs.plan('sim', {'run_dir': str(tmp_path / 'run')})
    RunFolder(plan).close()
    path = tmp_path / 'run' / 'task.yaml'
    path.write_bytes(text.encode('latin-1'))
    with pytest.raises(ConfigError) as error:
        RunFolder(plan)
    assert str(error.value).startswith(f'{path}: is empty or damaged; remove this file')
    path.unlink()
    again = RunFolder(plan)
    assert again.resumed and path.exists()
    again.close()


def test_the_paths_in_a_configuration_may_change_and_nothing_else(tmp_path):
    path = tmp_path / 'task.yaml'
    path.write_text('{name: a, robot: /old/robot.yaml, demonstrations: /old/demos}\n')
    now = {'name': 'a', 'robot': '/new/robot.yaml', 'demonstrations': '/new/demos'}
    check_same(path, now, 'FOLDER', 'use another')
    with pytest.raises(ConfigError, match="FOLDER: .*task.yaml, key 'name' 'a' in place of 'b'"):
        check_same(path, {**now, 'name': 'b'}, 'FOLDER', 'use another')


def test_a_torn_last_json_line_is_left_out(tmp_path):
    path = tmp_path / 'evaluations.jsonl'
    assert read_json_lines(path) == []
    path.write_text('{"a": 1}\n{"a": 2}\n{"a":')
    assert read_json_lines(path) == [{'a': 1}, {'a': 2}]


@pytest.mark.parametrize('line', [b'{"a":', b'', b'5', b'\0\0\0', b'\xff\xfe', b'[' * 5000])
def test_a_damaged_json_line_is_named_with_its_file(tmp_path, line):
    path = tmp_path / 'evaluations.jsonl'
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 3}\n')
    with pytest.raises(ConfigError, match=f'^{path}: line 2 is damaged; remove this line'):
        read_json_lines(path)


def test_a_damaged_evaluation_is_named_where_a_run_ends_and_where_a_seed_is_read(tmp_path):
    plan = graphs.plan('sim', {'run_dir': str(tmp_path)})
    run = RunFolder(plan)
    path = tmp_path / 'evaluations.jsonl'
    path.write_text('{"a": 1}\n{"a": damaged}\n{"a": 3}\n')
    with pytest.raises(ConfigError, match=f'{path}: line 2'):
        run.write_interrupted_result()
    with pytest.raises(ConfigError, match=f'{path}: line 2'):
        seeds.read_evaluations(tmp_path)
    run.close()
