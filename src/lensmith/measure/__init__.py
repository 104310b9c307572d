"""Evaluation of a classifier's predictions: figures with their uncertainty, calibration, and comparisons."""
