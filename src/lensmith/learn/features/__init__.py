"""What the frozen model sees, kept as numbers, and the classifiers that are fitted on it in seconds."""
