"""Further images to learn from: labelled by a model (`lensmith label`), or by nobody. Validation and test stay those of
people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from lensmith.config import DataOptions
from lensmith.data.build import content_id
from lensmith.data.dataset import ImageDataset
from lensmith.data.images import list_images
from lensmith.data.paths import each, existing
from lensmith.data.source import Row, count
from lensmith.data.sources.labels import labelled, recognises
from lensmith.errors import ImageError, UserError, nearest


def with_labels(dataset: ImageDataset, location: str) -> ImageDataset:
    """The dataset with the images of a file of labels added to its training images.

    An image that the dataset has already, in whichever split, keeps the label that a person gave it.

    Raises:
        UserError: the file isn't one of labels, or names a class that the dataset doesn't have.
    """
    path = existing(location)
    if not recognises(path):
        raise UserError(f"{location} isn't a file of labels.", "Name the labels.jsonl that `lensmith label` wrote.")
    present = {content for split in dataset.splits for content in split.contents}
    known, new, seen = set(dataset.labels), dict[str, tuple[str, str, Mapping[str, float] | None]](), 0
    for row, _ in labelled(path):
        label = str(row.label)
        if label not in known:
            hint = nearest(label, known) or f"The classes are: {', '.join(dataset.labels[:10])}."
            raise UserError(f"{location} has the label {label!r}, which no image of {dataset.uri} has.", hint)
        content = content_id(row)
        if content in present:
            seen += 1
        else:
            new.setdefault(content, (label, row.source, row.targets))
    note = f"Added by {location}, for training: {count(len(new), 'image')} labelled by a model."
    if seen:
        note += f" {count(seen, 'image')} of it that people labelled keep{'s' * (seen == 1)} that label."
    files = [(content, label, source, targets) for content, (label, source, targets) in new.items()]
    train = dataset.train.extended(files) if files else dataset.train
    return replace(dataset, train=train, notes=(*dataset.notes, note))


def contents_of(files: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """The content id of each image file that can be read, and the file."""
    for file in files:
        with suppress(ImageError, OSError):
            yield content_id(Row("", str(file))), file


def unlabelled_files(options: DataOptions, dataset: ImageDataset) -> list[Path]:
    """The image files that `data.unlabelled` names, each content once, without those that the dataset has labelled.

    Raises:
        UserError: a folder doesn't exist or has no images; or one of the images is a test image.
    """
    folders = each(options.unlabelled)
    if not folders:
        return []
    test, files, tested = set(dataset.test.contents), list[Path](), list[Path]()
    seen = {*dataset.train.contents, *dataset.validation.contents}
    for content, file in contents_of(file for folder in folders for file in list_images(folder)):
        if content in test:
            tested.append(file)
        elif content not in seen:
            seen.add(content)
            files.append(file)
    if tested:
        raise UserError(
            f"{count(len(tested), 'test image')} among the unlabelled images, such as {tested[0]}: a test of a model "
            "that has learned from them would be worth nothing.",
            "Take them out of data.unlabelled.",
        )
    return files
