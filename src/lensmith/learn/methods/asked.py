"""Methods that learn nothing from training images: the model as it is, asked."""

from __future__ import annotations

from dataclasses import replace

from lensmith.config import Recipe
from lensmith.data import ImageDataset
from lensmith.learn.frozen import SharedFrozenModel
from lensmith.learn.methods import Made, Method
from lensmith.runs.folder import Run


class ZeroShot(Method):
    name, about, cost, learns = "zero-shot", "the model as it is, asked", 1, False

    def recipe(self, recipe: Recipe) -> Recipe:
        return replace(super().recipe(recipe), evaluate=replace(recipe.evaluate, calibration="none"))

    def labels(self, dataset: ImageDataset) -> int:
        return 0

    def require(self, recipe: Recipe, dataset: ImageDataset) -> None:
        pass

    def make(self, run: Run, shared: SharedFrozenModel, resume: bool) -> Made:
        return Made(0.0)

    def correct(self, run: Run, shared: SharedFrozenModel, size: int, seed: int) -> int:
        raise NotImplementedError(f"{self.name} learns from no images")


class Calibrated(ZeroShot):
    name, about, cost = "calibrated", "the same, with its prior preference for some labels removed", 2

    def recipe(self, recipe: Recipe) -> Recipe:
        # A prior needs the scores of all labels.
        evaluate = replace(recipe.evaluate, calibration="auto", top=None)
        return replace(super().recipe(recipe), evaluate=evaluate)

    def labels(self, dataset: ImageDataset) -> int:
        return len(dataset.validation)


METHODS = (ZeroShot(), Calibrated())
