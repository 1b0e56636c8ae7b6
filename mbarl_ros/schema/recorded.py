"""Topics that the recording of a run holds, and their message types."""

from __future__ import annotations

import importlib.util

from mbarl_ros.schema import topics
from mbarl_ros.schema.frames import TF_TYPE
from mbarl_ros.schema.robot import RobotConfig

_NUMBER, _STATE, _TEXT = 'std_msgs/msg/Float64', 'sensor_msgs/msg/JointState', 'std_msgs/msg/String'
_MARKERS = 'visualization_msgs/msg/MarkerArray'
_NUMBERS = (
    topics.SCORE,
    topics.DEPLOYED_SUCCESS,
    topics.SUCCESS_RATE,
    topics.MODEL_ERROR,
    topics.UPDATES_PER_SECOND,
    topics.VALUE_FORWARD,
    topics.VALUE_BACKWARD,
    topics.LAG_STEPS,
)
LATCHED_TOPICS = (
    topics.PHASE,
    topics.GATE_STATE,
    topics.STATIC_MARKERS,
    topics.ROBOT_DESCRIPTION,
    topics.TF_STATIC,
)
"""Published once or rarely: each file of a recording begins with their latest messages."""


def recorded_topics(robot: RobotConfig, *, camera: bool = False) -> dict[str, str]:
    """Topic, relative to the graph's namespace -> message type.

    Topics of the graph whose message package is not installed are left out; those of the robot
    profile never are.

    :param camera: also the pictures of the simulated camera
    """
    ours = {
        topics.COMMAND: _STATE,
        topics.EXECUTED: _STATE,
        topics.CLIPPED: _STATE,
        topics.GATE_STATE: _TEXT,
        topics.PHASE: _TEXT,
        topics.DIAGNOSTICS: 'diagnostic_msgs/msg/DiagnosticArray',
        topics.LOG: 'rcl_interfaces/msg/Log',
        topics.MARKERS: _MARKERS,
        topics.STATIC_MARKERS: _MARKERS,
        topics.SHOWN_STATE: _STATE,
        **dict.fromkeys(_NUMBERS, _NUMBER),
        topics.ROBOT_DESCRIPTION: _TEXT,
        topics.TF: TF_TYPE,
        topics.TF_STATIC: TF_TYPE,
    }
    if camera:
        ours[topics.CAMERA_IMAGE] = 'sensor_msgs/msg/Image'
        ours[topics.CAMERA_INFO] = 'sensor_msgs/msg/CameraInfo'
    commands = {topic.topic: topic.type for topic in robot.command_topics}
    return {**_installed(ours), **robot.state_topics, **commands}


def _installed(types: dict[str, str]) -> dict[str, str]:
    packages = {kind.partition('/')[0] for kind in types.values()}
    there = {package for package in packages if importlib.util.find_spec(package) is not None}
    return {topic: kind for topic, kind in types.items() if kind.partition('/')[0] in there}
