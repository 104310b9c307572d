"""Which columns of a table hold the image and the label, and what one cell of each means.

Shared by `table` and `hub`, so that a table means the same wherever it comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lensmith.data.source import Columns, Row, part_name
from lensmith.errors import UserError, nearest

# In order of preference: where a table has both the bytes and a path, the path is often one of another machine.
_IMAGE = (
    *("image", "img", "bytes", "image_bytes"),
    *("path", "image_path", "filepath", "file_path", "file", "file_name", "filename"),
)
_LABEL = ("label", "labels", "class", "class_name", "category", "target", "fine_label")


def pick(found: Sequence[str], columns: Columns, where: str) -> tuple[str, str]:
    """The image and the label column: those named, or else guessed from common names. Raises `UserError`."""
    return (
        _pick(found, columns.image, _IMAGE, "image", where),
        _pick(found, columns.label, _LABEL, "label", where),
    )


def _pick(found: Sequence[str], named: str | None, common: Sequence[str], kind: str, where: str) -> str:
    listed = f"Its columns: {', '.join(found) or 'none'}."
    if named is not None:
        if named in found:
            return named
        raise UserError(f"{where} has no column {named!r}.", f"{nearest(named, found)} {listed}".strip())
    by_name = {name.strip().casefold(): name for name in reversed(found)}
    for name in common:
        if name in by_name:
            return by_name[name]
    raise UserError(f"Can't tell which column of {where} is the {kind}.", f"Name it with {kind}_column. {listed}")


def to_row(image: Any, label: Any, where: str, folder: Path | None, part: str = "") -> Row:
    """One row from its cells. `image` is a path relative to `folder`, encoded bytes, or a struct of bytes and path.

    Raises `UserError`, naming the row by `where`, for a URL, an empty cell or anything else.
    """
    label = _label(label, where)
    if isinstance(image, dict) and image.keys() & {"bytes", "path"}:
        image = image.get("path") if image.get("bytes") is None else image["bytes"]
    if isinstance(image, bytes | bytearray | memoryview):
        return Row(label, where, bytes(image), part)
    if not isinstance(image, str) or not image.strip():
        found = "no image" if image is None or isinstance(image, str) else f"an image of type {type(image).__name__}"
        raise UserError(f"{where} has {found}.", "An image is a path, or the bytes of an image file.")
    if "://" in image:
        raise UserError(f"{where} has a URL, which Lensmith doesn't fetch: {image}", "Download the images first.")
    _check_text(image, where)
    path = Path(image)
    if folder is None and not path.is_absolute():
        raise UserError(f"{where} has a relative path, but no folder it is relative to: {image}", "Store the bytes.")
    return Row(label, str(path if folder is None else folder / path), part=part)


def to_part(value: Any, where: str) -> str:
    """The part that a cell of a `split` column names; empty for an empty cell. Raises `UserError`."""
    if value is None or not str(value).strip():
        return ""
    if part := part_name(str(value)):
        return part
    raise UserError(f"{where} has the split {value!r}.", "Use train, validation or test.")


def _label(value: Any, where: str) -> str | int:
    if value is None or value != value or (isinstance(value, str) and not value.strip()):  # NaN isn't itself
        raise UserError(f"{where} has an empty label.", "Give every image a label, or remove it.")
    if isinstance(value, float) and value.is_integer():  # pandas makes floats of whole numbers beside an empty cell
        return int(value)
    if isinstance(value, bool):
        return str(value)
    if not isinstance(value, str | int):
        raise UserError(f"{where} has a label of type {type(value).__name__}.", "A label is a text or a whole number.")
    if isinstance(value, str):
        _check_text(value, where)
    return value


def _check_text(text: str, where: str) -> None:
    """Refuse what neither a path nor the stored table can hold: zero bytes, and half characters as in JSON."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{where} has a text with an invalid character: {text!r}", "Correct the table.")
