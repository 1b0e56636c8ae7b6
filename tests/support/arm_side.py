"""An arm that is commanded by velocity, in the hardware graph: is fuzzed, and judged by records.

The judgement is independent of the safety gate's arithmetic and sees only what a robot sees: the
commands that arrived at it, and what its joints then did.
"""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState

from mbarl_ros.bringup import graphs
from mbarl_ros.nodes.support.qos import STATES
from mbarl_ros.schema import topics
from mbarl_ros.schema.load import find
from mbarl_ros.schema.message_fields import TopicCodec, message_class, stamp_ns
from mbarl_ros.schema.robot import TopicMap
from mbarl_ros.task import Task
from mbarl_sim.panda import JOINT_ACCELERATION, JOINT_LIMITS, JOINT_SPEED
from support.graph import Graph, demonstrate, small_agent
from support.hostile_source import HostileSource

Records = Sequence[tuple[float, Mapping[str, float]]]  # time (s) and named values, in order

JITTER = 0.002  # s: when a message was sent is on it
# rad or m beyond a bound: the drives are not rigid. At a stop of all joints the arm gives way by up
# to 0.012 rad; its own limits are 0.1 rad from the workspace of the profile.
GIVE = 0.02
TRACKING = 0.05  # of the largest velocity: error of the drives
LONGEST = 60  # commands of one kind in a run
PAUSES = (0.01, 0.03, 0.1, 0.1)  # s between bursts


