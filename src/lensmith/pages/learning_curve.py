"""The page that shows the learning curve: how much more labels would improve the accuracy."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from lensmith.pages.charts import axes, drawing
from lensmith.pages.charts.drawing import COLOURS, Point
from lensmith.pages.charts.names import Name, draw_names
from lensmith.pages.numbers import finite, percentage
from lensmith.pages.page import fill_template
from lensmith.runs.files import write

BandRow = tuple[float, float, float, float]
"""Number of images, and the low end, the middle and the high end of the band there."""

_SHAPES = 4


@dataclass(frozen=True)
class Curve:
    """The learning curve of one method."""

    name: str
    points: list[tuple[int, float]]
    """Training images and accuracy (0..1) of each model; models of the same size differ in their seed."""
    band: list[BandRow]
    """The 90 % band of the fitted law, as accuracy in 0..1: images, and the low end, middle and high end of the band.
    The numbers of images ascend and go beyond the largest size measured."""
    sentence: str
    """The forecast."""
    check: str
    """How well the law, fitted to the smaller sizes, predicted the largest; may be empty."""
    law: str
    """The law as a formula; may be empty."""


@dataclass(frozen=True)
class LearningCurveData:
    """What the page shows. Empty sections are omitted."""

    title: str
    verdict: str
    curves: list[Curve]
    measured: int
    """Number of images that each model was scored on."""
    facts: list[tuple[str, str]]
    notes: list[str]


@dataclass(frozen=True)
class _Cell:
    """The models of one curve and size: mean, lowest and highest accuracy, and the number of models."""

    mean: float
    low: float
    high: float
    n: int


def render_learning_curve(data: LearningCurveData) -> str:
    """The page as HTML."""
    sizes = sorted({n for curve in data.curves for n, _ in _points(curve)})
    return fill_template(
        "learning_curve.html.j2",
        data.notes,
        data=data,
        chart=_chart(data.curves),
        banded=any(map(_band, data.curves)),
        legend=[drawing.legend_key(*_style(i)) for i in range(len(data.curves))],
        rows=[(n, [_cell(curve, n) for curve in data.curves]) for n in sizes],
    )


def write_learning_curve(path: Path, data: LearningCurveData) -> None:
    """Write the page.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    write(path, render_learning_curve(data))


def _style(i: int) -> tuple[int, str]:
    """Shape and colour of the i-th curve; the first sixteen differ."""
    return (i + i // len(COLOURS)) % _SHAPES, COLOURS[i % len(COLOURS)]


def _points(curve: Curve) -> list[tuple[int, float]]:
    """The points that can be drawn."""
    return sorted((n, y) for n, y in curve.points if n > 0 and math.isfinite(y))


def _band(curve: Curve) -> list[BandRow]:
    """The rows of the band that can be drawn."""
    return [row for row in curve.band if row[0] > 0 and finite(*row)]


def _cell(curve: Curve, size: int) -> _Cell | None:
    accuracies = [y for n, y in _points(curve) if n == size]
    if not accuracies:
        return None
    return _Cell(statistics.fmean(accuracies), min(accuracies), max(accuracies), len(accuracies))


def _chart(curves: Sequence[Curve]) -> Markup:
    """Accuracy (percent) by training images (logarithmic), with the bands; empty if there is nothing to draw."""
    images = [n for curve in curves for n, *_ in [*_points(curve), *_band(curve)]]
    if not images:
        return Markup()
    x_axis = axes.logarithmic(images)
    y_axis = axes.zoomed(y for curve in curves for _, *ys in [*_points(curve), *_band(curve)] for y in ys)

    def positions(values: Iterable[tuple[float, float]]) -> list[Point]:
        return [(x_axis.at(n), 1 - y_axis.at(y)) for n, y in values]

    lines, marks, names, dots, summaries = Markup(), Markup(), [], [], []
    for i, curve in enumerate(curves):
        shape, colour = _style(i)
        points, rows = _points(curve), _band(curve)
        measured, beyond = _divided(rows, points[-1][0] if points else 0)
        for part, opacity in ((measured, 0.18), (beyond, 0.08)):
            low, high = positions((n, y) for n, y, _, _ in part), positions((n, y) for n, _, _, y in part)
            lines += drawing.band(high, low, colour, opacity) if len(part) > 1 else Markup()
        solid = positions((n, y) for n, _, y, _ in measured)
        dashed = positions((n, y) for n, _, y, _ in beyond)
        if not rows:
            solid = positions((n, cell.mean) for n in sorted({n for n, _ in points}) if (cell := _cell(curve, n)))
        lines += drawing.line(solid, colour=colour) if len(solid) > 1 else Markup()
        lines += drawing.line(dashed, colour=colour, dash="5 4") if len(dashed) > 1 else Markup()
        marks += Markup().join(drawing.mark(x, y, shape, colour, 0.75) for x, y in positions(points))
        dots += [*positions(points), *solid, *dashed]
        if whole := [*solid, *dashed]:
            names.append(Name(*whole[-1], curve.name, colour, bold=True))
            summaries.append(_summary(curve))
    body = axes.frame(x_axis, y_axis, "training images", "accuracy, %") + drawing.stretched(lines) + marks
    title = f"Accuracy by training images: {'; '.join(summaries)}"
    return drawing.svg("curve tall", title, body + draw_names(names, dots))


def _divided(rows: Sequence[BandRow], last: int) -> tuple[list[BandRow], list[BandRow]]:
    """The band up to the last measured size, and the band beyond it.

    Both include a row at that size, interpolated between its neighbours.
    """
    measured = [row for row in rows if row[0] <= last]
    beyond = [row for row in rows if row[0] > last]
    if measured and beyond:
        a, b = measured[-1], beyond[0]
        fraction = math.log(last / a[0]) / math.log(b[0] / a[0])
        low, middle, high = (x + fraction * (y - x) for x, y in zip(a[1:], b[1:], strict=True))
        joint = (float(last), low, middle, high)
        measured, beyond = [*measured, joint], [joint, *beyond]
    return measured, beyond


def _summary(curve: Curve) -> str:
    """The means at the smallest and the largest size, and the forecast, for screen readers."""
    sizes = sorted({n for n, _ in _points(curve)})
    ends = [(n, _cell(curve, n)) for n in (sizes[0], sizes[-1])] if sizes else []
    parts = [f"{percentage(cell.mean)} with {n:,}" for n, cell in dict(ends).items() if cell]
    if rows := _band(curve):
        n, low, middle, high = rows[-1]
        parts.append(f"forecast {percentage(middle)} ({100 * low:.1f} to {100 * high:.1f}) with {n:,.0f}")
    return f"{curve.name}: {', '.join(parts)}"
