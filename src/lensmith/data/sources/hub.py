"""`hub:NAME`: a dataset of the Hugging Face hub, or a local copy of one (`save_to_disk`, or a folder of Parquet).

Only data is read. A dataset that comes with a loading script is refused by `datasets` itself, and `trust_remote_code`
is never passed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from lensmith.data.columns import pick, to_row
from lensmith.data.source import Columns, Row, Source, count, part_name
from lensmith.data.sources.table import parquet_names, parquet_rows
from lensmith.errors import UserError
from lensmith.hub.errors import explain


def recognises(path: Path) -> bool:
    """A folder written by `save_to_disk`, or with Parquet files in it or in its `data` folder."""
    return path.is_dir() and (_saved(path) or any(path.glob("*.parquet")) or any(path.glob("data/*.parquet")))


def read(location: str, columns: Columns) -> Source:
    """The rows of all train, validation and test splits. Raises `UserError` if the dataset can't be had or read."""
    path = Path(os.path.expanduser(location))
    if not os.path.exists(path):
        return _loaded(_download(location), columns, location)
    if path.is_dir() and _saved(path):
        from datasets import load_from_disk  # type: ignore[import-untyped, unused-ignore]

        return _loaded(load_from_disk(str(path)), columns, str(path))
    files = sorted(path.rglob("*.parquet"))
    if not files:
        raise UserError(f"{path} isn't a local copy of a hub dataset.", "Expected save_to_disk or Parquet files in it.")
    rows = chain.from_iterable(parquet_rows(file, columns, _file_part(file.relative_to(path))) for file in files)
    return Source(rows, names=parquet_names(files[0], columns))


def _saved(path: Path) -> bool:
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def _file_part(path: Path) -> str:
    """The part that a file's name or folder stands for, as in `data/train-00000-of-00002.parquet`."""
    return next(filter(None, map(part_name, reversed(re.split(r"[-_./\\]", str(path))))), "")


def _download(name: str) -> Any:
    from datasets import load_dataset

    try:
        return load_dataset(name)
    # The client raises errors of many libraries: no network, no such name, a private or a scripted dataset.
    except Exception as error:
        raise explain(error, name, "dataset") from error


def _loaded(dataset: Any, columns: Columns, name: str) -> Source:
    splits = dict(dataset) if isinstance(dataset, dict) else {"": dataset}
    notes = []
    parts = [(part_name(str(split)), rows) for split, rows in splits.items() if not split or part_name(str(split))]
    if not parts:
        raise UserError(f"{name} has no train, validation or test split.", f"It has: {', '.join(map(str, splits))}.")
    if other := sorted(str(split) for split in splits if split and not part_name(str(split))):
        notes.append(f"Splits of the dataset that aren't used: {', '.join(other)}.")
    _, label = pick(parts[0][1].column_names, columns, name)
    names = getattr(parts[0][1].features[label], "names", None)
    rows = chain.from_iterable(_rows(rows, columns, f"{name} {part}".rstrip(), part, notes) for part, rows in parts)
    return Source(rows, names=tuple(names) if names else None, notes=notes)


def _rows(dataset: Any, columns: Columns, name: str, part: str, notes: list[str]) -> Iterator[Row]:
    from datasets import ClassLabel, Image

    image, label = pick(dataset.column_names, columns, name)
    if isinstance(dataset.features[image], Image):
        dataset = dataset.cast_column(image, Image(decode=False))
    numbered = isinstance(dataset.features[label], ClassLabel)
    unlabelled = 0
    # `with_format(None)`: a saved copy may ask for its rows as tensors.
    for i, record in enumerate(dataset.select_columns([image, label]).with_format(None), 1):
        if numbered and record[label] == -1:  # how the hub marks a test set that keeps its answers secret
            unlabelled += 1
            continue
        yield to_row(record[image], record[label], f"{name} row {i}", None, part)
    if unlabelled:
        notes.append(f"Without a label in {name}, left out: {count(unlabelled, 'image')}.")
