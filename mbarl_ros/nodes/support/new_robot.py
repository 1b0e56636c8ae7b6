"""Decides which topics a new profile has, from what a robot publishes; asks what is left open."""

from __future__ import annotations

import re

from mbarl_ros.nodes.support.profile_plan import (
    KINDS,
    POSITION,
    VELOCITY,
    Moved,
    Plan,
    Topic,
    Wishes,
    parse_joints,
)
from mbarl_ros.nodes.support.robot_discovery import (
    JOINT_STATE,
    NUMBERS,
    ODOMETRY,
    POSE,
    TRAJECTORY,
    TWIST,
    TWIST_STAMPED,
    Controller,
    Heard,
    Surroundings,
)
from mbarl_ros.schema.base import ConfigError
from mbarl_ros.schema.urdf import Joint

_RATES = (20.0, 15.0, 10.0, 8.0, 5.0, 4.0, 2.0, 1.0)  # Hz
_JITTER = 1.05  # a rate is measured in a few seconds, through the jitter of the network
_SAME = 0.1  # rad or m by which two messages of one joint may differ
_TWO_TURNS = 13.0  # rad
_NO_NAME = re.compile(r'[\[\]]|^#\d+$|^$')  # in a path, as in position[NAME]
_GRIPPER = re.compile(r'gripper|finger|hand|jaw|knuckle|claw', re.IGNORECASE)
_POSE_WORDS = re.compile(r'([_/]*(pose|broadcaster|stamped))+$')
_BASE_FIELDS = {
    'x': 'pose.pose.position.x',
    'y': 'pose.pose.position.y',
    'turn_z': 'pose.pose.orientation.z',
    'turn_w': 'pose.pose.orientation.w',
    'speed': 'twist.twist.linear.x',
    'turning': 'twist.twist.angular.z',
}


def plan(found: Surroundings, wishes: Wishes) -> Plan:
    """Plan the profile of a robot.

    :raises ConfigError: nothing to command or to observe; a question that cannot be asked.
    """
    return _Planner(found, wishes).plan()


