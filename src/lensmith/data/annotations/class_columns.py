"""One column per class, with 1 in those that an image belongs to, as in Roboflow's `_classes.csv`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lensmith.data.annotations import Entry
from lensmith.data.columns import image_name, is_label_name
from lensmith.data.splitting.column import is_split_name
from lensmith.errors import UserError

TITLE = "a table with a column for each class"
QUESTIONS = False
_CELLS = {"0": False, "1": True, "0.0": False, "1.0": True}


def recognises(start: Any) -> bool:
    """The first column is an image, and all others have a 0 or a 1. None has the name of a label or a split."""
    if not isinstance(start, list) or len(start) < 2:
        return False
    header, row = start
    others = header[1:]
    return (
        len(row) == len(header) > 2
        and bool(image_name(header[:1]))
        and all(cell.strip() in _CELLS for cell in row[1:])
        and not any(is_label_name(name) or is_split_name(name) for name in others)
    )


def entries(found: Iterable[tuple[str, Any]], question: str | None, image: str | None) -> Iterator[Entry]:
    """The images, one in each row after the header. Raises `UserError` for a cell that is neither 0 nor 1.

    Args:
        found: the rows of cells.
        question: None, since there is but one.
        image: the column with the image, if not the first.
    """
    rows = iter(found)
    _, header = next(rows)
    names = [name.strip() for name in header]
    at = names.index(image) if image else 0
    for where, cells in rows:
        if len(cells) != len(names):
            raise UserError(f"{where} has {len(cells)} cells, but the header has {len(names)}.", "Export it again.")
        labels = []
        for name, cell in zip(names, cells, strict=True):
            if name == names[at]:
                continue
            if cell.strip() not in _CELLS:
                raise UserError(
                    f"{where} has {cell!r} in the column {name!r}, where 0 or 1 should be.",
                    "Write 1 for the image's class and 0 for all others, or name the column of the labels with table:.",
                )
            if _CELLS[cell.strip()]:
                labels.append(name)
        yield Entry(cells[at].strip(), tuple(labels), where)
