"""Choose between runs, methods, numbers of labels and settings."""
