"""Dead-man switches and triggers: on every control of the common gamepads, and what is refused."""

import random
import re
from types import SimpleNamespace

import pytest
import yaml

from mbarl_ros.control.teleop import GONE_AFTER, RELEASED_FOR, DeadmanSwitch, TeleopSource
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.load import available, load_robot
from mbarl_ros.schema.robot import TeleopMap
from mbarl_ros.schema.switches import JOY
from support.pads import PADS

CONTROLS = [
    pytest.param(pad, control, id=f'{pad.name}: {control.path} to {control.full:+g}')
    for pad in PADS
    for control in pad.controls
]
TRIGGER = {'field': 'axes[1]', 'pressed_below': -0.5}


def joy(axes, buttons=()):
    return SimpleNamespace(axes=list(axes), buttons=list(buttons))


class Reader(TeleopSource):
    """Receives its messages 0.3 s apart, unless they come ``after`` another time."""

    now = 0.0

    def read(self, message, after=0.3):
        self.now += after
        return super().read(message, self.now)


def source(deadman=None, **keys):
    fields = keys.pop('fields', {'speed': 'axes[0]'})
    return Reader(TeleopMap(topic='joy', type=JOY, fields=fields, deadman=deadman, **keys))


def message(pad, control, value):
    """The pad with one control at a value, all else at full."""
    axes, buttons = [1.0] * len(pad.axes), [1] * pad.buttons
    index = int(re.search(r'\d+', control.path)[0])
    if control.path.startswith('axes'):
        axes[index] = value
    else:
        buttons[index] = round(value)
    return joy(axes, buttons)


def at_rest(control, rng):
    """A value while nobody presses it: untouched, or let go with some drift."""
    drift = rng.uniform(0, control.drift)
    return rng.choice([0.0, control.rest, control.rest + (control.full - control.rest) * drift])


# --- all pads --------------------------------------------------------------------------------


@pytest.mark.parametrize(('pad', 'control'), CONTROLS)
def test_nothing_is_commanded_while_nobody_presses_and_pressing_commands(pad, control):
    rng = random.Random(0)
    for _ in range(40):
        stuck, resting = source(control.deadman), source(control.deadman)
        if control.path.startswith('axes'):  # held, but 0 is published until it moves
            for _ in range(rng.randrange(4)):
                assert stuck.read(message(pad, control, 0.0)).values is None
        else:  # held, but joy_node begins with 0
            stuck.read(message(pad, control, 0.0))
            assert stuck.read(message(pad, control, 1.0), after=0.1).values is None
        for _ in range(10):
            assert stuck.read(message(pad, control, control.full)).values is None
            assert resting.read(message(pad, control, at_rest(control, rng))).values is None
        assert resting.complaint == ''
        assert f'switch {control.path} reads as pressed, but was not yet' in stuck.complaint
        for _ in range(2):  # the first press of an axis that rests at 0 may only wake it
            for value in (control.rest, control.full):
                asked = resting.read(message(pad, control, value))
                stuck.read(message(pad, control, value))
        assert asked.values is not None and stuck.read(message(pad, control, control.full)).values
        let_go = resting.read(message(pad, control, control.rest))
        assert let_go.values is None and let_go.released


def pressed_by_history(history, below):
    """Whether the last value counts as pressed: written down again, from the whole history.

    ``history``: (time, value) in order. After a value None, which is a fault, and after a silence
    nothing of before counts.
    """
    begins = [
        i + (value is None)
        for i, (time, value) in enumerate(history)
        if value is None or (i and time - history[i - 1][0] > GONE_AFTER)
    ]
    since = history[max(begins, default=0) :]
    while since and since[0][1] == 0:
        since = since[1:]  # nobody has touched it
    if not since or since[-1][1] >= below:
        return False
    return any(
        since[last][0] - since[first][0] >= RELEASED_FOR
        and all(value >= below for _, value in since[first:last])
        for last in range(len(since))
        for first in range(last)
    )


