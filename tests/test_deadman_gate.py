"""Dead-man switches on all controls of the common gamepads, at the running gate over DDS."""

import random
import re

import pytest
import yaml
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Float64, Float64MultiArray

from mbarl_ros.nodes.support.qos import SENSOR
from mbarl_ros.schema.switches import JOY
from support.graph import Graph
from support.pads import PADS

pytestmark = pytest.mark.paced

SEQUENCES, STEPS = 10_000, 5
LAYOUTS = list({(pad.axes, pad.buttons): pad for pad in PADS}.values())  # several pads share one
ROUNDS = -(-SEQUENCES // sum(len(pad.controls) for pad in LAYOUTS))  # sequences of each control
PERIOD = 0.01  # s between two steps, in each of which each pad publishes once


def profile(pad):
    """A robot with one velocity, and one topic for each control of the pad as dead-man switch."""
    return {
        'name': 'one_joint',
        'control_rate': 20.0,
        'state': [{'topic': 'where', 'type': 'std_msgs/msg/Float64', 'fields': {'x': 'data'}}],
        'command': [
            {
                'topic': 'speed',
                'type': 'std_msgs/msg/Float64MultiArray',
                'fields': {'v': 'data[0]'},
            }
        ],
        'teleop': [
            {
                'topic': f'joy{number}',
                'type': JOY,
                # the stick that a person may move as they like, unless it is the switch itself
                'fields': {'v': 'axes[1]' if control.path != 'axes[1]' else 'axes[0]'},
                'deadman': control.deadman,
            }
            for number, control in enumerate(pad.controls)
        ],
        'limits': {'v': {'low': -1.0, 'high': 1.0, 'stop': 0.0}},
    }


TASK = {
    'name': 'idle',
    'robot': 'robot.yaml',
    'observation': [{'name': 'x', 'low': -1, 'high': 1}],
    'action': [{'name': 'v', 'low': -1, 'high': 1}],
    'success': {'entries': ['x'], 'target': [0.5], 'tolerance': 0.1},
    'phases': {'forward_limit': 10, 'backward_limit': 10},
    'evaluation': {'horizon': 10, 'every': 10, 'budget': 10},
}


class Bench:
    """A gate and, for each control of a pad, a pad of which that control is the switch."""

    def __init__(self, graph, pad, seed):
        self.graph, self.pad, self.rng = graph, pad, random.Random(seed)
        node = graph.node
        self.joys = [
            node.create_publisher(Joy, f'joy{number}', 10) for number in range(len(pad.controls))
        ]
        where = node.create_publisher(Float64, 'where', 10)
        node.create_timer(0.02, lambda: where.publish(Float64()))
        self.speeds, self.sources = [], set()
        node.create_subscription(
            Float64MultiArray, 'speed', lambda m: self.speeds.append(m.data[0]), 100
        )
        node.create_subscription(
            JointState,
            'safety_gate/executed',
            lambda m: self.sources.add(m.header.frame_id),
            SENSOR,
        )

    def message(self, control, value, fault=False):
        """All other controls anywhere; a fault: an axis too few, none at all, or no number."""
        rng, index = self.rng, int(re.search(r'\d+', control.path)[0])
        message = Joy(
            axes=[rng.uniform(-1, 1) for _ in self.pad.axes],
            buttons=[rng.randrange(2) for _ in range(self.pad.buttons)],
        )
        if control.path.startswith('axes'):
            message.axes[index] = value
        else:
            message.buttons[index] = round(value)
        if fault:
            del message.axes[rng.choice([0, 1]) :]
            del message.buttons[:]
        return message

    def play(self, value):
        """A sequence on each topic; ``value`` of control and step; None: a fault."""
        for step in range(STEPS):
            for joy, control in zip(self.joys, self.pad.controls, strict=True):
                now = value(control, step)
                joy.publish(self.message(control, now or 0.0, fault=now is None))
            self.graph.spin(PERIOD)

    def start_joy_node(self):
        """As joy_node does with buttons that are held: 0, and 1 at once."""
        for joy, control in zip(self.joys, self.pad.controls, strict=True):
            for value in (0.0, 0.0 if control.path.startswith('axes') else 1.0):
                joy.publish(self.message(control, value))
        self.graph.spin(PERIOD)

    def stuck(self, control, _step):
        """Held from the start; an axis is said to be 0 until it moves."""
        if self.rng.random() < 0.05:
            return None
        untouched = control.path.startswith('axes') and not self.woken
        return 0.0 if untouched else control.full

    def resting(self, control, _step):
        if self.rng.random() < 0.05:
            return None
        drift = self.rng.uniform(0, control.drift) * (control.full - control.rest)
        return self.rng.choice([0.0, control.rest, control.rest + drift])

    def moved(self):
        return any(self.speeds) or 'teleop' in self.sources

    def publish(self, value):
        for joy, control in zip(self.joys, self.pad.controls, strict=True):
            joy.publish(self.message(control, value(control)))

    def let_go(self):
        """All of them, one after the other at rest and hardly touched."""
        for _ in range(6):  # a stick that was never anywhere else may not have been touched yet
            self.publish(lambda control: control.rest + 0.1 * (control.full - control.rest))
            self.graph.spin(0.06)

    def drives(self, pressed):
        """Press one control and let it go: whether it moves the robot."""
        self.speeds.clear()
        self.publish(lambda control: control.full if control == pressed else control.rest)
        self.graph.spin(0.03)  # until the next state
        self.publish(lambda control: control.rest)
        return any(self.speeds)


@pytest.mark.timing('a button that is held reads 0 for less than 0.2 s at the start')
@pytest.mark.parametrize('pad', LAYOUTS, ids=lambda pad: pad.name)
def test_nobody_presses_and_nothing_moves(tmp_path, pad):
    (tmp_path / 'robot.yaml').write_text(yaml.safe_dump(profile(pad)))
    task = tmp_path / 'idle.yaml'
    task.write_text(yaml.safe_dump(TASK))
    with Graph(tmp_path, task=str(task), mode='realtime') as graph:
        bench = Bench(graph, pad, seed=len(pad.controls))
        graph.start('safety_gate')
        graph.wait_for('gate', lambda: graph.statuses.get('safety_gate', {}).get('state') == 'ok')
        graph.wait_for('topics', lambda: all(joy.get_subscription_count() for joy in bench.joys))
        bench.start_joy_node()
        for played in range(ROUNDS // 2):
            bench.woken = played * STEPS * PERIOD > 0.3  # s
            bench.play(bench.stuck)
        for _ in range(ROUNDS - ROUNDS // 2):
            bench.play(bench.resting)
        graph.spin(0.2)
        assert not bench.moved(), (bench.speeds, bench.sources)
        log = (tmp_path / 'safety_gate.log').read_text()
        assert 'reads as pressed, but was not yet seen released' in log
        graph.wait_for('faults', lambda: graph.value('safety_gate', 'teleop refused', 0) > ROUNDS)
        # They are all connected, and each of them works.
        still, attempts = pad.controls, 10
        while still and attempts:
            bench.let_go()
            still, attempts = [one for one in still if not bench.drives(one)], attempts - 1
        assert not still
        graph.spin(1.2)  # the driver is started anew
        bench.speeds.clear()
        bench.sources.clear()
        for _ in range(5):
            bench.play(bench.stuck)
        graph.spin(0.2)
        assert not bench.moved(), (bench.speeds, bench.sources)
