"""The page that shows an evaluation or a training run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lensmith.pages.charts import curves
from lensmith.pages.numbers import finite
from lensmith.pages.page import data_uri, fill_template, is_small
from lensmith.records import CoveragePoint, Evaluation, Rate
from lensmith.runs.files import write

_MATRIX_CLASSES = 25  # with more classes the matrix is unreadable, and the most frequent confusions are shown instead
_CONFUSIONS = 20
_UNREADABLE = 100
_LEFT_OUT = 0.1  # fraction of least confident answers left out in the example


@dataclass(frozen=True)
class Mistake:
    """A wrong answer: the picture, its label, the predicted label and the probability (0..1) of the prediction."""

    image: Image.Image
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class EvaluationData:
    """What the page shows. Empty sections are omitted."""

    title: str
    question: str
    """The full text of the prompt."""
    evaluations: list[Evaluation]
    """Rows of the table, in order; the last is shown in detail."""
    steps: list[dict[str, Any]]
    """The training log: rows with `step` and `loss`, and rows with `step` and `validation` (a Rate as a dict)."""
    mistakes: list[Mistake]
    """The most confident first, at most 40."""
    facts: list[tuple[str, str]]
    """Where the results come from: commit, versions, machine, data, time."""
    verdict: str
    """One plain sentence."""
    notes: list[str]


@dataclass(frozen=True)
class Confusion:
    """`count` images of `label`, a `fraction` of all images of that class, were predicted as `predicted`."""

    label: str
    predicted: str
    count: int
    fraction: float


@dataclass(frozen=True)
class Confidence:
    """How well confidence and accuracy agree. Numbers are in 0..1 unless stated otherwise."""

    reliability: str
    """The chart; may be empty."""
    coverage: str
    """The chart; may be empty."""
    mean: float
    """Mean confidence over all answers; NaN if unknown."""
    accuracy: float
    """Fraction of the same answers that are correct; NaN if unknown."""
    calibration_error: float
    """Expected calibration error; NaN if unknown."""
    kept: CoveragePoint | None
    """The answers that remain when about a tenth, the least confident ones, are left out."""
    coverage_floor: int
    """Start of the accuracy axis of the coverage chart, in percent."""


def render_evaluation(data: EvaluationData) -> str:
    """The page as HTML."""
    detail = data.evaluations[-1] if data.evaluations else None
    losses, validations = _losses(data.steps), _validations(data.steps)
    last = max((step for step, _ in [*losses, *validations]), default=0)
    return fill_template(
        "evaluation.html.j2",
        data.notes,
        data.evaluations,
        data=data,
        detail=detail,
        confidence=_confidence(detail) if detail else None,
        calibrations=[_CALIBRATION | row for row in detail.calibration.get("tried", [])] if detail else [],
        loss=curves.loss_curve(losses, last) if losses else "",
        smoothed=len(losses) >= curves.SMOOTHED_FROM,
        validation=curves.validation_curve(validations, last) if validations else "",
        matrix=detail is not None and len(detail.labels) <= _MATRIX_CLASSES and any(map(any, detail.confusion)),
        confusions=_confusions(detail)[:_CONFUSIONS] if detail else [],
        classes=sorted(detail.classes, key=lambda c: c.recall.accuracy) if detail else [],
        mistakes=[(m, data_uri(m.image), is_small(m.image)) for m in data.mistakes],
        max_unreadable=_UNREADABLE,
    )


def write_evaluation(path: Path, data: EvaluationData) -> None:
    """Write the page.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    write(path, render_evaluation(data))


# The keys of a row of `Evaluation.calibration["tried"]`. A row that lacks one shows a dash.
_CALIBRATION = {
    "prior": "",
    "temperature": math.nan,
    "log_loss": math.nan,
    "accuracy": math.nan,
    "calibration_error": math.nan,
    "chosen": False,
}


def _confidence(evaluation: Evaluation) -> Confidence | None:
    """None if the evaluation has neither a reliability bin nor a coverage point with finite numbers."""
    bins = [b for b in evaluation.reliability if b.accuracy.n and _is_finite(b.confidence, b.accuracy)]
    points = [p for p in evaluation.coverage if _is_finite(p.coverage, p.accuracy)]
    if not bins and not points:
        return None
    kept = min(points, key=lambda p: abs(p.coverage - (1 - _LEFT_OUT)), default=None)
    if kept and (kept.coverage > 0.995 or kept.coverage < 0.5):
        kept = None  # too few images to leave out about a tenth
    error = evaluation.calibration_error
    return Confidence(
        reliability=curves.reliability_curve(bins) if bins else "",
        coverage=curves.coverage_curve(points, kept) if points else "",
        mean=_weighted_mean((b.confidence, b.accuracy.n) for b in bins),
        accuracy=_weighted_mean((b.accuracy.accuracy, b.accuracy.n) for b in bins),
        calibration_error=math.nan if error is None else error,
        kept=kept,
        coverage_floor=curves.coverage_floor(points) if points else 0,
    )


def _is_finite(x: float, rate: Rate) -> bool:
    return finite(x, rate.accuracy, rate.low, rate.high)


def _weighted_mean(weighted: Iterable[tuple[float, int]]) -> float:
    """The mean of values with weights; NaN if there are none."""
    pairs = list(weighted)
    total = sum(weight for _, weight in pairs)
    return sum(value * weight for value, weight in pairs) / total if total else math.nan


def _losses(steps: Iterable[dict[str, Any]]) -> list[tuple[int, float]]:
    """Steps and their finite losses, in order. If a step was repeated after a stop, the last loss counts."""
    by_step = {row["step"]: row["loss"] for row in steps if "loss" in row}
    return [(step, loss) for step, loss in sorted(by_step.items()) if loss is not None and math.isfinite(loss)]


def _validations(steps: Iterable[dict[str, Any]]) -> list[tuple[int, Rate]]:
    """Steps and their validation accuracies, in order."""
    by_step = {row["step"]: Rate(**row["validation"]) for row in steps if row.get("validation")}
    return sorted(by_step.items(), key=lambda item: item[0])


def _confusions(evaluation: Evaluation) -> list[Confusion]:
    """Wrong answers by true and predicted class, the most frequent first."""
    rows = [
        Confusion(label, predicted, count, count / sum(row))
        for i, (label, row) in enumerate(zip(evaluation.labels, evaluation.confusion, strict=True))
        for j, (predicted, count) in enumerate(zip(evaluation.labels, row, strict=False))
        if i != j and count
    ]
    return sorted(rows, key=lambda c: -c.count)
