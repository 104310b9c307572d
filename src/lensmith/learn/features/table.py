"""The features of a split as one table. Features are extracted once per image and cached for later use.

Probe, ladder, learning curve and suspects read their features from here. The cache key covers the model's weights, the
question, the code that extracts features and the image's content, so that a cached feature can't be stale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import lensmith.engine.branches
import lensmith.engine.features
import lensmith.models.attention
from lensmith.data import Split
from lensmith.data.splitting.groups import units
from lensmith.engine.classifier import Classifier
from lensmith.engine.features import PIXELS, feature_names
from lensmith.learn.batches import PreparedImages
from lensmith.learn.features.store import (
    FeatureStore,
    cache_folder,
    extract_features,
    fill,
    fingerprint,
    source_digests,
)
from lensmith.learn.processes import Processes
from lensmith.models.views import AS_IT_IS, Look, Views, changed
from lensmith.progress import Tell

EXTRACTION_MODULES = (lensmith.engine.features, lensmith.engine.branches, lensmith.models.attention)
"""Modules that extract features from an image, in addition to `store.PREPARATION_MODULES`."""
FLOAT16_MAX = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class FeatureTable:
    """The features of a split's readable images: one row for each image."""

    values: Tensor
    """(images, columns) all features side by side, in float16."""
    columns: dict[str, slice]
    """The columns of each feature, by its name."""
    labels: Tensor
    """(images,) index of each image's label."""
    rows: list[int]
    """Index in the split of the image in each row."""
    errors: dict[int, str]
    """One sentence for each image that can't be read, by its index in the split."""
    names: list[str]
    """Content id of the image in each row; exact copies have the same one."""
    groups: list[str] = field(default_factory=list)
    """Of the image in each row the name of its group (`data.group`), if there are groups."""
    computed: int = 0
    """The number of images whose features were extracted now; the others were in the cache."""

    def __len__(self) -> int:
        return len(self.rows)

    def feature(self, name: str) -> Tensor:
        """(images, size) one feature, in float32."""
        return self.values[:, self.columns[name]].float()

    def subset(self, which: Sequence[int] | Tensor) -> FeatureTable:
        """The table's rows with these indices, in this order."""
        index = torch.as_tensor(which, dtype=torch.long)
        rows = [self.rows[i] for i in index.tolist()]
        names = [self.names[i] for i in index.tolist()]
        groups = [self.groups[i] for i in index.tolist()] if self.groups else []
        return FeatureTable(self.values[index], self.columns, self.labels[index], rows, self.errors, names, groups)

    @property
    def units(self) -> list[str]:
        """What the image in each row can't be separated from: its group, or else its exact copies."""
        return units(self.names, self.groups) if self.groups else self.names


def read_table(
    classifier: Classifier,
    split: Split,
    wanted: Sequence[str] | None,
    max_pixels: int,
    unreadable: str,
    tell: Tell,
    look: Look = AS_IT_IS,
) -> FeatureTable:
    """The features of a split's images: from the cache where they are cached, otherwise extracted now.

    Args:
        classifier: provides the model, as published and with nothing tuned, and the question.
        wanted: names of features (`features.feature_names`, `pixels`). None for all that the model has. Except for
            `pixels`, they are cached on disk.
        look: the change under which the model is shown the images.

    Raises:
        UserError: no training image can be read; or one image can't be and `unreadable` is `stop`.
    """
    model = classifier.model
    chosen = list(wanted or feature_names(model))
    images = PreparedImages(model, split, max_pixels, cache_bytes=0)
    if unreadable == "stop" or split.name == "train":
        images.require(unreadable)
    widths: dict[str, int] = {}

    def extract(views: Views) -> Views:
        features = classifier.features(changed(views, look), chosen)
        widths.update({name: feature.shape[1] for name, feature in features.items()})
        return (torch.cat(list(features.values()), 1).clamp(-FLOAT16_MAX, FLOAT16_MAX).half(),)

    contents = split.contents
    about: dict[str, Any] = {"kinds": chosen, "max_pixels": max_pixels}
    if look != AS_IT_IS:
        about["look"] = asdict(look)
    computed, cached = len(split), None
    if PIXELS not in chosen:
        prompt = classifier.prompt
        more = {"before": prompt.before, "after": prompt.after, "making": source_digests(*EXTRACTION_MODULES)}
        store = FeatureStore(cache_folder() / "vectors" / fingerprint(model, list(model.components), about | more))
        filled = fill(store, images, contents, model, extract, Processes(), tell)
        if filled.stored:
            computed, cached = filled.computed, ((i, store.get(name)) for i, name in enumerate(contents))
    features = cached or extract_features(images, range(len(split)), model, extract)
    row_by_image = {i: views[0] for i, views in features if views is not None}
    if not widths:  # everything was cached, so the sizes of the features are still unknown
        extract(tuple(view[None] for view in model.prepare(Image.new("RGB", (64, 64)))))
    label_index = {label: k for k, label in enumerate(classifier.labels)}
    rows = sorted(row_by_image)
    empty = torch.empty(0, sum(widths.values()), dtype=torch.half)
    values = torch.stack([row_by_image[i] for i in rows]) if rows else empty
    ends = torch.tensor([0, *widths.values()]).cumsum(0).tolist()
    return FeatureTable(
        values,
        {name: slice(a, b) for name, a, b in zip(widths, ends, ends[1:], strict=False)},
        torch.tensor([label_index[split.labels[i]] for i in rows], dtype=torch.long),
        rows,
        images.errors,
        [contents[i] for i in rows],
        [split.groups[i] for i in rows] if any(split.groups) else [],
        computed,
    )
