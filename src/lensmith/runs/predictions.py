"""Predictions on disk: one Parquet file with a row per image, written in chunks, so that a stop loses nothing.

While images are being scored, complete chunks are stored in a folder beside the final file. At the end they are joined,
and the folder is removed. Only one chunk at a time is in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from lensmith.errors import UserError
from lensmith.records import Prediction
from lensmith.runs.files import disk_error, write, write_json
from lensmith.runs.shapes import State, read_as

PLAIN = [f.name for f in fields(Prediction) if f.name != "scores"]
"""The columns that precede the scores."""
OLD = {"share": "probability", "share_low": "probability_low", "share_high": "probability_high"}
"""Names of columns before version 0.2, and their present names."""


def to_table(predictions: Sequence[Prediction], labels: Sequence[str]) -> Any:
    """One row per image as an Arrow table: the fields of `Prediction`, and a column `score: LABEL` for each label."""
    import pyarrow as pa

    types = dict.fromkeys(("probability", "probability_low", "probability_high"), pa.float32()) | {"rank": pa.int32()}
    columns = {name: pa.array([getattr(p, name) for p in predictions], types.get(name, pa.string())) for name in PLAIN}
    for i, label in enumerate(labels):
        values = [p.scores[i] if p.scores else None for p in predictions]
        columns[f"score: {label}"] = pa.array(values, pa.float32())
    return pa.table(columns)


def write_predictions(path: Path, predictions: Sequence[Prediction], labels: Sequence[str]) -> None:
    """Write all predictions at once; see `to_table`.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    import io

    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(to_table(predictions, labels), buffer, compression="zstd", write_page_checksum=True)
    write(path, buffer.getvalue())


def read_predictions(path: Path) -> list[Prediction]:
    """The rows of a predictions file, without the scores, which may be large.

    Raises:
        UserError: the file doesn't exist, or is damaged or truncated.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UserError(f"There are no predictions at {path}.", "Create them with `lensmith evaluate`.")
    try:
        columns = [name for name in pq.read_schema(path).names if OLD.get(name, name) in PLAIN]
        rows = _renamed(pq.read_table(path, columns=columns, page_checksum_verification=True)).to_pylist()
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"The predictions {path} are damaged or truncated: {reason}", "Score the images again."
        ) from None
    if rows and (lacking := set(PLAIN) - {"group"} - set(rows[0])):
        missing = ", ".join(sorted(lacking))
        raise UserError(f"The predictions {path} have no column {missing}.", "Score the images again.")
    return [Prediction(**row) for row in rows]


def read_scores(path: Path, labels: Sequence[str]) -> Any:
    """(images, labels) float32 array of the scores in a predictions file, NaN where a label was not scored.

    Raises:
        UserError: the file doesn't exist or is damaged, or has other labels.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=[f"score: {label}" for label in labels], page_checksum_verification=True)
        return np.stack([column.to_numpy().astype(np.float32) for column in table.columns], 1)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"The scores in {path} can't be read: {reason}", "Score the images again.") from None


class Unfinished:
    """The predictions file `path` while it is being written in chunks.

    Args:
        path: the final file.
        labels: the classes, in the order of the scores.
        about: what the scores depend on, as plain values. It must equal that of the chunks on disk.
        groups: the name of each image's group, in the order of the images; empty for none.

    Raises:
        UserError: the chunks on disk depend on other values, or can't be written.
    """

    def __init__(self, path: Path, labels: Sequence[str], about: dict[str, Any], groups: Sequence[str] = ()) -> None:
        import json

        self.path, self.labels, self.about, self.groups = path, labels, about, groups
        self.folder = path.with_name(f"{path.stem}.unfinished")
        self.done = 0
        """Number of images in complete chunks."""
        self.seconds = 0.0
        self._state = self.folder / "about.json"
        if not self._state.exists():
            return
        state = read_as(self._state, State, "Remove its folder to score all images again.")
        # Before version 0.2, `weights` was not recorded.
        then = {"weights": about.get("weights")} | state["about"]
        changed = [key for key, value in about.items() if then.get(key) != json.loads(json.dumps(value))]
        if changed:
            raise UserError(
                f"The predictions in {self.folder} were started with other {' and '.join(changed)}.",
                "Remove this folder to score all images again, or use another run folder.",
            )
        self.about, self.seconds = state["about"], state["seconds"]
        for chunk in self._chunks():
            count = _count(chunk)
            if int(chunk.stem) != self.done or count is None:  # a missing or damaged chunk: score again from here
                chunk.unlink()
            else:
                self.done += count

    @property
    def window(self) -> int | None:
        """Number of images in the first chunk, which later chunks must keep; None if there is none."""
        chunks = self._chunks()
        return _count(chunks[0]) if chunks else None

    def _chunks(self) -> list[Path]:
        return sorted(self.folder.glob("*.parquet"))

    def add(self, predictions: Sequence[Prediction], seconds: float) -> None:
        """Store a chunk, which took this number of seconds."""
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise disk_error(self.folder, error) from None
        self.seconds += seconds
        if not self._state.exists():
            write_json(self._state, {"about": self.about, "seconds": self.seconds})
        if any(self.groups):
            groups = self.groups[self.done : self.done + len(predictions)]
            predictions = [replace(p, group=group) for p, group in zip(predictions, groups, strict=True)]
        write_predictions(self.folder / f"{self.done:09d}.parquet", predictions, self.labels)
        write_json(self._state, {"about": self.about, "seconds": self.seconds})
        self.done += len(predictions)

    def join(self) -> None:
        """Join the chunks into one file, and remove them.

        Raises:
            UserError: the disk is full; the chunks are kept.
        """
        import pyarrow.parquet as pq

        temporary = self.path.with_name(f".{self.path.name}.part")
        try:
            with pq.ParquetWriter(
                temporary, to_table([], self.labels).schema, compression="zstd", write_page_checksum=True
            ) as file:
                for chunk in self._chunks():
                    file.write_table(_renamed(pq.read_table(chunk)))
            temporary.replace(self.path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise disk_error(self.path, error) from None
        shutil.rmtree(self.folder, ignore_errors=True)


def _renamed(table: Any) -> Any:
    """A table with the present columns."""
    table = table.rename_columns([OLD.get(name, name) for name in table.column_names])
    if "group" not in table.column_names:  # before version 0.3
        table = table.add_column(len(PLAIN) - 1, "group", [[""] * len(table)])
    return table


def _count(chunk: Path) -> int | None:
    """The number of rows of a chunk; None if it is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(chunk).num_rows)
    except (pa.ArrowException, OSError):
        return None
