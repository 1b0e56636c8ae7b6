"""What the simulated camera costs: lockstep steps a second with it and without, ms for a picture.

    python benchmarks/camera.py [--task push] [--seconds 10] [--rounds 3]

The graph is that of benchmarks/lockstep.py. Camera rates are of simulated time, at which a step is
0.1 s: at 10 Hz every step waits for a picture. ``delivered``: share of the pictures that reached a
subscriber in another process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import rclpy
from lockstep import lockstep_rate
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import Image

from mbarl_ros.schema.message_fields import stamp_ns
from mbarl_ros.task import Task

OUTPUT = Path(__file__).parent / 'results' / 'camera.json'
WARM_UP = 30  # steps
RELIABLE = QoSProfile(depth=5)
# Name -> camera rate (Hz), width and height (pixels), QoS of a subscriber.
Case = tuple[float, int, int, QoSProfile | None]
CASES: dict[str, Case | None] = {
    'off': None,
    'on, nobody subscribes': (10.0, 320, 240, None),
    '1 Hz, 320 x 240': (1.0, 320, 240, RELIABLE),
    '10 Hz, 320 x 240': (10.0, 320, 240, RELIABLE),
    '10 Hz, 320 x 240, best effort': (10.0, 320, 240, qos_profile_sensor_data),
    '10 Hz, 640 x 480': (10.0, 640, 480, RELIABLE),
    '10 Hz, 640 x 480, best effort': (10.0, 640, 480, qos_profile_sensor_data),
}


def measure(task: str, seconds: float, case: Case | None) -> dict:
    """Steps per second, and the share of pictures that arrived."""
    if case is None:
        return {'steps_per_second': lockstep_rate(task, seconds, WARM_UP)}
    rate, width, height, qos = case
    camera = {'camera': 'true', 'camera_rate': rate, 'camera_width': width, 'camera_height': height}
    stamps: list[int] = []

    def watch(node: rclpy.node.Node) -> None:
        if qos:
            node.create_subscription(
                Image, 'camera/image_raw', lambda image: stamps.append(stamp_ns(image)), qos
            )

    result = {'steps_per_second': lockstep_rate(task, seconds, WARM_UP, camera, watch)}
    if qos:
        due = (stamps[-1] - stamps[0]) * 1e-9 * rate
        result['delivered'] = (len(stamps) - 1) / due
    return result


def picture_milliseconds(task: str, width: int, height: int) -> float:
    """Time for one picture, median of 20."""
    world = Task.load(task).load_world(seed=0)
    world.reset()
    times = []
    for _ in range(20):
        start = time.perf_counter()
        world.render(width, height)
        times.append(1e3 * (time.perf_counter() - start))
    world.close()
    return statistics.median(times)


def main() -> None:
    """Measure all cases in turn; print and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--task', default='push')
    parser.add_argument('--seconds', type=float, default=10.0)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--output', type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    os.environ.setdefault('ROS_DOMAIN_ID', '88')
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    rclpy.init()
    results: dict[str, list[dict]] = {name: [] for name in CASES}
    for _ in range(arguments.rounds):
        for name, case in CASES.items():
            results[name].append(measure(arguments.task, arguments.seconds, case))
            print(name, results[name][-1], flush=True)
    summary = {
        'command': f'python benchmarks/camera.py --task {arguments.task}',
        'cores': os.cpu_count(),
        'load_average': round(os.getloadavg()[1], 1),  # others work on this machine, too
        'milliseconds_for_a_picture': {
            f'{width} x {height}': round(picture_milliseconds(arguments.task, width, height), 1)
            for width, height in ((320, 240), (640, 480))
        },
        'lockstep': {
            name: {key: round(statistics.median(row[key] for row in rows), 2) for key in rows[0]}
            for name, rows in results.items()
        },
    }
    print(json.dumps(summary, indent=2))
    arguments.output.write_text(json.dumps(summary, indent=2) + '\n')
    rclpy.try_shutdown()


if __name__ == '__main__':
    main()
