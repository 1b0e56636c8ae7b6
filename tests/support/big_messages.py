"""Large latched messages over a line: how many arrive, and how late.

    python tests/support/big_messages.py send BYTES PERIOD COUNT
    python tests/support/big_messages.py answer

Prints a line of JSON: messages sent and answered, and seconds from publication to the answer.
"""

from __future__ import annotations

import json
import os
import sys
import time

import rclpy
from rclpy.node import Node
from std_msgs.msg import UInt8MultiArray

from mbarl_ros.nodes.support.qos import LATCHED, RELIABLE_STEPS
from mbarl_ros.nodes.support.runtime import bytes_message

_NUMBER = 8  # bytes that hold the number of a message
_PATIENCE = 10.0  # s after the last message


def answer() -> None:
    """Answer each message by its number."""
    node = Node('answer')
    answers = node.create_publisher(UInt8MultiArray, 'answers', RELIABLE_STEPS)
    node.create_subscription(
        UInt8MultiArray,
        'big',
        lambda message: answers.publish(UInt8MultiArray(data=message.data[:_NUMBER])),
        LATCHED,
    )
    rclpy.spin(node)


def send(size: int, period: float, count: int) -> None:
    """Send ``count`` messages of ``size`` bytes, one each ``period`` s."""
    node = Node('send')
    publisher = node.create_publisher(UInt8MultiArray, 'big', LATCHED)
    sent: dict[int, float] = {}
    delays: list[float] = []

    def receive(message: UInt8MultiArray) -> None:
        number = int.from_bytes(bytes(message.data), 'little')
        delays.append(time.monotonic() - sent.pop(number))

    def spin(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            rclpy.spin_once(node, timeout_sec=0.005)

    node.create_subscription(UInt8MultiArray, 'answers', receive, RELIABLE_STEPS)
    while not (publisher.get_subscription_count() and node.count_publishers('answers')):
        spin(0.1)
    spin(1.0)  # until the endpoints know each other on both sides
    for number in range(count):
        data = number.to_bytes(_NUMBER, 'little') + os.urandom(size - _NUMBER)
        sent[number] = time.monotonic()
        publisher.publish(bytes_message(data, 'big'))
        spin(period)
    spin(_PATIENCE)
    print(json.dumps({'sent': count, 'seconds': sorted(delays)}), flush=True)


if __name__ == '__main__':
    rclpy.init()
    answer() if sys.argv[1] == 'answer' else send(
        int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    )
    os._exit(0)
