"""Named arrays on the wire and on disk; files, locks and lifelines of a run. No ROS, no torch."""
