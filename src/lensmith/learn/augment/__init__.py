"""Training images changed at random (`images`), two mixed into one (`mix`), and both for a batch (`batch`)."""
