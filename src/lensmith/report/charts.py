"""Charts as inline SVG. They stretch with the page: places are in percent, so text and dots keep their size and shape.

Colours are CSS variables of the page (`--accent`, `--rule`, `--muted`): one drawing serves light, dark and print.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from markupsafe import Markup

from lensmith.records import Rate

MISSING = "\N{EN DASH}"  # what stands for a figure that there is not
MANY = 100  # from this many steps on, the loss is smoothed
_GRID = (0, 25, 50, 75, 100)


def percent(value: float) -> str:
    """0.852 as `85.2 %`; a dash for what is not a number."""
    return f"{100 * value:.1f} %" if math.isfinite(value) else MISSING


def span(rate: Rate) -> str:
    """The 95 % interval as `82.9 to 87.3 %`; a dash for what is not a number."""
    known = math.isfinite(rate.low) and math.isfinite(rate.high)
    return f"{100 * rate.low:.1f} to {100 * rate.high:.1f} %" if known else MISSING


def interval(rate: Rate) -> Markup:
    """One rate on an axis from 0 to 100 %: a bar over its 95 % interval, a dot at the rate. Fills its cell."""
    grid = Markup().join(
        Markup('<line x1="{0}%" x2="{0}%" y1="0" y2="100%" stroke="var(--rule)"/>').format(x) for x in _GRID
    )
    mark = Markup()
    if all(map(math.isfinite, (rate.accuracy, rate.low, rate.high))):
        mark = Markup(
            '<line x1="{}%" x2="{}%" y1="50%" y2="50%" stroke="var(--accent)" stroke-opacity=".4" stroke-width="7"/>'
            '<circle cx="{}%" cy="50%" r="3.5" fill="var(--accent)"/>'
        ).format(_place(rate.low), _place(rate.high), _place(rate.accuracy))
    return _svg("interval", f"{percent(rate.accuracy)}, 95 % interval {span(rate)}", grid + mark)


def percent_axis() -> Markup:
    """The labels, in percent, of the axis that `interval` draws on; stands under a column of them."""
    labels = Markup().join(
        Markup('<text x="{0}%" y="1em" text-anchor="middle" fill="var(--muted)">{0}</text>').format(x)
        for x in (0, 50, 100)
    )
    return _svg("axis", "Axis from 0 to 100 %", labels)


def loss_curve(points: Sequence[tuple[int, float]], last: int) -> Markup:
    """Training loss (nats per answer token) against the step, up to step `last`; both axes are linear and start at 0.

    From a hundred steps on, the line is a running median, and the single steps show faintly behind it.
    """
    smooth = running_median(points)
    ticks = nice_ticks(max(y for _, y in smooth))

    def place(y: float) -> float:
        return _place(1 - y / ticks[-1])

    lines = _line(points, last, place, opacity=0.25, width=1) if len(points) >= MANY else Markup()
    lines += _line(smooth, last, place, opacity=1, width=2)
    body = Markup('<svg width="100%" height="100%" viewBox="0 0 100 100" preserveAspectRatio="none">{}</svg>').format(
        lines
    )
    if len(points) == 1:
        body += _dot(points[0][0] / last if last else 0, place(points[0][1]))
    title = f"Training loss: {smooth[0][1]:.3g} at step {smooth[0][0]}, {smooth[-1][1]:.3g} at step {smooth[-1][0]}"
    return _svg("curve", title, _frame(last, [(place(y), f"{y:g}") for y in ticks]) + body)


def validation_curve(points: Sequence[tuple[int, Rate]], last: int) -> Markup:
    """Validation accuracy (percent, 0 to 100) against the step, up to step `last`, each with its 95 % interval."""
    body = Markup()
    for step, rate in points:
        x = step / last if last else 0
        body += Markup(
            '<line x1="{0}%" x2="{0}%" y1="{1}%" y2="{2}%" stroke="var(--accent)" stroke-width="2"/>'
        ).format(_place(x), _place(1 - rate.high), _place(1 - rate.low))
        body += _dot(x, _place(1 - rate.accuracy))
    title = f"Validation accuracy: {percent(points[-1][1].accuracy)} at step {points[-1][0]}"
    return _svg("curve", title, _frame(last, [(100 - y, f"{y}") for y in _GRID]) + body)


def running_median(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """The points, each value the median of the twenty-fifth of the run around it; few points stay as they are."""
    if len(points) < MANY:
        return list(points)
    half = len(points) // 50
    values = [y for _, y in points]
    return [(x, statistics.median(values[max(0, i - half) : i + half + 1])) for i, (x, _) in enumerate(points)]


def nice_ticks(high: float, count: int = 4) -> list[float]:
    """About `count` round numbers, evenly spaced from 0 to `high` or the first one above it."""
    high = high if high > 0 else 1.0
    power = 10.0 ** math.floor(math.log10(high / count))
    step = next(f * power for f in (1, 2, 5, 10) if f * power * count >= high * 0.999)
    return [i * step for i in range(math.ceil(high / step - 1e-9) + 1)]


def _place(share: float) -> float:
    """A share of the width or height as percent, kept inside the drawing."""
    return round(100 * min(max(share, 0.0), 1.0), 2)


def _line(
    points: Sequence[tuple[int, float]], last: int, place: Callable[[float], float], opacity: float, width: float
) -> Markup:
    stride = max(1, len(points) // 800)  # more than a screen can show only makes the file large
    shown = [*points[::stride], points[-1]]
    path = " ".join(f"{_place(x / last if last else 0):g},{place(y):g}" for x, y in shown)
    return Markup(
        '<polyline points="{}" fill="none" stroke="var(--accent)" stroke-opacity="{}" stroke-width="{}"'
        ' stroke-linejoin="round" vector-effect="non-scaling-stroke"/>'
    ).format(path, opacity, width)


def _dot(x: float, y: float) -> Markup:
    return Markup('<circle cx="{}%" cy="{}%" r="4" fill="var(--accent)"/>').format(_place(x), y)


def _frame(last: int, rows: Sequence[tuple[float, str]]) -> Markup:
    """Grid lines and labels: `rows` as (place in percent from the top, label), steps along the bottom."""
    body = Markup()
    for y, label in rows:
        body += Markup(
            '<line x1="0" x2="100%" y1="{0}%" y2="{0}%" stroke="var(--rule)"/>'
            '<text x="-8" y="{0}%" dy=".35em" text-anchor="end" fill="var(--muted)">{1}</text>'
        ).format(y, label)
    for step in nice_ticks(last):
        if step <= last and step == int(step):
            body += Markup(
                '<text x="{}%" y="100%" dy="1.5em" text-anchor="middle" fill="var(--muted)">{:,}</text>'
            ).format(_place(step / last if last else 0), int(step))
    return body


def _svg(kind: str, title: str, body: Markup) -> Markup:
    return Markup('<svg class="{}" role="img" aria-label="{}"><title>{}</title>{}</svg>').format(
        kind, title, title, body
    )
