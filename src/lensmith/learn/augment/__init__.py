"""Data augmentation: changes to images (`images`), mixing two images (`mix`), a batch's randomness (`randomness`)."""
