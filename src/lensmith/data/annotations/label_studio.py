"""Label Studio's exports: JSON with tasks and their annotations, and JSON-MIN with a flat object per annotation.

An image has the choices of all its annotations that weren't cancelled: if two people disagree, it has several labels.
Predictions of a model aren't labels. https://labelstud.io/guide/export
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lensmith.data.annotations import Entry
from lensmith.data.columns import image_name, is_label_name
from lensmith.data.images import is_image
from lensmith.errors import UserError, nearest

TITLE = "a Label Studio export"
QUESTIONS = True
_FLAT = {"annotator", "annotation_id"}
"""Fields that every object of JSON-MIN has."""


def recognises(start: Any) -> bool:
    """A task with its data and annotations, or an object with an annotation's id and its author."""
    if not isinstance(start, dict):
        return False
    return (isinstance(start.get("data"), dict) and bool({"annotations", "completions"} & start.keys())) or (
        start.keys() >= _FLAT
    )


def entries(found: Iterable[tuple[str, Any]], question: str | None, image: str | None) -> Iterator[Entry]:
    """The images, one in each task.

    Args:
        found: the tasks, or the annotations of JSON-MIN.
        question: the name of the choices that are the labels (`name` in the labelling interface), if there are several.
        image: the field of the data with the image, if not a common name.

    Raises:
        UserError: there are several kinds of choices and none was named; there are none; or the image can't be told.
    """
    tasks = [_task(where, task) if "data" in task else _flat(where, task, question) for where, task in found]
    asked = dict.fromkeys(name for _, _, choices in tasks for name, _ in choices)
    if question is not None and question not in asked:
        raise UserError(
            f"The export has no choices called {question!r}.",
            f"{nearest(question, list(asked))} It has: {', '.join(asked) or 'none'}.".strip(),
        )
    if not asked:
        raise UserError(
            "The export has no choices, so it has no classes.",
            "Lensmith reads labels of type Choices. If their field has a name of its own, give data.label_column=.",
        )
    if question is None and len(asked) > 1:
        raise UserError(
            f"The export has several kinds of choices: {', '.join(asked)}.",
            f"Name one with data.label_column={next(iter(asked))}.",
        )
    labels: dict[str, list[str]] = {}
    places: dict[str, str] = {}
    for where, task, choices in tasks:
        data = task.get("data", task)
        path = data[image or _image(data, where, set(asked))]
        places.setdefault(path, where)
        labels.setdefault(path, []).extend(label for name, label in choices if question in (None, name))
    for path, where in places.items():
        yield Entry(path, tuple(dict.fromkeys(labels[path])), where)


_Choices = list[tuple[str, str]]


def _task(where: str, task: dict[str, Any]) -> tuple[str, dict[str, Any], _Choices]:
    """The chosen labels of a task, each with the name of the question."""
    found: _Choices = []
    for annotation in task.get("annotations", task.get("completions", [])):
        if not annotation.get("was_cancelled"):
            for result in annotation["result"]:
                if result["type"] == "choices":
                    found += [(result["from_name"], str(choice)) for choice in result["value"]["choices"]]
    return where, task, found


def _flat(where: str, task: dict[str, Any], question: str | None) -> tuple[str, dict[str, Any], _Choices]:
    found: _Choices = []
    for name, value in task.items():
        if isinstance(value, dict) and "choices" in value:
            found += [(name, str(choice)) for choice in value["choices"]]
        elif isinstance(value, str) and (name == question or (question is None and is_label_name(name))):
            found.append((name, value))
    return where, task, found


def _image(data: dict[str, Any], where: str, asked: set[str]) -> str:
    """The field with the image: by a common name, or the only one whose text is the address of an image."""
    if name := image_name([key for key in data if key != "id"]):
        return name
    found = [
        key
        for key, value in data.items()
        if isinstance(value, str) and key not in asked and is_image(value.partition("?")[0])
    ]
    if len(found) != 1:
        raise UserError(
            f"Can't tell which field of {where} is the image.",
            f"Name it with data.image_column=. Its fields: {', '.join(data)}.",
        )
    return found[0]
