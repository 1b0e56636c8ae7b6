"""A real robot learns autonomously: graph ``hardware`` in mbarl_ros/bringup/graphs.py."""

from launch import LaunchDescription

from mbarl_ros.bringup.launch import launch_description


def generate_launch_description() -> LaunchDescription:
    """Describe the graph ``hardware`` and its arguments."""
    return launch_description('hardware')
