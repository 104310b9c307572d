"""The large charts, as inline SVG: training, and how sure the answers are. See `charts.py` for how they are drawn."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from lensmith.pages.charts.cells import GRID, dot, nice_ticks, percent, place, svg
from lensmith.records import CoveragePoint, Rate, ReliabilityBin

MANY = 100  # from this many steps on, the loss is smoothed
_COUNTS = 0.16  # the part of the reliability chart's height that the largest bin's number of images takes
# Where a percent axis that needs not show the bad end begins, and the space between its labels.
_ZOOMS = ((95, 1), (90, 2), (80, 5), (60, 10), (0, 25))


def loss_curve(points: Sequence[tuple[int, float]], last: int) -> Markup:
    """Training loss (nats per answer token) against the step, up to step `last`; both axes are linear and start at 0.

    From a hundred steps on, the line is a running median, and the single steps show faintly behind it.
    """
    smooth = running_median(points)
    ticks = nice_ticks(max(y for _, y in smooth))

    def spot(step: int, loss: float) -> tuple[float, float]:
        return (step / last if last else 0.0, 1 - loss / ticks[-1])

    lines = line([spot(*point) for point in points], opacity=0.25, width=1) if len(points) >= MANY else Markup()
    body = stretched(lines + line([spot(*point) for point in smooth]))
    if len(points) == 1:
        body += dot(*spot(*points[0]), radius=4)
    title = f"Training loss: {smooth[0][1]:.3g} at step {smooth[0][0]}, {smooth[-1][1]:.3g} at step {smooth[-1][0]}"
    rows = [(1 - y / ticks[-1], f"{y:g}") for y in ticks]
    return svg("curve", title, frame(_steps(last), rows, "step", "loss") + body)


def validation_curve(points: Sequence[tuple[int, Rate]], last: int) -> Markup:
    """Validation accuracy (percent, 0 to 100) against the step, up to step `last`, each with its 95 % interval."""
    body = Markup().join(_whisker(step / last if last else 0, rate) for step, rate in points)
    title = f"Validation accuracy: {percent(points[-1][1].accuracy)} at step {points[-1][0]}"
    return svg("curve", title, frame(_steps(last), _percents(GRID), "step", "accuracy, %") + body)


def reliability_curve(bins: Sequence[ReliabilityBin]) -> Markup:
    """How often answers were right against how sure they were (both in percent, 0 to 100), each with its 95 % interval.

    On the diagonal both agree. Faint bars at the foot count the images of each bin.
    """
    most = max(b.accuracy.n for b in bins)
    body = Markup().join(
        Markup(
            '<rect x="{}%" y="{}%" width="{}%" height="{}%" fill="var(--muted)" fill-opacity=".28">'
            "<title>{:,} images</title></rect>"
        ).format(
            place(b.low),
            place(1 - _COUNTS * b.accuracy.n / most),
            place(b.high - b.low),
            place(_COUNTS * b.accuracy.n / most),
            b.accuracy.n,
        )
        for b in bins
    )
    body += Markup('<line x1="0" y1="100%" x2="100%" y2="0" stroke="var(--muted)" stroke-dasharray="4 4"/>')
    body += Markup().join(_whisker(b.confidence, b.accuracy) for b in bins)
    told = "; ".join(f"{percent(b.confidence)} sure, {percent(b.accuracy.accuracy)} right" for b in bins)
    columns = [(x / 100, f"{x}") for x in GRID]
    axes = frame(columns, _percents(GRID), "how sure it was, %", "how often it was right, %")
    return svg("curve", f"How sure and how often right: {told}", axes + body)


def coverage_curve(points: Sequence[CoveragePoint], marked: CoveragePoint | None) -> Markup:
    """Accuracy of the surest answers (percent) against their part of all images (percent, 0 to 100).

    The band is the 95 % interval. The accuracy axis begins at the round number below it, see `coverage_floor`.
    """
    floor = coverage_floor(points)
    step = dict(_ZOOMS)[floor]

    def height(share: float) -> float:
        return (1 - share) / (1 - floor / 100)

    ordered = sorted(points, key=lambda p: p.coverage)
    top = [(p.coverage, height(p.accuracy.high)) for p in ordered]
    bottom = [(p.coverage, height(p.accuracy.low)) for p in reversed(ordered)]
    band = Markup('<polygon points="{}" fill="var(--accent)" fill-opacity=".16"/>').format(path([*top, *bottom]))
    body = stretched(band + line([(p.coverage, height(p.accuracy.accuracy)) for p in ordered]))
    if marked:
        x, y = marked.coverage, height(marked.accuracy.accuracy)
        body += Markup(
            '<line x1="{0}%" x2="{0}%" y1="{1}%" y2="100%" stroke="var(--accent)" stroke-dasharray="2 3"/>'
        ).format(place(x), place(y)) + dot(x, y, radius=4)
    elif len(points) == 1:
        body += dot(points[0].coverage, height(points[0].accuracy.accuracy), radius=4)
    rows = [(height(y / 100), f"{y}") for y in range(floor, 101, step)]
    told = "; ".join(f"{percent(p.accuracy.accuracy)} right of {percent(p.coverage)}" for p in ordered)
    axes = frame([(x / 100, f"{x}") for x in GRID], rows, "images answered, %", "right among those, %")
    return svg("curve", f"Accuracy of the surest answers: {told}", axes + body)


def coverage_floor(points: Iterable[CoveragePoint]) -> int:
    """Where the accuracy axis of `coverage_curve` begins, in percent: no interval reaches below it."""
    low = min(100 * p.accuracy.low for p in points)
    return next(floor for floor, _ in _ZOOMS if low >= floor or floor == 0)


def running_median(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """The points, each value the median of the twenty-fifth of the run around it; few points stay as they are."""
    if len(points) < MANY:
        return list(points)
    half = len(points) // 50
    values = [y for _, y in points]
    return [(x, statistics.median(values[max(0, i - half) : i + half + 1])) for i, (x, _) in enumerate(points)]


def _steps(last: int) -> list[tuple[float, str]]:
    """Round steps along the bottom, up to step `last`."""
    ticks = [step for step in nice_ticks(last) if step <= last and step == int(step)]
    return [(step / last if last else 0, f"{int(step):,}") for step in ticks]


def _percents(at: Iterable[int]) -> list[tuple[float, str]]:
    return [(1 - y / 100, f"{y}") for y in at]


def path(spots: Sequence[tuple[float, float]]) -> str:
    """Shares of the width and height as the points of an SVG line or area, for `stretched`."""
    return " ".join(f"{place(x):g},{place(y):g}" for x, y in spots)


def line(
    spots: Sequence[tuple[float, float]], opacity: float = 1, width: float = 2, colour: str = "accent", dash: str = ""
) -> Markup:
    """A line through shares of the width and height, for `stretched`; `dash` as in SVG, in pixels."""
    stride = max(1, len(spots) // 800)  # more than a screen can show only makes the file large
    dashed = Markup(' stroke-dasharray="{}"').format(dash) if dash else Markup()
    return Markup(
        '<polyline points="{}" fill="none" stroke="var(--{})" stroke-opacity="{}" stroke-width="{}"{}'
        ' stroke-linejoin="round" vector-effect="non-scaling-stroke"/>'
    ).format(path([*spots[::stride], spots[-1]]), colour, opacity, width, dashed)


def stretched(body: Markup) -> Markup:
    """Lines and areas can't be placed in percent; these are drawn on 100 by 100 and stretched."""
    return Markup('<svg width="100%" height="100%" viewBox="0 0 100 100" preserveAspectRatio="none">{}</svg>').format(
        body
    )


