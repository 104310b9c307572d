"""The large charts of the evaluation page: training loss, validation accuracy, reliability and coverage."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from lensmith.pages.charts.axes import PERCENT_TICKS, grid, round_ticks
from lensmith.pages.charts.drawing import Point, band, dot, line, position, stretched, svg, vertical_interval
from lensmith.pages.numbers import finite, percentage
from lensmith.records import CoveragePoint, Rate, ReliabilityBin

SMOOTHED_FROM = 100
"""The number of steps from which the loss is smoothed."""
_BAR_HEIGHT = 0.16  # height of the tallest grey bar in the reliability chart, as a fraction of the chart's height
# Start of the accuracy axis in percent, and the space between its ticks.
_FLOORS = ((95, 1), (90, 2), (80, 5), (60, 10), (0, 25))


def loss_curve(losses: Sequence[tuple[int, float]], last: int) -> Markup:
    """Training loss (nats per answer token) by step, up to the step `last`; both axes are linear and start at 0.

    From 100 steps on, the line is a running median, and a faint line behind it shows the single steps.
    """
    smooth = running_median(losses)
    ticks = round_ticks(max(y for _, y in smooth))

    def point(step: int, loss: float) -> Point:
        return (step / last if last else 0.0, 1 - loss / ticks[-1])

    many = len(losses) >= SMOOTHED_FROM
    single_steps = line([point(*row) for row in losses], opacity=0.25, width=1) if many else Markup()
    body = stretched(single_steps + line([point(*row) for row in smooth]))
    if len(losses) == 1:
        body += dot(*point(*losses[0]), radius=4)
    title = f"Training loss: {smooth[0][1]:.3g} at step {smooth[0][0]}, {smooth[-1][1]:.3g} at step {smooth[-1][0]}"
    rows = [(1 - y / ticks[-1], f"{y:g}") for y in ticks]
    return svg("curve", title, grid(_step_ticks(last), rows, "step", "loss") + body)


def validation_curve(accuracies: Sequence[tuple[int, Rate]], last: int) -> Markup:
    """Validation accuracy (0 to 100 %) with 95 % intervals by step, up to the step `last`."""
    body = Markup().join(_rate(step / last if last else 0, rate) for step, rate in accuracies)
    title = f"Validation accuracy: {percentage(accuracies[-1][1].accuracy)} at step {accuracies[-1][0]}"
    return svg("curve", title, grid(_step_ticks(last), _percent_rows(), "step", "accuracy, %") + body)


def reliability_curve(bins: Sequence[ReliabilityBin]) -> Markup:
    """Accuracy with 95 % intervals by confidence, both from 0 to 100 %.

    On the diagonal, confidence and accuracy agree. Grey bars at the bottom count the images of each bin.
    """
    most = max(b.accuracy.n for b in bins)
    body = Markup().join(
        Markup(
            '<rect x="{}%" y="{}%" width="{}%" height="{}%" fill="var(--muted)" fill-opacity=".28">'
            "<title>{:,} images</title></rect>"
        ).format(
            position(b.low),
            position(1 - _BAR_HEIGHT * b.accuracy.n / most),
            position(b.high - b.low),
            position(_BAR_HEIGHT * b.accuracy.n / most),
            b.accuracy.n,
        )
        for b in bins
    )
    body += Markup('<line x1="0" y1="100%" x2="100%" y2="0" stroke="var(--muted)" stroke-dasharray="4 4"/>')
    body += Markup().join(_rate(b.confidence, b.accuracy) for b in bins)
    pairs = "; ".join(f"{percentage(b.confidence)} confident, {percentage(b.accuracy.accuracy)} correct" for b in bins)
    frame = grid(_percent_columns(), _percent_rows(), "confidence, %", "accuracy, %")
    return svg("curve", f"Confidence and accuracy: {pairs}", frame + body)


def coverage_curve(points: Sequence[CoveragePoint], marked: CoveragePoint | None) -> Markup:
    """Accuracy of the most confident answers (percent) by their fraction of all images (0 to 100 %).

    The band is the 95 % interval. See `coverage_floor` for where the accuracy axis starts.
    """
    floor = coverage_floor(points)
    step = dict(_FLOORS)[floor]

    def y(accuracy: float) -> float:
        return (1 - accuracy) / (1 - floor / 100)

    ordered = sorted(points, key=lambda p: p.coverage)
    top = [(p.coverage, y(p.accuracy.high)) for p in ordered]
    bottom = [(p.coverage, y(p.accuracy.low)) for p in ordered]
    body = stretched(band(top, bottom) + line([(p.coverage, y(p.accuracy.accuracy)) for p in ordered]))
    if marked:
        end = (marked.coverage, y(marked.accuracy.accuracy))
        body += Markup(
            '<line x1="{0}%" x2="{0}%" y1="{1}%" y2="100%" stroke="var(--accent)" stroke-dasharray="2 3"/>'
        ).format(*map(position, end)) + dot(*end, radius=4)
    elif len(points) == 1:
        body += dot(points[0].coverage, y(points[0].accuracy.accuracy), radius=4)
    rows = [(y(tick / 100), f"{tick}") for tick in range(floor, 101, step)]
    pairs = "; ".join(f"{percentage(p.accuracy.accuracy)} correct of {percentage(p.coverage)}" for p in ordered)
    frame = grid(_percent_columns(), rows, "images answered, %", "accuracy on those, %")
    return svg("curve", f"Accuracy of the most confident answers: {pairs}", frame + body)


def coverage_floor(points: Iterable[CoveragePoint]) -> int:
    """The lowest accuracy, in percent, on the axis of `coverage_curve`: a round number below all intervals."""
    low = min(100 * p.accuracy.low for p in points)
    return next(floor for floor, _ in _FLOORS if low >= floor or floor == 0)


def running_median(losses: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Each loss replaced by the median of the 4 % of all steps around it; fewer than 100 losses stay as they are."""
    if len(losses) < SMOOTHED_FROM:
        return list(losses)
    half = len(losses) // 50
    values = [y for _, y in losses]
    return [(x, statistics.median(values[max(0, i - half) : i + half + 1])) for i, (x, _) in enumerate(losses)]


def _rate(x: float, rate: Rate) -> Markup:
    """A dot and its 95 % interval on a vertical axis from 0 to 100 %; nothing if a number is missing."""
    if not finite(x, rate.accuracy, rate.low, rate.high):
        return Markup()
    return vertical_interval(x, 1 - rate.high, 1 - rate.low) + dot(x, 1 - rate.accuracy, radius=4)


def _step_ticks(last: int) -> list[tuple[float, str]]:
    """Positions and labels of round step numbers, up to the step `last`."""
    ticks = [step for step in round_ticks(last) if step <= last and step == int(step)]
    return [(step / last if last else 0, f"{int(step):,}") for step in ticks]


def _percent_columns() -> list[tuple[float, str]]:
    return [(x / 100, f"{x}") for x in PERCENT_TICKS]


def _percent_rows() -> list[tuple[float, str]]:
    return [(1 - y / 100, f"{y}") for y in PERCENT_TICKS]
