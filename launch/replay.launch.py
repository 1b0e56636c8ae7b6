"""Replay demonstrations on the simulated robot: the graph ``replay`` of mbarl_ros/bringup.py."""

from launch import LaunchDescription

from mbarl_ros.bringup.launch import launch_description


def generate_launch_description() -> LaunchDescription:
    """Describe the graph ``replay`` and its arguments."""
    return launch_description('replay')
