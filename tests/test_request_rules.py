"""Goals and calls without a running robot: profiles, bags, and any order of commands and faults."""

import copy
import sys
import types
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.task import Future
from trajectory_msgs.msg import JointTrajectory

from mbarl_ros.bringup.sros2 import sros2_policy
from mbarl_ros.nodes.support import robot_requests
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.field_maps import ServiceCommand
from mbarl_ros.schema.load import load_robot
from mbarl_ros.schema.message_fields import TopicCodec
from mbarl_ros.schema.robot import RobotConfig
from support.bags import check_drive, drive, imported, joint_state, refused, rover, write_bag
from support.request_side import ACTION, ARM, GRIPPER, PROFILE, SUCTION, VALVE

# --- profiles --------------------------------------------------------------------------------


def profile(tmp_path, command=None, **limits):
    """A file of the profile with changes: command entry by its place, limits by entry."""
    raw = copy.deepcopy(PROFILE)
    for place, changes in (command or {}).items():
        raw['command'][place] |= changes
    for name, changes in limits.items():
        raw['limits'][name] = {'low': 0.0, 'high': 1.0, **changes}
    (tmp_path / 'mine.yaml').write_text(yaml.safe_dump(raw))
    return str(tmp_path / 'mine.yaml')


@pytest.mark.parametrize(
    ('command', 'limits', 'words'),
    [
        ({1: {'at_stop': None}}, {}, f"action '{GRIPPER}': at_stop: is needed with stop: hold"),
        ({1: {'at_stop': 'drop'}}, {}, "key 'command.1.at_stop'"),
        ({1: {'period': 0}}, {}, "key 'command.1.period'"),
        ({1: {'tolerance': {'gripp': 0.1}}}, {}, "key 'command.1': tolerance: gripp not in fields"),
        ({1: {'tolerance': {'grip': -0.1}}}, {}, "key 'command.1': tolerance.grip: must be 0"),
        ({1: {'scale': {'grip': 0}}}, {}, "key 'command.1': scale.grip: 0 leaves nothing"),
        ({}, {'grip': {'stop': 0.0}}, f"action '{GRIPPER}': at_stop: a stop sends a goal"),
        ({3: {'at_stop': 'keep'}}, {}, "key 'command.3.at_stop': unknown key"),
        ({0: {'tolerance': {'vx': 1.0}}}, {}, "key 'command.0.tolerance': unknown key"),
        ({1: {'topic': 'grip'}}, {}, "key 'command.1.topic': unknown key"),
        ({1: {'type': 'control_msgs/GripperCommand'}}, {}, 'control_msgs/action/GripperCommand'),
        ({1: {'type': 'std_srvs/srv/SetBool'}}, {}, "key 'command.1.type': 'std_srvs/srv/SetBool'"),
        ({3: {'type': 'std_srvs/SetBool'}}, {}, 'std_srvs/srv/SetBool'),
        ({1: {'fields': {'grip': 'nested_field'}}}, {}, 'nested_field is no number'),
        (
            {1: {'fields': {'grip': '-nested_field.x'}}},
            {},
            f"action '{GRIPPER}': cannot read field",
        ),
        ({1: {'constants': {'nested_field.none': 1.0}}}, {}, "has no 'none' (nested_field.none)"),
    ],
)
def test_what_is_wrong_with_an_action_or_service_is_said_with_its_key(
    tmp_path, command, limits, words
):
    with pytest.raises(ConfigError) as error:
        load_robot(profile(tmp_path, command, **limits))
    assert words in str(error.value) and 'mine.yaml' in str(error.value)


def test_one_request_cannot_be_held_and_stopped(tmp_path):
    command = {
        1: {'fields': {f'{name}': f'nested_field.float{n}_value' for name, n in GRIP}},
        2: {'fields': {'arm': 'nested_field.float64_value'}},
    }
    command[1]['constants'] = {}
    with pytest.raises(ConfigError, match=r'a stop holds grip and sends a number to the others'):
        load_robot(profile(tmp_path, command, force={'stop': 0.0}))


GRIP = (('grip', 64), ('force', 32))


def test_a_profile_goes_through_yaml_and_back(tmp_path):
    robot = load_robot(profile(tmp_path))
    assert RobotConfig.model_validate(robot.model_dump(mode='json')) == robot
    assert [entry.label for entry in robot.requests] == [
        f"action '{GRIPPER}'",
        f"action '{ARM}'",
        f"service '{SUCTION}'",
        f"service '{VALVE}'",
    ]


