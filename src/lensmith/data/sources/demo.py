"""`demo:fashion` and `demo:digits`: two small datasets that are always available, so that a first run needs no data.

Fashion is a subset of Fashion-MNIST that ships with the package (see `files/NOTICE-fashion-mnist.md`). Digits ships
with scikit-learn.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from lensmith.data.build import content_id
from lensmith.data.source import Columns, Files, Row, Source, pnm
from lensmith.data.sources.table import parquet_rows
from lensmith.data.splitting.holdout import held_out
from lensmith.errors import UserError, nearest

FASHION = ("t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_DIGITS_TEST = 0.3
_FILES = Path(__file__).parents[1] / "files"


def recognises(path: Path) -> bool:
    """No path, because demos are requested by name."""
    return False


def read(location: str, columns: Columns) -> Source:
    """The demo called `location`. Raises `UserError` for an unknown name."""
    if location == "fashion":
        rows = (parquet_rows(_FILES / f"fashion_{split}.parquet", Columns(), [], split) for split in ("train", "test"))
        return Source(chain.from_iterable(rows), names=FASHION)
    if location == "digits":
        return Source(_digits())
    known = ("fashion", "digits")
    raise UserError(f"Unknown demo {location!r}.", f"{nearest(location, known)} Known: {', '.join(known)}.".strip())


def files(location: str, columns: Columns) -> Files | None:
    """`None`, because the images ship with Lensmith and scikit-learn."""
    return None


def _digits() -> Iterator[Row]:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]

    bunch = load_digits()
    for i, (values, label) in enumerate(zip(bunch.images, bunch.target, strict=True), 1):
        pixels = (values * (255 / 16) + 0.5).astype("uint8")  # the values range from 0 to 16
        row = Row(int(label), f"scikit-learn digits row {i}", pnm(pixels))
        split = "test" if held_out(content_id(row), "test", _DIGITS_TEST) else "train"
        yield Row(row.label, row.source, row.data, split)
