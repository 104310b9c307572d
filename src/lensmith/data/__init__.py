"""A person's labelled images, from wherever they lie, as one `ImageDataset` with three fixed parts.

`open_dataset` takes a URI `scheme:location`. Each scheme is one module in `sources/`. What every source shares (ids,
splits, checks, the memory-mapped table) is in `build`.

The heavy libraries (`datasets`, `pyarrow`, `sklearn`) are imported when a dataset is opened, so that importing this
package is quick and the command line starts at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lensmith.config import DataOptions
from lensmith.data.build import build_dataset
from lensmith.data.corrections import corrected
from lensmith.data.dataset import ImageDataset, Sample, Split
from lensmith.data.images import decode_image, list_images
from lensmith.data.source import Columns
from lensmith.data.sources import module, parse_uri
from lensmith.errors import UserError

__all__ = ["ImageDataset", "Sample", "Split", "decode_image", "list_images", "open_data", "open_dataset"]


def open_dataset(
    uri: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    class_names: Sequence[str] | None = None,
    validation: float = 0.1,
    test: float = 0.2,
) -> ImageDataset:
    """Open the labelled images at `uri` and divide them into train, validation and test.

    `uri` is `folder:PATH`, `table:PATH`, `idx:PATH`, `cifar:PATH`, `hub:NAME`, `demo:fashion`, `demo:digits`, or a
    bare path whose kind is guessed. `image_column` and `label_column` name the columns of a table or hub dataset.
    `class_names` gives names to numbered classes: the class numbered 0 gets the first.

    `validation` and `test` are the shares (0 to below 1) of the images to hold out where the source has no such part
    of its own; `build.assign_split` says how they are chosen. Every image's content is read once, to hash it.

    Raises `UserError` for whatever the user can put right. An image that can't be decoded raises later, from
    `Split.image`, as an `ImageError` of its own.
    """
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise UserError(
            f"Can't hold out validation={validation} and test={test} of the images.",
            "Both are shares of 0 or more that together stay below 1.",
        )
    if class_names is not None and len(set(class_names)) != len(class_names):
        raise UserError(f"A class name is given twice: {', '.join(class_names)}.", "Give every class its own name.")
    scheme, location = parse_uri(uri)
    source = module(scheme).read(location, Columns(image_column, label_column))
    return build_dataset(uri, source, class_names=class_names, validation=validation, test=test)


def open_data(options: DataOptions) -> ImageDataset:
    """The dataset that a recipe's `data` section describes, corrected and limited as it says. Raises `UserError`."""
    dataset = open_dataset(
        options.uri,
        image_column=options.image_column,
        label_column=options.label_column,
        class_names=options.class_names,
        validation=options.validation,
        test=options.test,
    )
    if options.corrections:
        dataset = corrected(dataset, Path(options.corrections))
    train, test = _limited(dataset.train, options.train_limit), _limited(dataset.test, options.test_limit)
    return replace(dataset, train=train, test=test)


def _limited(split: Split, limit: float | None) -> Split:
    return split.take(limit if limit is None or limit < 1 else int(limit))
