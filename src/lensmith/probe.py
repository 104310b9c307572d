"""Simple classifiers that a tuned model has to beat."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from PIL import Image

from lensmith.data import ImageDataset, Split
from lensmith.errors import ImageError, UserError
from lensmith.records import Prediction

SIDE = 28
STRENGTHS = (0.01, 0.1, 1.0)


def pixel_probe(dataset: ImageDataset, max_pixels: int) -> list[Prediction]:
    """Logistic regression on raw pixels, fitted on train, its strength chosen on validation, applied to test.

    Each image is squeezed to 28 x 28 grey values in 0..1. What can't be read is left out of training and is an error
    in the predictions.

    Raises:
        UserError: fewer than two classes have a readable training image.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    x, y, _ = _features(dataset.train, max_pixels)
    if len(set(y)) < 2:
        raise UserError("A classifier needs readable training images of at least two classes.")
    check, truth, _ = _features(dataset.validation, max_pixels)
    best, best_right = None, -1.0
    # Without validation images there is nothing to choose by: the middle strength is taken.
    for c in STRENGTHS if len(truth) else STRENGTHS[1:2]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 200 steps are enough to two digits
            fitted: Any = LogisticRegression(C=c, max_iter=200).fit(x, y)
        right = float((fitted.predict(check) == truth).mean()) if len(truth) else 0.0
        if right > best_right:
            best, best_right = fitted, right
    assert best is not None
    test, _, errors = _features(dataset.test, max_pixels)
    scores = iter(best.predict_log_proba(test) if len(test) else [])
    place = {str(label): i for i, label in enumerate(best.classes_)}
    out = []
    for i, (name, label) in enumerate(zip(dataset.test.ids, dataset.test.labels, strict=True)):
        if i in errors:
            out.append(Prediction(name, label, error=errors[i]))
            continue
        row = next(scores)
        # A class without training images can't be said: its score is the lowest there is.
        full = tuple(float(row[place[c]]) if c in place else float("-inf") for c in dataset.labels)
        found, share = int(np.argmax(full)), float(np.exp(max(full)))
        rank = 1 + sum(value > full[dataset.labels.index(label)] for value in full)
        out.append(Prediction(name, label, dataset.labels[found], share, rank, None, share, share, full))
    return out


def _features(split: Split, max_pixels: int) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """(readable, SIDE * SIDE) values, their labels, and the errors of the others by position."""
    rows, labels, errors = [], [], {}
    for i, label in enumerate(split.labels):
        try:
            image = split.image(i, max_pixels)
        except ImageError as error:
            errors[i] = str(error)
            continue
        small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        rows.append(np.asarray(small, dtype=np.float32).ravel() / 255)
        labels.append(label)
    return np.stack(rows) if rows else np.empty((0, SIDE * SIDE), np.float32), np.array(labels), errors
