"""Methods that train weights of the model: LoRA, answering by name or by a class head."""

from __future__ import annotations

import time
from dataclasses import replace

from lensmith.config import Recipe
from lensmith.data import ImageDataset
from lensmith.learn.features.frozen import SharedFrozenModel
from lensmith.learn.learner import prepare
from lensmith.learn.loop import accuracy_on, train
from lensmith.learn.methods import MakeResult, Method
from lensmith.measure.pace import Pace
from lensmith.runs.folder import Run


class Lora(Method):
    name, about, cost = "lora", "the model trained with LoRA, answering by name", 5
    head, trains = False, True

    def recipe(self, recipe: Recipe) -> Recipe:
        tune = replace(recipe.tune, method="lora", head=self.head)
        rates = {component: rate for component, rate in tune.rates.items() if getattr(tune, component)}
        return replace(super().recipe(recipe), tune=replace(tune, rates=rates))

    def seconds(self, pace: Pace, recipe: Recipe, dataset: ImageDataset) -> float:
        return pace.training(recipe, dataset)

    def require(self, recipe: Recipe, dataset: ImageDataset) -> None:
        prepare(recipe, dataset)

    def make(self, run: Run, shared: SharedFrozenModel, resume: bool) -> MakeResult:
        shared.release()
        start = time.perf_counter()
        training = train(prepare(run.recipe, run.dataset), run, resume)
        # The seconds that the training counts include those before it was stopped and resumed.
        return MakeResult(max(training.seconds, time.perf_counter() - start))

    def correct(self, run: Run, shared: SharedFrozenModel, size: int, seed: int) -> int:
        shared.release()
        recipe = replace(run.recipe, seed=run.recipe.seed + seed)
        dataset = replace(run.dataset, train=run.dataset.train.take(size, recipe.seed))
        run = replace(run, recipe=recipe, dataset=dataset)
        resume = run.ensure_started()
        learner = prepare(recipe, dataset)
        train(learner, run, resume)
        accuracy = accuracy_on(dataset.test, learner.tuned, learner.question, recipe).accuracy
        return round(accuracy.accuracy * accuracy.n) if accuracy else 0


class LoraWithHead(Lora):
    name, about, cost, head = "lora+head", "the model trained with LoRA, answering by a class head", 6, True


METHODS = (Lora(), LoraWithHead())
