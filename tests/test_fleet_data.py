"""The transitions of several robots, without ROS: none lost, none twice, each robot's in order."""

import errno
import json

import numpy as np
import pytest
import rclpy.logging
from hypothesis import given, settings
from hypothesis import strategies as st

from mbarl_ros.bringup import graphs
from mbarl_ros.bringup.run_folder import RunFolder
from mbarl_ros.learning.learner import Learner
from mbarl_ros.nodes.support.transition_store import Arrival, TransitionStore
from mbarl_ros.reports.robot_phases import RobotPhases
from mbarl_ros.schema.agent import AgentConfig, SacConfig
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.storage.record_log import RecordLog
from mbarl_ros.storage.robot_numbers import RobotNumbers
from mbarl_ros.storage.run_files import TRANSITIONS_FILE
from mbarl_ros.storage.sequence_tracker import SequenceTracker
from mbarl_ros.storage.spool import Spool
from mbarl_ros.storage.transitions import (
    concatenate,
    pack_log_record,
    select,
    stack,
    unpack_acknowledgement,
)
from mbarl_ros.task import Task

TASK = Task.load('pointmass')
AGENT = AgentConfig(
    name='small',
    backward='novelty',
    model=None,
    demonstration_fraction=0.0,
    sac=SacConfig(hidden=[8], batch_size=8, cloning_weight=0.0),
)
SPEC = TASK.spec_hash(AGENT)
LONGEST = max(TASK.config.phases.limits)


def steps_of(robot, lengths, seed=0):
    """Phases of so many steps, forward and backward by turns, of a robot that walks at random.

    ``stamp`` numbers them; the state of each step is where the one before has ended.
    """
    rng = np.random.default_rng([seed, robot])
    total = sum(lengths)
    walk = np.cumsum(rng.normal(0, 0.01, (total + 1, TASK.observation_dim)), 0)
    walk = (walk + robot).astype(np.float32)
    phase = np.repeat(np.arange(len(lengths)) % 2, lengths)
    last = np.isin(np.arange(total), np.cumsum(lengths) - 1)
    rows = [
        {
            'observation': walk[step],
            'action': np.zeros(TASK.action_dim),
            'next_observation': walk[step + 1],
            **dict.fromkeys(('reward', 'terminated', 'source', 'sequence'), 0),
            'truncated': last[step],
            'phase': phase[step],
            'stamp': step,
            'robot': robot,
        }
        for step in range(total)
    ]
    return stack(rows, TASK)


def mixed(robots, order):
    """Rows of several robots, each robot's in order; ``order``: which is next, with replacement."""
    taken, indices = [0] * len(robots), []
    for choice in order:
        robot = choice % len(robots)
        if taken[robot] < len(robots[robot]['phase']):
            indices.append((robot, taken[robot]))
            taken[robot] += 1
    for robot, rows in enumerate(robots):
        indices += [(robot, row) for row in range(taken[robot], len(rows['phase']))]
    starts = np.cumsum([0, *(len(rows['phase']) for rows in robots)])
    return select(concatenate(robots), [starts[robot] + row for robot, row in indices])


FLEETS = st.lists(
    st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1, max_size=4
)  # lengths of the phases of each robot
ORDER = st.lists(st.integers(0, 11), max_size=80)


@settings(max_examples=60, deadline=None)
@given(FLEETS, ORDER, st.lists(st.integers(1, 30), max_size=10))
def test_each_robots_phases_come_whole_in_order_and_once_however_rows_are_divided(
    lengths, order, cuts
):
    robots = [steps_of(number, own) for number, own in enumerate(lengths, 1)]
    rows = mixed(robots, order)
    at_once, ends = RobotPhases(TASK).add(rows)
    phases, start, parts = RobotPhases(TASK), 0, []
    for cut in [*cuts, len(rows['phase'])]:
        parts.append(phases.add(select(rows, slice(start, start + cut))))
        start += cut
    assert phases.held == 0
    for name in rows:
        np.testing.assert_array_equal(
            np.concatenate([part[name] for part, _ in parts]), at_once[name]
        )
    np.testing.assert_array_equal(np.concatenate([end for _, end in parts]), ends)
    for number, own in enumerate(robots, 1):
        mine = select(at_once, at_once['robot'] == number)
        np.testing.assert_array_equal(mine['stamp'], own['stamp'])
    # Between two ends there are steps of one phase of one robot.
    block = np.cumsum(np.append(0, ends[:-1]))
    for one in np.unique(block):
        part = select(at_once, block == one)
        assert len(set(part['robot'])) == len(set(part['phase'])) == 1
        assert (np.diff(part['stamp']) == 1).all()


