"""What a source of images returns: rows, one per image. Also the helpers that sources share.

A source only reports what it finds. `build` decides on ids, splits, checks and storage in one place, so all sources
behave alike.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lensmith.config import DataOptions
from lensmith.config.options import SplitName
from lensmith.data.paths import existing
from lensmith.errors import UserError


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled image.

    `source` is the path of the image file; if `data` holds the encoded image instead, `source` says where that came
    from. An `int` label is an index into the class names, if there are any. `split` is one of `names.SPLITS`, or empty
    if the source doesn't assign one. `targets` are the probabilities of the labels, if a model gave the label. `group`
    names what the image has in common with others (`data.group`), if a column of the source says so.
    """

    label: str | int
    source: str
    data: bytes | None = None
    split: str = ""
    targets: Mapping[str, float] | None = None
    group: str = ""


@dataclass(frozen=True)
class Source:
    """Rows in a stable order, streamed and read once. `names` is the source's class order, if it has one.

    `notes` may grow until the last row has been read.
    """

    rows: Iterable[Row]
    names: tuple[str, ...] | None = None
    notes: list[str] = field(default_factory=list)
    by_models: bool = False
    """Whether models gave the labels, so that no test is held out."""


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
    """What the user said of a source: its columns, its own names for the splits, where its images are, and so on.

    `None` means guess.
    """

    image: str | None = None
    label: str | None = None
    split: str | None = None
    """Empty if no column is one."""
    splits: Mapping[SplitName, list[str] | str] | None = None
    """The names of each split in the source: folders, cells of the split column, or splits of a hub dataset."""
    images: str | None = None
    """The folder that a table's paths are relative to, instead of the table's own."""
    several: Literal["stop", "skip"] = "stop"
    """What to do with images that have several labels."""
    group: str | None = None
    """A column whose cells name groups of images that stay together, or a pattern of paths; see `grouping`."""

    @classmethod
    def of(cls, options: DataOptions) -> Columns:
        """What the user said in a recipe."""
        return cls(
            options.image_column,
            options.label_column,
            options.split_column,
            options.splits,
            options.images,
            options.several,
            options.group,
        )

    def folder(self, path: Path) -> Path:
        """The folder that the paths in the table `path` are relative to. Raises `UserError` if it doesn't exist."""
        if self.images is None:
            return path.parent
        folder = existing(self.images)
        if not folder.is_dir():
            raise UserError(f"data.images is {self.images}, which isn't a folder.", "Give the folder of the images.")
        return folder


UNUSED = object()
"""Stands for the label of an image that isn't used."""


class Several:
    """Picks the label of each image, and counts the images with none and with several, which have no one class."""

    def __init__(self, allowed: Literal["stop", "skip"]) -> None:
        self._allowed = allowed
        self._numbers = [0, 0, 0]  # images with no label, one, several
        self._single: set[object] = set()
        self._others: dict[object, None] = {}
        self._example = ""

    def pick(self, labels: Iterable[Any], where: str) -> Any:
        """The only one of an image's labels; None if it has none or several."""
        labels = list(dict.fromkeys(labels))
        self._numbers[min(len(labels), 2)] += 1
        if len(labels) == 1:
            self._single.add(labels[0])
            return labels[0]
        if labels:
            self._others |= dict.fromkeys(labels)
            self._example = self._example or f"{where} ({', '.join(map(str, labels))})"
        return None

    def of(self, cell: Any, where: str) -> Any:
        """The label in a cell of a table; `UNUSED` if it is a list with none or several."""
        cell = _written_list(cell)
        labels = cell if isinstance(cell, list) else [cell]
        if not all(isinstance(label, str | int | float) for label in labels):
            return cell  # which isn't a label
        found = self.pick(labels, where)
        return UNUSED if found is None else found

    def notes(self) -> list[str]:
        """Sentences on the images that aren't used, when all have been seen.

        Raises:
            UserError: there are images with several labels, and they aren't to be skipped.
        """
        none, one, many = self._numbers
        if many and self._allowed == "stop":
            raise UserError(
                f"Images with several labels: {many:,}, for example {self._example}. {one:,} have one label and "
                f"{none:,} none.",
                "Leave them out with data.several=skip, or teach one run for each question with its own labels.",
            )
        notes = [f"Without a label, ignored: {count(none, 'image')}."] if none else []
        if many:
            notes.append(f"With several labels, ignored: {count(many, 'image')}.")
        if lost := [str(label) for label in self._others if label not in self._single]:
            notes.append(f"Labels that no image has alone, which are no classes: {', '.join(lost)}.")
        return notes


def _written_list(cell: Any) -> Any:
    """The list that a cell's text writes down, as Label Studio's tables (JSON) and pandas (Python) do; any other cell
    as it is."""
    if not isinstance(cell, str) or not cell.lstrip().startswith(("[", '{"choices"')):
        return cell
    try:
        found = ast.literal_eval(cell.strip())  # JSON's strings, lists and objects are Python's too
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return cell
    found = found.get("choices") if isinstance(found, dict) else found
    return found if isinstance(found, list) else cell


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
