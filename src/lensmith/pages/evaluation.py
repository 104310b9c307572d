"""The page about an evaluation or a training run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lensmith.pages.charts import curves
from lensmith.pages.page import data_uri, fill, is_small
from lensmith.records import CoveragePoint, Evaluation, Rate
from lensmith.runs.files import write

_MATRIX_UP_TO = 25  # classes; a larger matrix can't be read, the most frequent confusions can
_CONFUSIONS = 20
_UNREADABLE = 100
_LEFT_OUT = 0.1  # the part of the images that the example of leaving out the least sure ones leaves out


@dataclass(frozen=True)
class Mistake:
    """A wrong answer: the picture, its label, what was said instead and the probability (0..1) of that answer."""

    image: Image.Image
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class ReportData:
    """What the page shows. An empty part is left out."""

    title: str
    question: str
    """The full text put to the model."""
    evaluations: list[Evaluation]
    """Rows of the table, in order; the last is shown in detail."""
    steps: list[dict[str, Any]]
    """The training log: rows with `step` and `loss`, and rows with `step` and `validation` (a Rate as a dict)."""
    mistakes: list[Mistake]
    """Worst first, at most 40."""
    facts: list[tuple[str, str]]
    """Where the figures come from: commit, versions, machine, data, time."""
    verdict: str
    """One plain sentence."""
    notes: list[str]


@dataclass(frozen=True)
class Confusion:
    """`count` images of `label`, a `share` of all of that class, were taken for `predicted`."""

    label: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True)
class Sureness:
    """How sure the answers were. `said` and `right` are means over all answers, in 0..1."""

    reliability: str
    """The chart, or nothing; so is the next."""
    coverage: str
    said: float
    right: float
    error: float
    """Expected calibration error in 0..1, NaN if unknown."""
    rest: CoveragePoint | None
    """What is right when about a tenth is left out."""
    floor: int
    """Where the accuracy axis of the coverage chart begins, in percent."""


def render(data: ReportData) -> str:
    """The report as HTML."""
    detail = data.evaluations[-1] if data.evaluations else None
    losses, validations = list(_losses(data.steps)), list(_validations(data.steps))
    last = max((step for step, _ in [*losses, *validations]), default=0)
    return fill(
        "evaluation.html.j2",
        data.evaluations,
        data.notes,
        data=data,
        detail=detail,
        sure=_sureness(detail) if detail else None,
        tried=[_TRIAL | trial for trial in detail.calibration.get("tried", [])] if detail else [],
        loss=curves.loss_curve(losses, last) if losses else "",
        smoothed=len(losses) >= curves.MANY,
        validation=curves.validation_curve(validations, last) if validations else "",
        matrix=detail is not None and len(detail.labels) <= _MATRIX_UP_TO and any(map(any, detail.confusion)),
        confusions=list(_confusions(detail))[:_CONFUSIONS] if detail else [],
        classes=sorted(detail.classes, key=lambda c: c.recall.accuracy) if detail else [],
        mistakes=[(m, data_uri(m.image), is_small(m.image)) for m in data.mistakes],
        unreadable_shown=_UNREADABLE,
    )


def write_report(path: Path, data: ReportData) -> None:
    """Write the report.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    write(path, render(data))


# What a row of `Evaluation.calibration["tried"]` holds, so that one that lacks something shows a dash.
_TRIAL = {
    "prior": "",
    "temperature": math.nan,
    "log_loss": math.nan,
    "accuracy": math.nan,
    "calibration_error": math.nan,
    "chosen": False,
}


def _sureness(evaluation: Evaluation) -> Sureness | None:
    """None if there is nothing to show."""
    bins = [b for b in evaluation.reliability if b.accuracy.n and _finite(b.confidence, b.accuracy)]
    points = [p for p in evaluation.coverage if _finite(p.coverage, p.accuracy)]
    if not bins and not points:
        return None
    rest = min(points, key=lambda p: abs(p.coverage - (1 - _LEFT_OUT)), default=None)
    if rest and (rest.coverage > 0.995 or rest.coverage < 0.5):
        rest = None  # too few images to leave about a tenth of them out
    error = evaluation.calibration_error
    return Sureness(
        reliability=curves.reliability_curve(bins) if bins else "",
        coverage=curves.coverage_curve(points, rest) if points else "",
        said=_mean((b.confidence, b.accuracy.n) for b in bins),
        right=_mean((b.accuracy.accuracy, b.accuracy.n) for b in bins),
        error=math.nan if error is None else error,
        rest=rest,
        floor=curves.coverage_floor(points) if points else 0,
    )


def _finite(x: float, rate: Rate) -> bool:
    return all(map(math.isfinite, (x, rate.accuracy, rate.low, rate.high)))


def _mean(weighted: Iterable[tuple[float, int]]) -> float:
    pairs = list(weighted)
    weight = sum(n for _, n in pairs)
    return sum(value * n for value, n in pairs) / weight if weight else math.nan


def _losses(steps: Iterable[dict[str, Any]]) -> Iterator[tuple[int, float]]:
    """Losses in order. A step that was done again after a stop counts as it was done last."""
    found = {row["step"]: row["loss"] for row in steps if "loss" in row}
    return ((step, loss) for step, loss in sorted(found.items()) if loss is not None and math.isfinite(loss))


def _validations(steps: Iterable[dict[str, Any]]) -> Iterator[tuple[int, Rate]]:
    found = {row["step"]: Rate(**row["validation"]) for row in steps if row.get("validation")}
    return iter(sorted(found.items(), key=lambda item: item[0]))


def _confusions(evaluation: Evaluation) -> Sequence[Confusion]:
    """Wrong answers by class and answer, the most frequent first."""
    found = [
        Confusion(label, predicted, count, count / sum(row))
        for i, (label, row) in enumerate(zip(evaluation.labels, evaluation.confusion, strict=True))
        for j, (predicted, count) in enumerate(zip(evaluation.labels, row, strict=False))
        if i != j and count
    ]
    return sorted(found, key=lambda c: -c.count)
