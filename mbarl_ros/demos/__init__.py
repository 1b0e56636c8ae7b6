"""Recording and reading demonstrations: one rosbag2 folder each, never pickle."""
