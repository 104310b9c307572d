"""What the small files of a run contain, checked when they are read: a damaged one ends in a sentence, not in a figure.

Each shape names only the keys that are read; a file may have more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypeVar, cast

from annotated_types import Ge, Gt, Len, Lt
from typing_extensions import TypedDict  # before Python 3.12, pydantic needs this one

from lensmith.errors import UserError
from lensmith.records import TASK, Calibration, Rate
from lensmith.runs.files import read_json, read_lines

_Finite = Annotated[float, Gt(float("-inf")), Lt(float("inf"))]
_Count = Annotated[int, Ge(0)]


class CalibrationValues(TypedDict, total=False):
    """The fields of `records.Calibration`."""

    prior: str
    offsets: list[_Finite]
    temperature: Annotated[float, Gt(0), Lt(float("inf"))]


class CalibrationFile(TypedDict):
    """calibration.json"""

    calibration: CalibrationValues
    record: dict[str, Any]


class Task(TypedDict):
    """lensmith.json beside tuned weights, if a run wrote them."""

    labels: Annotated[list[str], Len(2)]
    question: dict[str, Any]
    base: str
    name: NotRequired[str]
    image_tokens: NotRequired[int | None]
    base_weights: NotRequired[str]
    files: NotRequired[list[str]]
    calibration: NotRequired[CalibrationValues]


class LookValues(TypedDict):
    """The fields of `models.views.Look`."""

    mirrored: bool
    right: _Finite
    down: _Finite


class BlendPart(TypedDict):
    """A part in blend.json."""

    name: str
    weight: Annotated[float, Gt(0), Lt(float("inf"))]
    looks: Annotated[list[LookValues], Len(1)]


class BlendFile(TypedDict):
    """blend.json beside the parts of a blend."""

    parts: Annotated[list[BlendPart], Len(1)]


class SplitRecord(TypedDict):
    """The images of one split."""

    n: _Count
    hash: str
    order: NotRequired[str]


class DataRecord(TypedDict):
    """The images of a run."""

    uri: str
    labels: list[str]
    train: SplitRecord
    validation: SplitRecord
    test: SplitRecord


class Machine(TypedDict):
    """Where a run was started."""

    processor: str
    cores: int | None
    threads: NotRequired[Annotated[int, Ge(1)] | None]


class Record(TypedDict):
    """record.json"""

    created: str
    commit: str | None
    dirty: bool | None
    packages: dict[str, str]
    machine: Machine
    split: Literal["train", "validation", "test"]
    data: DataRecord
    verb: NotRequired[str]
    details: NotRequired[list[str]]


class QuestionFile(TypedDict):
    """question.json"""

    text: str


class Cost(TypedDict):
    """made.json of a ladder's method."""

    seconds: _Finite
    note: str


class JobNote(TypedDict):
    """place.json of a run on another machine."""

    place: str
    verb: str
    state: str
    name: str
    options: NotRequired[dict[str, Any]]


class ModalNote(JobNote):
    """place.json of a run at Modal."""

    call: str
    app: str
    gpu: str
    dollars_per_hour: _Finite | None


class RayNote(JobNote):
    """place.json of a run on a Ray cluster."""

    address: str
    storage: str
    submission: str


class LogRow(TypedDict):
    """A line of metrics.jsonl."""

    step: _Count
    loss: NotRequired[float | None]
    validation: NotRequired[Rate | None]


class PointRow(TypedDict):
    """A line of points.jsonl, one model of a learning curve; its method had another key before version 0.2."""

    method: NotRequired[str]
    rung: NotRequired[str]
    size: _Count
    seed: _Count
    right: _Count
    n: _Count


class State(TypedDict):
    """about.json of unfinished predictions."""

    about: dict[str, Any]
    seconds: _Finite


def calibration_of(path: Path, values: CalibrationValues, labels: Sequence[str]) -> Calibration:
    """The calibration in a file. Raises `UserError` if it isn't for these labels."""
    found = made(path, values, Calibration)
    if len(found.offsets) not in (0, len(labels)):
        raise UserError(
            f"{path} is damaged: it has {len(found.offsets)} offsets for {len(labels)} labels.", "Repeat the run."
        )
    return found


def stored_calibration(adapter: Path, task: Mapping[str, Any], labels: Sequence[str]) -> Calibration:
    """The calibration stored with tuned weights; none if there is none.

    Args:
        task: what lensmith.json in this folder says.

    Raises:
        UserError: it isn't for these labels.
    """
    return calibration_of(adapter / TASK, task.get("calibration", {}), labels)


def of_split(data: DataRecord, name: str) -> SplitRecord:
    """The images of the split `train`, `validation` or `test`."""
    return {"train": data["train"], "validation": data["validation"], "test": data["test"]}[name]


T = TypeVar("T")


def read_as(path: Path, shape: type[T], hint: str = "Repeat the run.") -> T:
    """A JSON file of a run as it stands, which has this shape (a `TypedDict`).

    Raises:
        UserError: it is missing or damaged.
    """
    values = read_json(path)
    made(path, values, shape, hint)
    return cast(T, values)


def rows_as(path: Path, shape: type[T]) -> list[dict[str, Any]]:
    """The lines of a JSONL file as they stand that have this shape; a stop may have cut the last one."""
    from pydantic import TypeAdapter, ValidationError

    check, rows = TypeAdapter(shape), []
    for row in read_lines(path):
        try:
            check.validate_python(row)
        except ValidationError:
            continue
        rows.append(row)
    return rows


def made(path: Path, values: Any, kind: type[T], hint: str = "Repeat the run.") -> T:
    """An object of a type, made of the plain values in a file. Raises `UserError` if they don't fit it."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path} is damaged, or from another version: {where}: {first['msg']}.", hint) from None
