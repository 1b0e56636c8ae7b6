"""What a person sees: terminal panel, status lines, plots."""
