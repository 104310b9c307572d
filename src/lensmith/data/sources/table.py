"""`table:PATH`: a CSV, TSV, JSON Lines or Parquet file with an image and a label in each row.

The image is a path relative to the table's folder, or in Parquet also the bytes of an image file. An optional column
`split` says train, validation or test. Rows are streamed; none of the formats is read as a whole.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from lensmith.data.columns import pick, to_part, to_row
from lensmith.data.source import Columns, Row, Source, damaged, existing
from lensmith.errors import UserError

_SUFFIXES = {".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"}


def recognises(path: Path) -> bool:
    """A file with the extension of a table."""
    return path.is_file() and path.suffix.lower() in _SUFFIXES


def read(location: str, columns: Columns) -> Source:
    """The rows of the table. Raises `UserError` for an unknown format or column, or a bad row, which it names."""
    path = existing(location)
    if not recognises(path):
        raise UserError(f"{location} isn't a table.", f"A table ends in {', '.join(sorted(_SUFFIXES))}.")
    if path.suffix.lower() == ".parquet":
        return Source(parquet_rows(path, columns), names=parquet_names(path, columns))
    return Source(_text_rows(path, columns))


def parquet_rows(path: Path, columns: Columns, part: str = "") -> Iterator[Row]:
    """The rows of one Parquet file, of the given `part` where the file has no `split` column."""
    import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

    file = _parquet(path)
    found = file.schema_arrow.names
    wanted = list(pick(found, columns, path.name))
    if split := _split_column(found):
        wanted.append(split)
    number = 0
    # Small batches: a row may hold a photograph.
    batches = file.iter_batches(batch_size=64, columns=wanted)
    while True:
        with damaged(path, "a Parquet file", pa.ArrowException, OSError):
            batch = next(batches, None)
        if batch is None:
            return
        for image, label, *rest in zip(*(batch.column(name).to_pylist() for name in wanted), strict=True):
            number += 1
            where = f"{path.name} row {number}"
            yield to_row(image, label, where, path.parent, to_part(rest[0], where) if rest else part)


def parquet_names(path: Path, columns: Columns) -> tuple[str, ...] | None:
    """The class names that `datasets` leaves in a Parquet file's metadata for a `ClassLabel` column, if it did."""
    schema = _parquet(path).schema_arrow
    label = pick(schema.names, columns, path.name)[1]
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
    split = _split_column(list(first))
    for number, record in enumerate(chain([first], records), 1):
        where = f"{path.name} row {number}"
        part = to_part(record.get(split), where) if split else ""
        yield to_row(record.get(image), record.get(label), where, path.parent, part)


def _split_column(found: list[str]) -> str | None:
    return next((name for name in found if name.strip().casefold() == "split"), None)


def _csv_records(path: Path) -> Iterator[dict[str, Any]]:
    # utf-8-sig: spreadsheets begin their files with a byte order mark, which would become part of a column's name.
    with (
        damaged(path, "a UTF-8 table", UnicodeDecodeError, csv.Error),
        open(path, encoding="utf-8-sig", newline="") as f,
    ):
        header = f.readline()
        f.seek(0)
        # Spreadsheets of many countries separate by semicolons, since the comma is their decimal point.
        separator = "\t" if path.suffix.lower() == ".tsv" else next((mark for mark in ",;\t" if mark in header), ",")
        for number, record in enumerate(csv.DictReader(f, delimiter=separator), 1):
            if None in record:  # where DictReader puts what has no column
                raise UserError(f"{path.name} row {number} has more cells than the header.", "Quote cells with commas.")
            yield record


def _json_records(path: Path) -> Iterator[dict[str, Any]]:
    with damaged(path, "a UTF-8 table", UnicodeDecodeError), open(path, encoding="utf-8-sig") as f:
        for number, line in enumerate(f, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path.name} line {number} isn't JSON: {error}", "Write one object a line.") from None
            if not isinstance(record, dict):
                raise UserError(f"{path.name} line {number} isn't a JSON object.", "Write one object a line.")
            yield record