def test_a_robot_that_leaves_within_a_phase_holds_back_no_more_than_the_longest_phase():
    rows = steps_of(1, [10 * LONGEST])
    phases = RobotPhases(TASK)
    due, ends = phases.add(rows)
    assert len(due['phase']) + phases.held == 10 * LONGEST and phases.held < LONGEST
    assert np.flatnonzero(ends).tolist() == list(range(LONGEST - 1, 10 * LONGEST, LONGEST))


def test_chains_of_the_replay_join_no_two_robots():
    robots = [steps_of(number, [5, 7, 6]) for number in (1, 2, 3)]
    learner = Learner(TASK, AGENT, stack([], TASK), 0)
    rows = mixed(robots, np.random.default_rng(0).integers(0, 3, 60).tolist())
    for start in range(0, len(rows['phase']), 9):
        learner.add(select(rows, slice(start, start + 9)))
    replay = learner._replay
    held, order = replay.held(), np.arange(len(replay))
    assert len(replay) == learner.environment_steps == 54
    np.testing.assert_array_equal(held['observation'], rows['observation'])  # nothing waits
    for number in (1, 2, 3):  # each walks on from where it was, across its phases
        own = np.flatnonzero(rows['robot'] == number)
        np.testing.assert_array_equal(replay.steps_to_end(own), np.arange(18)[::-1])
    later, delay = replay.later(order, np.random.default_rng(2), mean_delay=5.0)
    stamps = np.rint(rows['stamp']).astype(int)
    for row, number in enumerate(rows['robot']):
        walked = robots[number - 1]['next_observation'][stamps[row] + delay[row]]
        np.testing.assert_array_equal(later[row], walked)


def test_robots_that_start_together_hold_out_phases_one_after_the_other():
    robots = [steps_of(number, [10] * 10) for number in (1, 2, 3, 4)]
    rows = mixed(robots, [0, 1, 2, 3] * 100)
    learner = Learner(TASK, AGENT, stack([], TASK), 0)
    learner.add(rows)
    held_out = learner._replay.held_out()
    assert held_out.mean() == 0.1
    for block in range(10):  # a phase of each
        now = slice(40 * block, 40 * block + 40)
        assert len(set(rows['robot'][now][held_out[now]])) <= 1


