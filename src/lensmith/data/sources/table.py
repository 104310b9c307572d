"""`table:PATH`: a CSV, TSV, JSON Lines or Parquet file with an image and a label in each row.

The image is a path relative to the table's folder; in Parquet it may also be the bytes of an image file. An optional
column holds the split (`splitting.column`). Rows are streamed, so a table never has to fit in memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lensmith.data.columns import pick, to_row
from lensmith.data.json_records import records
from lensmith.data.locate import Images
from lensmith.data.paths import existing
from lensmith.data.source import UNUSED, Columns, Files, Row, Several, Source, count, damaged
from lensmith.data.splitting.column import PATH, Cells, SplitColumn, split_column, split_folder
from lensmith.data.splitting.groups import group_column
from lensmith.data.text_tables import rows_of
from lensmith.errors import UserError

_JSON = {".jsonl", ".ndjson", ".json"}
_SUFFIXES = {".csv", ".tsv", ".parquet", *_JSON}

UNLABELLED = -1
"""The number with which hub datasets mark the images of a test set whose labels aren't published."""


def recognises(path: Path) -> bool:
    """A file with the extension of a table."""
    return path.is_file() and path.suffix.lower() in _SUFFIXES


def read(location: str, columns: Columns) -> Source:
    """The rows of the table. Raises `UserError` for an unknown format or column, or an invalid row."""
    path = existing(location)
    if not recognises(path):
        raise UserError(f"{location} isn't a table.", f"A table ends in {', '.join(sorted(_SUFFIXES))}.")
    notes: list[str] = []
    if path.suffix.lower() == ".parquet":
        return Source(parquet_rows(path, columns, notes), names=parquet_names(path, columns), notes=notes)
    return Source(text_rows(path, columns, notes), notes=notes)


def files(location: str, columns: Columns) -> Files | None:
    """The table and the existing images that its rows name, which must all be in the table's folder or below."""
    path = existing(location)
    return Files.beside(location, files_of(path.parent, [path], read(location, columns).rows))


def files_of(folder: Path, tables: Sequence[Path], rows: Iterable[Row]) -> dict[str, Path]:
    """Tables and the images that their rows name, by their names in a folder. Raises `UserError` for one outside."""
    paths = {table.relative_to(folder).as_posix(): table for table in tables}
    for row in rows:
        if row.data is not None:
            continue
        name = os.path.relpath(row.source, folder)  # computed from the text, because links may lead anywhere
        if name.split(os.sep, 1)[0] == os.pardir:
            raise UserError(
                f"{tables[0]} names an image outside its folder: {row.source}.",
                "To be uploaded, images must be in the table's folder or below.",
            )
        if os.path.isfile(row.source):  # a missing image is noted when the table is read, there as here
            paths[name] = Path(row.source)
    return paths


def parquet_rows(path: Path, columns: Columns, notes: list[str], split: str | None = None) -> Iterator[Row]:
    """The rows of one Parquet file.

    Args:
        notes: where sentences on the split, and on rows without a label, are added.
        split: the split of all of them; None to look for it in a column.
    """
    names = list(pick(_parquet(path).schema_arrow.names, columns, path.name))
    numbered, unlabelled = parquet_names(path, columns) is not None, 0
    column = parquet_split(path, columns) if split is None else None
    if column and column.note:
        notes.append(column.note)
    grouped = group_column(columns.group, _parquet(path).schema_arrow.names, path.name)
    more = [column.name] if column and column.name != PATH else []
    more += [grouped] if grouped else []
    images, several, number = Images(columns.folder(path), path.stem), Several(columns.several), 0
    for cells in _batches(path, [*names, *more], size=64):  # small, because a row may contain a large image
        for image, label, *rest in zip(*cells, strict=True):
            number += 1
            where = f"{path.name} row {number}"
            if numbered and label == UNLABELLED:
                unlabelled += 1
                continue
            of_group = rest.pop() if grouped else None
            of_row = column.of(rest[0] if rest else split_folder(image)) if column else split or ""
            found = several.of(label, where)
            if of_row is not None and found is not UNUSED:
                yield to_row(image, found, where, images, of_row, of_group)
    notes += several.notes()
    if unlabelled:
        notes.append(f"Without a label in {path.name}, ignored: {count(unlabelled, 'image')}.")