def test_the_gate_alone_may_send_goals_and_calls_where_sros2_guards_them(tmp_path):
    root = ElementTree.fromstring(sros2_policy(load_robot(profile(tmp_path))).encode())
    allowed = {
        enclave.get('path'): {
            (verb, name.text)
            for group in enclave.find('profiles/profile')
            for verb in group.attrib
            for name in group
        }
        for enclave in root.iter('enclave')
    }
    wanted = {('call', GRIPPER), ('call', ARM), ('request', SUCTION), ('request', VALVE)}
    assert wanted <= allowed['/mbarl/safety_gate']
    assert not [path for path, names in allowed.items() if 'gate' not in path and wanted & names]


# --- a FollowJointTrajectory -----------------------------------------------------------------


class Goal:
    """The part of a FollowJointTrajectory's goal that matters; control_msgs is not on PyPI."""

    def __init__(self):
        self.trajectory = JointTrajectory()

    @classmethod
    def get_fields_and_field_types(cls):
        return {'trajectory': 'trajectory_msgs/JointTrajectory'}


Goal.__module__ = 'control_msgs.action._follow_joint_trajectory'
POINT = 'trajectory.points[0]'
TRAJECTORY = {
    'name': 'arm',
    'control_rate': 10.0,
    'state': [
        {
            'topic': 'joint_states',
            'type': 'sensor_msgs/msg/JointState',
            'fields': {'pan': 'position[pan]', 'lift': 'position[lift]'},
        }
    ],
    'command': [
        {
            'action': 'follow_joint_trajectory',
            'type': 'control_msgs/action/FollowJointTrajectory',
            'fields': {'to_pan': f'{POINT}.positions[pan]', 'to_lift': f'{POINT}.positions[lift]'},
            'scale': {'to_lift': 2.0},
            'constants': {f'{POINT}.time_from_start': 0.25},
            'at_stop': 'cancel',
        }
    ],
    'limits': {
        f'to_{name}': {
            **{'low': -1.0, 'high': 1.0, 'rate': 1.0, 'stop': 'hold'},
            **{'measured': name, 'tracking_error': 0.2},
        }
        for name in ('pan', 'lift')
    },
}


@pytest.fixture
def control_msgs(monkeypatch):
    package, actions = types.ModuleType('control_msgs'), types.ModuleType('control_msgs.action')
    actions.FollowJointTrajectory = types.SimpleNamespace(Goal=Goal)
    monkeypatch.setitem(sys.modules, 'control_msgs', package)
    monkeypatch.setitem(sys.modules, 'control_msgs.action', actions)


def test_the_goal_of_a_trajectory_has_its_joints_by_name_and_its_duration(control_msgs, tmp_path):
    (tmp_path / 'arm.yaml').write_text(yaml.safe_dump(TRAJECTORY, sort_keys=False))
    (entry,) = load_robot(str(tmp_path / 'arm.yaml')).command
    trajectory = TopicCodec(entry).encode(Goal(), [0.5, -0.5]).trajectory
    assert list(trajectory.joint_names) == ['pan', 'lift']
    (point,) = trajectory.points
    assert list(point.positions) == [0.5, -0.25]
    assert (point.time_from_start.sec, point.time_from_start.nanosec) == (0, 250_000_000)


def test_a_wrong_path_of_a_trajectory_names_what_the_goal_has(control_msgs, tmp_path):
    text = yaml.safe_dump(TRAJECTORY, sort_keys=False).replace('positions[lift]', 'position[lift]')
    (tmp_path / 'arm.yaml').write_text(text)
    with pytest.raises(ConfigError, match=r"JointTrajectoryPoint has no 'position'.* positions"):
        load_robot(str(tmp_path / 'arm.yaml'))


# --- bags ------------------------------------------------------------------------------------


def test_a_bag_without_the_executed_commands_of_an_action_says_what_to_record(tmp_path):
    command = {
        'action': 'drive',
        'type': ACTION,
        'fields': {'v': 'nested_field.float64_value'},
    }
    task = rover(command=[command])
    source = write_bag(tmp_path / 'theirs', drive())
    refused(source, tmp_path, "action 'drive' of robot 'rover'", 'safety_gate/executed', task=task)
    rows = [
        (log, '/safety_gate/executed', joint_state(log, [message.twist.linear.x], ['v']))
        if topic == '/cmd_vel'
        else (log, topic, message)
        for log, topic, message in drive()
    ]
    (tmp_path / 'two').mkdir()
    check_drive(imported(write_bag(tmp_path / 'ours', rows), tmp_path / 'two', task), task)


