"""Compare runs, methods, numbers of labels and settings."""
