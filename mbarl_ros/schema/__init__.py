"""The ground of every room: typed YAML, names of topics and nodes, findings. No ROS."""
