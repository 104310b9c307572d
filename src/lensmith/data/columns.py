"""Which columns of a table hold the image and the label, and what one cell of each means.

Shared by `table` and `hub`, so that the same table gives the same rows from either.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lensmith.data.source import Columns, Row, split_name
from lensmith.errors import UserError, nearest

# In order of preference. If a table has both bytes and a path, the path is often from another machine.
_IMAGE = (
    *("image", "img", "bytes", "image_bytes"),
    *("path", "image_path", "filepath", "file_path", "file", "file_name", "filename"),
)
_LABEL = ("label", "labels", "class", "class_name", "category", "target", "fine_label")


class PickedColumns(NamedTuple):
    """The names of the columns to read."""

    image: str
    label: str


def pick(available: Sequence[str], columns: Columns, where: str) -> PickedColumns:
    """The image and label columns: those the user named, or else guessed from common names. Raises `UserError`."""
    return PickedColumns(
        _pick(available, columns.image, _IMAGE, "image", where),
        _pick(available, columns.label, _LABEL, "label", where),
    )


def _pick(available: Sequence[str], named: str | None, common: Sequence[str], role: str, where: str) -> str:
    listed = f"Its columns: {', '.join(available) or 'none'}."
    if named is not None:
        if named in available:
            return named
        raise UserError(f"{where} has no column {named!r}.", f"{nearest(named, available)} {listed}".strip())
    by_name = {name.strip().casefold(): name for name in reversed(available)}
    for name in common:
        if name in by_name:
            return by_name[name]
    raise UserError(f"Can't tell which column of {where} is the {role}.", f"Name it with {role}_column. {listed}")


def to_row(image: Any, label: Any, where: str, folder: Path | None, split: str = "") -> Row:
    """One row from its cells. `image` is a path relative to `folder`, encoded bytes, or a struct of bytes and path.

    Raises `UserError`, which names the row by `where`, if `image` is anything else, such as a URL or an empty cell.
    """
    label = _label(label, where)
    if isinstance(image, dict) and image.keys() & {"bytes", "path"}:
        image = image.get("path") if image.get("bytes") is None else image["bytes"]
    if isinstance(image, bytes | bytearray | memoryview):
        return Row(label, where, bytes(image), split)
    if not isinstance(image, str) or not image.strip():
        problem = "no image" if image is None or isinstance(image, str) else f"an image of type {type(image).__name__}"
        raise UserError(f"{where} has {problem}.", "An image is a path, or the bytes of an image file.")
    if "://" in image:
        raise UserError(f"{where} has a URL, which Lensmith doesn't download: {image}", "Download the images first.")
    _check_text(image, where)
    path = Path(image)
    if folder is None and not path.is_absolute():
        raise UserError(
            f"{where} has a relative path, but there is no folder it could be relative to: {image}", "Store the bytes."
        )
    return Row(label, str(path if folder is None else folder / path), split=split)


def to_split(value: Any, where: str) -> str:
    """The split that a cell of a `split` column names; empty for an empty cell. Raises `UserError`."""
    if value is None or not str(value).strip():
        return ""
    if split := split_name(str(value)):
        return split
    raise UserError(f"{where} has the split {value!r}.", "Use train, validation or test.")


def _label(value: Any, where: str) -> str | int:
    if value is None or value != value or (isinstance(value, str) and not value.strip()):  # NaN isn't equal to itself
        raise UserError(f"{where} has an empty label.", "Give every image a label, or remove it.")
    if isinstance(value, float) and value.is_integer():  # pandas turns integers into floats if a cell is empty
        return int(value)
    if isinstance(value, bool):
        return str(value)
    if not isinstance(value, str | int):
        raise UserError(f"{where} has a label of type {type(value).__name__}.", "A label is a string or an integer.")
    if isinstance(value, str):
        _check_text(value, where)
    return value


def _check_text(text: str, where: str) -> None:
    """Refuse text that neither a path nor the stored table can hold: null bytes and lone surrogates (from JSON)."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{where} has text with an invalid character: {text!r}", "Correct the table.")
