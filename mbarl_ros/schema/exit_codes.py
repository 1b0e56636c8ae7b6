"""Exit codes of ``mbarl`` and of the nodes."""

EXIT_SUCCESS = 0
"""Success; of a run: its target was reached."""
EXIT_FAILURE = 1
EXIT_USAGE = 2
"""Refused at the start: a wrong argument or file, or a disk that cannot be used."""
EXIT_BUDGET = 3
"""The step budget of a run is used up."""
EXIT_INTERRUPTED = 130

TARGET_REACHED, BUDGET, INTERRUPTED = 'target_reached', 'budget', 'interrupted'
RUN_ENDS = {TARGET_REACHED: EXIT_SUCCESS, BUDGET: EXIT_BUDGET, INTERRUPTED: EXIT_INTERRUPTED}
"""Why a run ended, as in its ``result.json`` -> exit code."""
