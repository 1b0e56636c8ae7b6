"""Bags of other recorders: names, clocks, the command."""

import shutil

import numpy as np
import pytest
import yaml

from mbarl_ros.cli import demos
from mbarl_ros.demos.clocks import Stamps, choose_clock
from mbarl_ros.demos.mcap_file import Topic
from mbarl_ros.demos.metadata import DemonstrationError, read_metadata
from mbarl_ros.demos.reader import check_demonstration, read_demonstration
from support import bags
from support.bags import PERIOD, WALL, check_drive, drive, imported, refused, rover, write_bag

# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('name', ['odom', '/odom'])
def test_the_exact_name_wins_whatever_else_ends_in_it(tmp_path, name, seed):
    others = [
        (log + 1, topic, bags.odometry(log, -9.0))
        for log, topic, _ in drive()
        if topic == '/odom'
        for topic in ('/camera/odom', '/a/b/odom', '/xodom')
    ]
    rows = [*others, *drive()]
    np.random.default_rng(seed).shuffle(rows)
    rows.sort(key=lambda row: row[0] // PERIOD)  # which topic comes first is left to chance
    state = [{**bags.ROBOT['state'][0], 'topic': name}]
    task = rover(state=state)
    folder = imported(write_bag(tmp_path / 'theirs', rows), tmp_path, task)
    assert read_metadata(folder).topics == {name: '/odom', 'cmd_vel': '/cmd_vel'}
    check_drive(folder, task)


def test_without_the_exact_name_the_only_one_in_a_namespace_is_meant(tmp_path):
    source = write_bag(tmp_path / 'theirs', drive(odom='/r1/odom', cmd='/r1/base/cmd_vel'))
    folder = imported(source, tmp_path)
    assert read_metadata(folder).topics == {'odom': '/r1/odom', 'cmd_vel': '/r1/base/cmd_vel'}
    check_drive(folder, rover())


def two_robots(path):
    far = [(log, topic, bags.odometry(log, 9.0)) for log, topic, _ in drive(odom='/b/odom')]
    far = [row for row in far if row[1] == '/b/odom']
    return write_bag(path, [*far, *drive(odom='/a/odom')])


def test_names_that_do_not_tell_are_said_by_topic(tmp_path):
    source = two_robots(tmp_path / 'theirs')
    refused(source, tmp_path, "'odom'", '/a/odom', '/b/odom', '--topic odom:=')
    shutil.rmtree(tmp_path / 'staging')
    check_drive(imported(source, tmp_path, topics={'odom': '/a/odom'}), rover())


@pytest.mark.parametrize('given', ['/pose', 'pose'])
def test_a_given_name_need_not_resemble_the_profile(tmp_path, given):
    rows = [*drive(odom='/pose'), (WALL, '/odom', bags.odometry(WALL, 7.0))]
    source = write_bag(tmp_path / 'theirs', sorted(rows, key=lambda row: row[0]))
    check_drive(imported(source, tmp_path, topics={'odom': given}), rover())


def test_given_names_that_are_not_there_are_said(tmp_path):
    source = two_robots(tmp_path / 'theirs')
    refused(source, tmp_path, "'/c/odom' is not in the bag", '/a/odom', topics={'odom': '/c/odom'})
    shutil.rmtree(tmp_path / 'staging')
    with pytest.raises(DemonstrationError, match=r"robot 'rover' has no .* odom, cmd_vel"):
        imported(source, tmp_path, topics={'odon': '/a/odom'})


@pytest.mark.parametrize('cmd', ['/cmd_vel', '/r1/cmd_vel'])
def test_another_type_of_the_same_name_is_said_with_both_types(tmp_path, cmd):
    rows = [
        (log, topic, bags.twist(0.4) if topic == cmd else message)
        for log, topic, message in drive(cmd=cmd)
    ]
    refused(
        write_bag(tmp_path / 'theirs', rows),
        tmp_path,
        "'cmd_vel' of robot 'rover' is geometry_msgs/msg/TwistStamped",
        f'{cmd} is geometry_msgs/msg/Twist;',
    )


def test_of_two_types_on_one_topic_that_of_the_profile_is_read(tmp_path):
    rows = sorted(
        [*drive(), *((log + 1, topic, bags.twist(-1.0)) for log, topic, _ in drive()[-20:])],
        key=lambda row: row[0],
    )
    rows = [row for row in rows if row[1] == '/cmd_vel' or row[2].__msgtype__ == bags.ODOMETRY]
    rows.insert(0, (WALL - 1, '/cmd_vel', bags.twist(-1.0)))
    check_drive(imported(write_bag(tmp_path / 'theirs', rows), tmp_path), rover())


def test_a_command_topic_that_is_given_counts_instead_of_what_the_gate_executed(tmp_path):
    rows = [*drive()]
    for log, _, _ in drive()[5:]:
        rows.append((log + 5, '/safety_gate/executed', bags.joint_state(log, [-0.5], ['v'])))
    source = write_bag(tmp_path / 'theirs', sorted(rows, key=lambda row: row[0]))
    by_gate = read_demonstration(imported(source, tmp_path), rover())
    assert set(by_gate.commands[:, 0]) == {-0.5}
    shutil.rmtree(tmp_path / 'staging')
    check_drive(imported(source, tmp_path, topics={'cmd_vel': '/cmd_vel'}), rover())


# --- clocks ----------------------------------------------------------------------------------

ZERO = lambda at: 0  # noqa: E731
BOOT = lambda at: at - WALL + 12_000_000_000  # noqa: E731
NO_TIMES = {
    'command 0': (lambda at: at, ZERO, '/cmd_vel are all 0'),
    'state 0': (ZERO, lambda at: at, '/odom are all 0'),
    'both 0': (ZERO, ZERO, 'of /odom are all 0, of /cmd_vel are all 0'),
    'state at start-up': (lambda at: WALL, lambda at: at, '/odom are all 1.75e+09'),
    'state since boot': (BOOT, lambda at: at, '/odom and /cmd_vel are of two clocks, 1.75e+09 s'),
    'command since boot': (lambda at: at, BOOT, 'are of two clocks'),
    'clocks not synchronised': (lambda at: at, lambda at: at + 3 * 10**9, 'two clocks, 3 s'),
    'every third 0': (
        lambda at: 0 if at // PERIOD % 3 == 0 else at,
        lambda at: at,
        'of /odom are 0 in 20 of 60 messages',
    ),
    '0 at first': (
        lambda at: 0 if at < WALL + 4 * PERIOD else at,
        lambda at: at,
        'of /odom are 0 in 4 of 60 messages',
    ),
    'two publishers': (
        lambda at: at - (at // PERIOD % 2) * 7 * 10**9,
        lambda at: at,
        'of /odom run back 30 times',
    ),
}


@pytest.mark.parametrize('case', NO_TIMES)
def test_stamps_that_cannot_be_times_are_not_taken_for_times(tmp_path, case):
    state, command, words = NO_TIMES[case]
    folder = imported(write_bag(tmp_path / 'theirs', drive(state, command)), tmp_path)
    assert read_metadata(folder).clock == 'log'
    check_drive(folder, rover())
    _, findings = check_demonstration(folder, rover())
    said = [str(finding) for finding in findings if 'dated by the log' in str(finding)]
    assert len(said) == 1 and words in said[0]


TIMES = {
    'wall': (lambda at: at, lambda at: at),
    'all since boot': (BOOT, BOOT),
    'simulated from 0': (lambda at: at - WALL, lambda at: at - WALL),
    'behind': (lambda at: at - 300_000_000, lambda at: at - 300_000_000),
}


@pytest.mark.parametrize('case', TIMES)
def test_stamps_of_one_clock_date_the_messages_whatever_it_counts_from(tmp_path, case):
    folder = imported(write_bag(tmp_path / 'theirs', drive(*TIMES[case])), tmp_path)
    assert read_metadata(folder).clock == 'header' and not read_metadata(folder).remarks
    demonstration = check_drive(folder, rover())
    first = TIMES[case][0](WALL + 5 * PERIOD)
    assert demonstration.stamps[0] == pytest.approx(first * 1e-9)


@pytest.mark.parametrize('clock', ['header', 'log'])
def test_the_clock_can_be_said(tmp_path, clock):
    rows = drive(lambda at: at - 300_000_000, lambda at: at - 300_000_000)
    folder = imported(write_bag(tmp_path / 'theirs', rows), tmp_path, clock=clock)
    demonstration = check_drive(folder, rover())
    first = {'header': WALL - 300_000_000, 'log': WALL + 1_000_000}[clock] + 5 * PERIOD
    assert demonstration.stamps[0] == pytest.approx(first * 1e-9)
    assert not read_metadata(folder).remarks


def test_by_the_header_messages_without_a_stamp_are_as_old_as_the_last_that_has_one(tmp_path):
    folder = imported(write_bag(tmp_path / 'theirs', drive(BOOT, ZERO)), tmp_path, clock='header')
    demonstration = check_drive(folder, rover())
    assert demonstration.stamps[0] == pytest.approx(12.0 + 5 * PERIOD * 1e-9)


def test_an_import_that_is_imported_again_keeps_its_clock(tmp_path):
    first = imported(write_bag(tmp_path / 'theirs', drive(ZERO)), tmp_path)
    first.rename(tmp_path / 'first')
    shutil.rmtree(tmp_path / 'staging')
    again = imported(tmp_path / 'first', tmp_path)
    assert read_metadata(again).clock == 'log'
    check_drive(again, rover())


def test_a_simulation_that_was_reset_is_not_joined_by_the_log(tmp_path):
    back = lambda at: at - WALL - (at > WALL + 30 * PERIOD) * 1_400_000_000  # noqa: E731
    folder = imported(write_bag(tmp_path / 'theirs', drive(back, back)), tmp_path)
    with pytest.raises(DemonstrationError, match='the clock runs back'):
        read_demonstration(folder, rover())


def stamped(times, log, order='<'):
    """Stamps of messages of a type with a header."""
    stamps = Stamps(Topic('/t', 'nav_msgs/msg/Odometry', ''))
    for stamp, at in zip(times, log, strict=True):
        words = np.array([stamp // 10**9, stamp % 10**9], f'{order}i4').tobytes()
        stamps.add(int(at), b'\0' + (b'\1' if order == '<' else b'\0') + b'\0\0' + words + b'rest')
    return stamps


@pytest.mark.parametrize('seed', range(20))
def test_any_rates_delays_and_speeds_of_one_clock_are_one_clock(seed):
    rng = np.random.default_rng(seed)
    speed, start = 10.0 ** rng.uniform(-1.5, 1.5), int(rng.choice([0, 10**12, WALL]))
    topics = {}
    for name in ('/a', '/b', '/c'):
        log = np.sort(rng.uniform(rng.uniform(0, 20), 60, int(rng.integers(2, 2000))) * 1e9)
        late = rng.uniform(0, 0.2e9, len(log))  # s of simulated time between stamp and receipt
        times = np.sort(np.maximum(log * speed - late, 0)).astype(np.int64) + start
        topics[name] = stamped(times, WALL + log.astype(np.int64), rng.choice(['<', '>']))
    assert choose_clock(topics) == ('header', '')
    shift = int(rng.uniform(40, 1e6) * max(speed, 1) * 1e9)
    topics['/b'] = stamped(topics['/b'].arrays()[0] + shift, topics['/b'].arrays()[1])
    clock, why = choose_clock(topics)
    assert clock == 'log' and '/b' in why and 'two clocks' in why


def test_a_bag_whose_log_holds_no_times_is_dated_by_its_headers():
    times = WALL + np.arange(50) * PERIOD
    topics = {'/a': stamped(times, np.zeros(50)), '/b': stamped(times + 7, np.zeros(50))}
    assert choose_clock(topics)[0] == 'header'


# --- the command -----------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A bag of two robots without stamps, and the task and profile of one beside it."""
    monkeypatch.chdir(tmp_path)
    for name, content in (('task', bags.TASK), ('robot', bags.ROBOT)):
        (tmp_path / f'{name}.yaml').write_text(yaml.safe_dump(content))
    far = [(log, '/b/odom', bags.odometry(0, 9.0)) for log, topic, _ in drive() if topic == '/odom']
    write_bag(tmp_path / 'theirs', [*far, *drive(ZERO, odom='/a/odom')])
    return ['import', 'theirs', '--task', 'task.yaml', '--into', 'demos']


def test_import_takes_names_and_says_how_messages_are_dated(files, capsys, tmp_path):
    assert demos.main(files) != 0
    assert '--topic odom:=' in capsys.readouterr().err
    assert demos.main([*files, '--topic', 'odom:=/a/odom']) == 0
    assert capsys.readouterr().out.count('header stamps of /a/odom are all 0') == 1
    check_drive(tmp_path / 'demos' / 'forward_000', rover())
    assert demos.main([*files, '--topic', 'odom:=/a/odom', '--clock', 'log']) == 0
    assert 'header stamps' not in capsys.readouterr().out
    check_drive(tmp_path / 'demos' / 'forward_001', rover())


@pytest.mark.parametrize('text', ['odom', ':=/a/odom', 'odom:=', '/a/odom=odom'])
def test_a_name_that_is_not_a_pair_is_refused(files, text, capsys):
    with pytest.raises(SystemExit):
        demos.main([*files, '--topic', text])
    assert 'is not of the form A:=B' in capsys.readouterr().err


def test_a_topic_that_is_said_twice_is_refused(files, capsys):
    assert demos.main([*files, '--topic', 'odom:=/a/odom', '--topic', 'odom:=/b/odom']) != 0
    assert "--topic: 'odom' is given 2 times" in capsys.readouterr().err


@pytest.mark.parametrize('given', [['--topic', 'odom:=/a'], ['--clock', 'log']])
def test_options_of_bags_are_refused_for_other_formats(files, given, tmp_path, capsys):
    (tmp_path / 'x.pkl').write_bytes(b'\x80\x04N.')
    assert demos.main(['import', 'x.pkl', *files[2:], *given]) != 0
    assert f"{given[0]} does not apply to format 'earl'" in capsys.readouterr().err
