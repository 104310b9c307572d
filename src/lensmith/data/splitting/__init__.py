"""Which images are for training, for validation and for the test: as the source says, or else by their content."""
