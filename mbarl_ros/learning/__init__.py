"""Everything that learns: SAC, classifier, dynamics, imitation, checkpoints (no ROS)."""
