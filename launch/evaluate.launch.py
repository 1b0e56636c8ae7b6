"""Try a trained policy: the graph ``evaluate`` of mbarl_ros/bringup.py."""

from launch import LaunchDescription

from mbarl_ros.bringup.launch import launch_description


def generate_launch_description() -> LaunchDescription:
    """Describe the graph ``evaluate`` and its arguments."""
    return launch_description('evaluate')