def test_a_resumed_learner_of_a_fleet_goes_on_bit_for_bit():
    robots = [steps_of(number, [9, 11, 10, 12]) for number in (1, 2)]
    rows = mixed(robots, np.random.default_rng(1).integers(0, 2, 100).tolist())
    chunks = [select(rows, slice(start, start + 21)) for start in range(0, 84, 21)]

    def trained(learner, part):
        for chunk in part:
            learner.add(chunk)
            learner.train(2)
        return learner

    through = trained(Learner(TASK, AGENT, stack([], TASK), 0), chunks)
    arrays, meta = trained(Learner(TASK, AGENT, stack([], TASK), 0), chunks[:2]).state_dict()
    assert meta['environment_steps'] == 42
    resumed = Learner(TASK, AGENT, stack([], TASK), 0)
    resumed.add(select(rows, slice(0, 42)))
    resumed.load_state_dict(arrays, meta)
    trained(resumed, chunks[2:])
    wanted, arrays = through.policy_arrays(), resumed.policy_arrays()
    for name in wanted:
        np.testing.assert_array_equal(arrays[name], wanted[name])


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 15), min_size=2, max_size=4),
    deliveries=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 14), st.integers(1, 9), st.booleans()),
        max_size=40,
    ),
    restarts=st.sets(st.integers(0, 39), max_size=4),
)
def test_interleaved_sessions_are_stored_once_and_whole_over_restarts_of_the_learner(
    tmp_path_factory, sizes, deliveries, restarts
):
    """Messages come twice, too early, and are sent again; then everything is sent once more."""
    path = tmp_path_factory.mktemp('log') / 'log'
    sent = [steps_of(number, [size]) for number, size in enumerate(sizes, 1)]
    tracker, log, stored = SequenceTracker(), RecordLog(path), []

    def deliver(robot, first, count):
        rows = tracker.new_rows(
            select(sent[robot], slice(first, first + count)), f'session {robot}', first
        )
        if rows is None or not len(rows['phase']):
            return
        session = f'session {robot}'
        number = tracker.received.get(session, 0)
        log.append(pack_log_record(rows, TASK, SPEC, session, number))
        tracker.record_received(session, len(rows['phase']))
        stored.append(rows)

    for number, (robot, first, count, again) in enumerate(deliveries):
        robot %= len(sizes)
        if first < sizes[robot]:
            deliver(robot, first, count)
            if again:
                deliver(robot, first, count)
        if number in restarts:
            log.close()
            tracker = SequenceTracker()
            tracker.load_log(path, TASK, SPEC)
            log = RecordLog(path)
    for robot, size in enumerate(sizes):
        deliver(robot, 0, size)
    log.close()
    again = SequenceTracker()
    rows = again.load_log(path, TASK, SPEC)
    assert again.received == tracker.received and again.total == sum(sizes)
    np.testing.assert_array_equal(rows['sequence'], np.arange(sum(sizes)))
    np.testing.assert_array_equal(concatenate(stored)['sequence'], rows['sequence'])
    for robot, own in enumerate(sent, 1):
        np.testing.assert_array_equal(rows['stamp'][rows['robot'] == robot], own['stamp'])


def test_a_run_folder_tells_the_steps_of_all_robots(tmp_path):
    plan = graphs.plan('fleet', {'run_dir': str(tmp_path / 'run')})
    folder = RunFolder(plan)
    assert folder.stored_steps() == 0
    spec = TASK.spec_hash(plan.agent)
    store = TransitionStore(folder.path, TASK, spec, rclpy.logging.get_logger('test'))
    for number, steps in ((1, 9), (2, 13)):
        rows = steps_of(number, [steps])
        store.store([Arrival(f'robot_{number}', rows, f'session {number}', 0)])
    store.close()
    assert folder.stored_steps() == 22
    folder.close()


def test_a_fleet_resumed_with_fewer_robots_says_whose_steps_wait(tmp_path):
    def folder_of(robots):
        given = {'run_dir': str(tmp_path / 'run'), 'robots': robots}
        return RunFolder(graphs.plan('fleet', given))

    folder_of('3').close()
    for robot in ('robot_2', 'robot_3'):
        spool = Spool(TASK, SPEC, tmp_path / 'run/robots' / robot / 'spool')
        rows = steps_of(2, [1])
        spool.add({name: array[0] for name, array in rows.items()})
        spool.close()
    for robots, waiting in (('1', 'steps of robot_2, robot_3 wait in '), ('3', '')):
        folder = folder_of(robots)
        assert folder.steps_that_wait().startswith(waiting) and bool(waiting) == bool(
            folder.steps_that_wait()
        )
        folder.close()


def test_a_robot_keeps_its_number_over_restarts(tmp_path):
    path = tmp_path / 'robots.json'
    numbers = RobotNumbers(path)
    assert [numbers.number(name) for name in ('robot_2', 'robot_1', '', 'robot_2')] == [1, 2, 0, 1]
    again = RobotNumbers(path)
    assert again.number('robot_1') == 2 and again.number('robot_9') == 3
    assert again.name(3) == 'robot_9' and again.name(0) == ''


