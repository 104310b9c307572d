"""Labels put right by a table, as `lensmith suspects` writes it and a person corrects it.

Each row names an image by its content id and the label it `was`; where `label` is another one now, that is the image's
label, and where it is empty, the image is left out. Rows that were not touched change nothing.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from lensmith.data.dataset import ImageDataset, Split
from lensmith.errors import UserError, nearest

COLUMNS = ("id", "was", "label")
"""That a table must have; others are for the reader."""


def corrected(dataset: ImageDataset, path: Path) -> ImageDataset:
    """The dataset with its labels put right. Copies of an image are put right together.

    Raises:
        UserError: the table can't be read or lacks a column; it names a label that there is not, an image that there is
            not, or one whose label is neither what it was nor what it should be.
    """
    changes = {name: (was, label) for name, was, label in _rows(path, dataset.labels) if was != label}
    held = {name for part in (dataset.train, dataset.validation, dataset.test) for name in part.contents}
    if missing := sorted(set(changes) - held):
        raise UserError(
            f"{path} corrects the image {missing[0]}, which {dataset.uri} does not hold.",
            "Use it with the images it was made from.",
        )
    whole = (dataset.train, dataset.validation, dataset.test)
    carried = {pair for part in whole for pair in zip(part.contents, part.labels, strict=True)}
    for name, (was, _) in changes.items():
        if (name, was) not in carried:
            now = next(label for other, label in carried if other == name)
            raise UserError(
                f"{path} says that the image {name} was labelled {was!r}, but it is labelled {now!r}.",
                "Use it with the images it was made from.",
            )
    parts = [_split(part, changes) for part in whole]
    removed = sum(not label for _, label in changes.values())
    note = f"Corrected by {path}: {len(changes) - removed:,} labels changed, {removed:,} images left out."
    train, validation, test = parts
    return replace(dataset, train=train, validation=validation, test=test, notes=(*dataset.notes, note))


def _rows(path: Path, labels: tuple[str, ...]) -> list[tuple[str, str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (rows.fieldnames or [])]
            if missing:
                raise UserError(
                    f"The corrections {path} have no column {missing[0]!r}.", f"They need {', '.join(COLUMNS)}."
                )
            found = []
            for k, row in enumerate(rows, 2):
                name, was, label = ((row[column] or "").strip() for column in COLUMNS)
                if label and label not in labels:
                    hint = nearest(label, labels) or f"There are: {', '.join(labels[:10])}."
                    raise UserError(f"Line {k} of {path} has the label {label!r}, which no image has.", hint)
                found.append((name.partition("-")[0], was, label))
            return found
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"The corrections {path} can't be read: {error}.", "Give the table as CSV, in UTF-8.") from None


def _split(split: Split, changes: dict[str, tuple[str, str]]) -> Split:
    pairs = zip(split.contents, split.labels, strict=True)
    return split.relabelled([(changes[name][1] or None) if name in changes else label for name, label in pairs])
