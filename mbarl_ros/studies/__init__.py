"""Experiments without ROS in the loop, with the very same learner."""