@pytest.mark.parametrize(
    'content', ['{', '[]', '{"a": 1, "b": 1}', '{"a": 2}', '{"a": "x"}', '{"a": null}']
)
def test_a_damaged_table_of_robots_is_one_sentence(tmp_path, content):
    path = tmp_path / 'robots.json'
    path.write_text(content)
    with pytest.raises(ConfigError, match=r'robots.json: is damaged: .* use another run_dir'):
        RobotNumbers(path)


def test_a_lost_table_of_robots_is_one_sentence_and_no_robot_gets_the_number_of_another(tmp_path):
    logger = rclpy.logging.get_logger('test')
    store = TransitionStore(tmp_path, TASK, SPEC, logger)
    store.store([Arrival('robot_1', steps_of(1, [9]), 'session', 0)])
    store.close()
    (tmp_path / 'robots.json').unlink()
    again = TransitionStore(tmp_path, TASK, SPEC, logger)
    with pytest.raises(ConfigError, match='robots.json: lacks a robot .* in transitions.log; res'):
        again.load()
    again.close()


def test_a_log_of_before_there_were_robots_is_refused_in_a_sentence(tmp_path):
    log = RecordLog(tmp_path / 'log')
    log.append(json.dumps([SPEC, 'session', 0]).encode() + b'\n' + bytes(60))
    log.close()
    with pytest.raises(ConfigError, match='not a transition log of this version; use another'):
        SequenceTracker().load_log(tmp_path / 'log', TASK, SPEC)


class Full(RecordLog):
    """The log on a disk that is full now and then."""

    full = False

    def append(self, *records, sync=True):
        if self.full:
            raise OSError(errno.ENOSPC, 'No space left on device')
        super().append(*records, sync=sync)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 15), min_size=2, max_size=4),
    batches=st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 3), st.integers(0, 14), st.integers(1, 9))),
            st.booleans(),
        ),
        max_size=20,
    ),
)
def test_what_a_disk_refused_is_neither_acknowledged_nor_lost_nor_stored_twice(
    tmp_path_factory, sizes, batches
):
    """Messages of several robots come together, twice and too early; the disk is full at times."""
    folder = tmp_path_factory.mktemp('run')
    sent = [steps_of(number, [size]) for number, size in enumerate(sizes, 1)]
    store = TransitionStore(folder, TASK, SPEC, rclpy.logging.get_logger('test'))
    assert not len(store.load()['phase'])
    store._log.close()
    store._log, returned = Full(folder / TRANSITIONS_FILE), []

    def arrive(messages):
        returned.extend(
            store.store(
                [
                    Arrival(
                        f'robot_{robot}',
                        select(sent[robot], slice(first, first + count)),
                        f'session {robot}',
                        first,
                    )
                    for robot, first, count in messages
                    if robot < len(sizes) and first < sizes[robot]
                ]
            )
        )

    def acknowledged():
        of = (
            unpack_acknowledgement(store.acknowledgement(f'robot_{n}')) for n in range(len(sizes))
        )
        return {session: count for session, count, _ in of if session}

    def on_disk():
        tracker = SequenceTracker()
        return tracker, tracker.load_log(folder / TRANSITIONS_FILE, TASK, SPEC)

    for messages, full in batches:
        store._log.full = full
        arrive(messages)
        tracker, _ = on_disk()
        assert {s: n for s, n in acknowledged().items() if n} == tracker.received
        assert store.total == tracker.total == sum(len(rows['phase']) for rows in returned)
    store._log.full = False
    arrive([(robot, 0, size) for robot, size in enumerate(sizes)])
    store.close()
    _, rows = on_disk()
    assert store.problem == '' and len(rows['phase']) == sum(sizes)
    np.testing.assert_array_equal(rows['stamp'], np.concatenate([r['stamp'] for r in returned]))
    for number, size in enumerate(sizes):
        assert store.steps_of(f'robot_{number}') == size