@pytest.mark.parametrize('below', [-0.5, 0.5, 1.0])
def test_random_histories_of_a_trigger(below):
    """Also with a threshold by which 0 is a pressed value: the profile's word counts."""
    rng = random.Random(below)
    pressed = 0
    for _ in range(4000):
        reader, history = source({'field': 'axes[1]', 'pressed_below': below}), []
        for _ in range(rng.randrange(1, 12)):
            value = rng.choice([None, 0.0, -0.0, 1.0, 1.0, -1.0, -1.0, below, rng.uniform(-1, 1)])
            after = rng.choice([0.0, 0.05, 0.15, 0.25, 0.9, 1.5])
            history.append((reader.now + after, value))
            if value is None:
                with pytest.raises(ValueError, match='deadman'):
                    reader.read(joy([1.0]), after)
                continue
            asked = reader.read(joy([1.0, value]), after)
            assert (asked.values is not None) == pressed_by_history(history, below), history
            pressed += asked.values is not None
    assert pressed > 500


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_a_trigger_that_is_not_finite_is_a_fault_and_releases(value):
    pad = source(TRIGGER)
    pad.read(joy([1.0, 1.0]))
    assert pad.read(joy([1.0, -1.0])).values
    with pytest.raises(ValueError, match=re.escape('axes[1] is ')):
        pad.read(joy([1.0, value]))
    assert pad.read(joy([1.0, -1.0])).values is None
    pad.read(joy([1.0, 1.0]))
    assert pad.read(joy([1.0, -1.0])).values


def test_a_gamepad_that_comes_back_must_be_seen_released_again():
    """Its driver may have been started anew while somebody holds the switch."""
    pad = source('buttons[0]')
    pad.read(joy([1.0], [0]))
    assert pad.read(joy([1.0], [1])).values
    assert pad.read(joy([1.0], [1]), after=0.9).values  # a short loss of the network
    asked = pad.read(joy([1.0], [1]), after=1.1)
    assert asked.values is None and not asked.released  # the policy may have the robot meanwhile
    assert pad.read(joy([1.0], [1])).values is None and 'a silence' in pad.complaint
    pad.read(joy([1.0], [0]))
    assert pad.read(joy([1.0], [1])).values


def test_a_pedal_counts_after_it_was_seen_released_and_not_after_a_fault():
    entry = TeleopMap(
        topic='leader', type='std_msgs/msg/Float64', fields={'speed': 'data'},
        deadman={'topic': 'pedal', 'type': 'std_msgs/msg/Bool', 'field': 'data'},
    )  # fmt: skip
    pedal = DeadmanSwitch(entry.deadman, entry.deadman_topic, 0.5)
    for now, data, expected in [
        (0.0, True, False), (0.5, True, False), (1.0, False, False), (1.5, True, True),
    ]:  # fmt: skip
        pedal.read(SimpleNamespace(data=data), now)
        assert pedal.pressed(now) is expected and bool(pedal.complaint) is (now < 1.0)
    assert pedal.pressed(2.0) and not pedal.pressed(2.01)
    with pytest.raises(ValueError, match="topic 'pedal'"):
        pedal.read(SimpleNamespace(), 1.6)
    assert not pedal.pressed(1.6)
    pedal.read(SimpleNamespace(data=True), 1.7)
    assert not pedal.pressed(1.7)
    pedal.read(SimpleNamespace(data=False), 1.8)
    pedal.read(SimpleNamespace(data=True), 2.1)
    assert pedal.pressed(2.1)
    pedal.read(SimpleNamespace(data=True), 3.2)  # plugged in again, with a foot on it
    assert not pedal.pressed(3.2)


# --- recorder buttons and commands on triggers -----------------------------------------------


def test_a_recorder_button_may_be_a_trigger():
    pad = source(buttons={'start': TRIGGER, 'stop': 'buttons[0]'})
    seen = [
        pad.read(joy([0.0, value], [0])).pressed for value in (-1.0, 0.4, -0.6, -1.0, 0.0, -0.7)
    ]
    assert seen == [(), (), ('start',), (), (), ('start',)]


@pytest.mark.parametrize(
    ('at', 'value', 'command'),
    [
        ([1.0, -1.0], 1.0, 0.04),
        ([1.0, -1.0], -1.0, 0.0),
        ([1.0, -1.0], 0.5, 0.03),
        ([0.0, -1.0], -0.25, 0.03),
        ([-1.0, 1.0], -1.02, 0.04),  # no further than the level
        ([1.0, -1.0], -1.02, 0.0),
    ],
)
def test_a_trigger_moves_a_gripper_between_its_levels(at, value, command):
    pad = source(
        fields={'gripper': 'axes[0]'}, levels={'gripper': [0.04, 0.0]}, levels_at={'gripper': at}
    )
    assert pad.read(joy([0.0])).values == {}  # never touched: nobody knows where it is
    assert pad.read(joy([value])).values == {'gripper': pytest.approx(command, abs=1e-9)}
    halfway = at[0] + 0.5 * (at[1] - at[0])
    assert pad.read(joy([halfway])).values == {'gripper': pytest.approx(0.02)}
    assert pad.read(joy([0.0]), after=1.1).values == {}  # another pad, perhaps