# --- any order of commands and faults --------------------------------------------------------


class Caller(robot_requests.Requester):
    """Requests of a service that the test plays, on a clock of its own."""

    def __init__(self, **more):
        kind = {'service': 's', 'type': 'std_srvs/srv/SetBool', 'fields': {'on': 'data'}}
        entry = ServiceCommand.model_validate({**kind, **more})
        node = types.SimpleNamespace(may_log=lambda _: False)
        super().__init__(node, entry, TopicCodec(entry), holds=False)
        self.now, self.sent, self.alive, self.lives, self.open = 100.0, [], True, 1, None

    def request(self, message):
        if self.open is not None:  # the last one was not answered: its server died, or took long
            lives, at = self.open
            assert lives != self.lives or self.now - at > 2.0
        self.sent.append((message.data, self.lives))
        self.open = self.lives, self.now
        return Future()

    def server_is_there(self):
        return self.alive

    def servers(self):
        return frozenset([bytes([self.lives])])

    def answer(self, success):
        """Answer the request that is out, if there is one and its server still lives."""
        if self._pending is None or self.open[0] != self.lives or not self.alive:
            return
        self._pending = self.open = None
        self.fault = ''
        if not success:
            self.fail('answered success: false')

    def happen(self, event):
        """One event, and the control step after it."""
        if event in ('right', 'wrong'):
            self.answer(event == 'right')
        elif event == 'dies':
            self.alive = False
        elif event == 'starts':  # maybe before anybody noticed that the one before had died
            self.alive, self.lives = True, self.lives + 1
        self.now += 2.5 if event == 'long' else 0.05


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(['on', 'off', 'long', 'right', 'wrong', 'dies', 'starts']), max_size=60
    )
)
def test_whatever_happens_one_request_is_out_and_in_the_end_the_server_knows(events):
    """Commands, answers, failures, deaths and successors of the server, in any order."""
    with pytest.MonkeyPatch.context() as patch:
        caller, wanted = Caller(), 0.0
        patch.setattr(robot_requests, 'time', types.SimpleNamespace(monotonic=lambda: caller.now))
        for event in [*events, 'starts']:
            wanted = {'on': 1.0, 'off': 0.0}.get(event, wanted)
            caller.happen(event)
            caller.command(np.array([wanted]), stop=False)
        for _ in range(80):  # from now on it answers
            caller.happen('right')
            caller.poll()
        assert caller.sent[-1] == (wanted == 1.0, caller.lives)
        assert caller.fault == '' and caller.open is None
        settled = len(caller.sent)
        for _ in range(80):
            caller.happen('right')
            caller.command(np.array([wanted]), stop=False)
        assert len(caller.sent) == settled


def test_a_stop_counts_on_no_request_that_was_under_way(monkeypatch):
    """The same was requested just before, and its answer is a failure that nobody hears."""
    caller = Caller()
    monkeypatch.setattr(robot_requests, 'time', types.SimpleNamespace(monotonic=lambda: caller.now))
    for value in (1.0, 0.0):
        caller.command(np.array([value]), stop=False)
        caller.happen('wait')
        if value:
            caller.answer(True)
        caller.now += 0.2
        caller.command(np.array([value]), stop=False)
    caller.open = None  # the test does not answer any more
    under_way = len(caller.sent)
    caller.command(np.array([0.0]), stop=True)
    assert caller.sent[under_way:] == [(False, 1)]


def test_a_stop_is_sent_however_small_the_change(monkeypatch):
    caller = Caller(tolerance={'on': 5.0})
    monkeypatch.setattr(robot_requests, 'time', types.SimpleNamespace(monotonic=lambda: caller.now))
    caller.command(np.array([1.0]), stop=False)
    caller.answer(True)
    caller.now += 1.0
    caller.command(np.array([0.0]), stop=False)
    assert caller.sent == [(True, 1)]  # within the tolerance
    caller.command(np.array([0.0]), stop=True)
    assert caller.sent == [(True, 1), (False, 1)]
