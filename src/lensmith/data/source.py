"""What a source of images hands over: rows, one image each, and the few helpers that sources share.

A source only says what there is. Ids, splits, checks and storage are decided once, in `build`, so that all sources
behave alike.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensmith.errors import UserError

PARTS = ("train", "validation", "test")
_PART_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One image. `source` is its file, or says where `data` (the encoded image) came from.

    A `label` that is an `int` counts into the class names, where there are any. `part` is one of `PARTS`, or empty
    where the source doesn't say.
    """

    label: str | int
    source: str
    data: bytes | None = None
    part: str = ""


@dataclass(frozen=True)
class Source:
    """Rows in a stable order, read once and streamed; `names` is the source's own class order, if it has one.

    `notes` may grow until the last row has been read.
    """

    rows: Iterable[Row]
    names: tuple[str, ...] | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Columns:
    """The columns the user named; `None` means guess."""

    image: str | None = None
    label: str | None = None


def part_name(word: str) -> str:
    """`train`, `validation` or `test` for a common name of it (`val`, `dev`, `Testing`, ...), else an empty string."""
    return _PART_NAMES.get(word.strip().casefold(), "")


def natural_key(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key by which "2" comes before "10"; the text itself settles "1" against "01"."""
    runs = (run for run in re.split(r"(\d+)", text) if run)
    return [(0, int(run), "") if run.isdecimal() else (1, 0, run) for run in runs], text


def count(number: int, noun: str) -> str:
    """`"1 image"`, `"2,000 images"`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def existing(location: str) -> Path:
    """The path `location`, with `~` expanded. Raises `UserError` if there is nothing."""
    path = Path(os.path.expanduser(location))
    if not os.path.exists(path):  # unlike `Path.exists`, never raises
        raise UserError(f"No such file or folder: {location!r}.", "Check the path.")
    return path


def pnm(pixels: Any) -> bytes:
    """Raw pixels (uint8 array, H x W grey or H x W x 3 RGB) as a PNM image: a short header and the pixels as they are.

    So raw pixels decode by the same way as files, cost nothing to encode, and hash by shape and content.
    """
    height, width = pixels.shape[:2]
    magic = b"P5" if pixels.ndim == 2 else b"P6"
    return b"%s %d %d 255\n" % (magic, width, height) + bytes(pixels.tobytes())


@contextmanager
def damaged(path: Path, what: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn the low-level `errors` of reading `path` into a `UserError` that calls it not `what` or damaged."""
    try:
        yield
    except errors as error:
        raise UserError(f"{path} isn't {what}, or is damaged: {error}", "Fetch or export the file again.") from error