def test_a_trigger_with_latch_and_levels_keeps_its_command_at_zero_only():
    pad = source(
        fields={'gripper': 'axes[0]'}, levels={'gripper': [0.0, 1.0]},
        levels_at={'gripper': [1.0, -1.0]}, latch=['gripper'], deadzone=0.2,
    )  # fmt: skip
    asked = [pad.read(joy([value])).values for value in (0.0, 0.9, 0.0, 0.1)]
    assert asked == [
        {}, {'gripper': pytest.approx(0.05)}, {}, {'gripper': pytest.approx(0.45)},
    ]  # fmt: skip


def test_a_trigger_that_is_not_finite_is_not_taken_for_its_end():
    pad = source(
        fields={'gripper': 'axes[0]'}, levels={'gripper': [0, 1]}, levels_at={'gripper': [1, -1]}
    )
    assert pad.read(joy([float('inf')])).values['gripper'] == float('inf')  # the gate refuses it


# --- what is refused, and how ----------------------------------------------------------------


@pytest.fixture
def profile(tmp_path):
    """Writes a profile with a changed gamepad; returns what its loading says, '' for nothing."""

    def load(pad=None, **changes):
        robot = load_robot('pointmass').model_dump(exclude_none=True)
        entry = next(entry for entry in robot['teleop'] if entry['type'] == JOY)
        entry.update({**(pad or {}), **changes})
        path = tmp_path / 'mine.yaml'
        path.write_text(yaml.safe_dump(robot))
        try:
            load_robot(str(path))
        except ConfigError as error:
            assert str(error).startswith(f'{path}: ')
            return str(error)
        return ''

    return load


PEDAL = {'topic': 'pedal', 'type': 'std_msgs/msg/Bool', 'field': 'data'}


@pytest.mark.parametrize(
    'deadman',
    [
        'buttons[4]',
        {'field': 'buttons[4]'},
        {'field': 'buttons[4]', 'pressed_below': 0.5},  # a contact that opens when it is pressed
        {'field': 'axes[5]', 'pressed_below': -0.5},
        {'field': 'axes[5]', 'pressed_above': -0.5},  # half of a trigger that rests at -1
        PEDAL,
        {**PEDAL, 'pressed_below': 0.5},
        {**PEDAL, 'type': 'std_msgs/msg/Float32', 'pressed_above': 20.0},
        {**PEDAL, 'type': JOY, 'field': 'buttons[0]'},
        {**PEDAL, 'type': 'not_installed_msgs/msg/Pedal', 'field': 'whatever.it.has[3]'},
    ],
)
def test_dead_man_switches_that_say_when_they_are_pressed_are_taken(profile, deadman):
    assert profile(deadman=deadman) == ''


