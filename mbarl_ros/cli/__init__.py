"""The ``mbarl`` command."""
