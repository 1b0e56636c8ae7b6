"""A hostile publisher of transitions, weights, acknowledgements, classifiers and echoes."""

import json
import os
from functools import partial

import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import UInt8MultiArray

from mbarl_ros.control.policy import (
    pack_policy,
    phase_shapes,
    policy_names,
    policy_shapes,
    unpack_policy,
)
from mbarl_ros.learning.classifier import unpack_classifier
from mbarl_ros.nodes.support.runtime import bytes_message, message_bytes
from mbarl_ros.schema.load import load_agent
from mbarl_ros.storage import wire
from mbarl_ros.storage.imagined import unpack_imagined
from mbarl_ros.storage.transitions import (
    MAX_ROWS,
    pack_acknowledgement,
    pack_transitions,
    stack,
    unpack_acknowledgement,
    unpack_transitions,
)
from mbarl_ros.task import Task
from support.graph import LEARNING, Graph, small_agent
from support.run_data import assert_continuous, stored

pytestmark = pytest.mark.together

TASK = Task.load('pointmass')
HUGE = 10**15
LATCHED = QoSProfile(depth=20, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def weights(agent, fill=0.0):
    shapes = policy_shapes(
        policy_names(agent), TASK.observation_dim, TASK.action_dim, agent.sac.hidden
    )
    for name, shape in phase_shapes(TASK, agent).items():
        shapes[name] = tuple(rows or 3 for rows in shape)  # as many candidates as one likes
    arrays = {name: np.full(shape, fill, np.float32) for name, shape in shapes.items()}
    return arrays | {'scale': np.ones(TASK.observation_dim, np.float32)}


def row(**changes):
    return {
        'observation': np.zeros(TASK.observation_dim),
        'action': np.zeros(TASK.action_dim),
        'next_observation': np.zeros(TASK.observation_dim),
        **dict.fromkeys(('reward', 'terminated', 'truncated', 'phase', 'source'), 0),
        'stamp': 0.0,
        'sequence': 0,
        **changes,
    }


def message(agent, kind, arrays=None, **meta):
    """A message with any metadata whatever."""
    return wire.pack(arrays or {}, {'spec_hash': TASK.spec_hash(agent), **meta}, kind)


def bad_policies(agent):
    good = weights(agent)
    name = 'forward/0/weight'
    numbers = {'version': 1, 'environment_steps': 1, 'applies_from': 0, 'valid_until': 1}
    return [
        b'',
        b'garbage' * 100,
        (2**62).to_bytes(8, 'little') + b'{}',
        pack_policy(good, TASK, agent, 1, 0)[:-4],
        pack_policy(good, TASK, agent, 1, 0) + b'\0' * 2**21,
        wire.pack(good, {**numbers, 'spec_hash': 'other/agent:1'}, 'policy'),
        message(agent, 'policy', good | {name: good[name].astype(np.float64)}, **numbers),
        message(agent, 'policy', good | {name: good[name].T}, **numbers),
        message(agent, 'policy', good | {name: good[name] + np.nan}, **numbers),
        message(agent, 'policy', good | {'scale': good['scale'] * 1e-30}, **numbers),
        message(agent, 'policy', good | {'surplus': good['scale']}, **numbers),
        message(agent, 'policy', good),
        *(
            message(agent, 'policy', good, **{**numbers, key: value})
            for key in numbers
            for value in (-1, HUGE, 2**70, 1.5, '1', True, float('inf'))
        ),
    ]


def bad_transitions(agent):
    spec = TASK.spec_hash(agent)
    return [
        b'',
        pack_transitions(stack([row(stamp=np.nan)], TASK), spec, 'x', 0),
        pack_transitions(stack([row(action=[9.0, 0.0])], TASK), spec, 'x', 0),
        pack_transitions(stack([row(truncated=7)], TASK), spec, 'x', 0),
        pack_transitions(stack([row()], TASK), 'other/agent:1', 'x', 0),
        pack_transitions(stack([row()] * (MAX_ROWS + 1), TASK), spec, 'x', 0),
        pack_transitions(stack([row()], TASK), spec, 'x' * 100, 0),
        *(
            message(agent, 'transitions', stack([row()], TASK), session='x', first=first)
            for first in (-1, 2**70, 1.5, '0', None, float('inf'))
        ),
    ]


def bad_acknowledgements():
    counts = [(-1, 5), (5, 4), (2**70, 2**71), (1.5, 2), ('1', 2), (float('inf'), 5)]
    metas = [{'session': 'x', 'stored': stored, 'total': total} for stored, total in counts]
    return [
        b'',
        b'x' * 10_000,
        *(wire.pack({}, meta, 'acknowledged') for meta in metas),
        wire.pack({}, {'session': 5, 'stored': 0, 'total': 0}, 'acknowledged'),
    ]


def bad_classifiers(agent):
    width, hidden = TASK.observation_dim, agent.classifier.hidden
    good = {
        'offset': np.zeros(width, np.float32),
        'scale': np.ones(width, np.float32),
        '0/weight': np.zeros((width, hidden), np.float32),
        '0/bias': np.zeros(hidden, np.float32),
        '1/weight': np.zeros((hidden, 1), np.float32),
        '1/bias': np.zeros(1, np.float32),
    }
    return [
        b'',
        message(agent, 'classifier', good | {'scale': np.zeros(width, np.float32)}),
        message(agent, 'classifier', good | {'1/bias': np.zeros(1)}, environment_steps=1),
        message(agent, 'classifier', good | {'0/bias': good['0/bias'] + np.inf}),
        wire.pack(good, {'spec_hash': 'other/agent:1', 'environment_steps': 1}, 'classifier'),
        *(
            message(agent, 'classifier', good, environment_steps=steps)
            for steps in (-1, 2**70, 1.5, None, float('inf'))
        ),
    ]


def bad_imagined(agent):
    start, states = np.zeros(TASK.observation_dim, np.float32), np.zeros((5, 4), np.float32)
    good = {'start': start, 'forward/states': states, 'forward/steps': np.array([2, 3], np.int32)}
    return [
        b'',
        message(agent, 'imagined', good),
        wire.pack(good, {'spec_hash': 'other/agent:1', 'environment_steps': 1}, 'imagined'),
        *(
            message(agent, 'imagined', good | changes, environment_steps=1)
            for changes in (
                {'start': start[1:]},
                {'forward/states': states + np.nan},
                {'forward/steps': np.array([2, 4], np.int32)},
                {'forward/steps': np.array([5, 0], np.int32)},
                {'forward/steps': np.array([2.0, 3.0])},
                {'forward/steps': np.array(5, np.int32)},
                {'backward/states': states},
                {'forward/states': np.zeros((2**20, 4), np.float32)},
            )
        ),
    ]


def bad_everywhere(agent):
    """What no topic takes: no message at all, a torn one, one of another kind."""
    good = wire.pack({}, {'session': 'x', 'stored': 10**9, 'total': 10**9}, 'acknowledged')
    arrays = {'forward/0/weight': np.full((4, 32), np.nan, np.float32)}
    spec = TASK.spec_hash(agent)
    return [
        b'',
        b'garbage',
        os.urandom(5000),
        (2**62).to_bytes(8, 'little') + b'{}',
        good[:-3],
        wire.pack(arrays, {'spec_hash': 'other/agent:1'}, 'policy'),
        wire.pack(arrays, {'spec_hash': spec, 'version': 10**9}, 'policy'),
        wire.pack(arrays, {'spec_hash': spec, 'session': 'x', 'first': 0}, 'transitions'),
        wire.pack(arrays, {'spec_hash': spec, 'environment_steps': 1}, 'classifier'),
    ]


def test_no_malformed_message_gets_past_its_reader():
    agent = load_agent('mbarl')
    spec = TASK.spec_hash(agent)
    for bad, unpack in (
        (bad_policies(agent), lambda data: unpack_policy(data, TASK, agent)),
        (bad_transitions(agent), lambda data: unpack_transitions(data, TASK, spec)),
        (bad_acknowledgements(), unpack_acknowledgement),
        (bad_classifiers(agent), lambda data: unpack_classifier(data, TASK, agent)),
        (bad_imagined(agent), lambda data: unpack_imagined(data, TASK, spec)),
    ):
        for number, data in enumerate(bad):
            with pytest.raises(wire.WireError):
                unpack(data)
                pytest.fail(f'message {number} was taken')
    unpack_policy(pack_policy(weights(agent), TASK, agent, 1, 0), TASK, agent)  # the good one


def test_a_hostile_publisher_changes_nothing_and_is_reported(tmp_path):
    """Also messages that are well formed: old ones again, and numbers that cannot be."""
    preset = small_agent(tmp_path)
    agent = load_agent(preset)
    log = tmp_path / 'steps.jsonl'
    with Graph(tmp_path, task='pointmass', agent=preset) as graph:
        node, received = graph.node, {}
        topics = {
            'learner/policy': bad_policies(agent),
            'learner/acknowledged': bad_acknowledgements(),
            'policy_controller/transitions': bad_transitions(agent),
            'state_classifier/classifier': bad_classifiers(agent),
        }
        for messages in topics.values():
            messages += bad_everywhere(agent)

        def listen(topic, message):  # the longest has most in it
            received[topic] = max(received.get(topic, b''), message_bytes(message), key=len)

        for topic in topics:
            node.create_subscription(UInt8MultiArray, topic, partial(listen, topic), LATCHED)
        graph.start('robot_sim', step_log=str(log))
        graph.start(*LEARNING[1:])
        graph.wait_for_steps(150)
        graph.wait_for('a message of each kind', lambda: len(received) == len(topics))
        session = unpack_transitions(
            received['policy_controller/transitions'], TASK, TASK.spec_hash(agent)
        )[1]
        for topic in topics:
            topics[topic].append(received[topic])  # an old one again
        topics['learner/acknowledged'] += [
            pack_acknowledgement(session, stored, HUGE) for stored in (0, HUGE)
        ]
        topics['learner/policy'].append(pack_policy(weights(agent, 1e30), TASK, agent, HUGE, HUGE))
        topics['policy_controller/transitions'].append(
            pack_transitions(stack([row()], TASK), TASK.spec_hash(agent), session, HUGE)
        )
        publishers = {
            topic: node.create_publisher(UInt8MultiArray, topic, LATCHED) for topic in topics
        }
        echo = node.create_publisher(JointState, 'safety_gate/executed', 10)
        graph.wait_for(
            'listeners', lambda: all(p.get_subscription_count() > 1 for p in publishers.values())
        )
        for topic, messages in topics.items():
            for data in messages:
                publishers[topic].publish(bytes_message(data, 'bad'))
                graph.spin(0.03)
        for values in ([np.nan, 0.0], [0.0], [1.0] * 50):
            echo.publish(JointState(name=list(TASK.robot.command_names), position=values))
        before = graph.value('policy_controller', 'environment_steps')
        graph.wait_for_steps(int(before) + 200)
        trained = graph.value('learner', 'environment_steps')
        graph.wait_for('training', lambda: graph.value('learner', 'environment_steps') > trained)
        assert graph.value('policy_controller', 'policy_version') < HUGE
        # Not all: of a latched topic only the newest message waits for its reader.
        floor = 0.8 * len(topics['learner/policy'] + topics['learner/acknowledged'])
        assert graph.value('policy_controller', 'refused') >= floor
        assert graph.value('policy_controller', 'old_policies') >= 1
        assert graph.value('learner', 'refused') >= 20
        assert graph.value('learner', 'duplicates') >= 1
        assert graph.value('state_classifier', 'refused') >= 20
        assert all(process.poll() is None for process in graph.processes.values())
        log_text = (tmp_path / 'policy_controller.log').read_text()
        assert 'refused: learner/policy' in log_text and 'refused: learner/acknowledged' in log_text
    rows = stored(tmp_path, preset)
    assert_continuous(rows)
    really = {json.loads(line)['stamp'] for line in log.read_text().splitlines()}
    stamps = np.rint(rows['stamp'] * 1e9).astype(np.int64).tolist()
    assert set(stamps) <= really and len(set(stamps)) == len(stamps)
