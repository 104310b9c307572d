"""Methods fitted on the frozen model's features, in seconds: nearest neighbours and probes."""

from __future__ import annotations

import time

import torch

from lensmith.config import Recipe
from lensmith.data import ImageDataset
from lensmith.engine.features import PIXELS
from lensmith.learn import probes
from lensmith.learn.batches import class_weights
from lensmith.learn.feature_table import Table
from lensmith.learn.frozen import FrozenModel, SharedFrozenModel
from lensmith.learn.methods import Made, Method
from lensmith.learn.probes import Fitted
from lensmith.models.tuning import keep_tuned
from lensmith.runs.folder import Run


class FittedMethod(Method):
    """A head fitted on features of the frozen model.

    Args:
        path: makes the heads to choose among.
        features: those it chooses among; None for what the recipe says.
    """

    deterministic = True

    def __init__(self, name: str, about: str, cost: int, path: probes.Path, features: list[str] | None = None) -> None:
        self.name, self.about, self.cost, self.path, self.features = name, about, cost, path, features
        self.listed = features is None

    def require(self, recipe: Recipe, dataset: ImageDataset) -> None:
        class_weights(dataset.train, dataset.labels, recipe.train.class_weights)  # every class has an image

    def fit(self, frozen: FrozenModel, train: Table | None = None) -> Fitted:
        """The head; see `FrozenModel.fit`."""
        return frozen.fit(self.path, self.features, train)

    def make(self, run: Run, shared: SharedFrozenModel, resume: bool) -> Made:
        frozen, clock = shared.extracted(), time.perf_counter()
        fitted = self.fit(frozen)
        keep_tuned(run, frozen.tuned(fitted.head), self.name)
        # Extraction is a part of each fitted method, though it is done only once.
        return Made(shared.seconds + time.perf_counter() - clock, fitted.sentence(), shared.cached)

    def correct(self, run: Run, shared: SharedFrozenModel, size: int, seed: int) -> int:
        frozen, dataset = shared.load(), run.dataset
        subset, table = set(dataset.train.take(size, run.recipe.seed + seed).ids), frozen.table("train")
        rows = [k for k, i in enumerate(table.rows) if dataset.train.ids[i] in subset]
        return correct(self.fit(frozen, table.some(rows)), frozen.table("test"))


def correct(fitted: Fitted, table: Table) -> int:
    """How many images of a table a fitted classifier has correct."""
    device = next(iter(fitted.head.state_dict().values())).device
    with torch.inference_mode():
        best = fitted.head(table.of(fitted.head.feature).to(device)).argmax(1).cpu()
    return int((best == table.truth).sum())


METHODS = (
    FittedMethod("pixels", "logistic regression on raw pixels: what any model must beat", 0, probes.probes, [PIXELS]),
    FittedMethod(
        "neighbours", "the training images most similar, by the frozen model's features", 3, probes.neighbours
    ),
    FittedMethod("probe", "logistic regression on the frozen model's features", 4, probes.probes),
)
