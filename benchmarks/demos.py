"""Conversion and import of a long bag: steps per second and memory.

The conversion is compared with rosbags' deserialisation. The bag is written by the recorder's code,
with the messages of the point mass (odometry, velocity command, executed command). The import is
that of a bag of ``ros2 bag record`` with ten topics of which six are not needed, and is compared
with the import by another checkout of this repository (--against). Each measurement runs in its
own process, so that its memory is its own; the two sides alternate, so that a slow period of the
machine affects both.

    python benchmarks/demos.py [--steps 100000] [--rounds 3] [--against FOLDER] [--output FILE]
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

from mbarl_ros.demos.bag_files import bag_files, bag_messages
from mbarl_ros.demos.decode import typestore
from mbarl_ros.demos.episodes import transitions
from mbarl_ros.demos.metadata import Metadata, layout, profile_hash
from mbarl_ros.demos.reader import read_demonstration
from mbarl_ros.demos.recording import Recording, topic_types
from mbarl_ros.schema.message_fields import set_stamp
from mbarl_ros.schema.topics import EXECUTED
from mbarl_ros.task import Task


def write(task: Task, folder: Path, steps: int) -> tuple[float, float]:
    """Record a random walk of ``steps`` steps; returns seconds for writing and for finishing."""
    from geometry_msgs.msg import Twist
    from nav_msgs.msg import Odometry
    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import JointState

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
    wanted = {'/odom', f'/{EXECUTED}'}
    for topic, _, data in bag_messages(bag_files(folder), lambda topic: topic.name in wanted):
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


def write_foreign(folder: Path, steps: int) -> None:
    """Write a bag as ``ros2 bag record`` does: the point mass, and six topics of no interest."""
    from geometry_msgs.msg import PoseStamped, TwistStamped
    from nav_msgs.msg import Odometry
    from nav_msgs.msg import Path as Way
    from rclpy.serialization import serialize_message
    from rosbags.rosbag2 import StoragePlugin, Writer
    from sensor_msgs.msg import Image, Imu, JointState, LaserScan
    from std_msgs.msg import String

    topics = {
        '/odom': Odometry(),
        f'/{EXECUTED}': JointState(name=['vx', 'vy'], position=[0.1, 0.2]),
        '/cmd_vel': TwistStamped(),
        '/joint_states': JointState(name=list('abcdef'), position=[0.0] * 6, velocity=[0.0] * 6),
        '/imu': Imu(),
        '/scan': LaserScan(ranges=[1.0] * 360),
        '/camera': Image(height=24, width=32, step=32, data=bytes(range(256)) * 3),
        '/goal': PoseStamped(),
        '/plan': Way(poses=[PoseStamped()] * 10),
        '/notes': String(data='nothing new'),
    }
    rng = np.random.default_rng(0)
    store = typestore()
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {}
        for name, message in topics.items():
            kind = f'{type(message).__module__.split(".")[0]}/msg/{type(message).__name__}'
            connections[name] = writer.add_connection(name, kind, typestore=store)
        still = {name: serialize_message(message) for name, message in topics.items()}
        odometry, executed = topics['/odom'], topics[f'/{EXECUTED}']
        for step in range(steps + 1):
            stamp = 1_700_000_000_000_000_000 + step * 100_000_000
            position, velocity = odometry.pose.pose.position, rng.uniform(-1, 1, 2)
            position.x, position.y = rng.uniform(0, 2, 2)
            executed.position = list(velocity)
            for message in (odometry, executed):
                set_stamp(message, stamp)
            still['/odom'] = serialize_message(odometry)
            still[f'/{EXECUTED}'] = serialize_message(executed)
            for late, (name, data) in enumerate(still.items()):
                writer.write(connections[name], stamp + 1_000_000 + late * 100_000, data)


def imported(checkout: Path, bag: Path) -> dict[str, float]:
    """``mbarl demos import`` of a checkout: time, and memory of the largest of its processes."""
    with tempfile.TemporaryDirectory() as into:
        command = [sys.executable, '-m', 'mbarl_ros.cli', 'demos', 'import', str(bag)]
        command += ['--task', 'pointmass', '--into', into]
        environment = {**os.environ, 'PYTHONPATH': str(checkout), 'OMP_NUM_THREADS': '1'}
        start = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment, cwd=checkout, stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise RuntimeError(f'{checkout}: the import failed')
    return {
        'seconds': time.perf_counter() - start,
        'cpu': usage.ru_utime + usage.ru_stime,
        'mib': usage.ru_maxrss / 1024,
    }


def measure_import(steps: int, rounds: int, against: Path | None) -> dict[str, object]:
    """Import of a bag of ten topics, in turns with the import by another checkout."""
    checkouts = {'this': Path(__file__).resolve().parent.parent}
    if against:
        checkouts['other'] = against.resolve()
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as temporary:
        bag = Path(temporary) / 'theirs'
        write_foreign(bag, steps)
        size = sum(path.stat().st_size for path in bag.iterdir()) / 1e6
        for _ in range(rounds):
            for name, checkout in checkouts.items():
                measured[name].append(imported(checkout, bag))
                print('import', name, measured[name][-1], flush=True)
    cpu = {name: statistics.median(r['cpu'] for r in measured[name]) for name in measured}
    result: dict[str, object] = {
        'bag_megabytes': round(size, 1),
        'seconds': [round(r['seconds'], 1) for r in measured['this']],
        'cpu_seconds': [round(r['cpu'], 1) for r in measured['this']],
        'peak_memory_mib': round(max(r['mib'] for r in measured['this'])),
    }
    if against:
        result['other_cpu_seconds'] = [round(r['cpu'], 1) for r in measured['other']]
        result['ratio_of_median_cpu_seconds'] = round(cpu['this'] / cpu['other'], 2)
        result['other_peak_memory_mib'] = round(max(r['mib'] for r in measured['other']))
    return result


def main() -> None:
    """Write a bag, convert it in turns with the reference, print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--steps', type=int, default=100_000)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--output', type=Path)
    parser.add_argument('--against', type=Path, metavar='FOLDER', help='another checkout')
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
        'import': measure_import(arguments.steps, arguments.rounds, arguments.against),
    }
    print(json.dumps(result, indent=2))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
    main()
