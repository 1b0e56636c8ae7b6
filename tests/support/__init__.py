"""Shared by the tests: graphs of real nodes, simulated robots and people, faults, bad files."""
