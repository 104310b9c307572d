"""A person's labelled images, wherever they are stored, as one `ImageDataset` with three fixed splits.

`open_dataset` takes a URI `scheme:location`. Each scheme is one module in `sources/`, whose docstring explains how to
add another. `build` does what all sources share: ids, splits, checks and the memory-mapped table.

The heavy libraries (`datasets`, `pyarrow`, `sklearn`) are imported when a dataset is opened. So importing this package
is quick and the command line starts at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from lensmith.config import DataOptions
from lensmith.config.options import SplitName
from lensmith.data.build import build_dataset
from lensmith.data.corrections import corrected
from lensmith.data.dataset import ImageDataset, Sample, Split
from lensmith.data.images import decode_image, list_images
from lensmith.data.more import with_labels
from lensmith.data.paths import each
from lensmith.data.source import Columns
from lensmith.data.sources import open_source
from lensmith.errors import UserError
from lensmith.progress import Tell, silent

__all__ = ["ImageDataset", "Sample", "Split", "decode_image", "list_images", "open_data", "open_dataset"]


def open_dataset(
    uri: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    splits: Mapping[SplitName, list[str] | str] | None = None,
    images: str | None = None,
    several: Literal["stop", "skip"] = "stop",
    class_names: Sequence[str] | None = None,
    group: str | None = None,
    validation: float = 0.1,
    test: float = 0.2,
    tell: Tell = silent,
) -> ImageDataset:
    """Open the labelled images at `uri` and split them into train, validation and test.

    `uri` is `folder:PATH`, `table:PATH`, `annotations:PATH`, `archive:PATH`, `idx:PATH`, `cifar:PATH`, `hub:NAME`,
    `demo:fashion`, `demo:digits`, or a bare path, in which case the scheme is guessed. `image_column`, `label_column`
    and `split_column` name the columns of a table or hub dataset, and `splits` says what the source calls each split.
    The paths in a table are relative to the folder `images`, or else to the table's. `several` says whether images with
    several labels are an error or left out. `class_names` gives names to numbered classes, starting with class 0.
    `group` is a column or a pattern of paths that says which images stay in one split; see `splitting.groups`.

    `validation` and `test` are the fractions of the images (0 up to but excluding 1) to hold out if the source doesn't
    define that split; `splitting.holdout` describes how the images are chosen. Every image's content is read once, to
    hash it.

    Raises `UserError` for any problem that the user can fix. An image that can't be decoded raises an `ImageError`
    later, from `Split.image`.
    """
    columns = Columns(image_column, label_column, split_column, splits, images, several, group)
    return _opened(uri, columns, class_names, validation, test, tell)


def _opened(
    uri: str, columns: Columns, class_names: Sequence[str] | None, validation: float, test: float, tell: Tell
) -> ImageDataset:
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise UserError(
            f"Can't hold out validation={validation} and test={test} of the images.",
            "Both are fractions of at least 0 that must add up to less than 1.",
        )
    if class_names is not None and len(set(class_names)) != len(class_names):
        raise UserError(f"A class name is given twice: {', '.join(class_names)}.", "Give every class a different name.")
    source = open_source(uri, columns)
    return build_dataset(
        uri, source, class_names=class_names, validation=validation, test=test, group=columns.group, tell=tell
    )


def open_data(options: DataOptions, tell: Tell = silent) -> ImageDataset:
    """The dataset of a recipe's `data` section, with its corrections and limits applied. Raises `UserError`.

    Args:
        tell: called with progress; a large folder takes minutes to read.
    """
    dataset = _opened(options.uri, Columns.of(options), options.class_names, options.validation, options.test, tell)
    for table in each(options.corrections):
        dataset = corrected(dataset, Path(table))
    for path in each(options.more):
        dataset = with_labels(dataset, path)
    train, test = _limited(dataset.train, options.train_limit), _limited(dataset.test, options.test_limit)
    return replace(dataset, train=train, test=test)


def _limited(split: Split, limit: float | None) -> Split:
    return split.take(limit if limit is None or limit < 1 else int(limit))