@dataclass
class Judgement:
    """What happened at the robot's side.

    ``violations`` by what was violated. ``moved`` (rad, or m for a hand) is the range of each entry
    that a command moves; ``beyond`` the farthest beyond its bounds; ``speed`` the largest share of
    its limit. ``acceleration`` is the largest change of a measured velocity in a control period, as
    a share of the profile's rate, which limits it for the time between two commands, and
    ``data_sheet`` as a share of Franka's limit, which holds for any time.
    """

    violations: Counter[str] = field(default_factory=Counter)
    commands: int = 0
    stops: int = 0
    reports: int = 0
    moved: dict[str, float] = field(default_factory=dict)
    beyond: float = 0.0
    speed: float = 0.0
    acceleration: float = 0.0
    data_sheet: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As the results file has it."""
        return json.loads(json.dumps(vars(self)), parse_float=lambda text: round(float(text), 3))


class ArmJudge:
    """Judges records by the limits of a profile, read from its YAML."""

    def __init__(self, profile: Mapping[str, Any], commands: Records, states: Records) -> None:
        """``commands`` and ``states``: messages of the robot's topics, with the names inside."""
        self._limits, self._box = profile['limits'], profile['workspace']
        self._period = 1.0 / profile['control_rate']
        self._horizon = profile['command_timeout']
        self._paths = {n: p for topic in profile['state'] for n, p in topic['fields'].items()}
        self._commands, self._states = sorted(commands, key=_time), sorted(states, key=_time)
        self.result = Judgement(commands=len(commands))

    def judge(self) -> Judgement:
        """Check everything."""
        for name, limit in self._limits.items():
            times, values = _series(self._commands, name)
            if not len(values):
                continue
            stops = self._stops(name)
            self._check_commands(name, limit, times, values, stops)
            if 'moves' in limit:
                self.result.stops = int(stops.sum())
                self._check_motion(limit, times, values, stops)
        self._check_data_sheet()
        return self.result

    def _count(self, what: str, wrong: np.ndarray) -> None:
        if number := int(np.sum(wrong)):
            self.result.violations[what] += number

    def _stops(self, name: str) -> np.ndarray:
        """Whether each message that holds ``name`` stops all velocities."""
        return np.array(
            [
                not any(value for entry, value in values.items() if 'moves' in self._limits[entry])
                for _, values in self._commands
                if name in values
            ]
        )

    def _granted(self, times: np.ndarray) -> np.ndarray:
        """Seconds from each command to the next that count for its rate."""
        return np.minimum(np.diff(times), 2 * self._period)

    def _check_commands(
        self,
        name: str,
        limit: Mapping[str, Any],
        times: np.ndarray,
        values: np.ndarray,
        stops: np.ndarray,
    ) -> None:
        self._count('not finite', ~np.isfinite(values))
        self._count('range', (values < limit['low'] - 1e-9) | (values > limit['high'] + 1e-9))
        allowed = limit['rate'] * (self._granted(times) + JITTER)
        free = stops[1:] if limit['stop'] != 'hold' else False  # a stop is abrupt
        with np.errstate(over='ignore', invalid='ignore'):
            self._count('rate', (np.abs(np.diff(values)) > allowed + 1e-9) & ~free)
        if 'moves' in limit:
            at, position = _series(self._states, limit['moves'])
            before = np.maximum(np.searchsorted(at, times) - 1, 0)
            ahead = position[before] + values * self._horizon
            slack = GIVE + limit['high'] * self._period  # it moves until the next report
            low, high = self._box[limit['moves']]
            outwards = (values < 0) & (ahead < low - slack) | (values > 0) & (ahead > high + slack)
            self._count('too fast at a bound', outwards & (times > at[0]))

    def _check_motion(
        self, limit: Mapping[str, Any], times: np.ndarray, values: np.ndarray, stops: np.ndarray
    ) -> None:
        name, result = limit['moves'], self.result
        at, position = _series(self._states, name)
        low, high = self._box[name]
        beyond = np.maximum(low - position, position - high)
        self._count('position', beyond > GIVE)
        result.reports, result.moved[name] = len(at), np.ptp(position)
        result.beyond = max(result.beyond, beyond.max())
        joint = self._paths[name].partition('[')[2]
        velocity = next((n for n, p in self._paths.items() if p == f'velocity[{joint}'), None)
        if velocity is None:
            return
        speed, largest = _series(self._states, velocity)[1], limit['high']
        tolerance = TRACKING * largest
        self._count('speed', np.abs(speed) > largest + tolerance)
        # From a command in force in the period before one report to the last before the next; the
        # period is longer where the host held up the robot.
        granted = np.concatenate([[0.0], np.cumsum(self._granted(times))])
        since = np.minimum(at - self._period, np.roll(at, 1))[:-1]
        first = np.maximum(np.searchsorted(times, since, 'right') - 1, 0)
        last = np.maximum(np.searchsorted(times, at[1:], 'right') - 1, 0)
        allowed = limit['rate'] * (granted[last] - granted[first]) + tolerance
        stopped = np.concatenate([[0], np.cumsum(stops)])
        through_zero = stopped[last + 1] > stopped[first]
        before, after = speed[:-1], speed[1:]
        lowest = np.where(through_zero, np.minimum(before, 0), before) - allowed
        highest = np.where(through_zero, np.maximum(before, 0), before) + allowed
        self._count('acceleration', (after < lowest) | (after > highest))
        change = np.abs(after - before).max() / self._period
        result.speed = max(result.speed, np.abs(speed).max() / largest)
        result.acceleration = max(result.acceleration, change / limit['rate'])

    def _check_data_sheet(self) -> None:
        joints, low, high = self._joints('joint'), *JOINT_LIMITS
        self._count('data sheet: position', (joints < low) | (joints > high))
        speed = np.abs(np.diff(joints, axis=0)) / self._period
        self._count('data sheet: speed', speed > 1.02 * JOINT_SPEED)
        if 'velocity1' in self._paths:
            change = np.abs(np.diff(self._joints('velocity'), axis=0))
            share = change / self._period / JOINT_ACCELERATION
            self._count('data sheet: acceleration', share > 1.02)
            self.result.data_sheet = share.max()

    def _joints(self, what: str) -> np.ndarray:
        """Values [N, 7] of all joints."""
        return np.stack([_series(self._states, f'{what}{i}')[1] for i in range(1, 8)], axis=1)


def _time(record: tuple[float, Mapping[str, float]]) -> float:
    return record[0]