class _Planner:
    def __init__(self, found: Surroundings, wishes: Wishes) -> None:
        self._found, self._wishes = found, wishes
        self._state: list[Topic] = []
        self._command: list[Topic] = []
        self._moved: list[Moved] = []
        self._values: dict[str, float] = {}
        self._entries: dict[str, str] = {}  # joint -> state entry
        self._used: list[Heard] = []
        description = found.description
        self._limits = description.joints if description else {}

    def plan(self) -> Plan:
        _refuse_unknown(self._wishes, self._found)
        controllers = self._controllers()
        self._observe(controllers)
        for controller in controllers:
            self._command_by(controller)
        slowest = min(self._used, key=lambda heard: heard.rate)
        fits = [rate for rate in _RATES if rate <= slowest.rate * _JITTER]
        unused = [
            f'{each.topic} ({each.type})'
            for each in (*self._found.states, *self._found.commands)
            if each.topic not in {topic.topic for topic in (*self._state, *self._command)}
        ]
        return Plan(
            fits[0] if fits else _RATES[-1],
            slowest.topic,
            slowest.rate,
            self._state,
            self._command,
            self._moved,
            self._values,
            sorted({*unused, *self._found.unused}),
        )

    # --- topics of commands -----------------------------------------------------------------

    def _controllers(self) -> list[Controller]:
        """The topics to command the robot on, none of which moves the same part as another."""
        wanted = self._wishes.topics
        free = [each for each in self._found.commands if not wanted or each.topic in wanted]
        grippers = [each for each in free if self._is_gripper(each)]
        bases = [each for each in free if self._is_base(each)]
        arms = [each for each in free if each not in grippers and each not in bases]
        chosen = [*self._one(bases, 'base'), *self._one(arms, 'arm'), *grippers]
        if not chosen:
            taken = [f'{topic} is published by {by}' for topic, by in self._found.taken.items()]
            raise ConfigError(
                'no topic takes commands: start the controller or driver, look with `ros2 topic '
                'list -t`, or give --namespace, --domain'
                + (f'; {"; ".join(taken)}: stop that, it commands the robot' if taken else '')
            )
        return chosen

    def _one(self, controllers: list[Controller], part: str) -> list[Controller]:
        if len(controllers) < 2 or self._wishes.topics:
            return controllers
        names = [each.topic for each in controllers]
        question = f'several topics move the {part}: {", ".join(names)}; which is active?'
        answer = self._wishes.ask(question, names, '--topics with all topics to use')
        return [each for each in controllers if each.topic == answer]

    def _is_gripper(self, controller: Controller) -> bool:
        joints = self._joints_told(controller)
        if controller.type != NUMBERS or len(joints) > 1:
            return False
        return any(_GRIPPER.search(name) for name in (controller.topic, *joints))

    def _joints_told(self, controller: Controller) -> tuple[str, ...]:
        """Joints of a controller, as the user or its parameters say; empty: they do not."""
        return self._wishes.joints.get(controller.topic, ('', controller.joints))[1]

    def _is_base(self, controller: Controller) -> bool:
        """Whether a twist is that of a base: MoveIt Servo calls its own delta_twist_cmds."""
        if controller.type not in (TWIST, TWIST_STAMPED) or 'delta_twist' in controller.topic:
            return False
        return any(heard.type == ODOMETRY for heard in self._found.states)

    # --- topics of the state ----------------------------------------------------------------

    def _observe(self, controllers: list[Controller]) -> None:
        wanted = self._wishes.topics
        heard = [each for each in self._found.states if not wanted or each.topic in wanted]
        base = any(map(self._is_base, controllers))
        arm = not all(map(self._is_base, controllers))
        odometry = [each for each in heard if each.type == ODOMETRY]
        if base and len(odometry) > 1 and not wanted:
            names = [each.topic for each in odometry]
            question = f'several topics are odometry: {", ".join(names)}; which to use?'
            answer = self._wishes.ask(question, names, '--topics with all topics to use')
            odometry = [each for each in odometry if each.topic == answer]
        if base and not odometry:
            raise ConfigError('--topics: name the odometry of the base, too')
        if base:
            self._add_odometry(odometry[0])
        if arm:
            for each in _without_copies([each for each in heard if each.type == JOINT_STATE]):
                self._add_joints(each, controllers)
        for each in heard:
            if each.type == POSE and (arm or wanted):
                self._add_pose(each)
        if not self._state:
            raise ConfigError(
                'no topic says where the robot is: JointState, Odometry or PoseStamped, at least '
                'twice in the time; start its driver, or listen for longer (--seconds)'
            )

    def _add_odometry(self, heard: Heard) -> None:
        self._used.append(heard)
        self._state.append(Topic(heard.topic, heard.type, _BASE_FIELDS, _frame(heard)))
        self._values |= {
            name: heard.values[path] for name, path in _BASE_FIELDS.items() if path in heard.values
        }

    def _add_pose(self, heard: Heard) -> None:
        self._used.append(heard)
        words = _POSE_WORDS.sub('', heard.topic) or heard.topic
        stem = self._unique(words, '_x').removesuffix('_x')
        fields = {f'{stem}_{axis}': f'pose.position.{axis}' for axis in 'xyz'}
        self._state.append(Topic(heard.topic, heard.type, fields, _frame(heard), 'm'))
        self._values |= {name: heard.values.get(path, 0.0) for name, path in fields.items()}

    def _add_joints(self, heard: Heard, controllers: list[Controller]) -> None:
        """All joints of a topic, those that are commanded first, in the order of the commands."""
        self._used.append(heard)
        ordered = [joint for each in controllers for joint in self._joints_told(each)]
        topic = Topic(heard.topic, heard.type, {}, comment='in the unit of the joint: rad or m')
        ordered = [joint for joint in ordered if joint in heard.positions]
        for joint in dict.fromkeys([*ordered, *heard.positions]):
            if joint in self._entries:  # another topic has it, too
                continue
            if _NO_NAME.search(joint):
                topic.todos.append(f"no path can name joint '{joint}'; rename it in the driver")
                continue
            name = self._unique(joint)
            self._entries[joint] = name
            topic.fields[name] = f'position[{joint}]'
            topic.factors |= self._factor(name, joint)
            self._values[name] = heard.positions[joint] * topic.factors.get(name, 1.0)
        topic.todos += self._questions_of_units(heard)
        self._state.append(topic)

    def _questions_of_units(self, heard: Heard) -> list[str]:
        """Whether joints may be in another unit than rad or m."""
        if self._wishes.degrees:
            return ['converted from degrees, the gripper is not: in which unit is that?']
        odd = [
            joint
            for joint, value in heard.positions.items()
            if joint.endswith('.pos') or self._is_far_out(joint, value)
        ]
        if not odd:
            return []
        return [f'{", ".join(odd)}: look like degrees or percent, not rad; if so, use --degrees']

    def _is_far_out(self, joint: str, value: float) -> bool:
        """Whether a position is beyond the limits of the joint, or beyond two turns."""
        limits = self._limits.get(joint, Joint(linear=False))
        low = -_TWO_TURNS if limits.low is None else limits.low
        high = _TWO_TURNS if limits.high is None else limits.high
        return not low - _SAME <= value <= high + _SAME

    def _factor(self, name: str, joint: str) -> dict[str, float]:
        limits = self._limits.get(joint)
        turns = limits is None or not limits.linear
        in_degrees = self._wishes.degrees and turns and not _GRIPPER.search(joint)
        return {name: 0.0174533} if in_degrees else {}

    def _unique(self, text: str, suffix: str = '') -> str:
        """Name of an entry, which no other has."""
        name = re.sub(r'\W+', '_', text).strip('_')
        name = f'joint_{name}' if name[:1].isdigit() else name
        taken = {entry for topic in self._state for entry in topic.fields} | set(self._values)
        number, unique = 2, name + suffix
        while unique in taken:
            number, unique = number + 1, f'{name}_{number}{suffix}'
        return unique

    # --- entries of commands ----------------------------------------------------------------

    def _command_by(self, controller: Controller) -> None:
        if controller.type not in (TWIST, TWIST_STAMPED):
            self._command_joints(controller)
        elif self._is_base(controller):
            self._command_base(controller)
        else:
            self._command_tip(controller)

    def _command_base(self, controller: Controller) -> None:
        owner = 'twist.' if controller.type == TWIST_STAMPED else ''
        fields = {'speed': f'{owner}linear.x', 'turning': f'{owner}angular.z'}
        topic = Topic(controller.topic, controller.type, fields, comment='m/s, rad/s')
        if controller.type == TWIST_STAMPED:
            frames = [each.child_frame for each in self._used if each.child_frame]
            topic.constants = {'header.frame_id': frames[0] if frames else 'base_link'}
        topic.todos.append('a base that drives sideways has linear.y, too: add it, with limits')
        self._command.append(topic)
        self._moved += [Moved(name, path, VELOCITY) for name, path in fields.items()]

    def _command_tip(self, controller: Controller) -> None:
        poses = [topic for topic in self._state if topic.type == POSE]
        frame, source = self._twist_frame(poses)
        stem = next(iter(poses[0].fields)).removesuffix('_x') if len(poses) == 1 else 'tip'
        known = len(poses) == 1 and poses[0].constants.get('header.frame_id') == frame
        owner = 'twist.' if controller.type == TWIST_STAMPED else ''
        topic = Topic(controller.topic, controller.type, {}, comment=f'm/s; {source}')
        for axis in 'xyz':
            name, state = f'{stem}_v{axis}', f'{stem}_{axis}' if known else ''
            topic.fields[name] = f'{owner}linear.{axis}'
            present = self._values.get(state)
            moved = Moved(
                name, topic.fields[name], VELOCITY, '', state, present, Joint(linear=True)
            )
            self._moved.append(moved)
        if owner:
            topic.constants = {'header.frame_id': frame}
        topic.todos.append(
            f'is {poses[0].topic} the pose of the point that this moves? If not, remove moves: '
            'and workspace:'
            if known
            else 'no one pose is known to be moved by this: name it in moves: and add workspace:'
        )
        self._command.append(topic)

    def _twist_frame(self, poses: list[Topic]) -> tuple[str, str]:
        """Frame of a twist, and where it is from."""
        if self._wishes.frame:
            return self._wishes.frame, 'frame as given'
        frames = {str(topic.constants.get('header.frame_id', '')) for topic in poses} - {''}
        if len(frames) == 1:
            return frames.pop(), 'in the frame of the poses'
        if self._found.description and self._found.description.root:
            return self._found.description.root, 'in the root link of robot_description'
        question = 'in which frame are velocities of the tip, such as base_link?'
        return self._wishes.ask(question, sorted(frames), '--frame base_link'), 'frame as given'

    def _command_joints(self, controller: Controller) -> None:
        kind, joints, source = self._joints(controller)
        topic = Topic(controller.topic, controller.type, {}, comment=source)
        if controller.joints:
            topic.todos.append(f'is {controller.node} active? See `ros2 control list_controllers`')
        if kind not in KINDS:
            topic.todos.append(
                f'no parameter says so, but by its name {controller.topic} takes '
                f'{_kind_by_name(controller.topic)}'
            )
            kind = _kind_by_name(controller.topic)
        for number, joint in enumerate(joints):
            moved = self._moved_by(controller, kind, joint, number)
            topic.fields[moved.name] = moved.path
            topic.factors |= self._factor(moved.name, joint)
            self._moved.append(moved)
        if controller.type == TRAJECTORY:
            topic.constants = {'header.stamp': 0.0, 'points[0].time_from_start': 0.1}
        self._command.append(topic)

    def _moved_by(self, controller: Controller, kind: str, joint: str, number: int) -> Moved:
        state = self._entries.get(joint, '')
        paths = {NUMBERS: f'data[{number}]', JOINT_STATE: f'position[{joint}]'}
        path = paths.get(controller.type, f'points[0].positions[{joint}]')
        name = state or re.sub(r'\W+', '_', joint)
        gripper = self._is_gripper(controller) and kind == POSITION
        return Moved(
            name if kind == POSITION else f'{name}_velocity',
            path,
            kind,
            joint,
            state,
            self._values.get(state),
            self._limits.get(joint),
            gripper,
        )

    def _joints(self, controller: Controller) -> tuple[str, tuple[str, ...], str]:
        """Kind (empty: unknown) and joints of a controller, and how that is known."""
        if controller.topic in self._wishes.joints:
            kind, joints = self._wishes.joints[controller.topic]
            return kind, self._known(controller, joints), 'joints as given'
        if controller.type == JOINT_STATE:
            return POSITION, tuple(self._entries), 'all joints that the robot publishes'
        if controller.joints:
            kind = POSITION if controller.type == TRAJECTORY else controller.interface
            source = f'joints of {controller.node}, in its order'
            if not kind:
                kind = '' if _kind_by_name(controller.topic) else self._ask_kind(controller)
            if kind and kind not in KINDS:
                raise ConfigError(
                    f'{controller.topic}: {controller.node} takes {kind}, not positions or '
                    'velocities; activate another controller, and choose with --topics'
                )
            return kind, self._known(controller, controller.joints), source
        names = ', '.join(self._entries)
        question = (
            f'{controller.topic}: {controller.node} does not tell which joints it moves, in which '
            f'order, and by what; the robot has {names or "none"}. Answer as velocity:joint1,joint2'
        )
        option = f'--joints {controller.topic}:=velocity:JOINT,JOINT (or position:...)'
        _, kind, joints = parse_joints(
            f'{controller.topic}:={self._wishes.ask(question, (), option)}'
        )
        return kind, self._known(controller, joints), 'joints as given'

    def _ask_kind(self, controller: Controller) -> str:
        option = f'--joints {controller.topic}:=velocity:{",".join(controller.joints)}'
        return self._wishes.ask(f'{controller.topic}: what does it take?', KINDS, option)

    def _known(self, controller: Controller, joints: tuple[str, ...]) -> tuple[str, ...]:
        """The joints; refuses those without a measurement, which only a gripper may lack."""
        missing = [joint for joint in joints if joint not in self._entries]
        if missing and not self._is_gripper(controller):
            raise ConfigError(
                f'{controller.topic}: no message has the position of {", ".join(missing)}; the '
                f'robot publishes {", ".join(self._entries) or "no joints"}'
            )
        return joints


