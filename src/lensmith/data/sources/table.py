"""`table:PATH`: a CSV, TSV, JSON Lines or Parquet file with an image and a label in each row.

The image is a path relative to the table's folder; in Parquet it may also be the bytes of an image file. An optional
column `split` contains train, validation or test. Rows are streamed, so a table never has to fit in memory.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from lensmith.data.columns import pick, to_row, to_split
from lensmith.data.paths import existing
from lensmith.data.source import Columns, Files, Row, Source, damaged
from lensmith.errors import UserError

_SUFFIXES = {".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"}


def recognises(path: Path) -> bool:
    """A file with the extension of a table."""
    return path.is_file() and path.suffix.lower() in _SUFFIXES


def read(location: str, columns: Columns) -> Source:
    """The rows of the table. Raises `UserError` for an unknown format or column, or an invalid row."""
    path = existing(location)
    if not recognises(path):
        raise UserError(f"{location} isn't a table.", f"A table ends in {', '.join(sorted(_SUFFIXES))}.")
    if path.suffix.lower() == ".parquet":
        return Source(parquet_rows(path, columns), names=parquet_names(path, columns))
    return Source(_text_rows(path, columns))


def files(location: str, columns: Columns) -> Files | None:
    """The table and the existing images that its rows name, which must all be in the table's folder or below."""
    path = existing(location)
    paths = {path.name: path}
    for row in read(location, columns).rows:
        if row.data is not None:
            continue
        name = os.path.relpath(row.source, path.parent)  # computed from the text, because links may lead anywhere
        if name.split(os.sep, 1)[0] == os.pardir:
            raise UserError(
                f"{path} names an image outside its folder: {row.source}.",
                "To be uploaded, images must be in the table's folder or below.",
            )
        if os.path.isfile(row.source):  # a missing image is noted when the table is read, there as here
            paths[name] = Path(row.source)
    return Files.beside(location, paths)


def parquet_rows(path: Path, columns: Columns, split: str = "") -> Iterator[Row]:
    """The rows of one Parquet file. They belong to `split` if the file has no `split` column."""
    import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

    file = _parquet(path)
    available = file.schema_arrow.names
    names = list(pick(available, columns, path.name))
    if split_column := _split_column(available):
        names.append(split_column)
    number = 0
    # The batches are small because a row may contain a large image.
    batches = file.iter_batches(batch_size=64, columns=names)
    while True:
        with damaged(path, "a Parquet file", pa.ArrowException, OSError):
            batch = next(batches, None)
        if batch is None:
            return
        for image, label, *rest in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
            number += 1
            where = f"{path.name} row {number}"
            yield to_row(image, label, where, path.parent, to_split(rest[0], where) if rest else split)


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

    with damaged(path, "a Parquet file", pa.ArrowException, OSError):
        return pq.ParquetFile(path)


def _text_rows(path: Path, columns: Columns) -> Iterator[Row]:
    records = _json_records(path) if path.suffix.lower() in {".jsonl", ".ndjson"} else _csv_records(path)
    first = next(records, None)
    if first is None:
        return
    image, label = pick(list(first), columns, path.name)
    split_column = _split_column(list(first))
    for number, record in enumerate(chain([first], records), 1):
        where = f"{path.name} row {number}"
        split = to_split(record.get(split_column), where) if split_column else ""
        yield to_row(record.get(image), record.get(label), where, path.parent, split)


def _split_column(available: list[str]) -> str | None:
    return next((name for name in available if name.strip().casefold() == "split"), None)


def _csv_records(path: Path) -> Iterator[dict[str, Any]]:
    # utf-8-sig, because spreadsheets write a byte order mark, which would become part of a column name.
    with (
        damaged(path, "a UTF-8 table", UnicodeDecodeError, csv.Error),
        open(path, encoding="utf-8-sig", newline="") as f,
    ):
        header = f.readline()
        f.seek(0)
        # In many countries, spreadsheets separate cells by semicolons, because the comma is the decimal separator.
        separator = "\t" if path.suffix.lower() == ".tsv" else next((mark for mark in ",;\t" if mark in header), ",")
        for number, record in enumerate(csv.DictReader(f, delimiter=separator), 1):
            if None in record:  # DictReader's key for extra cells
                raise UserError(
                    f"{path.name} row {number} has more cells than the header.", "Quote cells that contain commas."
                )
            yield record


def _json_records(path: Path) -> Iterator[dict[str, Any]]:
    with damaged(path, "a UTF-8 table", UnicodeDecodeError), open(path, encoding="utf-8-sig") as f:
        for number, line in enumerate(f, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{path.name} line {number} isn't JSON: {error}", "Write one object per line."
                ) from None
            if not isinstance(record, dict):
                raise UserError(f"{path.name} line {number} isn't a JSON object.", "Write one object per line.")
            yield record
