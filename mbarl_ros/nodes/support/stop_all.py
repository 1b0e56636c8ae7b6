"""``mbarl stop``: latches the e-stop of all robots of a fleet, or of the only robot."""

from __future__ import annotations

import re
import time
from functools import partial

from rclpy.publisher import Publisher
from std_msgs.msg import Bool, String

from mbarl_ros.control.control_loop import ESTOP
from mbarl_ros.nodes.support.qos import LATCHED, latched
from mbarl_ros.nodes.support.robot_check import DISCOVERY, Listener
from mbarl_ros.schema import topics

_AGAIN = 0.1  # s between two messages, until all gates report an e-stop
# Fits each subscription of a gate: of one that did not fit, ROS warns that it gets no message.
_BUTTON = latched(depth=10)


def stop_all(listener: Listener, seconds: float) -> dict[str, str]:
    """Publish true on ``fleet/estop`` and on the e-stop topic of each gate; the gates' states.

    Returns as soon as all gates that were found report an e-stop, at the earliest when other
    machines had time to answer, at the latest after ``seconds``.

    :returns: name of the robot, or '' for a gate in the namespace itself -> state of its gate; a
        gate that has not reported has the state ''
    """
    node = listener.node
    namespace = node.get_namespace().rstrip('/')
    gate = re.compile(f'{re.escape(namespace)}/(?:(\\w+)/)?{re.escape(topics.GATE_STATE)}')
    stops: list[Publisher] = [node.create_publisher(Bool, topics.FLEET_ESTOP, _BUTTON)]
    states: dict[str, str] = {}

    def receive(robot: str, message: String) -> None:
        states[robot] = message.data

    start = time.monotonic()
    while True:
        for topic, _ in node.get_topic_names_and_types():
            match = gate.fullmatch(topic)
            if match and (robot := match[1] or '') not in states:
                states[robot] = ''
                node.create_subscription(String, topic, partial(receive, robot), LATCHED)
                estop = topics.of_robot(robot, topics.ESTOP)
                stops.append(node.create_publisher(Bool, estop, _BUTTON))
        for stop in stops:
            stop.publish(Bool(data=True))
        listener.spin(_AGAIN)
        passed = time.monotonic() - start
        stopped = bool(states) and all(state == ESTOP for state in states.values())
        if passed >= seconds or (stopped and passed >= min(DISCOVERY, seconds)):
            break
    for stop in stops:  # a gate is released only after the topic has said so
        stop.publish(Bool(data=False))
    listener.spin(_AGAIN)
    return states
