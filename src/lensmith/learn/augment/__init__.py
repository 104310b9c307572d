"""Data augmentation: random changes to images (`images`), mixing two images (`mix`), and both for a batch (`batch`)."""
