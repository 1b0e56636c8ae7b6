"""An arm whose poses come by TF: profile, task, messages and what its poses are."""

from __future__ import annotations

import math

import numpy as np
import yaml
from rosbags.typesys import Stores, get_typestore

from mbarl_ros.demos.recording import Recording, topic_types
from mbarl_ros.schema.robot import RobotConfig
from mbarl_ros.task import Task
from support.recordings import metadata_of

STORE = get_typestore(Stores.ROS2_JAZZY)
TYPES = STORE.types
TF, TF_STATIC = '/tf', '/tf_static'
RATE, PERIOD = 10, 100_000_000
START = 1_700_000_000_000_000_000  # ns


def message(kind, **fields):
    """A message of rosbags' types."""
    return TYPES[f'{kind.split("/")[0]}/msg/{kind.split("/")[1]}'](**fields)


def stamped(parent, child, stamp, position=(0, 0, 0), rotation=(0, 0, 0, 1)):
    time_ = message('builtin_interfaces/Time', sec=stamp // 10**9, nanosec=stamp % 10**9)
    names = ('x', 'y', 'z', 'w')
    return message(
        'geometry_msgs/TransformStamped',
        header=message('std_msgs/Header', stamp=time_, frame_id=parent),
        child_frame_id=child,
        transform=message(
            'geometry_msgs/Transform',
            translation=message(
                'geometry_msgs/Vector3', **dict(zip(names, map(float, position), strict=False))
            ),
            rotation=message(
                'geometry_msgs/Quaternion', **dict(zip(names, map(float, rotation), strict=True))
            ),
        ),
    )


def transforms(*those):
    return message('tf2_msgs/TFMessage', transforms=list(those))


def about_z(angle):
    return (0, 0, math.sin(angle / 2), math.cos(angle / 2))


def profile(tf=('base_link', 'tcp'), fields=None, **changes):
    fields = fields or {'x': 'x', 'y': 'y', 'yaw': 'yaw'}
    return {
        'name': 'tf_arm',
        'control_rate': RATE,
        'state': [{'tf': {'parent': tf[0], 'child': tf[1]}, 'fields': fields}],
        'command': [
            {'topic': 'cmd', 'type': 'geometry_msgs/msg/Twist', 'fields': {'v': 'linear.x'}}
        ],
        'limits': {'v': {'low': -1, 'high': 1, 'stop': 0.0}},
        **changes,
    }


def robot(*args, **changes):
    return RobotConfig.model_validate(profile(*args, **changes))


def task_of(folder, content):
    (folder / 'robot.yaml').write_text(yaml.safe_dump(content, sort_keys=False))
    bounds = {'low': -3.0, 'high': 3.0}
    names = [name for entry in content['state'] for name in entry['fields']]
    task = {
        'name': 'tf_reach',
        'robot': 'robot.yaml',
        'observation': [{'name': name, **bounds} for name in names],
        'action': [{'name': 'v', 'low': -1.0, 'high': 1.0}],
        'success': {'entries': [names[0]], 'target': [2.0], 'tolerance': 0.1},
        'phases': {'forward_limit': 50, 'backward_limit': 50},
        'evaluation': {'horizon': 50, 'every': 1000, 'budget': 2000},
    }
    (folder / 'task.yaml').write_text(yaml.safe_dump(task))
    return Task.load(str(folder / 'task.yaml'))


def command(stamp):
    time_ = message('builtin_interfaces/Time', sec=stamp // 10**9, nanosec=stamp % 10**9)
    numbers = np.array([0.5])
    return message(
        'sensor_msgs/JointState',
        header=message('std_msgs/Header', stamp=time_, frame_id='teleop'),
        name=['v'],
        position=numbers,
        velocity=numbers[:0],
        effort=numbers[:0],
    )


def angle(step):
    return 0.3 * step


def reach(step):
    return 1 + 0.01 * step


def arm(steps=12, slow_until=math.inf):
    """(topic, ns, message): an arm on a mount that turns at 20 Hz and whose tool moves at 5 Hz."""
    yield TF_STATIC, START - 10, transforms(stamped('base_link', 'mount', 0, (0.5, 0, 0.2)))
    yield TF_STATIC, START - 9, transforms(stamped('base_link', 'camera', 0, (9, 9, 9)))
    for half in range(2 * steps):
        stamp, step = START + half * PERIOD // 2, half / 2
        if half % 4 == 0 and step < slow_until:
            yield TF, stamp, transforms(stamped('arm', 'tcp', stamp, (reach(step), 0, 0)))
        turned = stamped('mount', 'arm', stamp, (0, 0, 0), about_z(angle(step)))
        unrelated = stamped('odom', 'base_link', stamp, (step, 7, 7))
        yield TF, stamp + 1, transforms(unrelated, turned)
        if half % 2 == 0:
            yield 'safety_gate/executed', stamp + 2, command(stamp + 2)


def pose_at(stamp):
    """x, y, yaw of the tool from the numbers that were put in."""
    step = round((stamp - START) / (PERIOD / 2)) / 2
    extent = reach(step // 2 * 2)
    yaw = math.remainder(angle(step), math.tau)
    return [0.5 + extent * math.cos(yaw), extent * math.sin(yaw), yaw]


def serialised(topic, content):
    if isinstance(content, bytes):
        return content
    kind = 'sensor_msgs/msg/JointState' if topic.startswith('safety') else 'tf2_msgs/msg/TFMessage'
    return bytes(STORE.serialize_cdr(content, kind))


def recorded(folder, task, messages):
    names = {topic: f'/robot7/{topic.strip("/")}' for topic in topic_types(task.robot)}
    metadata = metadata_of(task, names)
    recording = Recording(folder, metadata, topic_types(task.robot))
    for topic, at, content in messages:
        recording.write(topic, at, serialised(topic, content))
    return recording.finish('success')
