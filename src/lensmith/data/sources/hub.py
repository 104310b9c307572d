"""`hub:NAME`: a dataset of the Hugging Face hub, or a local copy of one (`save_to_disk`, or a folder of Parquet files).

Only data is read. `datasets` itself refuses a dataset with a loading script, and `trust_remote_code` is never passed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from lensmith.data.columns import pick, to_row
from lensmith.data.paths import visible_files
from lensmith.data.source import Columns, Files, Row, Source, count, split_name
from lensmith.data.sources.table import parquet_names, parquet_rows
from lensmith.errors import UserError
from lensmith.hub.errors import explain


def recognises(path: Path) -> bool:
    """A folder that `save_to_disk` has written, or with Parquet files in it or in its `data` folder."""
    return path.is_dir() and (_saved(path) or any(path.glob("*.parquet")) or any(path.glob("data/*.parquet")))


def read(location: str, columns: Columns) -> Source:
    """The rows of all train, validation and test splits. Raises `UserError` if the dataset can't be loaded or read."""
    path = Path(os.path.expanduser(location))
    if not os.path.exists(path):
        return _loaded(_download(location), columns, location)
    if path.is_dir() and _saved(path):
        from datasets import load_from_disk  # type: ignore[import-untyped, unused-ignore]

        return _loaded(load_from_disk(str(path)), columns, str(path))
    tables = _parquet_files(path)
    if not tables:
        raise UserError(
            f"{path} isn't a local copy of a hub dataset.", "It needs Parquet files, or what save_to_disk writes."
        )
    rows = chain.from_iterable(parquet_rows(file, columns, _file_split(file.relative_to(path))) for file in tables)
    return Source(rows, names=parquet_names(tables[0], columns))


def files(location: str, columns: Columns) -> Files | None:
    """The files of a local copy; `None` for a dataset that is downloaded by its name."""
    path = Path(os.path.expanduser(location))
    if not os.path.exists(path):
        return None
    if path.is_dir() and _saved(path):
        paths = visible_files(path).items()
        return Files(location, {name: file for name, file in paths if file.suffix in (".arrow", ".json")})
    return Files(location, {file.relative_to(path).as_posix(): file for file in _parquet_files(path)})


def _parquet_files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.parquet"))


def _saved(path: Path) -> bool:
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def _file_split(path: Path) -> str:
    """The split that a file's name or folder refers to, as in `data/train-00000-of-00002.parquet`."""
    return next(filter(None, map(split_name, reversed(re.split(r"[-_./\\]", str(path))))), "")


def _download(name: str) -> Any:
    from datasets import load_dataset

    try:
        return load_dataset(name)
    # The client raises errors from many libraries: no network, an unknown name, a private dataset, a loading script.
    except Exception as error:
        raise explain(error, name, "dataset") from error


def _loaded(dataset: Any, columns: Columns, name: str) -> Source:
    """The rows of a `Dataset`, or of the train, validation and test splits in a `DatasetDict`."""
    tables = {str(key): table for key, table in dataset.items()} if isinstance(dataset, dict) else {"": dataset}
    used = {key: table for key, table in tables.items() if not key or split_name(key)}
    if not used:
        raise UserError(f"{name} has no train, validation or test split.", f"It has: {', '.join(tables)}.")
    unused = sorted(tables.keys() - used.keys())
    notes = [f"Splits of the dataset that aren't used: {', '.join(unused)}."] if unused else []
    first = next(iter(used.values()))
    class_names = getattr(first.features[pick(first.column_names, columns, name).label], "names", None)
    rows = chain.from_iterable(_rows(table, columns, name, split_name(key), notes) for key, table in used.items())
    return Source(rows, names=tuple(class_names) if class_names else None, notes=notes)


def _rows(dataset: Any, columns: Columns, name: str, split: str, notes: list[str]) -> Iterator[Row]:
    from datasets import ClassLabel, Image

    name = f"{name} {split}".rstrip()
    image, label = pick(dataset.column_names, columns, name)
    if isinstance(dataset.features[image], Image):
        dataset = dataset.cast_column(image, Image(decode=False))
    numbered = isinstance(dataset.features[label], ClassLabel)
    unlabelled = 0
    # `with_format(None)`, because a saved copy may be set to return tensors.
    for i, record in enumerate(dataset.select_columns([image, label]).with_format(None), 1):
        if numbered and record[label] == -1:  # how hub datasets mark a test set whose labels aren't published
            unlabelled += 1
            continue
        yield to_row(record[image], record[label], f"{name} row {i}", None, split)
    if unlabelled:
        notes.append(f"Without a label in {name}, ignored: {count(unlabelled, 'image')}.")
