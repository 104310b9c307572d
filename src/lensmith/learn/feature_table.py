"""The vectors of a part of a dataset as one table: each image is looked at once, and kept for every later use.

Probe, ladder, learning curve and suspects all read from here. What is kept is named by the model's weights, the
question, the code that makes vectors, and the image's content, so that it can't go stale (`features`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

import lensmith.engine.branches
import lensmith.engine.features
import lensmith.models.attention
from lensmith.data import Split
from lensmith.engine.classifier import Classifier
from lensmith.engine.features import feature_names
from lensmith.learn.batches import Samples
from lensmith.learn.feature_store import Store, cache_folder, code, fill, fingerprint, made_of
from lensmith.learn.processes import Processes
from lensmith.models.views import Views
from lensmith.progress import Tell

MAKING = (lensmith.engine.features, lensmith.engine.branches, lensmith.models.attention)
"""Modules that make vectors of an image, with those of `feature_store.PREPARING`."""
LARGEST = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class Table:
    """The readable images of a part of a dataset, a row each."""

    values: Tensor
    """(images, values) of all kinds side by side, in float16."""
    places: dict[str, slice]
    """Where each kind stands in a row."""
    truth: Tensor
    """(images,) the number of each one's label."""
    rows: list[int]
    """The place of each in the part."""
    errors: dict[int, str]
    """A sentence for each image that can't be read, by its place in the part."""
    names: list[str]
    """The content id of each; exact copies have the same."""
    computed: int = 0
    """Images whose features were computed; those of the others were in the cache."""

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, kind: str) -> Tensor:
        """(images, size) in float32."""
        return self.values[:, self.places[kind]].float()

    def some(self, which: Sequence[int] | Tensor) -> Table:
        """The rows at these places of the table."""
        index = torch.as_tensor(which, dtype=torch.long)
        rows = [self.rows[i] for i in index.tolist()]
        names = [self.names[i] for i in index.tolist()]
        return Table(self.values[index], self.places, self.truth[index], rows, self.errors, names)


def read_table(
    classifier: Classifier, split: Split, wanted: Sequence[str] | None, max_pixels: int, unreadable: str, tell: Tell
) -> Table:
    """Look at the images of a part of a dataset, as far as nobody has before.

    Args:
        classifier: whose model and question the vectors come from; the model as it is published, with nothing tuned.
        wanted: kinds of vectors (`vectors.kinds`, `pixels`); None for all that the model has, which are kept on disk.

    Raises:
        UserError: no training image can be read; or one image can't be and `unreadable` is `stop`.
    """
    model = classifier.model
    chosen = list(wanted or feature_names(model))
    images = Samples(model, split, max_pixels, room=0)
    if unreadable == "stop" or split.name == "train":
        images.require(unreadable)
    widths: dict[str, int] = {}

    def make(views: Views) -> Views:
        found = classifier.features(views, chosen)
        widths.update({kind: vector.shape[1] for kind, vector in found.items()})
        return (torch.cat(list(found.values()), 1).clamp(-LARGEST, LARGEST).half(),)

    names = split.contents
    about = {"kinds": chosen, "max_pixels": max_pixels}
    computed, stored = len(split), None
    if wanted is None:
        more = {"before": classifier.prompt.before, "after": classifier.prompt.after, "making": code(*MAKING)}
        store = Store(cache_folder() / "vectors" / fingerprint(model, list(model.components), about | more))
        filled = fill(store, images, names, model, make, Processes(), tell)
        if filled.stored:
            computed, stored = filled.computed, ((i, store.get(name)) for i, name in enumerate(names))
    features = stored or made_of(images, range(len(split)), model, make)
    got = {i: views[0] for i, views in features if views is not None}
    if not widths:  # all were there already
        make(tuple(view[None] for view in model.prepare(Image.new("RGB", (64, 64)))))
    place = {label: k for k, label in enumerate(classifier.labels)}
    rows = sorted(got)
    values = torch.stack([got[i] for i in rows]) if rows else torch.empty(0, sum(widths.values()), dtype=torch.half)
    ends = torch.tensor([0, *widths.values()]).cumsum(0).tolist()
    return Table(
        values,
        {kind: slice(a, b) for kind, a, b in zip(widths, ends, ends[1:], strict=False)},
        torch.tensor([place[split.labels[i]] for i in rows], dtype=torch.long),
        rows,
        images.errors,
        [names[i] for i in rows],
        computed,
    )
