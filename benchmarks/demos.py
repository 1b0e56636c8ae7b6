"""Conversion of a long bag: steps per second and memory, compared with rosbags' deserialisation.

The bag is written by the recorder's code, with the messages of the point mass (odometry, velocity
command, executed command). Each measurement runs in its own process, so that its memory is its
own; the two alternate, so that a slow period of the machine affects both.

    python benchmarks/demos.py [--steps 100000] [--rounds 3] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rosbags.serde import SerdeError
from rosbags.typesys.store import Typestore

from mbarl_ros.demos.bag import bag_messages
from mbarl_ros.demos.decode import typestore
from mbarl_ros.demos.episodes import transitions
from mbarl_ros.demos.metadata import Metadata, layout, profile_hash
from mbarl_ros.demos.reader import read_demonstration
from mbarl_ros.demos.recording import Recording, topic_types
from mbarl_ros.schema.topics import EXECUTED
from mbarl_ros.task import Task


def write(task: Task, folder: Path, steps: int) -> tuple[float, float]:
    """Record a random walk of ``steps`` steps; returns seconds for writing and for finishing."""
    from geometry_msgs.msg import Twist
    from nav_msgs.msg import Odometry
    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import JointState

    from mbarl_ros.schema.message_fields import set_stamp

    types = topic_types(task.robot)
    metadata = Metadata(
        task=task.name,
        robot=task.robot.name,
        direction='forward',
        verdict='unknown',
        operator='benchmark',
        lockstep=False,
        spec=layout(task.robot),
        profile=profile_hash(task.robot),
        topics={name: f'/{name}' for name in types},
        recorded='',
    )
    rng = np.random.default_rng(0)
    recording = Recording(folder, metadata, types)
    spent = 0.0
    for step in range(steps + 1):
        stamp = step * 100_000_000
        (x, y), (vx, vy) = rng.uniform(0, 2, 2), rng.uniform(-1, 1, 2)  # never at the goal
        odometry = Odometry()
        odometry.pose.pose.position.x, odometry.pose.pose.position.y = x, y
        odometry.twist.twist.linear.x, odometry.twist.twist.linear.y = vx, vy
        set_stamp(odometry, stamp)
        twist = Twist()
        twist.linear.x, twist.linear.y = vx, vy
        executed = JointState(name=['vx', 'vy'], position=[vx, vy])
        executed.header.frame_id = 'teleop'
        set_stamp(executed, stamp)
        messages = [('odom', odometry), ('cmd_vel', twist), (EXECUTED, executed)]
        raw = [(topic, serialize_message(message)) for topic, message in messages]
        start = time.perf_counter()
        for topic, data in raw if step < steps else raw[:1]:
            recording.write(topic, stamp, data)
        spent += time.perf_counter() - start
    start = time.perf_counter()
    recording.finish('unknown')
    return spent, time.perf_counter() - start


def convert(task: Task, folder: Path) -> dict[str, float]:
    """Bag -> transitions, in this process."""
    start = time.perf_counter()
    rows = transitions(task, read_demonstration(folder, task).episode(task))
    seconds = time.perf_counter() - start
    return {'rows': len(rows['reward']), 'seconds': seconds, 'mib': peak_mib()}


def deserialise(folder: Path) -> dict[str, float]:
    """The reference: rosbags makes an object of each message that the conversion needs."""
    store = typestore()
    slack: dict[str, int] = {}
    start = time.perf_counter()
    rows = 0
    for topic, _, data in bag_messages(folder, {'/odom', f'/{EXECUTED}'}):
        if topic.name not in slack:
            slack[topic.name] = _slack(store, data, topic.type)
        store.deserialize_cdr(data[: len(data) - slack[topic.name]], topic.type)
        rows += topic.name == '/odom'
    return {'rows': rows, 'seconds': time.perf_counter() - start, 'mib': peak_mib()}


def _slack(store: Typestore, data: bytes, kind: str) -> int:
    """Bytes that rclpy leaves after a message; rosbags tolerates three of them."""
    for slack in (0, 4, 8):
        try:
            store.deserialize_cdr(data[: len(data) - slack], kind)
        except SerdeError:
            continue
        return slack
    raise ValueError(f'{kind} cannot be deserialised')


def peak_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Write a bag, convert it in turns with the reference, print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--steps', type=int, default=100_000)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--output', type=Path)
    parser.add_argument('--child', nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    task = Task.load('pointmass')
    if arguments.child:
        what, folder = arguments.child
        result = convert(task, Path(folder)) if what == 'convert' else deserialise(Path(folder))
        print(json.dumps(result))
        return
    with tempfile.TemporaryDirectory() as temporary:
        writing, finishing = write(task, Path(temporary), arguments.steps)
        folder = Path(temporary) / 'forward_000'
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        measured: dict[str, list[dict[str, float]]] = {'convert': [], 'peer': []}
        for _ in range(arguments.rounds):
            for what, results in measured.items():
                command = [sys.executable, __file__, '--child', what, str(folder)]
                results.append(json.loads(subprocess.check_output(command).splitlines()[-1]))
                print(what, results[-1], flush=True)
    rates = [r['rows'] / r['seconds'] for r in measured['convert']]
    peers = [r['rows'] / r['seconds'] for r in measured['peer']]
    result = {
        'command': f'python benchmarks/demos.py --steps {arguments.steps}',
        'cores': os.cpu_count(),
        'bag_megabytes': round(size, 1),
        'recorded_messages_per_second': round(3 * arguments.steps / writing),
        'finishing_seconds': round(finishing, 2),
        'converted_steps_per_second': [round(rate) for rate in rates],
        'peak_memory_mib': round(max(r['mib'] for r in measured['convert'])),
        'rosbags_deserialisation_steps_per_second': [round(rate) for rate in peers],
        'ratio_of_medians': round(statistics.median(rates) / statistics.median(peers), 2),
    }
    print(json.dumps(result, indent=2))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
    main()