def _kind_by_name(topic: str) -> str:
    return next((kind for kind in KINDS if kind in topic), '')


def _frame(heard: Heard) -> dict[str, str | float]:
    return {'header.frame_id': heard.frame} if heard.frame else {}


def _without_copies(heard: list[Heard]) -> list[Heard]:
    """Without topics whose joints are all in another: parts that a node merges into one topic."""
    kept: list[Heard] = []
    known: dict[str, tuple[float, str]] = {}
    for each in sorted(heard, key=lambda each: (-len(each.positions), len(each.topic))):
        for joint, value in each.positions.items():
            other, topic = known.get(joint, (value, ''))
            if abs(other - value) > _SAME:
                raise ConfigError(
                    f'{topic} and {each.topic} have different positions of joint {joint}: of two '
                    'robots, or in two units; choose with --namespace or --topics'
                )
        if not each.positions.keys() <= known.keys():
            kept.append(each)
            known |= {name: (value, each.topic) for name, value in each.positions.items()}
    return kept


def _refuse_unknown(wishes: Wishes, found: Surroundings) -> None:
    """Refuse topics of options that the robot does not have."""
    known = {each.topic for each in (*found.states, *found.commands)}
    for topic in (*wishes.topics, *wishes.joints):
        if topic in found.taken:
            raise ConfigError(f'{topic}: {found.taken[topic]} publishes it and commands the robot')
        if topic not in known:
            raise ConfigError(
                f"'{topic}': nobody publishes states or takes commands there that can be used; "
                f'there are {", ".join(sorted(known)) or "no topics"}'
            )