def parquet_split(path: Path, columns: Columns) -> SplitColumn | None:
    """The column of a Parquet file that holds the splits. Raises `UserError` as `split_column` does."""
    import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

    schema = _parquet(path).schema_arrow
    image, label = pick(schema.names, columns, path.name)
    cells = Cells()
    t = pa.types
    kinds = (t.is_string, t.is_large_string, t.is_integer, t.is_boolean, t.is_dictionary)
    few = [f.name for f in schema if f.name not in (image, label) and any(is_kind(f.type) for is_kind in kinds)]
    for columns_of_few in _batches(path, few, size=10_000, unique=True) if few else ():
        for name, found in zip(few, columns_of_few, strict=True):
            for cell in found:
                cells.add(name, cell)
    if t.is_string(schema.field(image).type) or t.is_large_string(schema.field(image).type):
        for (paths,) in _batches(path, [image], size=10_000):
            for cell in paths:
                cells.add_path(cell)
    return split_column(cells, columns, path.name)


def _batches(path: Path, names: list[str], size: int, unique: bool = False) -> Iterator[list[list[Any]]]:
    """The cells of these columns, some rows at a time; with `unique`, each cell of a column once."""
    import pyarrow as pa

    batches = _parquet(path).iter_batches(batch_size=size, columns=names)
    while True:
        with damaged(path, "a Parquet file", pa.ArrowException, OSError, ValueError):  # the last for text that is none
            if (batch := next(batches, None)) is None:
                return
            found = [batch.column(name) for name in names]
            cells = [(column.unique() if unique else column).to_pylist() for column in found]
        yield cells


def parquet_names(path: Path, columns: Columns) -> tuple[str, ...] | None:
    """The class names that `datasets` stores in a Parquet file's metadata for a `ClassLabel` column, if present."""
    schema = _parquet(path).schema_arrow
    label = pick(schema.names, columns, path.name).label
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(str(name) for name in info["info"]["features"][label]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]

    with damaged(path, "a Parquet file", pa.ArrowException, OSError, ValueError):
        return pq.ParquetFile(path)


def text_rows(path: Path, columns: Columns, notes: list[str], split: str | None = None) -> Iterator[Row]:
    """The rows of a text table; `notes` and `split` as for `parquet_rows`."""
    _, first = next(_records(path), ("", None))
    if first is None:
        return
    image, label = pick(list(first), columns, path.name)
    grouped = group_column(columns.group, list(first), path.name)
    cells = Cells()
    for _, record in _records(path) if split is None else ():
        # a first walk, since only later rows may say that there are splits
        for name, cell in record.items():
            if name not in (image, label):
                cells.add(name, cell)
        cells.add_path(record.get(image))
    column = split_column(cells, columns, path.name) if split is None else None
    if column and column.note:
        notes.append(column.note)
    images, several = Images(columns.folder(path), path.stem), Several(columns.several)
    for where, record in _records(path):
        of_row: str | None = split or ""
        if column:
            of_row = column.of(split_folder(record.get(image)) if column.name == PATH else record.get(column.name))
        found = several.of(record.get(label), where)
        if of_row is not None and found is not UNUSED:
            yield to_row(record.get(image), found, where, images, of_row, record.get(grouped) if grouped else None)
    notes += several.notes()


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix.lower() in _JSON:
        rows: Iterator[tuple[Any, dict[str, Any]]] = records(path)
    else:
        rows = rows_of(path)
    return ((f"{path.name} row {number}", record) for number, (_, record) in enumerate(rows, 1))
