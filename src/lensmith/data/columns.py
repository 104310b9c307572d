"""Which columns of a table hold the image and the label, and what one cell of each means.

Shared by `table` and `hub`, so that the same table gives the same rows from either.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

from lensmith.data.locate import Images
from lensmith.data.source import Columns, Row
from lensmith.errors import UserError, nearest

# In order of preference. If a table has both bytes and a path, the path is often from another machine.
_IMAGE = (
    *("image", "img", "bytes", "image_bytes"),
    *("path", "image_path", "filepath", "file_path", "file", "file_name", "filename"),
    *("image_name", "image_id", "id", "id_code"),
)
_SHORTEST = 60
"""Characters of the shortest image in base64."""
_LABEL = ("label", "labels", "class", "class_name", "category", "target", "fine_label", "choice")


class PickedColumns(NamedTuple):
    """The names of the columns to read."""

    image: str
    label: str


def pick(available: Sequence[str], columns: Columns, where: str) -> PickedColumns:
    """The image and label columns: those the user named, or else guessed from common names; beside an image, the only
    other column is the label. Raises `UserError`."""
    image = _pick(available, columns.image, _IMAGE, "image", where)
    others = [name for name in available if name != image]
    named = columns.label if columns.label is not None or len(others) != 1 else others[0]
    return PickedColumns(image, _pick(available, named, _LABEL, "label", where))


def _pick(available: Sequence[str], named: str | None, common: Sequence[str], role: str, where: str) -> str:
    listed = f"Its columns: {', '.join(available) or 'none'}."
    if named is not None:
        if named in available:
            return named
        raise UserError(f"{where} has no column {named!r}.", f"{nearest(named, available)} {listed}".strip())
    if found := _first_common(available, common):
        return found
    raise UserError(f"Can't tell which column of {where} is the {role}.", f"Name it with data.{role}_column=. {listed}")


def image_name(names: Sequence[str]) -> str:
    """The column that has the most common name of an image; empty if none has one."""
    return _first_common(names, _IMAGE)


def _first_common(names: Sequence[str], common: Sequence[str]) -> str:
    by_name = {name.strip().casefold(): name for name in reversed(names)}
    return next((by_name[name] for name in common if name in by_name), "")


def is_label_name(name: str) -> bool:
    """Whether a column with this name is usually the label."""
    return name.strip().casefold() in _LABEL


def to_row(image: Any, label: Any, where: str, images: Images, split: str = "", group: Any = None) -> Row:
    """One row from its cells.

    Args:
        image: a reference to a file (`locate`), a `data:` URL, an encoded image (as bytes, a list of numbers or
            base64), or a struct of bytes and path.
        where: the row, for messages.
        images: finds the files.
        group: the cell of the column that names the image's group, if there is one.

    Raises:
        UserError: `image` is anything else, such as an empty cell or the URL of an image that isn't here; or the label
            is empty.
    """
    label, group = _label(label, where), "" if group is None else str(group).strip()
    if isinstance(image, dict) and image.keys() & {"bytes", "path"}:
        image = image.get("path") if image.get("bytes") is None else image["bytes"]
    if isinstance(image, list | tuple) and image and all(isinstance(n, int) and 0 <= n < 256 for n in image):
        image = bytes(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return Row(label, where, bytes(image), split, group=group)
    if isinstance(image, int) and not isinstance(image, bool):  # an id
        image = str(image)
    if not isinstance(image, str) or not image.strip():
        problem = "no image" if image is None or isinstance(image, str) else f"an image of type {type(image).__name__}"
        raise UserError(f"{where} has {problem}.", "An image is a path, or the bytes of an image file.")
    if (data := _within_text(image, where)) is not None:
        return Row(label, where, data, split, group=group)
    _check_text(image, where)
    return Row(label, images.find(image, where), split=split, group=group)


_BASE64_STARTS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk", "SUkq", "TU0AK")
"""How the files of PNG, JPEG, GIF, WebP, BMP and TIFF begin in base64."""


def _within_text(text: str, where: str) -> bytes | None:
    """The bytes of an image that is written as text, a `data:` URL or base64; None for a path."""
    body = text
    if text.startswith("data:"):
        kind, _, body = text.partition(",")
        if not kind.endswith(";base64"):
            raise UserError(f"{where} has a data: URL that isn't base64.", "Store the image as base64.")
    elif len(text) < _SHORTEST or not text.startswith(_BASE64_STARTS):
        return None
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except ValueError:  # also for text that isn't ASCII
        if body is text:
            return None
        raise UserError(f"{where} has a data: URL that is damaged.", "Export the table again.") from None


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
