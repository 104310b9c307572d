"""Teach: train a model, fit a probe, resume what was stopped, follow a job that runs elsewhere."""
