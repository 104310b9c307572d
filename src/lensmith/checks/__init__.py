"""Checks of a dataset: labels that are likely wrong (`suspects`)."""
