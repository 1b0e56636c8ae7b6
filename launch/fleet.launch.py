"""Several robots practise with one learner: graph ``fleet`` in mbarl_ros/bringup/graphs.py."""

from launch import LaunchDescription

from mbarl_ros.bringup.launch import launch_description


def generate_launch_description() -> LaunchDescription:
    """Describe the graph ``fleet`` and its arguments."""
    return launch_description('fleet')
