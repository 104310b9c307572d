"""The blend of all that the labels have made: probes, neighbours and trained models, averaged with weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from lensmith.config import Recipe
from lensmith.data import ImageDataset
from lensmith.engine.classifier import predict
from lensmith.errors import UserError
from lensmith.learn import made
from lensmith.learn.blending import held_out, make_blend
from lensmith.learn.features.few import looks_of
from lensmith.learn.features.frozen import SharedFrozenModel
from lensmith.learn.methods import MakeResult, Method, methods
from lensmith.measure.calibration import LEAST
from lensmith.measure.metrics import is_correct
from lensmith.measure.pace import Pace
from lensmith.runs.folder import Run

TRAINED = {"lora": 0, "lora+head": 16}
"""The methods whose models are blended, beside the heads that a blend fits itself; and of each the labels a class from
which it is blended if there are too few validation images to weigh it. With fewer, it made the blend worse
(dev/LOG.md)."""


class Blend(Method):
    name, about, cost = "blend", "the weighted mean of probes, neighbours and trained models", 7

    def require(self, recipe: Recipe, dataset: ImageDataset) -> None:
        methods()["probe"].require(recipe, dataset)
        if recipe.blend.of:
            raise UserError("blend.of names finished runs, which a ladder doesn't blend.", "Use `lensmith blend`.")
        for name in recipe.blend.methods or []:
            methods()[name].require(methods()[name].recipe(recipe), dataset)

    def seconds(self, pace: Pace, recipe: Recipe, dataset: ImageDataset) -> float:
        return pace.features(len(dataset.train)) * len(looks_of(recipe.augment))

    def make(self, run: Run, shared: SharedFrozenModel, resume: bool) -> MakeResult:
        for name in run.recipe.blend.methods or []:
            if name not in _taught(run):
                made.make(methods()[name], run, shared)
        taught = _taught(run)
        seconds = sum(made.cost_of(own)["seconds"] for own in taught.values())
        frozen, start = shared.extracted(), time.perf_counter()
        note = make_blend(run, frozen, taught)
        return MakeResult(shared.seconds + seconds + time.perf_counter() - start, note, shared.cached)

    def held_out(self, run: Run, shared: SharedFrozenModel, parts: Sequence[Sequence[int]]) -> Tensor:
        return held_out(run, shared.load(), _taught(run), parts)

    def correct(self, run: Run, shared: SharedFrozenModel, size: int, seed: int) -> int:
        recipe = replace(run.recipe, seed=run.recipe.seed + seed)
        dataset = replace(run.dataset, train=run.dataset.train.take(size, recipe.seed))
        run = replace(run, recipe=recipe, dataset=dataset)
        self.make(run, SharedFrozenModel(recipe, dataset, run.tell), run.ensure_started())
        classifier = made.classifier_of(run)
        items = dataset.test.items(recipe.data.max_pixels, classifier.model.sufficient_size)
        return sum(map(is_correct, predict(classifier, items)))


def _taught(run: Run) -> dict[str, Run]:
    """The trained models that are blended, as far as they are made: in the ladder that this run is part of, or in the
    run itself."""
    named, dataset = run.recipe.blend.methods, run.dataset
    weighed, each = len(dataset.validation) >= LEAST, len(dataset.train) / len(dataset.labels)
    found = {}
    for name in TRAINED if named is None else named:
        if named is None and not weighed and each < TRAINED[name]:
            continue
        for around in (replace(run, folder=run.folder.parent), run):
            inner = around.inner(name, methods()[name].recipe(run.recipe))
            if name not in found and made.is_made(inner):
                found[name] = inner
    return found


METHODS = (Blend(),)
