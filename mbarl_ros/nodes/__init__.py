"""Thin ROS 2 nodes: topics in, one call into the rooms above, topics out."""