def _series(records: Records, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Times and values [N] of an entry."""
    found = [(time, values[name]) for time, values in records if name in values]
    times, values = np.array(found, float).reshape(-1, 2).T
    return times, values


# --- the graph -------------------------------------------------------------------------------


class FuzzedArm:
    """The hardware graph with a simulated Panda as the robot, and a hostile source of commands."""

    def __init__(self, folder: Path, task: str, seed: int = 0, *, gate: bool = True) -> None:
        """``task``: a shipped one; ``gate``: False: commands go to the robot as they are."""
        config = yaml.safe_load(find('tasks', task).read_text())
        self._profile = yaml.safe_load(find('robots', config['robot']).read_text())
        if config['robot'] == 'panda_velocity':  # its task has walls, which would move joints, too
            config |= {'name': 'free_arm', 'world': 'support.free_arm:FreeArm'}
            task = str(folder / 'task.yaml')
            Path(task).write_text(yaml.safe_dump(config))
        self._robot = Task.load(task).robot
        self._seed, self._gate = seed, gate
        self._commands: list[tuple[float, dict[str, float]]] = []
        self._states: list[tuple[float, dict[str, float]]] = []
        self.counts: dict[str, int] = {}  # what became of the commands, by the gate's diagnostics
        demonstrate(Task.load(task), folder / 'demos' / '0000')
        words = {'task': task, 'agent': small_agent(folder, backward='none', model=None)}
        self._plan = graphs.plan('hardware', {**words, 'demos': str(folder / 'demos')})
        self._graph = Graph(folder, **words, mode='realtime')

    def run(self, commands: int) -> Judgement:
        """Fuzz with so many commands, and judge."""
        with self._graph as graph:
            source = HostileSource(graph.node, self._robot, self._seed, LONGEST)
            for topic in self._robot.command:
                self._record(topic, self._commands, QoSProfile(depth=1000))
            for topic in self._robot.state:
                self._record(topic, self._states, STATES)
            graph.start('robot_sim', publish_clock=False)
            if self._gate:
                for spec in self._plan.nodes:
                    if spec.name != 'monitor':
                        graph.start(spec.name, **{**spec.parameters, **graph.parameters})
                graph.wait_for('gate', lambda: 'safety_gate' in graph.statuses)
            else:
                self._pass_commands_on()
            graph.wait_for('robot', lambda: len(self._states) > 50)
            self._fuzz(source, commands)
            graph.spin(1.5)
            assert all(p.poll() is None for p in graph.processes.values()), graph.logs()
            status = graph.statuses.get('safety_gate', {})
            self.counts = {
                k: int(v) for k, v in status.items() if k.startswith(('policy', 'teleo'))
            }
        return ArmJudge(self._profile, self._commands, self._states).judge()

    def _fuzz(self, source: HostileSource, commands: int) -> None:
        graph, chance = self._graph, source.chance
        while source.sent < commands:
            source.burst()
            graph.spin(chance.choice(PAUSES))
            if chance.random() < 0.01:  # somebody takes over for a moment
                for _ in range(20):
                    source.take_over()
                    graph.spin(0.02)
            if chance.random() < 0.005:
                graph.spin(0.5)  # silence

    def _record(self, topic: TopicMap, records: list[Any], qos: QoSProfile) -> None:
        codec, kind = TopicCodec(topic), message_class(topic.type, importlib.import_module)

        def receive(message: Any, info: dict[str, int]) -> None:
            sent = stamp_ns(message) if records is self._states else info['source_timestamp']
            values = dict(zip(codec.names, codec.decode(message), strict=True))
            records.append((sent * 1e-9, values))

        self._graph.node.create_subscription(kind, topic.topic, receive, qos)

    def _pass_commands_on(self) -> None:
        """Be a gate that checks nothing but the number of values."""
        node, outlets = self._graph.node, []
        for topic in self._robot.command:
            kind = message_class(topic.type, importlib.import_module)
            outlets.append((TopicCodec(topic), kind, node.create_publisher(kind, topic.topic, 10)))

        def pass_on(message: JointState) -> None:
            values = iter(message.position)
            if len(message.position) != len(self._robot.command_names):
                return
            for codec, kind, publisher in outlets:
                publisher.publish(codec.encode(kind(), [next(values) for _ in codec.names]))

        node.create_subscription(JointState, topics.COMMAND, pass_on, 10)
