"""Teach: train a model, fit a probe, resume a stopped run, follow a remote job."""