AXIS = '{field: "axes[5]", pressed_below: -0.5} for a trigger that rests at 1'


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'deadman': 'axes[5]'}, [": deadman: 'axes[5]' is no button", AXIS]),
        ({'deadman': {'field': 'axes[5]'}}, [": deadman: 'axes[5]' is no button", AXIS]),
        ({'buttons': {'start': 'axes[5]'}}, [": buttons.start: 'axes[5]' is no button", AXIS]),
        ({'deadman': '-axes[5]'}, ["deadman.field': '-axes[5]': a path has no sign", AXIS]),
        ({'buttons': {'stop': '-buttons[5]'}}, ["buttons.stop.field': '-buttons[5]': a path"]),
        ({'fields': {'vx': '-axes[0]'}, 'scale': {}}, ['fields.vx', 'scale: {vx: -1.0}']),
        (
            {'deadman': {'field': 'axes[5]', 'pressed_below': 0, 'pressed_above': 0}},
            ['both given; use one'],
        ),
        ({'deadman': {**PEDAL, 'topic': None}}, ['topic and type: are needed together']),
        ({'deadman': {**PEDAL, 'type': JOY, 'field': 'axes[5]'}}, ["'axes[5]' is no button", AXIS]),
        (
            {'deadman': {**PEDAL, 'type': 'std_msgs/msg/Int32'}},
            ["teleop.2.deadman': data is a number (int32)", 'pressed_'],
        ),
        ({'deadman': {**PEDAL, 'type': 'std_msgs/msg/Float32'}}, ['is a number (float)']),
        ({'deadman': {**PEDAL, 'type': 'std_msgs/msg/String'}}, ['is no number but a string']),
        ({'deadman': {**PEDAL, 'field': 'pressed'}}, ["a std_msgs/msg/Bool has no 'pressed'"]),
        ({'deadman': {**PEDAL, 'field': 'data[0]'}}, ['data is no list']),
        (
            {'fields': {'vx': 'axis[0]'}, 'scale': {}},
            ["fields.vx': a sensor_msgs/msg/Joy has no 'axis'", 'it has header, axes, buttons'],
        ),
        ({'fields': {'vx': 'axes'}, 'scale': {}}, ['axes is a list; name one element']),
        ({'fields': {'vx': 'axes[left]'}, 'scale': {}}, ['has no list of names']),
        ({'fields': {'vx': 'header.frame_id'}, 'scale': {}}, ['is no number but a string']),
        ({'fields': {'vx': 'header.stamp.secs'}, 'scale': {}}, ['it has sec, nanosec']),
        ({'fields': {'vx': 'header.frame_id.x'}, 'scale': {}}, ['is a string and has no fields']),
        ({'constants': {'frame_id': 'pad'}}, ["has no 'frame_id'"]),
        (
            {'levels': {'vx': [0, 1]}, 'scale': {}},
            ['levels.vx: axes[0] is an axis; add levels_at: {vx: [1.0, -1.0]}'],
        ),
        (
            {'levels': {'vx': [0, 1]}, 'levels_at': {'vx': [1, 1]}, 'scale': {}},
            ['levels_at.vx: the two values must differ'],
        ),
        ({'levels_at': {'vx': [1, -1]}}, ['levels_at: vx not in levels']),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_when_the_profile_is_loaded(profile, change, words):
    said = profile(**change)
    for word in words:
        assert word in said


def test_the_remedy_that_an_old_profile_gets_is_one(profile):
    said = profile(deadman='axes[5]')
    mapping = yaml.safe_load(re.search(r'\{.*?\}', said)[0])
    assert profile(deadman=mapping) == ''


def test_fields_of_other_sources_are_tried_on_their_types(profile):
    leader = {'type': 'sensor_msgs/msg/JointState', 'deadman': PEDAL, 'buttons': {}, 'scale': {}}
    assert profile(leader, fields={'vx': 'position[elbow]', 'vy': 'velocity[0]'}) == ''
    assert "has no 'positions'" in profile(leader, fields={'vx': 'positions[elbow]'})
    pose = {**leader, 'type': 'geometry_msgs/msg/PoseWithCovarianceStamped'}
    assert profile(pose, fields={'vx': 'pose.covariance[35]'}) == ''
    path = {**leader, 'type': 'nav_msgs/msg/Path'}
    assert profile(path, fields={'vx': 'poses[0].pose.position.x'}) == ''
    assert 'is a list' in profile(path, fields={'vx': 'poses.pose.position.x'})


@pytest.mark.parametrize('name', available('robots'))
def test_shipped_profiles_say_when_their_switches_are_pressed(name):
    for entry in load_robot(name).teleop:
        assert all(press.has_threshold or press.is_joy_button for press in entry.presses.values())


def test_a_pedal_whose_driver_hangs_counts_as_released():
    """It repeats its last message, with the stamp of that."""
    entry = TeleopMap(
        topic='leader', type='std_msgs/msg/Float64', fields={'speed': 'data'},
        deadman={'topic': 'pedal', 'type': JOY, 'field': 'buttons[0]'},
    )  # fmt: skip
    pedal = DeadmanSwitch(entry.deadman, entry.deadman_topic, 0.5)
    message = joy([0.0], [0])
    message.header = SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0))
    for step in range(20):
        message.header.stamp.sec = step + 1
        message.buttons = [int(step > 10)]
        pedal.read(message, 0.1 * step)
    assert pedal.pressed(1.95)
    for step in range(20, 40):
        pedal.read(message, 0.1 * step)
    assert not pedal.pressed(3.95)
