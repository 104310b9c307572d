"""`labels:PATH`: the labels that a model gave (`lensmith label`), as JSON Lines.

They are for training: no test is held out of them, since agreeing with the model that labelled them isn't being right.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lensmith.data.json_records import records
from lensmith.data.locate import Images
from lensmith.data.paths import existing
from lensmith.data.source import Columns, Files, Row, Source
from lensmith.data.sources.table import files_of
from lensmith.errors import UserError

COLUMNS = ("image", "label", "labelled_by")
"""The fields of each row. `probabilities`, by label, may be missing."""


def recognises(path: Path) -> bool:
    """A JSON Lines file whose first row says who labelled it."""
    if not path.is_file() or path.suffix.lower() != ".jsonl":
        return False
    try:
        with path.open(encoding="utf-8") as file:
            first = json.loads(file.readline())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and set(COLUMNS) <= set(first)


def read(location: str, columns: Columns) -> Source:
    """The rows. Raises `UserError` if the file isn't one, or a row lacks a field or has a wrong one."""
    path = existing(location)
    models = Counter[str]()
    notes: list[str] = []

    def rows() -> Iterator[Row]:
        for row, model in labelled(path, columns):
            models[model] += 1
            yield row
        by = ", ".join(f"{number:,} by {model}" for model, number in models.items())
        notes.append(f"Labelled by models, and so for training only: {by}.")

    return Source(rows(), notes=notes, by_models=True)


def files(location: str, columns: Columns) -> Files | None:
    """The file and the images that its rows name."""
    path = existing(location)
    return Files.beside(location, files_of(path.parent, [path], read(location, columns).rows))


def labelled(path: Path, columns: Columns | None = None) -> Iterator[tuple[Row, str]]:
    """The rows of a file, each with the name of the model that labelled it. Raises `UserError` as `read` does."""
    images = Images((columns or Columns()).folder(path), path.stem)
    for number, (_, record) in enumerate(records(path), 1):
        where = f"{path.name} row {number}"
        image, label, model = (record.get(name) for name in COLUMNS)
        for name, value in zip(COLUMNS, (image, label, model), strict=True):
            if not isinstance(value, str) or not value.strip():
                raise UserError(f"{where} has no {name}.", "Write the file anew with `lensmith label`.")
        yield Row(str(label), images.find(str(image), where), targets=_targets(record, where)), str(model)


def _targets(record: dict[str, Any], where: str) -> dict[str, float] | None:
    given = record.get("probabilities")
    if not given:
        return None
    fits = isinstance(given, dict) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1 for value in given.values()
    )
    if not fits or abs(sum(given.values()) - 1) > 0.01 or record["label"] not in given:
        hint = "They are by label, from 0 to 1, and add up to 1."
        raise UserError(f"{where} has probabilities that are none.", hint)
    return {str(label): float(value) for label, value in given.items()}
