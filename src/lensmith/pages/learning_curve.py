"""The page on the learning curve: what more labels would bring."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from lensmith.pages.charts import axes, cells, curves
from lensmith.pages.page import fill
from lensmith.runs.files import write

Band = tuple[float, float, float, float]
"""Images, and the low end, the middle and the high end of the band."""
Spots = list[tuple[float, float]]
"""Places in the chart."""

_SHAPES = 4


@dataclass(frozen=True)
class Line:
    """The learning curve of one way to make a classifier."""

    name: str
    points: list[tuple[int, float]]
    """Training images and accuracy (0..1) of each single model; several of a size differ in their seed."""
    band: list[Band]
    """Of the fitted law, as accuracy in 0..1: images, and the low end, middle and high end of its 90 % band. Images
    ascend and reach beyond the last size."""
    sentence: str
    """The forecast."""
    check: str
    """How far off the law fitted to the smaller sizes was at the largest; may be empty."""
    law: str
    """The law as a formula; may be empty."""


@dataclass(frozen=True)
class CurveData:
    """What the page shows. An empty part is left out."""

    title: str
    verdict: str
    lines: list[Line]
    measured: int
    """Images that each model was scored on."""
    facts: list[tuple[str, str]]
    notes: list[str]


@dataclass(frozen=True)
class _Cell:
    """The models of one line and size: mean, lowest and highest accuracy, and how many."""

    mean: float
    low: float
    high: float
    n: int


def render_curve(data: CurveData) -> str:
    """The learning curve as HTML."""
    sizes = sorted({n for line in data.lines for n, _ in _points(line)})
    return fill(
        "learning_curve.html.j2",
        [],
        data.notes,
        data=data,
        chart=_chart(data.lines),
        banded=any(map(_band, data.lines)),
        samples=[axes.sample(*_look(i)) for i in range(len(data.lines))],
        rows=[(n, [_cell(line, n) for line in data.lines]) for n in sizes],
    )


def write_curve(path: Path, data: CurveData) -> None:
    """Write the learning curve.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    write(path, render_curve(data))


def _look(i: int) -> tuple[int, str]:
    """Shape and colour of the i-th line; the first sixteen differ."""
    return (i + i // len(axes.COLOURS)) % _SHAPES, axes.COLOURS[i % len(axes.COLOURS)]


def _points(line: Line) -> list[tuple[int, float]]:
    return sorted((n, y) for n, y in line.points if n > 0 and math.isfinite(y))


def _band(line: Line) -> list[Band]:
    return [row for row in line.band if row[0] > 0 and all(map(math.isfinite, row))]


def _cell(line: Line, size: int) -> _Cell | None:
    found = [y for n, y in _points(line) if n == size]
    return _Cell(statistics.fmean(found), min(found), max(found), len(found)) if found else None


def _chart(lines: Sequence[Line]) -> Markup:
    """Accuracy (percent) against training images (logarithmic), and the bands; nothing where there is no figure."""
    images = [n for line in lines for n, *_ in [*_points(line), *_band(line)]]
    if not images:
        return Markup()
    across = axes.logarithmic(images)
    up = axes.zoomed(y for line in lines for _, *ys in [*_points(line), *_band(line)] for y in ys)

    def spots(values: Iterable[tuple[float, float]]) -> Spots:
        return [(across.at(n), 1 - up.at(y)) for n, y in values]

    areas, marks, names, dots, told = Markup(), Markup(), [], [], []
    for i, line in enumerate(lines):
        kind, colour = _look(i)
        points, band = _points(line), _band(line)
        measured, beyond = _split(band, points[-1][0] if points else 0)
        for part, opacity in ((measured, 0.18), (beyond, 0.08)):
            low, high = spots((n, y) for n, y, _, _ in part), spots((n, y) for n, _, _, y in part)
            areas += _area(high, low, colour, opacity)
        middle = spots((n, y) for n, _, y, _ in measured)
        ahead = spots((n, y) for n, _, y, _ in beyond)
        if not band:
            middle = spots((n, cell.mean) for n in sorted({n for n, _ in points}) if (cell := _cell(line, n)))
        areas += curves.line(middle, colour=colour) if len(middle) > 1 else Markup()
        areas += curves.line(ahead, colour=colour, dash="5 4") if len(ahead) > 1 else Markup()
        marks += Markup().join(axes.mark(x, y, kind, colour, 0.75) for x, y in spots(points))
        dots += [*spots(points), *middle, *ahead]
        if end := [*middle, *ahead]:
            names.append(axes.Name(*end[-1], line.name, colour, bold=True))
            told.append(_told(line))
    body = axes.frame(across, up, "training images", "accuracy, %") + curves.stretched(areas) + marks
    return cells.svg("curve tall", f"Accuracy by training images: {'; '.join(told)}", body + axes.names(names, dots))


def _area(top: Spots, bottom: Spots, colour: str, opacity: float) -> Markup:
    if len(top) < 2:
        return Markup()
    return Markup('<polygon points="{}" fill="var(--{})" fill-opacity="{}"/>').format(
        curves.path([*top, *reversed(bottom)]), colour, opacity
    )


def _split(band: Sequence[Band], last: int) -> tuple[list[Band], list[Band]]:
    """The band up to the last size and beyond it; both have the row at that size, read off between its neighbours."""
    measured = [row for row in band if row[0] <= last]
    beyond = [row for row in band if row[0] > last]
    if measured and beyond:
        a, b = measured[-1], beyond[0]
        part = math.log(last / a[0]) / math.log(b[0] / a[0])
        low, middle, high = (x + part * (y - x) for x, y in zip(a[1:], b[1:], strict=True))
        joint = (float(last), low, middle, high)
        measured, beyond = [*measured, joint], [joint, *beyond]
    return measured, beyond


def _told(line: Line) -> str:
    sizes = sorted({n for n, _ in _points(line)})
    ends = [(n, _cell(line, n)) for n in (sizes[0], sizes[-1])] if sizes else []
    said = [f"{cells.percent(cell.mean)} with {n:,}" for n, cell in dict(ends).items() if cell]
    if band := _band(line):
        n, low, middle, high = band[-1]
        ahead = f"{cells.percent(middle)} ({100 * low:.1f} to {100 * high:.1f}) with {n:,.0f}"
        said.append(f"forecast {ahead}")
    return f"{line.name}: {', '.join(said)}"
