"""Everything that learns: SAC, classifier, dynamics ensemble, imitation, checkpoints (torch, no ROS)."""
