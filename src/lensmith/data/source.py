"""What a source of images returns: rows, one per image. Also the helpers that sources share.

A source only reports what it finds. `build` decides on ids, splits, checks and storage in one place, so all sources
behave alike.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lensmith.config.options import SplitName
from lensmith.errors import UserError


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled image.

    `source` is the path of the image file; if `data` holds the encoded image instead, `source` says where that came
    from. An `int` label is an index into the class names, if there are any. `split` is one of `names.SPLITS`, or empty
    if the source doesn't assign one.
    """

    label: str | int
    source: str
    data: bytes | None = None
    split: str = ""


@dataclass(frozen=True)
class Source:
    """Rows in a stable order, streamed and read once. `names` is the source's class order, if it has one.

    `notes` may grow until the last row has been read.
    """

    rows: Iterable[Row]
    names: tuple[str, ...] | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Files:
    """The files on this machine that a source reads."""

    folder: str
    """The folder that contains them, written as in the recipe (perhaps relative, or with `~`)."""
    paths: Mapping[str, Path]
    """The path of each file, by its name relative to `folder`."""

    @classmethod
    def beside(cls, location: str, paths: Mapping[str, Path]) -> Files:
        """Files in the folder that contains the file `location`."""
        return cls(os.path.dirname(location) or ".", paths)


@dataclass(frozen=True)
class Columns:
    """What the user named: columns of a table, and splits by the source's own names for them. `None` means guess."""

    image: str | None = None
    label: str | None = None
    split: str | None = None
    """Empty if no column is one."""
    splits: Mapping[SplitName, list[str] | str] | None = None
    """The names of each split in the source: folders, cells of the split column, or splits of a hub dataset."""


def count(number: int, noun: str, plural: str = "") -> str:
    """`"1 image"`, `"2,000 images"`."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def pnm(pixels: Any) -> bytes:
    """Raw pixels (uint8 array, H x W grey or H x W x 3 RGB) as a PNM image: a short header, then the pixels unchanged.

    Raw pixels then decode in the same way as files, cost nothing to encode, and hash by shape and content.
    """
    height, width = pixels.shape[:2]
    magic = b"P5" if pixels.ndim == 2 else b"P6"
    return b"%s %d %d 255\n" % (magic, width, height) + bytes(pixels.tobytes())


@contextmanager
def damaged(path: Path, what: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn the low-level `errors` of reading `path` into a `UserError` saying that it isn't `what` or is damaged."""
    try:
        yield
    except errors as error:
        raise UserError(f"{path} isn't {what}, or is damaged: {error}", "Download or export the file again.") from error
