"""The report: one HTML file that tells somebody who was not there what was asked, on what data, and how sure it is.

It needs nothing but itself: no scripts, no network, pictures and charts inside.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lensmith.records import Evaluation, Rate, write
from lensmith.report import charts

_MATRIX_UP_TO = 25  # classes; a larger matrix can't be read, the most frequent confusions can
_CONFUSIONS = 20
_UNREADABLE = 100
_SMALL, _LARGE = 96, 256  # pixels of the longer side of a picture


@dataclass(frozen=True)
class Mistake:
    """A wrong answer: the picture, its label, what was said instead and the share (softmax, 0..1) of that answer."""

    image: Image.Image
    label: str
    predicted: str
    share: float


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


def render(data: ReportData) -> str:
    """The report as HTML."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        percent=charts.percent, span=charts.span, interval=charts.interval, figure=_figure, glue=_glue
    )
    detail = data.evaluations[-1] if data.evaluations else None
    losses, validations = list(_losses(data.steps)), list(_validations(data.steps))
    last = max((step for step, _ in [*losses, *validations]), default=0)
    page = environment.get_template("page.html.j2").render(
        data=data,
        detail=detail,
        same_data=all(e.data == data.evaluations[-1].data for e in data.evaluations),
        axis=charts.percent_axis(),
        loss=charts.loss_curve(losses, last) if losses else "",
        smoothed=len(losses) >= charts.MANY,
        validation=charts.validation_curve(validations, last) if validations else "",
        matrix=detail is not None and len(detail.labels) <= _MATRIX_UP_TO and any(map(any, detail.confusion)),
        confusions=list(_confusions(detail))[:_CONFUSIONS] if detail else [],
        classes=sorted(detail.classes, key=lambda c: c.recall.accuracy) if detail else [],
        mistakes=[(m, _data_uri(m.image)) for m in data.mistakes],
        unreadable_shown=_UNREADABLE,
        notes=list(dict.fromkeys([*data.notes, *(note for e in data.evaluations for note in e.notes)])),
    )
    # File names that are not UTF-8 reach us as lone surrogates, which can't be written.
    return page.encode("utf-8", "replace").decode()


def write_report(path: Path, data: ReportData) -> None:
    """Write the report.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    write(path, render(data))


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


def _figure(value: float) -> str:
    """A figure such as F1 with three decimals; a dash for what is not a number."""
    return f"{value:.3f}" if math.isfinite(value) else charts.MISSING


def _glue(text: str) -> str:
    """Keep a number and its percent sign on one line."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _data_uri(image: Image.Image) -> str:
    """The picture as a PNG inside a URI: small ones enlarged without smoothing, large ones reduced."""
    picture = image.convert("RGBA" if image.has_transparency_data else "RGB")
    longer = max(picture.size)
    if longer < _SMALL:
        factor = math.ceil(_SMALL / longer)
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    elif longer > _LARGE:
        picture.thumbnail((_LARGE, _LARGE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
