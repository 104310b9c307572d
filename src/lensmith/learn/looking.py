"""What a classifier sees in images that are not part of a dataset: their features, and its answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lensmith.data import Split, decode_image
from lensmith.engine.classifier import Classifier, predict
from lensmith.errors import ImageError
from lensmith.learn.features.store import extract_features
from lensmith.models.base import Model
from lensmith.models.views import Views
from lensmith.progress import Tell, counter, silent

Read = Callable[[], Image.Image]
"""Reads one image. Raises ImageError if that fails."""
WINDOW = 256


@dataclass(frozen=True)
class Answer:
    """A classifier's answer about an image."""

    label: str
    probability: float
    probabilities: list[float]
    """Of each label."""


class _Prepared:
    """Images by index, prepared when they are asked for; None for one that can't be read."""

    def __init__(self, model: Model, items: Sequence[Read]) -> None:
        self.model, self.items = model, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Views | None:
        try:
            return self.model.prepare(self.items[i]())
        except ImageError:
            return None


def the_images(files: Sequence[Path], model: Model) -> list[Read]:
    """Image files, as functions that read them with all the detail that the model sees."""
    return [partial(decode_image, file, name=str(file), enough=model.sufficient_size) for file in files]


def split_images(split: Split) -> list[Read]:
    """The images of a split, as functions that read them."""
    return [read for _, _, read in split.items()]


def features_of(
    classifier: Classifier, items: Sequence[Read], features: Sequence[str], task: str, tell: Tell = silent
) -> tuple[dict[str, Any], list[int]]:
    """Features of each image that can be read, extracted together.

    Args:
        features: names of `engine.features.feature_names`.
        task: the name of the task in progress reports.

    Returns:
        (images, size) float32 array of each feature, and the indices of the images.
    """
    found: dict[int, Views] = {}
    images, show = _Prepared(classifier.model, items), counter(task, len(items), tell)

    def extract(views: Views) -> Views:
        return tuple(classifier.features(views, features).values())

    for start in range(0, len(items), WINDOW):
        window = range(start, min(start + WINDOW, len(items)))
        found |= dict(extract_features(images, window, classifier.model, extract))
        show(window.stop)
    rows = sorted(found)
    empty = np.zeros((0, 1), np.float32)
    return {
        name: torch.stack([found[i][k] for i in rows]).float().numpy() if rows else empty
        for k, name in enumerate(features)
    }, rows


def answers_about(classifier: Classifier, items: Sequence[Read], tell: Tell = silent) -> list[Answer]:
    """The classifier's answers about images that can be read, all labels scored."""
    classifier.top = None
    show = counter("asking the model", len(items), tell)
    found = predict(classifier, [(str(i), None, read) for i, read in enumerate(items)], show)
    return [Answer(str(p.predicted), float(p.probability or 0), classifier.probabilities(p)) for p in found]
