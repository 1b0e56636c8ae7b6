"""Record demonstrations from the teleop topics: the graph ``record`` of mbarl_ros/bringup.py."""

from launch import LaunchDescription

from mbarl_ros.bringup.launch import launch_description


def generate_launch_description() -> LaunchDescription:
    """Describe the graph ``record`` and its arguments."""
    return launch_description('record')
