"""About how long a verb will take: the speed of this machine, measured on a few images before the work begins.

Reading, tower and answers are timed. A training step is taken as three forward passes of what is trained, since the
backward pass does about twice the work of the forward pass (Kaplan et al., 2001.08361, section 2.1).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import torch

from lensmith.config import Recipe
from lensmith.data import ImageDataset, Split
from lensmith.engine.classifier import Classifier
from lensmith.errors import ImageError
from lensmith.measure.calibration import ENOUGH
from lensmith.models.base import grouped
from lensmith.models.cost import operations
from lensmith.models.views import Views, shape_of, stack

MOST, OPERATIONS = 64, 2e11
"""The largest number of images that are timed, and about how many operations they may take."""
BACKWARD = 3
"""Operations of a training step, in forward passes."""


@dataclass(frozen=True)
class Pace:
    """Seconds per image on this machine."""

    reading: float
    """From the file to the prepared image."""
    tower: float
    """The vision tower and the projector."""
    decoder: float
    """The decoder: image, end of the question, and answers."""

    def scoring(self, images: int) -> float:
        """Seconds for scoring images."""
        return images * (self.reading + self.tower + self.decoder)

    def features(self, images: int) -> float:
        """Seconds for extracting all features of images."""
        return self.scoring(images)

    def training(self, recipe: Recipe, dataset: ImageDataset) -> float:
        """Seconds for a training by a recipe, with its validations."""
        images, epochs = len(dataset.train), recipe.train.epochs
        seen = images * epochs
        tower_learns = recipe.tune.vision_tower and recipe.tune.method in ("lora", "full")
        passes = BACKWARD * seen if tower_learns else images if recipe.train.cache_features else seen
        validations = max(1, round(epochs / recipe.train.validate_every)) * len(dataset.validation)
        seconds = images * self.reading + passes * self.tower + BACKWARD * seen * self.decoder
        return seconds + self.scoring(validations)

    def evaluation(self, dataset: ImageDataset, scored: int) -> float:
        """Seconds for calibrating on validation images and scoring images of another split."""
        return self.scoring(scored + min(ENOUGH, len(dataset.validation)))


def measure(classifier: Classifier, split: Split, max_pixels: int) -> Pace | None:
    """Time a few images of a split, after a first batch that warms up; None if none of them can be read.

    It takes about a second with a small model, and two batches of one image with a large one.
    """
    model, views, clock = classifier.model, list[Views](), time.perf_counter()
    most = 1
    for _, _, read in islice(split.items(max_pixels, model.sufficient_size), MOST):
        try:
            views.append(model.prepare(read()))
        except ImageError:  # listed where it is scored
            continue
        if len(views) == 1:
            total = operations(model, shape_of(views[0]), len(classifier.prompt.before)).total
            most = max(1, min(MOST, classifier.batch_size_for(shape_of(views[0])), int(OPERATIONS / total)))
        if len(views) >= most:
            break
    if not views:
        return None
    reading = (time.perf_counter() - clock) / len(views)
    # Images of one shape go through the model together; the others' shapes are not timed.
    batch = stack([views[k] for k in max(grouped(map(shape_of, views)), key=len)])
    n = len(batch[0])

    def tower() -> None:
        with torch.inference_mode(), model.autocast():
            model.embed_images(batch).sum().item()  # waits for a GPU

    def everything() -> None:
        for scores in classifier.score_all(batch):
            scores.bound.sum().item()

    everything()
    tower_seconds, seconds = timed(tower), timed(everything)
    return Pace(reading, tower_seconds / n, max(0.0, seconds - tower_seconds) / n)


def timed(work: Callable[[], None]) -> float:
    """Seconds that a function takes."""
    clock = time.perf_counter()
    work()
    return time.perf_counter() - clock
