"""COCO: images, categories, and annotations that say which image has which category.

An image has the categories of all its annotations: several boxes of one category are one label.
https://cocodataset.org/#format-data
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lensmith.data.annotations import Entry
from lensmith.errors import UserError

TITLE = "a COCO file"
QUESTIONS = False


def recognises(start: Any) -> bool:
    """The only object has images, annotations and categories."""
    return isinstance(start, dict) and {"images", "annotations", "categories"} <= start.keys()


def entries(found: Iterable[tuple[str, Any]], question: str | None, image: str | None) -> Iterator[Entry]:
    """The images, in the order of the file. Raises `UserError` for a reference to nothing, or an id that is not unique.

    Args:
        found: the only object.
        question: None, since there is but one.
        image: the field of an image with its path, if not `file_name`.
    """
    for where, document in found:
        names = _unique(document["categories"], "categories", where)
        images = _unique(document["images"], "images", where)
        labels: dict[Any, dict[str, None]] = {key: {} for key in images}
        for annotation in document["annotations"]:
            key, category = annotation["image_id"], annotation["category_id"]
            if key not in images or category not in names:
                what = f"image {key!r}" if key not in images else f"category {category!r}"
                raise UserError(f"An annotation in {where} names the {what}, which isn't there.", "Export it again.")
            labels[key].setdefault(str(names[category]["name"]))
        for key, entry in images.items():
            yield Entry(entry[image or "file_name"], tuple(labels[key]), f"{where} image {key}")


def _unique(items: list[dict[str, Any]], what: str, where: str) -> dict[Any, dict[str, Any]]:
    by_id = {item["id"]: item for item in items}
    if len(by_id) < len(items):
        raise UserError(f"Two of the {what} in {where} have the same id.", "Export it again.")
    return by_id
