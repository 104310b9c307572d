"""Training images by index, as pixels or as cached features, class weights, and the order of the batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from lensmith.config import AugmentOptions, Recipe
from lensmith.data import ImageDataset, Split
from lensmith.engine.objective import SoftLabels
from lensmith.errors import ImageError, UserError
from lensmith.learn.features.store import FeatureStore, cache_folder, fill, fingerprint
from lensmith.learn.processes import Processes
from lensmith.models.base import Model
from lensmith.models.tuning import Tuned, component_of, trainable
from lensmith.models.views import Views, shape_of
from lensmith.progress import Tell

SEPARATOR_TOKENS = 16
"""An upper bound on the tokens between an image's tiles."""
LEAST_TARGET = 0.01
"""Less probable labels aren't learned from: each takes an answer of its own."""
CACHE_BYTES = 1 << 30
"""Size of the prepared images that are kept in memory; the others are read again in every epoch."""


class Images(Protocol):
    """Training images by index. An image that can't be read is None, and `errors` has one sentence about it."""

    errors: dict[int, str]

    def tokens(self, views: Views) -> int:
        """An upper bound on the number of embeddings of an image, given its views in the form used here."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Views | None: ...


class PreparedImages:
    """The prepared images of a split, read on first access and kept in memory while they fit.

    An image that can't be read is listed once and is None from then on.

    Args:
        cache_bytes: the total size of the images kept in memory; `CACHE_BYTES` if None.
    """

    def __init__(self, model: Model, split: Split, max_pixels: int, cache_bytes: int | None = None) -> None:
        self.model, self.split, self.max_pixels = model, split, max_pixels
        self.errors: dict[int, str] = {}
        self._kept: dict[int, Views] = {}
        self._bytes_left = CACHE_BYTES if cache_bytes is None else cache_bytes

    def require(self, unreadable: str) -> None:
        """Raises UserError if no image can be read. With `unreadable="stop"` all images are read now, and the first one
        that can't be raises ImageError."""
        if unreadable == "stop":
            for i in range(len(self.split)):
                if self[i] is None:
                    raise ImageError(self.errors[i], "Remove it, or set data.unreadable=skip to leave it out.")
        elif all(self[i] is None for i in range(len(self.split))):  # stops at the first readable image
            raise UserError("There is no readable training image.", *list(self.errors.values())[:1])

    def __len__(self) -> int:
        return len(self.split)

    def tokens(self, views: Views) -> int:
        return self.model.tokens(shape_of(views))

    def __getitem__(self, i: int) -> Views | None:
        if i in self._kept or i in self.errors:
            return self._kept.get(i)
        try:
            views = self.model.prepare(self.split.image(i, self.max_pixels, self.model.sufficient_size))
        except ImageError as error:
            self.errors[i] = str(error)
            return None
        size = sum(view.nbytes for view in views)
        if size <= self._bytes_left:
            self._bytes_left -= size
            self._kept[i] = views
        return views


class CachedFeatures:
    """Training images as cached features: the output of the frozen tower, or of tower and projector."""

    def __init__(self, images: PreparedImages, names: Sequence[str], store: FeatureStore) -> None:
        self.images, self.names, self.store, self.errors = images, names, store, images.errors

    def __len__(self) -> int:
        return len(self.names)

    def tokens(self, views: Views) -> int:
        return sum(view.shape[0] * view.shape[1] for view in views) + SEPARATOR_TOKENS

    def __getitem__(self, i: int) -> Views | None:
        features = self.store.get(self.names[i])
        if features is None and self.images[i] is not None:  # the store has been deleted
            raise UserError(
                f"The cached features in {self.store.folder} were deleted during training.",
                "Resume with `lensmith resume`; they will be extracted again.",
            )
        return features


def open_images(
    tuned: Tuned, dataset: ImageDataset, recipe: Recipe, processes: Processes, tell: Tell
) -> tuple[Images, Callable[[Views], Tensor]]:
    """The training images, and the function that turns a stack of them into (n, tokens, hidden) embeddings.

    If the tower is frozen and images aren't augmented, their features are extracted once and cached on disk.

    Raises:
        UserError: no image can be read.
        ImageError: an image can't be read and the recipe says to stop.
    """
    model = tuned.model
    images = PreparedImages(model, dataset.train, recipe.data.max_pixels)
    images.require(recipe.data.unreadable)
    trained = {component_of(model, name) for name in trainable(model)}
    if not recipe.train.cache_features or "vision_tower" in trained or recipe.augment != AugmentOptions():
        return images, model.embed_images
    project = "projector" not in trained
    components = ["vision_tower", "projector"] if project else ["vision_tower"]
    store = FeatureStore(cache_folder() / "features" / fingerprint(model, components))
    names = dataset.train.contents

    def extract(views: Views) -> Views:
        features = model.encode_images(views)
        return tuple(view.to(model.compute) for view in (model.project(features) if project else features))

    def project_and_assemble(features: Views) -> Tensor:
        return model.assemble(model.project(features))

    if not fill(store, images, names, model, extract, processes, tell).stored:
        return images, model.embed_images
    return CachedFeatures(images, names, store), model.assemble if project else project_and_assemble


def class_weights(split: Split, labels: tuple[str, ...], method: str) -> list[float]:
    """The weight of an image of each class: 1, or with `balanced`, n / (classes * images of the class).

    The mean weight over all images is 1.

    Raises:
        UserError: a class has no training image.
    """
    counts = Counter(split.labels)
    if missing := [label for label in labels if not counts[label]]:
        raise UserError(
            f"There is no training image of the class{'es' if len(missing) > 1 else ''} {', '.join(missing[:5])}.",
            "Add some, or raise data.train_limit.",
        )
    return [len(split) / (len(labels) * counts[c]) if method == "balanced" else 1.0 for c in labels]


def soft_labels(split: Split, index: Mapping[str, int], weights: Sequence[float]) -> Callable[[int], SoftLabels]:
    """The labels of an image, given its number: its one label; or, if a model gave it with probabilities, those from
    `LEAST_TARGET` on, as far as they are of known classes.

    Args:
        index: the index of each label.
        weights: the weight of an image of each class; see `class_weights`.
    """
    labels, targets = [index[label] for label in split.labels], split.targets
    if not any(targets):
        return lambda i: [(labels[i], weights[labels[i]])]

    def soft(i: int) -> SoftLabels:
        given = {index[name]: p for name, p in (targets[i] or {}).items() if name in index and p >= LEAST_TARGET}
        total, weight = sum(given.values()), weights[labels[i]]
        return [(label, weight * p / total) for label, p in given.items()] if given else [(labels[i], weight)]

    return soft


def batches(n: int, size: int, seed: int, first: int, last: int) -> Iterator[list[int]]:
    """Image indices of the batches of steps `first` to `last` - 1.

    Each epoch is a permutation of the n images, a function of (seed, epoch). The epochs form one endless stream, which
    is cut into batches of exactly `size` images, at most n.
    """
    orders: dict[int, list[int]] = {}
    for step in range(first, last):
        batch = []
        for position in range(step * size, (step + 1) * size):
            epoch = position // n
            if epoch not in orders:
                generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
                orders = {e: o for e, o in orders.items() if e >= epoch - 1}
                orders[epoch] = torch.randperm(n, generator=generator).tolist()
            batch.append(orders[epoch][position % n])
        yield batch
