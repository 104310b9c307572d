"""Labels corrected by a table, which `lensmith suspects` writes and a person edits, or which `lensmith serve` keeps.

Each row of the former names an image by its content id and gives its old label in the column `was`. If the column
`label` differs, it becomes the image's label; if it is empty, the image is removed. Unedited rows change nothing. An
id such as `0f3a...@train` means only the copies in that split: so `lensmith check` removes copies of test images.

Each row of the latter names an image file, in the column `image`, and its label. If the image is in the dataset, it is
labelled anew. Otherwise it is added to the training images, and not to the others: people correct what the model got
wrong, so such images would make a test look worse than the images that it stands for. Only where a column `split` says
so is it added to another split: `lensmith next` draws images for the test by chance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lensmith.data.build import content_id
from lensmith.data.dataset import ImageDataset, Split, content_of
from lensmith.data.source import Row
from lensmith.data.text_tables import rows_of, unguarded
from lensmith.errors import UserError, nearest

COLUMNS = ("id", "was", "label")
"""The columns that a table must have. Others are for the person who edits it."""

_OTHER_IMAGES = "Use the table with the images it was written for."


@dataclass(frozen=True)
class _Change:
    """What a row of the table says about one image; an empty `label` removes the image."""

    content: str
    was: str
    label: str
    split: str = ""
    """The only split in which it is changed; empty for all."""


def corrected(dataset: ImageDataset, path: Path) -> ImageDataset:
    """The dataset with its labels corrected. All copies of an image are corrected together, unless a split is named.

    Raises:
        UserError: the table can't be read or lacks a column; it names a label or an image that doesn't exist; or the
            dataset gives an image a label other than the one in the column `was`.
    """
    try:
        if "was" not in (head := next(iter(rows_of(path)), (0, {}))[1]) and {"image", "label"} <= head.keys():
            return _with_files(dataset, path)
    except OSError as error:
        raise UserError(f"The corrections {path} can't be read: {error.strerror}.", "Check the path.") from None
    changes = _changes(path, dataset.labels)
    present = {content for split in dataset.splits for content in split.contents}
    if missing := sorted({change.content for change in changes} - present):
        raise UserError(
            f"{path} corrects the image {missing[0]}, which isn't one of the images of {dataset.uri}.", _OTHER_IMAGES
        )
    labelled = {pair for split in dataset.splits for pair in zip(split.contents, split.labels, strict=True)}
    for change in changes:
        if ((content := change.content), change.was) not in labelled:
            label = next(label for other, label in labelled if other == content)
            raise UserError(
                f"{path} says that the image {content} was labelled {change.was!r}, but it is labelled {label!r}.",
                _OTHER_IMAGES,
            )
    train, validation, test = (
        _corrected(split, {change.content: change for change in changes if change.split in ("", split.name)})
        for split in dataset.splits
    )
    removed = sum(not change.label for change in changes)
    note = f"Corrected by {path}: {len(changes) - removed:,} labels changed, {removed:,} images left out."
    return replace(dataset, train=train, validation=validation, test=test, notes=(*dataset.notes, note))


def _changes(path: Path, labels: tuple[str, ...]) -> list[_Change]:
    """One change for each image whose row was edited."""
    changes: dict[tuple[str, str], tuple[int, _Change]] = {}
    for k, row in rows_of(path):
        if missing := [column for column in COLUMNS if column not in row]:
            raise UserError(
                f"The corrections {path} have no column {missing[0]!r}.",
                f"The table needs the columns {', '.join(COLUMNS)}.",
            )
        image_id, was, label = (unguarded(row[column].strip()) for column in COLUMNS)
        if label:
            _require_known(label, labels, k, path)
        if was == label:
            continue
        image_id, _, split = image_id.partition("@")
        change = _Change(content_of(image_id), was, label, split)
        line, other = changes.setdefault((change.content, split), (k, change))
        if other.label != label:
            raise UserError(
                f"Lines {line} and {k} of {path} correct one image differently: {other.label!r} and {label!r}.",
                "Keep one of them.",
            )
    return [change for _, change in changes.values()]


def _require_known(label: str, labels: tuple[str, ...], line: int, path: Path) -> None:
    if label not in labels:
        hint = nearest(label, labels) or f"The labels are: {', '.join(labels[:10])}."
        raise UserError(f"Line {line} of {path} has the label {label!r}, which no image has.", hint)


def _with_files(dataset: ImageDataset, path: Path) -> ImageDataset:
    """The dataset with the images of a table that names files. A row without a label has not been labelled yet."""
    files: dict[str, tuple[Path, str, str]] = {}
    empty = 0
    for k, row in rows_of(path):
        file, label, split = path.parent / row["image"], unguarded(row["label"].strip()), row.get("split") or "train"
        if not label:
            empty += 1
            continue
        if "split" not in row:  # those of `lensmith next` may be the first of their class
            _require_known(label, dataset.labels, k, path)
        if split not in ("train", "validation", "test"):
            raise UserError(f"Line {k} of {path} has the split {split!r}.", "Write train, validation or test.")
        if not file.is_file():
            raise UserError(f"Line {k} of {path} names {row['image']!r}, which isn't a file.", "Copy the whole folder.")
        content = content_id(Row(label, str(file)))
        if files.setdefault(content, (file, label, split))[1] != label:
            raise UserError(f"{path} gives the image {row['image']!r} two labels.", "Keep one of them.")
    changes = {content: _Change(content, "", label) for content, (_, label, _) in files.items()}
    present = {content for split in dataset.splits for content in split.contents}
    new = {content: file for content, file in files.items() if content not in present}

    def with_new(split: Split) -> Split:
        added = [(content, label, str(file), None) for content, (file, label, of) in new.items() if of == split.name]
        changed = _corrected(split, changes)
        return changed.extended(added) if added else changed

    train, validation, test = map(with_new, dataset.splits)
    tested = sum(split == "test" for _, _, split in new.values())
    note = (
        f"Corrected by {path}: {len(new) - tested:,} training images added, {len(files) - len(new):,} images labelled."
    )
    note += f" {tested:,} test images added." if tested else ""
    note += f" {empty:,} rows have no label yet." if empty else ""
    first = sorted({label for _, label, _ in files.values()} - set(dataset.labels))
    note += f" New classes: {', '.join(first)}." if first else ""
    known = replace(dataset, labels=(*dataset.labels, *first))
    return replace(known, train=train, validation=validation, test=test, notes=(*dataset.notes, note))


def _corrected(split: Split, changes: dict[str, _Change]) -> Split:
    pairs = zip(split.contents, split.labels, strict=True)
    return split.relabelled([changes[name].label or None if name in changes else label for name, label in pairs])
