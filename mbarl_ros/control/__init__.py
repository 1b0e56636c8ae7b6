"""What runs on the robot: NumPy policy, phases, transitions, safety limits. No torch, no rclpy."""
