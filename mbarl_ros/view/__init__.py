"""What a person sees: terminal panel, lines, plots."""
