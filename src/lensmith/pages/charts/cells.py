"""Small charts that fill a table cell, and the axes in the row below them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from lensmith.pages.charts.axes import PERCENT_TICKS, Axis, round_ticks
from lensmith.pages.charts.drawing import dot, mark, position, svg, vertical_rules
from lensmith.pages.numbers import MISSING, finite, percentage, percentage_interval, points, points_interval
from lensmith.records import Estimate, Rate


def interval(rate: Rate) -> Markup:
    """One rate on an axis from 0 to 100 %: a dot, and a bar over its 95 % interval."""
    body = Markup()
    if finite(rate.accuracy, rate.low, rate.high):
        body = _interval_bar(rate.low, rate.high, "accent") + dot(rate.accuracy)
    title = f"{percentage(rate.accuracy)}, 95 % interval {percentage_interval(rate)}"
    return svg("interval", title, _percent_rules() + body)


def percent_axis() -> Markup:
    """The labels, in percent, of the axis below `interval` and `change`."""
    return svg("axis", "Axis from 0 to 100 %", _tick_labels((x / 100, f"{x}") for x in (0, 50, 100)))


def change(first: float, second: float) -> Markup:
    """Two rates on an axis from 0 to 100 %: a ring at the first, a dot at the second, and a line between them."""
    body = Markup()
    if finite(first, second):
        colour = "wrong" if second < first else "accent"
        body = Markup(
            '<line x1="{0}%" x2="{1}%" y1="50%" y2="50%" stroke="var(--{2})" stroke-opacity=".4" stroke-width="3"/>'
            '<circle cx="{0}%" cy="50%" r="3" fill="var(--paper)" stroke="var(--muted)" stroke-width="1.5"/>'
        ).format(position(first), position(second), colour) + dot(second, colour=colour)
    return svg("change", f"from {percentage(first)} to {percentage(second)}", _percent_rules() + body)


def difference_limit(estimates: Iterable[Estimate]) -> float:
    """Where the axis of differences ends on both sides of zero: a round number beyond the ends of all intervals."""
    ends = [abs(end) for e in estimates for end in (e.value, e.low, e.high) if math.isfinite(end)]
    return round_ticks(max(ends, default=0.0) or 0.01, 2)[-1]


def difference(estimate: Estimate, limit: float, verdict: str) -> Markup:
    """A difference of two rates on an axis from `-limit` to `limit`: a dot, and a bar over its 95 % interval.

    The colour shows the verdict, because the test decides and not the interval. Grey means neither better nor worse.
    """
    zero = Markup('<line x1="50%" x2="50%" y1="0" y2="100%" stroke="var(--muted)"/>')
    body = Markup()
    if finite(estimate.value, estimate.low, estimate.high):
        colour = {"better": "accent", "worse": "wrong"}.get(verdict, "muted")
        low, value, high = ((x / limit + 1) / 2 for x in (estimate.low, estimate.value, estimate.high))
        body = _interval_bar(low, high, colour) + dot(value, colour=colour)
    title = f"{points(estimate.value)} points, 95 % interval {points_interval(estimate)}"
    return svg("difference", title, _percent_rules() + zero + body)


def difference_axis(limit: float) -> Markup:
    """The labels, in percentage points, of the axis below `difference`."""
    ticks = [((x + 1) / 2, f"{100 * x * limit:+g}".replace("-", "\N{MINUS SIGN}")) for x in (-1, 1)]
    return svg("axis", f"Axis of {100 * limit:g} points to both sides of zero", _tick_labels([*ticks, (0.5, "0")]))


def bar(fraction: float, title: str) -> Markup:
    """A bar from the left over a fraction of the cell's width, with a title for screen readers."""
    body = Markup()
    if math.isfinite(fraction):
        body = Markup(
            '<line x1="0" x2="{}%" y1="50%" y2="50%" stroke="var(--accent)" stroke-opacity=".55" stroke-width="11"/>'
        ).format(position(fraction))
    return svg("bar", title, body)


def spread(values: Sequence[float], axis: Axis) -> Markup:
    """Several rates on a zoomed axis: a dot for each, and a vertical line at their mean."""
    body = vertical_rules(axis.at(v) for v, _ in axis.ticks)
    body += Markup().join(mark(axis.at(v), 0.5, opacity=0.5) for v in values)
    if values:
        body += Markup(
            '<line x1="{0}%" x2="{0}%" y1="22%" y2="78%" stroke="var(--accent)" stroke-width="2.5"/>'
        ).format(position(axis.at(statistics.fmean(values))))
    return svg("spread", "; ".join(map(percentage, values)) or MISSING, body)


def spread_axis(axis: Axis) -> Markup:
    """The labels, in percent, of both ends of the axis below `spread`."""
    ends = (axis.ticks[0], axis.ticks[-1])
    return svg(
        "axis", f"Axis from {ends[0][1]} to {ends[1][1]} %", _tick_labels((axis.at(v), label) for v, label in ends)
    )


def _percent_rules() -> Markup:
    return vertical_rules(x / 100 for x in PERCENT_TICKS)


def _interval_bar(low: float, high: float, colour: str) -> Markup:
    return Markup(
        '<line x1="{}%" x2="{}%" y1="50%" y2="50%" stroke="var(--{})" stroke-opacity=".4" stroke-width="7"/>'
    ).format(position(low), position(high), colour)


def _tick_labels(ticks: Iterable[tuple[float, str]]) -> Markup:
    return Markup().join(
        Markup('<text x="{}%" y="1em" text-anchor="middle" fill="var(--muted)">{}</text>').format(position(x), label)
        for x, label in ticks
    )
