"""Methods fitted on the frozen model's features, in seconds: nearest neighbours and probes."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from lensmith.config import Recipe
from lensmith.data import ImageDataset
from lensmith.engine.features import PIXELS
from lensmith.learn.batches import class_weights
from lensmith.learn.features import probes
from lensmith.learn.features.frozen import FrozenModel, SharedFrozenModel
from lensmith.learn.features.selection import Fitted
from lensmith.learn.features.table import FeatureTable
from lensmith.learn.methods import MakeResult, Method
from lensmith.measure.calibration import temperature
from lensmith.models.tuned_files import keep_tuned
from lensmith.runs.folder import Run


class FittedMethod(Method):
    """A head fitted on features of the frozen model.

    Args:
        path: `probes.probes` or `probes.neighbours`: fits the heads to choose among.
        features: the features to choose among; None for those in the recipe. A method with given features is not
            listed.
    """

    deterministic = True

    def __init__(
        self, name: str, about: str, cost: int, path: probes.HeadPath, features: list[str] | None = None
    ) -> None:
        self.name, self.about, self.cost, self.path, self.features = name, about, cost, path, features
        self.listed = features is None

    def require(self, recipe: Recipe, dataset: ImageDataset) -> None:
        class_weights(dataset.train, dataset.labels, recipe.train.class_weights)  # every class has an image

    def fit(self, frozen: FrozenModel, train: FeatureTable | None = None) -> Fitted:
        """The head; see `FrozenModel.fit`."""
        return frozen.fit(self.path, self.features, train)

    def make(self, run: Run, shared: SharedFrozenModel, resume: bool) -> MakeResult:
        frozen, start = shared.extracted(), time.perf_counter()
        fitted = self.fit(frozen)
        keep_tuned(run, frozen.tuned(fitted.head), self.name)
        # Every fitted method needs the extraction, so its time counts for each of them, although it is done once.
        return MakeResult(shared.seconds + time.perf_counter() - start, fitted.sentence(), shared.cached)

    def held_out(self, run: Run, shared: SharedFrozenModel, parts: Sequence[Sequence[int]]) -> Tensor:
        frozen = shared.load()
        table = frozen.table("validation", self.features == [PIXELS])

        def say(chooses: Tensor) -> Tensor:
            head = self.fit(frozen.chosen_by(chooses.nonzero()[:, 0].tolist())).head
            with torch.inference_mode():
                scores: Tensor = head(table.feature(head.feature))
            return (scores / temperature(scores[chooses], table.labels[chooses])).log_softmax(1)

        return frozen.held_out(parts, say)

    def correct(self, run: Run, shared: SharedFrozenModel, size: int, seed: int) -> int:
        frozen, dataset = shared.load(), run.dataset
        subset, table = set(dataset.train.take(size, run.recipe.seed + seed).ids), frozen.table("train")
        rows = [k for k, i in enumerate(table.rows) if dataset.train.ids[i] in subset]
        return correct(self.fit(frozen, table.subset(rows)), frozen.table("test"))


def correct(fitted: Fitted, table: FeatureTable) -> int:
    """The number of images in a table that a fitted classifier classifies correctly."""
    device = next(iter(fitted.head.state_dict().values())).device
    with torch.inference_mode():
        predicted = fitted.head(table.feature(fitted.head.feature).to(device)).argmax(1).cpu()
    return int((predicted == table.labels).sum())


METHODS = (
    FittedMethod("pixels", "logistic regression on raw pixels: what any model must beat", 0, probes.probes, [PIXELS]),
    FittedMethod(
        "neighbours", "the training images most similar, by the frozen model's features", 3, probes.neighbours
    ),
    FittedMethod("probe", "logistic regression on the frozen model's features", 4, probes.probes),
)
