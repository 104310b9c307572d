"""Class probabilities from features, with probe.npz, which stands beside this file. Needs: pip install numpy"""

from pathlib import Path

import numpy as np

probe = np.load(Path(__file__).with_name("probe.npz"))
labels = probe["labels"].tolist()


def log_probabilities(features):
    """(..., size) features of images -> (..., labels) log-probabilities."""
    scores = features @ probe["weight"].T + probe["bias"]
    scores = scores - scores.max(-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))
