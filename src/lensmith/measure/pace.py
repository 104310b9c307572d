"""About how long a verb will take: the speed of this machine, measured on a few images before the work begins.

Reading, tower and answers are timed. A training step is taken as three forward passes of what is trained, since the
backward pass does about twice the work of the forward pass (Kaplan et al., 2001.08361, section 2.1).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch

from lensmith.config import Recipe
from lensmith.data import ImageDataset, Split
from lensmith.engine.classifier import Classifier
from lensmith.engine.step import images_at_once
from lensmith.errors import ImageError
from lensmith.measure.calibration import ENOUGH
from lensmith.measure.metrics import wilson
from lensmith.models.base import grouped
from lensmith.models.cost import ImageCost, operations
from lensmith.models.memory import peak_memory, used_memory
from lensmith.models.views import Views, shape_of, stack
from lensmith.progress import duration

MOST, OPERATIONS = 64, 2e11
"""The largest number of images that are timed, and about how many operations they may take."""
BACKWARD = 3
"""Operations of a training step, in forward passes."""


@dataclass(frozen=True)
class Memory:
    """Resident memory of this process in bytes, estimated from the model's shape. That of a GPU isn't told."""

    peak: int
    """Most so far: the model has been loaded."""
    resting: int
    """Now, while nothing runs."""
    batch: int
    """That a batch adds which is scored."""
    question: int
    """That the question adds in a training step."""
    sample: int
    """That an image adds in a training step."""
    total: int
    """Of the machine."""

    def scoring(self) -> int:
        """Peak of scoring images or extracting their features."""
        return max(self.peak, self.resting + self.batch)

    def training(self, recipe: Recipe) -> int:
        """Peak of a training by a recipe, with its validations."""
        options = recipe.train
        most = options.micro_batch or images_at_once(self.total, self.question, self.sample)
        step = self.question + min(options.batch_size, most) * self.sample
        return max(self.scoring(), self.resting + step)


@dataclass(frozen=True)
class Pace:
    """Seconds per image on this machine."""

    reading: float
    """From the file to the prepared image."""
    tower: float
    """The vision tower and the projector."""
    decoder: float
    """The decoder: image, end of the question, and answers."""
    operations: float = 0.0
    """Operations per image, without those of answers."""
    memory: Memory | None = None
    """None on a GPU."""

    @property
    def sentence(self) -> str:
        """This machine's rate, for a person."""
        rate = self.operations / max(1e-9, self.tower + self.decoder)
        return (
            f"This machine scores {1 / max(1e-9, self.scoring(1)):.3g} images/s. Before any answer an image takes "
            f"{self.operations / 1e9:,.3g} billion operations; {rate / 1e9:,.3g} billion are done in a second."
        )

    def peak(self, trained: Iterable[Recipe] = ()) -> int | None:
        """Peak memory in bytes of scoring images, and of trainings by these recipes; None if it can't be told."""
        if self.memory is None:
            return None
        return max([self.memory.scoring(), *map(self.memory.training, trained)])

    def with_cost(self, share: float) -> Pace:
        """The pace if an image took this fraction of the operations."""
        return replace(self, tower=share * self.tower, decoder=share * self.decoder, operations=share * self.operations)

    def scoring(self, images: int) -> float:
        """Seconds for scoring images."""
        return images * (self.reading + self.tower + self.decoder)

    def features(self, images: int) -> float:
        """Seconds for extracting all features of images."""
        return self.scoring(images)

    def training(self, recipe: Recipe, dataset: ImageDataset) -> float:
        """Seconds for a training by a recipe, with its validations."""
        images, epochs = len(dataset.train), recipe.train.epochs
        seen = images * recipe.train.passes(images)
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
    most, total, past = 1, 0.0, len(classifier.prompt.before)
    for _, _, read in islice(split.items(max_pixels, model.sufficient_size), MOST):
        try:
            views.append(model.prepare(read()))
        except ImageError:  # listed where it is scored
            continue
        if len(views) == 1:
            total = operations(model, shape_of(views[0]), past, len(classifier.prompt.after)).total
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
    memory = _memory(classifier, views) if model.device.type == "cpu" else None
    return Pace(reading, tower_seconds / n, max(0.0, seconds - tower_seconds) / n, total, memory)


def _memory(classifier: Classifier, views: Sequence[Views]) -> Memory:
    model, prompt = classifier.model, classifier.prompt
    past = len(prompt.before)
    largest = max(map(shape_of, views), key=lambda shape: model.memory(shape, past))
    batch = classifier.batch_size_for(largest) * model.memory(largest, past)
    answer = max(len(answer) for answers in prompt.answers for answer in answers)
    sample = model.training_memory(model.tokens(largest) + len(prompt.after) + answer)
    question = model.training_memory(past)
    return Memory(peak_memory(), used_memory(), batch, question, sample, model.total_memory())


LONG, SAMPLE = 600, 1000
"""Seconds from which ways to make the work shorter are offered, and test images that are one of them."""


def shorter(pace: Pace, cost: ImageCost | None, test: Split, seconds: Callable[[Pace, int], float]) -> list[str]:
    """What would make long work shorter, and how long it would take then: sentences, none if the work is short.

    Args:
        cost: of an image.
        test: the images whose accuracy is measured.
        seconds: the work's duration at a pace and with a number of those images.
    """
    images = len(test)
    if seconds(pace, images) < LONG:
        return []
    lines = []
    if cost and cost.budget:
        taken = duration(seconds(pace.with_cost(cost.budget_share), images))
        lines.append(f"model.image_tokens={cost.budget} shows less detail and takes about {taken}.")
    if test.name == "test" and images >= 2 * SAMPLE:
        rate, taken = wilson(SAMPLE // 2, SAMPLE), duration(seconds(pace, SAMPLE))
        points = f"{100 * (rate.high - rate.low) / 2:.0f} points"
        lines.append(f"data.test_limit={SAMPLE} tells the accuracy to within {points} in about {taken}.")
    return [f"To make it shorter: {line}" for line in lines]


def timed(work: Callable[[], None]) -> float:
    """Seconds that a function takes."""
    clock = time.perf_counter()
    work()
    return time.perf_counter() - clock
