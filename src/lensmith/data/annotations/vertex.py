"""Google's Vertex AI: JSON Lines with `imageGcsUri`, or CSV rows `training,gs://bucket/a.jpg,cat` without a header.

https://cloud.google.com/vertex-ai/docs/image-data/classification/prepare-data
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lensmith.data.annotations import Entry
from lensmith.data.images import is_image

TITLE = "a Vertex AI import file"
QUESTIONS = False
_USE = "aiplatform.googleapis.com/ml_use"
_USES = {"train", "training", "validation", "test", "unassigned"}
_ANNOTATIONS = ("classificationAnnotation", "classificationAnnotations")


def recognises(start: Any) -> bool:
    """JSON with `imageGcsUri`; or a first row with a use or a `gs:` address, and then an image."""
    if isinstance(start, dict):
        return "imageGcsUri" in start
    use, *rest = start[0]
    if _is_image(use):
        return bool(use.strip().startswith("gs://"))
    return use.strip().casefold() in _USES and bool(rest) and _is_image(rest[0])


def entries(found: Iterable[tuple[str, Any]], question: str | None, image: str | None) -> Iterator[Entry]:
    """The images, one in each record. An unassigned one has no split.

    Args:
        found: the objects, or the rows of cells.
        question: None, since there is but one.
        image: of no use, since the image has its place.
    """
    for where, record in found:
        if isinstance(record, dict):
            labels = [name for key in _ANNOTATIONS for name in _names(record.get(key))]
            use = record.get("dataItemResourceLabels", {}).get(_USE, "")
            yield Entry(record["imageGcsUri"], tuple(labels), where, _split(use))
        else:
            cells = [cell.strip() for cell in record]
            use = "" if _is_image(cells[0]) else cells.pop(0)
            yield Entry(cells[0], tuple(filter(None, cells[1:])), where, _split(use))


def _is_image(cell: str) -> bool:
    return "://" in cell or is_image(cell.strip())


def _names(annotations: Any) -> list[str]:
    if annotations is None:
        return []
    return [str(found["displayName"]) for found in (annotations if isinstance(annotations, list) else [annotations])]


def _split(use: str) -> str:
    return "" if use.strip().casefold() == "unassigned" else use
