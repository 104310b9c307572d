"""Methods that don't use training images: the model is only asked the question."""

from __future__ import annotations

from dataclasses import replace

from lensmith.config import Recipe
from lensmith.data import ImageDataset
from lensmith.learn.features.frozen import SharedFrozenModel
from lensmith.learn.methods import MakeResult, Method
from lensmith.runs.folder import Run


class ZeroShot(Method):
    name, about, cost, learns = "zero-shot", "the model as it is, asked", 1, False

    def recipe(self, recipe: Recipe) -> Recipe:
        return replace(super().recipe(recipe), evaluate=replace(recipe.evaluate, calibration="none"))

    def labels(self, dataset: ImageDataset) -> int:
        return 0

    def require(self, recipe: Recipe, dataset: ImageDataset) -> None:
        pass

    def make(self, run: Run, shared: SharedFrozenModel, resume: bool) -> MakeResult:
        return MakeResult(0.0)

    def correct(self, run: Run, shared: SharedFrozenModel, size: int, seed: int) -> int:
        raise NotImplementedError(f"{self.name} doesn't learn from images")


class Calibrated(ZeroShot):
    name, about, cost = "calibrated", "the same, with its prior preference for some labels removed", 2

    def recipe(self, recipe: Recipe) -> Recipe:
        # Removing a prior requires the scores of all labels.
        evaluate = replace(recipe.evaluate, calibration="auto", top=None)
        return replace(super().recipe(recipe), evaluate=evaluate)

    def labels(self, dataset: ImageDataset) -> int:
        return len(dataset.validation)


METHODS = (ZeroShot(), Calibrated())
