"""Parquet files with the images' bytes: one file, a folder of them, or a dataset of the Hugging Face hub.

A shard is made of whole row groups, which are what Parquet can read without what comes before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from lensmith.bulk.sources import Item, Piece
from lensmith.bulk.storage import Storage, is_remote
from lensmith.data.columns import image_name
from lensmith.errors import UserError

_BATCH = 64
"""Rows in memory at once."""


def recognises(address: str) -> bool:
    """`hub:OWNER/NAME`, a .parquet file, or a folder with such files and no others of its own."""
    if address.startswith("hub:") or address.lower().endswith(".parquet"):
        return True
    names = [name for name in Storage(address).some() if not name.startswith((".", "_"))]
    return any(name.lower().endswith(".parquet") for name in names)


def pieces(address: str) -> Iterator[Piece]:
    """A piece for each row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = False
    for file in _files(address):
        try:
            with Storage(file).open("") as stream:
                about = pq.ParquetFile(stream).metadata
                column_of(about.schema.to_arrow_schema(), file)
                groups = [about.row_group(k) for k in range(about.num_row_groups)]
                sizes = [(group.num_rows, group.total_byte_size) for group in groups]
        except FileNotFoundError:
            raise UserError(f"There is no file {file}.", "Check the path.") from None
        except pa.ArrowInvalid as error:
            raise UserError(f"{file} isn't a whole Parquet file: {error}.", "Write or copy it again.") from None
        for k, (rows, size) in enumerate(sizes):
            if rows:
                found = True
                yield Piece(file, k, 1, rows, size)
    if not found:
        raise UserError(f"There are no rows in {address}.", "Check the path.")


def items(piece: Piece) -> Iterator[Item]:
    """The images of the row groups. An image is named by its path in the table, or by the file and its row in it."""
    import pyarrow.parquet as pq

    with Storage(piece.address).open("") as stream:
        file = pq.ParquetFile(stream)
        column = column_of(file.schema_arrow, piece.address)
        row = sum(file.metadata.row_group(k).num_rows for k in range(piece.first))
        groups = list(range(piece.first, piece.first + piece.groups))
        for batch in file.iter_batches(_BATCH, row_groups=groups, columns=[column]):
            for cell in batch.column(0):
                yield _item(cell.as_py(), f"{piece.address}#{row}")
                row += 1


def _item(cell: Any, where: str) -> Item:
    from lensmith.errors import ImageError

    name, content = where, cell
    if isinstance(cell, dict):
        name, content = cell.get("path") or where, cell.get("bytes")

    def read() -> bytes:
        if not content:
            raise ImageError(f"The image {name} has no bytes in the table.", "Store the images' bytes in the table.")
        return bytes(content)

    return name, read


def column_of(schema: Any, where: str) -> str:
    """The column with the images' bytes: the only one that holds bytes, or the best name among several.

    Raises:
        UserError: there is none.
    """
    import pyarrow as pa

    def holds(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return any(field.name == "bytes" and holds(field.type) for field in kind)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))

    found = [field.name for field in schema if holds(field.type)]
    if not found:
        raise UserError(
            f"No column of {where} has the bytes of images. Its columns: {', '.join(schema.names)}.",
            "Store the images' bytes in the table, or give a .txt file of addresses.",
        )
    return image_name(found) or found[0]


def _files(address: str) -> Iterator[str]:
    if address.startswith("hub:"):
        yield from _of_hub(address.removeprefix("hub:"))
        return
    storage = Storage(address)
    if storage.is_file():
        yield address if is_remote(address) else storage.root
        return
    for file, _ in storage.walk():
        if file.lower().endswith(".parquet") and not os.path.basename(file).startswith("_"):
            yield file


def _of_hub(name: str) -> Iterator[str]:
    """The Parquet files of a dataset of the hub, at one fixed revision, or the hub's own conversion of it."""
    from huggingface_hub import HfApi

    from lensmith.hub.errors import explain

    if os.path.exists(os.path.expanduser(name)):
        yield from _files(name)
        return
    try:
        api = HfApi()
        for revision in (None, "refs/convert/parquet"):
            about = api.dataset_info(name, revision=revision)
            files = sorted(s.rfilename for s in about.siblings or [] if s.rfilename.endswith(".parquet"))
            if files:
                break
    except Exception as error:  # the client also passes on errors of its HTTP library and of its native code
        raise explain(error, name, "dataset") from error
    if not files:
        raise UserError(f"The dataset {name} has no Parquet files.", "Fetch it, and give the folder of its images.")
    yield from (f"hf://datasets/{name}@{about.sha}/{file}" for file in files)
