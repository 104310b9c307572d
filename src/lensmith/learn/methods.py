"""The ways to make a classifier, the cheapest first; what probe, ladder, learning curve and suspects share.

A rung is a name: `zero-shot` and `calibrated` learn nothing, `neighbours`, `probe` and `pixels` are fitted on frozen
vectors, `lora` and `lora+head` are trained. Whatever its rung, what comes of it is a `Classifier`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lensmith import models
from lensmith.config import Recipe
from lensmith.data import ImageDataset
from lensmith.engine.classifier import Classifier
from lensmith.engine.features import PIXELS, kinds
from lensmith.errors import UserError
from lensmith.learn import probes
from lensmith.learn.batches import class_weights
from lensmith.learn.feature_table import Table, read_table
from lensmith.learn.loop import keep, train
from lensmith.learn.probes import Fitted
from lensmith.learn.trackers import require_tracker
from lensmith.measure.evaluation import classifier_for
from lensmith.models.tuning import attach
from lensmith.progress import Tell
from lensmith.records import Training
from lensmith.runs.files import recover

ABOUT = {
    "zero-shot": "the model as it is, asked",
    "calibrated": "the same, with its liking for some labels taken away",
    "neighbours": "the training images most alike, by what the frozen model sees",
    "probe": "logistic regression on what the frozen model sees",
    "lora": "the model taught with LoRA, answering by name",
    "lora+head": "the model taught with LoRA, answering by a class head",
}
"""The rungs of a ladder, and what each is."""
FITTED = {"neighbours": probes.neighbours, "probe": probes.probes, PIXELS: probes.probes}
"""The rungs that are fitted on frozen vectors, and how; `pixels` is a probe on the image itself."""


def recipe_of(rung: str, recipe: Recipe) -> Recipe:
    """The recipe by which a rung is made and scored."""
    changed = replace(recipe, model=replace(recipe.model, adapter=None))
    if rung == "zero-shot":
        changed.evaluate = replace(recipe.evaluate, calibration="none")
    elif rung == "calibrated":  # which takes all labels' scores
        changed.evaluate = replace(recipe.evaluate, calibration="auto", top=None)
    elif rung.startswith("lora"):
        tune = replace(recipe.tune, method="lora", head=rung == "lora+head")
        rates = {part: rate for part, rate in tune.rates.items() if getattr(tune, part)}  # of what it tunes
        changed.tune = replace(tune, rates=rates)
    return changed


class Frozen:
    """The base model as it was published, and what it makes of a dataset's images, each looked at once.

    Raises:
        UserError: the model can't be loaded, the labels can't be said, or the recipe names a feature that there is not.
    """

    def __init__(self, recipe: Recipe, dataset: ImageDataset, tell: Tell) -> None:
        self.recipe, self.dataset, self.tell = recipe, dataset, tell
        self.model = models.load(replace(recipe.model, adapter=None))
        self.asked = classifier_for(self.model, recipe, dataset)
        self._tables: dict[str, Table] = {}
        known = kinds(self.model)
        if unknown := [feature for feature in recipe.probe.features or [] if feature not in known]:
            raise UserError(f"There is no feature {unknown[0]!r} (probe.features).", f"There are: {', '.join(known)}.")

    def table(self, part: str, pixels: bool = False) -> Table:
        """The vectors of `train`, `validation` or `test`. Raises UserError if no training image can be read."""
        key = f"{part} {pixels}"
        if key not in self._tables:
            data, wanted = self.recipe.data, [PIXELS] if pixels else None
            self.model.head = None
            self._tables[key] = read_table(
                self.asked, getattr(self.dataset, part), wanted, data.max_pixels, data.unreadable, self.tell
            )
        return self._tables[key]

    def fit(self, rung: str, train: Table | None = None) -> Fitted:
        """A classifier on frozen vectors, chosen on validation images.

        Args:
            rung: one of `FITTED`.
            train: some of the training images; None for all.

        Raises:
            UserError: fewer than two classes have a readable training image, or there is no such feature.
        """
        pixels = rung == PIXELS
        labels, options = self.dataset.labels, self.recipe
        return probes.fit(
            FITTED[rung],
            self.table("train", pixels) if train is None else train,
            self.table("validation", pixels),
            labels,
            [PIXELS] if pixels else options.probe.features,
            options.train.class_weights == "balanced",
            options.seed,
            self.model.device,
        )

    def classifier(self, fitted: Fitted) -> Classifier:
        """What scores by a fitted head; the one before must not be used any more."""
        self.model.head = fitted.head.to(self.model.device)
        return classifier_for(self.model, self.recipe, self.dataset)

    def keep(self, fitted: Fitted, rung: str, folder: Path) -> None:
        """Save a fitted head as a training saves its weights: a run folder is all that `predict` needs."""
        self.model.head = fitted.head.to(self.model.device)
        keep(self.model, self.recipe, self.dataset, folder, rung)


def require_trainable(recipe: Recipe, dataset: ImageDataset) -> None:
    """Raises UserError if a training by this recipe can't begin: said before there is a folder, or hours are spent."""
    require_tracker(recipe.train.tracker)
    class_weights(dataset.train, dataset.labels, recipe.train.class_weights)
    model = models.load(replace(recipe.model, adapter=None))
    attach(model, recipe.tune, dataset.labels, recipe.seed)
    classifier_for(model, recipe, dataset)


def taught(
    recipe: Recipe, dataset: ImageDataset, folder: Path, tell: Tell, resume: bool = False
) -> tuple[Classifier, Training]:
    """Train by a recipe (`recipe_of`) into a run folder; test images are not touched.

    Raises:
        UserError, Stopped: see `training.train`.
    """
    if resume:
        recover(folder / "adapter")
    model = models.load(replace(recipe.model, adapter=None))
    attach(model, recipe.tune, dataset.labels, recipe.seed)
    training = train(model, dataset, recipe, folder, tell, resume)
    return classifier_for(model, recipe, dataset), training


def right(fitted: Fitted, table: Table) -> int:
    """How many of a part's images a fitted classifier has right."""
    device = next(iter(fitted.head.state_dict().values())).device
    with torch.inference_mode():
        found = fitted.head(table.of(fitted.head.feature).to(device)).argmax(1).cpu()
    return int((found == table.truth).sum())


def labels_of(rung: str, dataset: ImageDataset) -> int:
    """Labelled images that a rung learns from, those it is chosen by included."""
    seen: dict[str, Sequence[Any]] = {"zero-shot": [], "calibrated": dataset.validation.ids}
    return len(seen.get(rung, [*dataset.train.ids, *dataset.validation.ids]))
