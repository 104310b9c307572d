"""`hub:NAME`: a dataset of the Hugging Face hub, or a local copy of one (`save_to_disk`, or a folder of Parquet files).

Only data is read. `datasets` itself refuses a dataset with a loading script, and `trust_remote_code` is never passed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from lensmith.data.columns import pick, to_row
from lensmith.data.locate import Images
from lensmith.data.paths import visible_files
from lensmith.data.source import UNUSED, Columns, Files, Row, Several, Source, count
from lensmith.data.sources.table import UNLABELLED, parquet_names, parquet_rows
from lensmith.data.splitting.column import Cells, SplitColumn, split_column
from lensmith.data.splitting.groups import group_column
from lensmith.data.splitting.names import meaning_of, split_like, split_name
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
    of_file = {file: _split_of(file.relative_to(path)) for file in tables}
    meaning, notes = _used(of_file.values(), columns, str(path))
    used = [file for file in tables if not meaning or of_file[file] in meaning]
    rows = chain.from_iterable(parquet_rows(file, columns, notes, meaning.get(of_file[file])) for file in used)
    return Source(rows, names=parquet_names(used[0], columns), notes=notes)


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


def _split_of(path: Path) -> str:
    """What the split of a Parquet file is called: `train` in `data/train-00000-of-00002.parquet`, `extra` in
    `extra/0000.parquet`; empty if the name says nothing."""
    if shard := re.match(r"(.+?)[-_]\d{4,}-of-\d{4,}", path.name):
        return shard[1]
    if re.fullmatch(r"(part-)?\d+.*", path.stem) and len(path.parts) > 1:
        return path.parts[-2]
    return path.stem if split_like(path.stem) else next(filter(split_name, reversed(path.parts[:-1])), "")


def _used(names: Iterable[str], columns: Columns, where: str) -> tuple[dict[str, str], list[str]]:
    """The split that each name means, with a note on the names that aren't used; empty if none means a split."""
    meaning = meaning_of(names, columns.splits, where)
    if not meaning.splits or columns.split is not None:
        return {}, []
    if "" in meaning.unused:
        raise UserError(
            f"Some Parquet files of {where} say by their names which split they are ({', '.join(meaning.splits)}), and "
            "others don't.",
            'Name them all, such as train-1.parquet, or write "data.split_column=" to use no splits.',
        )
    unused = f"Splits of the dataset that aren't used: {', '.join(sorted(meaning.unused))}."
    return meaning.splits, [unused] if meaning.unused else []


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
    meaning, notes = _used([key for key in tables if key], columns, name)
    if not meaning and "" not in tables and columns.split is None:
        raise UserError(
            f"{name} has no train, validation or test split.",
            f"It has: {', '.join(tables)}. Say which is which, as in data.splits={{train: {next(iter(tables))}}}.",
        )
    used = {key: table for key, table in tables.items() if not meaning or key in meaning}
    first = next(iter(used.values()))
    feature = first.features[pick(first.column_names, columns, name).label]
    class_names = getattr(getattr(feature, "feature", feature), "names", None)  # within, if it is a list of labels
    rows = chain.from_iterable(_rows(table, columns, name, meaning.get(key), notes) for key, table in used.items())
    return Source(rows, names=tuple(class_names) if class_names else None, notes=notes)


def _rows(dataset: Any, columns: Columns, name: str, split: str | None, notes: list[str]) -> Iterator[Row]:
    from datasets import ClassLabel, Image

    name = f"{name} {split or ''}".rstrip()
    image, label = pick(dataset.column_names, columns, name)
    column = _split_column(dataset, columns, name) if split is None else None
    if column and column.note:
        notes.append(column.note)
    if isinstance(dataset.features[image], Image):
        dataset = dataset.cast_column(image, Image(decode=False))
    numbered = isinstance(dataset.features[label], ClassLabel)
    images, several, unlabelled = Images(None), Several(columns.several), 0
    # `with_format(None)`, because a saved copy may be set to return tensors.
    grouped = group_column(columns.group, dataset.column_names, name)
    more = [found for found in (column.name if column else None, grouped) if found]
    for i, record in enumerate(dataset.select_columns([image, label, *more]).with_format(None), 1):
        if numbered and record[label] == UNLABELLED:
            unlabelled += 1
            continue
        of_row = column.of(record[column.name]) if column else split or ""
        where = f"{name} row {i}"
        found = several.of(record[label], where)
        if of_row is not None and found is not UNUSED:
            yield to_row(record[image], found, where, images, of_row, record[grouped] if grouped else None)
    notes += several.notes()
    if unlabelled:
        notes.append(f"Without a label in {name}, ignored: {count(unlabelled, 'image')}.")


def _split_column(dataset: Any, columns: Columns, name: str) -> SplitColumn | None:
    """The column of a dataset that holds the splits. Raises `UserError` as `split_column` does."""
    cells = Cells()
    for column in dataset.column_names:
        kind = str(getattr(dataset.features[column], "dtype", ""))
        if column not in pick(dataset.column_names, columns, name) and re.match(r"(large_)?string|u?int|bool", kind):
            for cell in dataset.with_format(None).unique(column):
                cells.add(column, cell)
    return split_column(cells, columns, name)
