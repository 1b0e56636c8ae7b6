"""A robot that practises on its own: Model-Based Autonomous Reinforcement Learning on ROS 2."""

__version__ = '0.1.0'
