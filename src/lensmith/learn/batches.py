"""Training images by index, as pixels or as what a frozen vision tower makes of them, and the order they come in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from lensmith.config import AugmentOptions, Recipe
from lensmith.data import ImageDataset, Split
from lensmith.errors import ImageError, UserError
from lensmith.learn.feature_store import Store, cache_folder, fill, fingerprint
from lensmith.learn.processes import Processes
from lensmith.models.base import Model
from lensmith.models.tuning import Tuned, component_of, trainable
from lensmith.models.views import Views, shape_of
from lensmith.progress import Tell

WORDS = 16
"""Tokens between tiles, at most."""
CACHE_BYTES = 1 << 30
"""Prepared images kept in memory; the others are read again in every epoch."""


class Images(Protocol):
    """Training images by index; None for one that can't be read, of which `errors` has a sentence."""

    errors: dict[int, str]

    def tokens(self, views: Views) -> int:
        """Embeddings that an image becomes, or more; by its views as they are given here."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Views | None: ...


class Samples:
    """Prepared images, read when first asked for and kept while they fit into `CACHE_BYTES`.

    One that can't be read is listed once and gives None from then on.

    Args:
        room: bytes that may be kept.
    """

    def __init__(self, model: Model, split: Split, max_pixels: int, room: int | None = None) -> None:
        self.model, self.split, self.max_pixels = model, split, max_pixels
        self.errors: dict[int, str] = {}
        self._kept: dict[int, Views] = {}
        self._room = CACHE_BYTES if room is None else room

    def require(self, unreadable: str) -> None:
        """Raises UserError if none can be read; with `unreadable="stop"` all are read at once, and the first that can't
        be raises ImageError."""
        if unreadable == "stop":
            for i in range(len(self.split)):
                if self[i] is None:
                    raise ImageError(self.errors[i], "Remove it, or set data.unreadable=skip to leave it out.")
        elif all(self[i] is None for i in range(len(self.split))):  # ends at the first one that can be read
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
        if size <= self._room:
            self._room -= size
            self._kept[i] = views
        return views


class Seen:
    """The same as the frozen tower, or tower and projector, see them."""

    def __init__(self, samples: Samples, names: Sequence[str], store: Store) -> None:
        self.samples, self.names, self.store, self.errors = samples, names, store, samples.errors

    def __len__(self) -> int:
        return len(self.names)

    def tokens(self, views: Views) -> int:
        return sum(view.shape[0] * view.shape[1] for view in views) + WORDS

    def __getitem__(self, i: int) -> Views | None:
        found = self.store.get(self.names[i])
        if found is None and self.samples[i] is not None:  # somebody has removed the store
            raise UserError(f"The features in {self.store.folder} are gone.", "Go on with `lensmith resume`.")
        return found


def open_images(
    tuned: Tuned, dataset: ImageDataset, recipe: Recipe, processes: Processes, tell: Tell
) -> tuple[Images, Callable[[Views], Tensor]]:
    """The training images, and what turns a stack of them into (n, tokens, hidden) embeddings.

    Where the tower sees the same in every epoch, it looks at each image once and its features are kept on disk.

    Raises:
        UserError: no image can be read, or one can't and the recipe says to stop.
    """
    model = tuned.model
    samples = Samples(model, dataset.train, recipe.data.max_pixels)
    samples.require(recipe.data.unreadable)
    learning = {component_of(model, name) for name in trainable(model)}
    if not recipe.train.cache_features or "vision_tower" in learning or recipe.augment != AugmentOptions():
        return samples, model.embed_images
    project = "projector" not in learning
    parts = ["vision_tower", "projector"] if project else ["vision_tower"]
    store = Store(cache_folder() / "features" / fingerprint(model, parts))
    names = dataset.train.contents

    def make(views: Views) -> Views:
        seen = model.encode_images(views)
        return tuple(view.to(model.compute) for view in (model.project(seen) if project else seen))

    if not fill(store, samples, names, model, make, processes, tell).stored:
        return samples, model.embed_images
    return Seen(samples, names, store), model.assemble if project else lambda seen: model.assemble(model.project(seen))


def class_weights(split: Split, labels: tuple[str, ...], method: str) -> list[float]:
    """What an image of each class counts: 1, or, `balanced`, n / (classes x images of the class), which is 1 on
    average.

    Raises:
        UserError: a class has no training image.
    """
    counts = Counter(split.labels)
    if lost := [label for label in labels if not counts[label]]:
        raise UserError(
            f"There is no training image of the class{'es' if len(lost) > 1 else ''} {', '.join(lost[:5])}.",
            "Add some, or raise data.train_limit.",
        )
    return [len(split) / (len(labels) * counts[c]) if method == "balanced" else 1.0 for c in labels]


def batches(n: int, size: int, seed: int, first: int, last: int) -> Iterator[list[int]]:
    """Indices of the batches of steps `first`..`last`: each epoch is a permutation that follows from seed and epoch.

    The order is one endless stream of epochs cut into batches of exactly `size`, which is at most n.
    """
    orders: dict[int, list[int]] = {}
    for step in range(first, last):
        batch = []
        for place in range(step * size, (step + 1) * size):
            epoch = place // n
            if epoch not in orders:
                generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
                orders = {e: o for e, o in orders.items() if e >= epoch - 1}
                orders[epoch] = torch.randperm(n, generator=generator).tolist()
            batch.append(orders[epoch][place % n])
        yield batch
