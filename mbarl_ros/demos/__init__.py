"""Recording, reading, importing and exporting demonstrations: one rosbag2 folder each."""
