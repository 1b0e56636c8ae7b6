"""Simulated worlds, scripted operators and the simulated robot node of mbarl_ros."""
