"""The plan of a bulk prediction: which pieces of the source are in which shard, written once and kept beside the parts.

A resumed job reads the plan instead of the source's list of files, so that every shard has the images it had before,
whatever has been added to the source meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge
from typing_extensions import TypedDict  # before Python 3.12, pydantic needs this one

from lensmith.bulk.sources import Piece, kind_of, module
from lensmith.bulk.storage import Storage, whole
from lensmith.errors import UserError
from lensmith.progress import Tell, counter
from lensmith.runs.shapes import made

MANIFEST, PLAN = "manifest.json", "plan.parquet"
PARTS = "parts"
"""The folder of the parts, which is a dataset of its own for programs that read all files of a folder."""
PART = PARTS + "/part-{:06d}.parquet"
ROWS, BYTES = 1000, 1 << 30
"""Most images and most bytes in a shard, unless the user says otherwise."""
_NUMBERS = ("first", "groups", "images", "size")
_GROUP = 20_000
"""Pieces in a row group of the plan, at least; a shard is never divided between two."""


class Manifest(TypedDict):
    """manifest.json: what the parts beside it are."""

    format: int
    lensmith: str
    created: str
    run: dict[str, Any]
    source: str
    kind: str
    shards: Annotated[int, Ge(1)]
    images: int | None
    plan: str
    scores: bool


class Plan:
    """The plan in an output folder, of which a row group at a time is in memory."""

    def __init__(self, out: Storage, manifest: Manifest) -> None:
        import pyarrow.parquet as pq

        self.manifest, self.shards = manifest, manifest["shards"]
        self._file = pq.ParquetFile(out.open(PLAN))
        about = self._file.metadata
        self._firsts = [about.row_group(k).column(0).statistics.min for k in range(about.num_row_groups)]
        self._group = -1
        self._pieces: dict[int, list[Piece]] = {}

    def pieces(self, shard: int) -> list[Piece]:
        """The pieces of a shard. Shards should be asked for in their order, as each row group is read anew."""
        group = bisect_right(self._firsts, shard) - 1
        if group != self._group:
            self._group, self._pieces = group, {}
            columns = self._file.read_row_group(group).to_pydict()
            for number, address, *rest in zip(*columns.values(), strict=True):
                self._pieces.setdefault(number, []).append(Piece(os.fsdecode(address), *rest))
        return self._pieces[shard]


def shards(pieces: Iterable[Piece], rows: int = ROWS, size: int = BYTES) -> Iterator[list[Piece]]:
    """Divide pieces among shards in their order: as many as fit into `rows` images and `size` bytes, at least one.

    Neighbouring row groups of one table are joined.
    """
    shard = list[Piece]()
    images = total = 0
    for piece in pieces:
        if shard and (images + piece.images > rows or total + piece.size > size or not piece.images):
            yield shard
            shard, images, total = [], 0, 0
        last = shard[-1] if shard else None
        if last and piece.groups and last.address == piece.address and last.first + last.groups == piece.first:
            joined = (last.groups + piece.groups, last.images + piece.images, last.size + piece.size)
            shard[-1] = Piece(last.address, last.first, *joined)
        else:
            shard.append(piece)
        images, total = images + piece.images, total + piece.size
    if shard:
        yield shard


def make_plan(
    out: Storage, source: str, run: dict[str, Any], scores: bool, rows: int, size: int | None, tell: Tell
) -> Manifest:
    """Divide a source into shards, and write the plan and then its manifest.

    Args:
        run: which model answers, as plain values.
        rows: most images in a shard.
        size: most bytes in a shard; None for `BYTES`, as far as sizes are known without looking.

    Raises:
        UserError: the source can't be read, or has no images; or `size` is given and sizes can't be known.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = kind_of(source)
    number = images = 0
    known, listed = True, counter("listing", 0, tell)
    schema = pa.schema([("shard", pa.int64()), ("address", pa.binary()), *((name, pa.int64()) for name in _NUMBERS)])
    with tempfile.TemporaryDirectory(prefix="lensmith-") as folder:
        file = Path(folder, PLAN)
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            rows_of_group = list[tuple[int, Piece]]()

            def flush() -> None:
                cells = [(k, os.fsencode(piece.address), *piece[1:]) for k, piece in rows_of_group]
                columns = zip(*cells, strict=True)
                arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
                writer.write_table(pa.table(arrays, schema))
                rows_of_group.clear()

            pieces = module(kind).pieces(source)
            for shard in shards(pieces if size is None else map(_sized, pieces), rows, size or BYTES):
                rows_of_group += [(number, piece) for piece in shard]
                number, images = number + 1, images + sum(piece.images for piece in shard)
                known = known and all(piece.images for piece in shard)
                listed(images)
                if len(rows_of_group) >= _GROUP:
                    flush()
            if rows_of_group:
                flush()
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
        out.put(PLAN, file)
    manifest: Manifest = {
        "format": 1,
        "lensmith": version("lensmith"),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "run": run,
        "source": whole(source),
        "kind": kind,
        "shards": number,
        "images": images if known else None,
        "plan": digest,
        "scores": scores,
    }
    out.write(MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False).encode(errors="backslashreplace"))
    return manifest


def _sized(piece: Piece) -> Piece:
    """A piece with its size in bytes, if it is a local file whose size hasn't been looked up."""
    if piece.size or piece.groups:
        return piece
    if "://" in piece.address:
        raise UserError(f"The size of {piece.address} isn't known.", "Divide the images with --shard-images.")
    try:
        return piece._replace(size=os.stat(piece.address).st_size)
    except OSError:  # it will be a row with its error
        return piece


def read_manifest(out: Storage) -> Manifest | None:
    """The manifest of an output folder; None if the folder is empty, or has only a plan without its manifest.

    Raises:
        UserError: the folder has something else, or the manifest is damaged.
    """
    names = {name for name in out.sizes() if not name.startswith(".")}
    if MANIFEST not in names:
        if other := sorted(names - {PLAN}):
            raise UserError(f"{out.address} has other files, such as {other[0]}.", "Name another folder with --out.")
        if out.sizes(PARTS):  # of which plan isn't known
            raise UserError(f"{out.address} has parts without their {MANIFEST}.", "Name another folder with --out.")
        return None
    where = Path(out.path(MANIFEST))
    try:
        values = json.loads(out.read(MANIFEST))
    except ValueError as error:
        raise UserError(f"{where} is damaged: {error}.", "Name another folder with --out.") from None
    return made(where, values, Manifest, "Name another folder with --out.")


def same_work(out: Storage, manifest: Manifest, run: dict[str, Any], source: str, scores: bool) -> None:
    """Raises UserError if an output folder is that of another run, of another source or of other columns."""
    run = run | {"name": manifest["run"].get("name")}  # a run that was renamed or moved is still the same
    mine = {"run": run, "source": whole(source), "scores": scores}
    words = {"run": "another model", "source": "another source", "scores": "other columns"}
    for key, value in mine.items():
        if (then := manifest[key]) != value:  # type: ignore[literal-required]
            told = "" if key == "run" else f": {then!r}"
            raise UserError(
                f"The folder {out.address} has the answers of {words[key]}{told}.", "Name another folder with --out."
            )
