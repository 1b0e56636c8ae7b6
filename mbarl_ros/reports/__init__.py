"""What a run leaves to be read: its report, and why it does not learn."""