def _whisker(x: float, rate: Rate) -> Markup:
    """A rate on an upright axis from 0 to 100 %: a dot, and a line over its 95 % interval."""
    if not all(map(math.isfinite, (x, rate.accuracy, rate.low, rate.high))):
        return Markup()
    stroke = Markup(
        '<line x1="{0}%" x2="{0}%" y1="{1}%" y2="{2}%" stroke="var(--accent)" stroke-opacity=".4" stroke-width="4"/>'
    )
    return stroke.format(place(x), place(1 - rate.high), place(1 - rate.low)) + dot(x, 1 - rate.accuracy, radius=4)


def frame(columns: Iterable[tuple[float, str]], rows: Iterable[tuple[float, str]], across: str, up: str) -> Markup:
    """Grid lines, labels and what the axes show. Places are shares of the width and height, from the upper left."""
    body = Markup(
        '<text x="-2.4em" y="0" dy="-1.1em" fill="var(--muted)">{}</text>'
        '<text x="100%" y="100%" dy="2.9em" text-anchor="end" fill="var(--muted)">{}</text>'
    ).format(up, across)
    for y, label in rows:
        body += Markup(
            '<line x1="0" x2="100%" y1="{0}%" y2="{0}%" stroke="var(--rule)"/>'
            '<text x="-8" y="{0}%" dy=".35em" text-anchor="end" fill="var(--muted)">{1}</text>'
        ).format(place(y), label)
    for x, label in columns:
        body += Markup('<text x="{}%" y="100%" dy="1.5em" text-anchor="middle" fill="var(--muted)">{}</text>').format(
            place(x), label
        )
    return body
