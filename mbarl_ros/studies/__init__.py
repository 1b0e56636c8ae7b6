"""Experiments without ROS in the loop, with the same learner as in the ROS graph."""
