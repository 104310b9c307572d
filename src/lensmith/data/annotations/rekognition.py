"""Amazon's manifests, of SageMaker Ground Truth and Rekognition Custom Labels: JSON Lines with `source-ref`.

An attribute `sport` with its `sport-metadata` is a question, and `class-name` in the metadata its answer. Rekognition
instead writes an attribute for each label that an image has.
https://docs.aws.amazon.com/sagemaker/latest/dg/sms-data-output.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lensmith.data.annotations import Entry
from lensmith.errors import UserError, nearest

TITLE = "a SageMaker manifest"
QUESTIONS = True
_KINDS = ("groundtruth/image-classification", "groundtruth/image-classification-multilabel")
_END = "-metadata"


def recognises(start: Any) -> bool:
    """JSON with `source-ref`."""
    return isinstance(start, dict) and "source-ref" in start


def entries(found: Iterable[tuple[str, Any]], question: str | None, image: str | None) -> Iterator[Entry]:
    """The images, one in each record.

    Args:
        found: the objects.
        question: the attribute with the labels, if there are several.
        image: the field with the address of the image, if not `source-ref`.

    Raises:
        UserError: no attribute is a classification, or there are several and none was named.
    """
    records = list(found)
    answers: dict[str, set[str]] = {}
    for _, record in records:
        for name in _attributes(record):
            answers.setdefault(name, set()).update(_labels(record, name))
    if question is not None:
        if question not in answers:
            raise UserError(
                f"The manifest has no attribute {question!r} with classes.",
                f"{nearest(question, list(answers))} Its attributes: {', '.join(answers) or 'none'}.".strip(),
            )
        used = {question}
    elif not answers:
        raise UserError(
            "The manifest has no attribute with classes.",
            f"Lensmith reads those with metadata of type {_KINDS[0]}.",
        )
    elif len(answers) > 1 and any(len(labels) > 1 for labels in answers.values()):
        names = list(answers)
        raise UserError(
            f"The manifest asks several questions: {', '.join(names)}.",
            f"Name one with data.label_column={names[0]}.",
        )
    else:
        used = set(answers)  # one question, or an attribute for each label
    for where, record in records:
        labels = [label for name in _attributes(record) if name in used for label in _labels(record, name)]
        yield Entry(record[image or "source-ref"], tuple(labels), where)


def _attributes(record: dict[str, Any]) -> list[str]:
    """The names of the attributes that are classifications."""
    return [
        key.removesuffix(_END)
        for key, value in record.items()
        if key.endswith(_END) and isinstance(value, dict) and value.get("type") in _KINDS
    ]


def _labels(record: dict[str, Any], name: str) -> list[str]:
    metadata = record[f"{name}{_END}"]
    if "class-map" in metadata:
        return [str(label) for label in metadata["class-map"].values()]
    return [str(metadata["class-name"])]
