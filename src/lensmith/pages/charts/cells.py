"""Small drawings for tables, as inline SVG, and how figures are written. `curves.py` has the large ones.

They stretch with the page: places are in percent, so text and dots keep their size and shape. Colours are CSS variables
of the page (`--accent`, `--wrong`, `--rule`, `--muted`, `--paper`): one drawing serves light, dark and print.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from markupsafe import Markup

from lensmith.records import Estimate, Rate

MISSING = "\N{EN DASH}"  # what stands for a figure that there is not
GRID = (0, 25, 50, 75, 100)


def percent(value: float) -> str:
    """0.852 as `85.2 %`; a dash for what is not a number."""
    return f"{100 * value:.1f} %" if math.isfinite(value) else MISSING


def span(rate: Rate) -> str:
    """The 95 % interval as `82.9 to 87.3 %`; a dash for what is not a number."""
    return f"{100 * rate.low:.1f} to {100 * rate.high:.1f} %" if _known(rate.low, rate.high) else MISSING


def figure(value: float) -> str:
    """A figure such as F1 with three decimals; a dash for what is not a number."""
    return f"{value:.3f}" if math.isfinite(value) else MISSING


def figure_span(estimate: Estimate) -> str:
    """The 95 % interval of a figure as `0.829 to 0.873`; a dash for what is not a number."""
    known = _known(estimate.low, estimate.high)
    return f"{estimate.low:.3f} to {estimate.high:.3f}" if known else MISSING


def points(value: float) -> str:
    """A difference of 0.051 as `+5.1`, in percentage points; a dash for what is not a number."""
    if not math.isfinite(value):
        return MISSING
    shown = f"{100 * value:+.1f}"
    return "0.0" if float(shown) == 0 else shown.replace("-", "\N{MINUS SIGN}")


def points_span(estimate: Estimate) -> str:
    """The 95 % interval of a difference as `+2.0 to +8.3`; a dash for what is not a number."""
    known = _known(estimate.low, estimate.high)
    return f"{points(estimate.low)} to {points(estimate.high)}" if known else MISSING


def probability(value: float) -> str:
    """A p-value with three decimals, or more where these would not show on which side of 0.05 it lies."""
    if value < 0.001:
        return "< 0.001"
    digits = next((d for d in range(3, 9) if float(f"{value:.{d}f}") != 0.05), 9)
    return f"{value:.{digits}f}" if math.isfinite(value) else MISSING


def about(count: int) -> str:
    """A number that is only known roughly: two figures, rounded up."""
    step = 10 ** max(0, len(str(count)) - 2)
    return f"{math.ceil(count / step) * step:,}"


def interval(rate: Rate) -> Markup:
    """One rate on an axis from 0 to 100 %: a bar over its 95 % interval, a dot at the rate. Fills its cell."""
    mark = Markup()
    if _known(rate.accuracy, rate.low, rate.high):
        mark = _bar(rate.low, rate.high, "accent") + dot(rate.accuracy)
    return svg("interval", f"{percent(rate.accuracy)}, 95 % interval {span(rate)}", _grid() + mark)


def percent_axis() -> Markup:
    """The labels, in percent, of the axis that `interval` and `change` draw on; stands under a column of them."""
    return svg("axis", "Axis from 0 to 100 %", _labels((x / 100, f"{x}") for x in (0, 50, 100)))


def change(first: float, second: float) -> Markup:
    """Two rates on an axis from 0 to 100 %: a ring at the first, a dot at the second, a line between."""
    mark = Markup()
    if _known(first, second):
        colour = "wrong" if second < first else "accent"
        mark = Markup(
            '<line x1="{0}%" x2="{1}%" y1="50%" y2="50%" stroke="var(--{2})" stroke-opacity=".4" stroke-width="3"/>'
            '<circle cx="{0}%" cy="50%" r="3" fill="var(--paper)" stroke="var(--muted)" stroke-width="1.5"/>'
        ).format(place(first), place(second), colour) + dot(second, colour=colour)
    return svg("change", f"from {percent(first)} to {percent(second)}", _grid() + mark)


def difference_reach(estimates: Iterable[Estimate]) -> float:
    """Where the axis of differences ends on both sides of zero: a round number that all intervals lie within."""
    ends = [abs(end) for e in estimates for end in (e.value, e.low, e.high) if math.isfinite(end)]
    return nice_ticks(max(ends, default=0.0) or 0.01, 2)[-1]


def difference(estimate: Estimate, reach: float, verdict: str) -> Markup:
    """A difference of two rates on an axis from `-reach` to `reach`, zero in the middle: its 95 % interval and a dot.

    The colour goes by the verdict, as the interval is not what decides; grey if that is neither better nor worse.
    """
    zero = Markup('<line x1="50%" x2="50%" y1="0" y2="100%" stroke="var(--muted)"/>')
    mark = Markup()
    if _known(estimate.value, estimate.low, estimate.high):
        colour = {"better": "accent", "worse": "wrong"}.get(verdict, "muted")
        low, value, high = ((x / reach + 1) / 2 for x in (estimate.low, estimate.value, estimate.high))
        mark = _bar(low, high, colour) + dot(value, colour=colour)
    title = f"{points(estimate.value)} points, 95 % interval {points_span(estimate)}"
    return svg("difference", title, _grid() + zero + mark)


def difference_axis(reach: float) -> Markup:
    """The labels, in percentage points, of the axis that `difference` draws on."""
    ticks = [((x + 1) / 2, f"{100 * x * reach:+g}".replace("-", "\N{MINUS SIGN}")) for x in (-1, 1)]
    return svg("axis", f"Axis of {100 * reach:g} points to both sides of zero", _labels([*ticks, (0.5, "0")]))


def nice_ticks(high: float, count: int = 4) -> list[float]:
    """About `count` round numbers, evenly spaced from 0 to `high` or the first one above it."""
    high = high if high > 0 else 1.0
    power = 10.0 ** math.floor(math.log10(high / count))
    step = next(f * power for f in (1, 2, 5, 10) if f * power * count >= high * 0.999)
    return [i * step for i in range(math.ceil(high / step - 1e-9) + 1)]


def place(share: float) -> float:
    """A share of the width or height as percent, kept inside the drawing."""
    return round(100 * min(max(share, 0.0), 1.0), 2)


def dot(x: float, y: float = 0.5, radius: float = 3.5, colour: str = "accent") -> Markup:
    """A dot at a share of the width from the left and of the height from the top."""
    return Markup('<circle cx="{}%" cy="{}%" r="{}" fill="var(--{})"/>').format(place(x), place(y), radius, colour)


def svg(kind: str, title: str, body: Markup) -> Markup:
    """A drawing of the CSS class `kind`, with a title for screen readers."""
    return Markup('<svg class="{}" role="img" aria-label="{}"><title>{}</title>{}</svg>').format(
        kind, title, title, body
    )


def _known(*values: float) -> bool:
    return all(map(math.isfinite, values))


def _grid() -> Markup:
    return Markup().join(
        Markup('<line x1="{0}%" x2="{0}%" y1="0" y2="100%" stroke="var(--rule)"/>').format(x) for x in GRID
    )


def _bar(low: float, high: float, colour: str) -> Markup:
    return Markup(
        '<line x1="{}%" x2="{}%" y1="50%" y2="50%" stroke="var(--{})" stroke-opacity=".4" stroke-width="7"/>'
    ).format(place(low), place(high), colour)


def _labels(ticks: Iterable[tuple[float, str]]) -> Markup:
    return Markup().join(
        Markup('<text x="{}%" y="1em" text-anchor="middle" fill="var(--muted)">{}</text>').format(place(x), label)
        for x, label in ticks
    )


# What the pages write and draw with.
FILTERS = (
    about,
    change,
    difference,
    figure,
    figure_span,
    interval,
    percent,
    points,
    points_span,
    probability,
    span,
)
