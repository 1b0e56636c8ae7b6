"""Exit codes of ``mbarl`` and of the nodes."""

EXIT_TARGET = 0
"""Success; of a run: its target was reached."""
EXIT_FAILURE = 1
EXIT_USAGE = 2
"""Refused before anything started: a wrong argument or file, or the disk as it is."""
EXIT_BUDGET = 3
"""The step budget of a run is used up."""
EXIT_INTERRUPTED = 130
