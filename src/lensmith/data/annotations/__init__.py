"""Files in which annotation tools and other services keep labels: one module per format.

To add a format, add a file here with the functions of `Format`. Nothing else needs editing: modules are found by their
file names, and this folder contains no other modules. The source `annotations` does what all formats share: it finds
the images, applies the splits and counts images with several labels.
"""

from __future__ import annotations

import csv
import pkgutil
from collections.abc import Iterable, Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from lensmith.data.json_records import LINES, first_record, records
from lensmith.data.text_tables import cells_of
from lensmith.errors import UserError

JSON = frozenset({".json", *LINES})
TEXT = frozenset({".csv", ".tsv"})
"""Extensions of the files in which annotations are looked for."""


class Entry(NamedTuple):
    """What a file says of one image."""

    image: str
    """A reference to the image, as it stands in the file; see `locate`."""
    labels: tuple[str, ...]
    """All its labels. None if it hasn't been annotated."""
    where: str
    """The place in the file, for messages."""
    split: str = ""
    """The file's own word for its split; empty if it has none."""


class Format(Protocol):
    """What every module in this folder defines."""

    TITLE: str
    """What its files are called, with the article: `a COCO file`."""
    QUESTIONS: bool
    """Whether a file may ask several questions of an image, of which `data.label_column` names one."""

    def recognises(self, start: Any) -> bool:
        """Whether a file that begins so has this format.

        Args:
            start: the first object of a JSON file (a dictionary), or the first two rows of a text table (a list of
                lists of cells).
        """
        ...

    def entries(self, found: Iterable[tuple[str, Any]], question: str | None, image: str | None) -> Iterator[Entry]:
        """The images of a file.

        Args:
            found: its objects, or the rows of its cells, each with where it is.
            question: the one of several questions that the user named, if any.
            image: the field with the image that the user named, if any.

        Raises:
            UserError: the file can't be understood. `KeyError`, `TypeError` and the like are turned into one.
        """
        ...


def format_of(path: Path) -> Format | None:
    """The format of a file, by how it begins; None if it is of none."""
    suffix = path.suffix.lower()
    try:
        if suffix in JSON:
            start: Any = first_record(path)
        elif suffix in TEXT:
            start = [cells for _, cells in islice(cells_of(path), 2)]
        else:
            return None
    except (OSError, UserError):
        return None
    known = (module(name) for name in names())
    return next((found for found in known if start and found.recognises(start)), None)


def entries_of(path: Path, format_: Format, question: str | None, image: str | None) -> Iterator[Entry]:
    """The images of a file. Raises `UserError` if it isn't what its beginning promises."""
    if question is not None and not format_.QUESTIONS:
        raise UserError(
            f"{path} is {format_.TITLE}, in which no column holds the label.",
            "Remove data.label_column.",
        )
    found: Iterable[tuple[str, Any]] = (
        records(path)
        if path.suffix.lower() in JSON
        else ((f"{path.name} line {number}", cells) for number, cells in cells_of(path))
    )
    try:
        yield from format_.entries(found, question, image)
    except KeyError as error:
        raise UserError(f"{path} isn't {format_.TITLE} as expected: {error} is missing.", "Export it again.") from None
    except (TypeError, AttributeError, IndexError, ValueError, csv.Error) as error:
        raise UserError(f"{path} isn't {format_.TITLE} as expected: {error}.", "Export it again.") from None


def names() -> list[str]:
    """The names of all formats."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__))


def module(name: str) -> Format:
    """The module of a format."""
    return cast(Format, import_module(f"{__name__}.{name}"))
