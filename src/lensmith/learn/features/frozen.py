"""The base model as published: the features of a dataset's images, and simple classifiers fitted on them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from lensmith import models
from lensmith.config import Recipe
from lensmith.data import ImageDataset, Split
from lensmith.engine.classifier import Classifier, predict
from lensmith.engine.features import PIXELS, feature_names
from lensmith.engine.question import make_question
from lensmith.errors import UserError
from lensmith.learn.features import probes, selection
from lensmith.learn.features.selection import Fitted
from lensmith.learn.features.table import FeatureTable, read_table
from lensmith.measure.evaluation import classifier_for
from lensmith.models.heads import Head
from lensmith.models.tuning import Tuned
from lensmith.models.views import AS_IT_IS, Look
from lensmith.progress import Tell, counter

T = TypeVar("T")


class FrozenModel:
    """The base model, and the features of a dataset's images, each extracted once.

    Raises:
        UserError: the model can't be loaded, the question can't be built from the labels, or the recipe names an
            unknown feature.

    Args:
        known: what was fitted on the same images before, and is not fitted again; see `once`.
    """

    def __init__(self, recipe: Recipe, dataset: ImageDataset, tell: Tell, known: dict[Any, Any] | None = None) -> None:
        self.recipe, self.dataset, self.tell = recipe, dataset, tell
        self._known = {} if known is None else known
        self._choosers: tuple[int, ...] | None = None
        self.model = models.load_base(recipe.model)
        self.question = make_question(self.model, recipe.question, dataset.labels)
        self.asked = classifier_for(Tuned(self.model), self.question, recipe.evaluate)
        """The model itself, asked the question, without training."""
        self.computed = 0
        """The number of images whose features were extracted; the others were in the cache."""
        self._tables: dict[Any, FeatureTable] = {}
        names = feature_names(self.model)
        if unknown := [feature for feature in recipe.probe.features or [] if feature not in names]:
            raise UserError(f"There is no feature {unknown[0]!r} (probe.features).", f"There are: {', '.join(names)}.")

    def table(self, split: str, pixels: bool = False) -> FeatureTable:
        """The features of a split's readable images. Raises UserError if no training image can be read."""
        key = (split, pixels)
        if key not in self._tables:
            options, wanted = self.recipe.data, [PIXELS] if pixels else None
            table = read_table(
                self.asked, self.dataset.split(split), wanted, options.max_pixels, options.unreadable, self.tell
            )
            self._tables[key] = table
            self.computed += table.computed
        return self._tables[key]

    def chosen_by(self, rows: Sequence[int]) -> FrozenModel:
        """The same, as if these were all the validation images that settings can be chosen by. What doesn't depend on
        validation images is shared.

        Args:
            rows: indices in the table of the validation images.
        """
        other = copy.copy(self)
        other._choosers = tuple(rows)
        return other

    def held_out(self, parts: Sequence[Sequence[int]], say: Callable[[Tensor], Tensor]) -> Tensor:
        """What is said of validation images by what other validation images choose; see `Method.held_out`.

        Args:
            parts: indices of validation images. If there is only one part, it chooses by itself.
            say: (rows,) which rows in the table of the validation images choose -> (rows, classes) of all rows.

        Returns:
            (validation images, classes), NaN for an image that can't be read.
        """
        found = torch.full((len(self.dataset.validation), len(self.dataset.labels)), torch.nan)
        rows = torch.tensor(self.table("validation").rows)
        for part in parts:
            judged = torch.isin(rows, torch.tensor(part))
            found[rows[judged]] = say(~judged if len(parts) > 1 else judged)[judged]
        return found

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """What `make` makes of the dataset's images, whoever chooses; it is remembered under this key."""
        if key not in self._known:
            self._known[key] = make()
        return cast(T, self._known[key])

    def looked(self, split: Split, features: Sequence[str], look: Look) -> FeatureTable:
        """Some features of a split's readable images under a look; see `read_table`."""
        if look == AS_IT_IS and split is self.dataset.split(split.name):
            return self.table(split.name)
        key = (split.order, *features, look)
        if key not in self._tables:
            options = self.recipe.data
            self._tables[key] = read_table(
                self.asked, split, features, options.max_pixels, options.unreadable, self.tell, look
            )
        return self._tables[key]

    def answers(self, split: Split, rows: Sequence[int]) -> Tensor:
        """(rows, labels) log-probabilities of the labels, as the model answers without training.

        Args:
            rows: indices in the split of images that can be read.
        """
        items = list(split.items(self.recipe.data.max_pixels, self.model.sufficient_size))
        show = counter("asking the model as it is", len(rows), self.tell)
        every = Classifier(self.model, self.question, batch_size=self.recipe.evaluate.batch_size)
        found = [p.scores for p in predict(every, [items[i] for i in rows], show)]
        return torch.tensor(found).reshape(len(rows), len(self.question.labels)).log_softmax(1)

    def fit(
        self, path: probes.HeadPath, features: list[str] | None = None, train: FeatureTable | None = None
    ) -> Fitted:
        """The best classifier of one type, chosen on validation images; see `selection.fit`.

        Args:
            path: `probes.probes` or `probes.neighbours`.
            features: the features to choose among. None for those in the recipe, or all if it names none.
            train: a subset of the training images; None for all.

        Raises:
            UserError: fewer than two classes have a readable training image, or there is no such feature.
        """
        pixels = features == [PIXELS]

        def fitted(path: probes.HeadPath, table: FeatureTable) -> Fitted:
            validation = self.table("validation", pixels)
            return selection.fit(
                path,
                table,
                validation if self._choosers is None else validation.subset(self._choosers),
                self.dataset.labels,
                features or self.recipe.probe.features,
                self.recipe.train.class_weights == "balanced",
                self.recipe.seed,
                self.model.device,
                self.tell,
            )

        if train is not None:
            return fitted(path, train)
        remembering = self.once(path.setting, lambda: probes.remembering(path))
        key = (path.setting, *(features or ()), self._choosers)
        return self.once(key, lambda: fitted(remembering, self.table("train", pixels)))

    def tuned(self, head: Head) -> Tuned:
        """The model with a fitted head, which answers instead of the decoder."""
        return Tuned(self.model, head.to(self.model.device))

    def classifier(self, head: Head) -> Classifier:
        """A classifier that scores images with a fitted head."""
        return classifier_for(self.tuned(head), self.question, self.recipe.evaluate)


class SharedFrozenModel:
    """One frozen model, shared by all methods that are fitted on it. Loaded on first use; released to free memory."""

    def __init__(self, recipe: Recipe, dataset: ImageDataset, tell: Tell) -> None:
        self.recipe, self.dataset, self.tell = recipe, dataset, tell
        self._frozen: FrozenModel | None = None
        self._known: dict[Any, Any] = {}
        self.seconds = 0.0
        """How long loading the model and extracting the features of training and validation images took."""
        self.cached = False
        """Whether some of these features were in the cache, so that `seconds` excludes their extraction."""

    def load(self) -> FrozenModel:
        """The frozen model."""
        self._frozen = self._frozen or FrozenModel(self.recipe, self.dataset, self.tell, self._known)
        return self._frozen

    def extracted(self) -> FrozenModel:
        """The frozen model, with the features of training and validation images extracted."""
        if self._frozen is None or not self.seconds:
            start, frozen = time.perf_counter(), self.load()
            computed_before = frozen.computed
            images = len(frozen.table("train")) + len(frozen.table("validation"))
            self.seconds = time.perf_counter() - start
            self.cached = frozen.computed - computed_before < images
        return self.load()

    def release(self) -> None:
        """Free the model's memory."""
        self._frozen = None
