"""The axes of the large charts: linear, logarithmic or zoomed, with round tick values, grid lines and labels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

from lensmith.pages.charts.drawing import position
from lensmith.pages.numbers import number

PERCENT_TICKS = (0, 25, 50, 75, 100)
_FEW, _MANY = 5, 12  # tick labels that fit along the bottom on a phone and on a wide screen
_ZOOM_STEPS = (1, 2, 5, 10, 20)  # percentage points between the ticks of a zoomed axis


@dataclass(frozen=True)
class Axis:
    """An axis from the value `low` to `high`; with `log`, equal ratios are equal distances."""

    low: float
    high: float
    ticks: list[tuple[float, str]]
    """Values and their labels."""
    log: bool = False
    minor: tuple[tuple[float, str], ...] = ()
    """More values and labels, shown only on wide screens."""
    start: float = 0.0
    """Position of `low`, as a fraction of the axis length."""

    def at(self, value: float) -> float:
        """Position of a value, as a fraction of the axis length. Values outside the axis lie outside `start`..1."""
        low, high, x = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (1 - self.start) * (x - low) / (high - low)


def zoomed(values: Iterable[float]) -> Axis:
    """An axis for fractions in 0..1, labelled in percent, that spans only the round numbers around the values."""
    inside = [100 * min(max(v, 0.0), 1.0) for v in values if math.isfinite(v)]
    low, high = min(inside, default=0.0), max(inside, default=100.0)
    for step in _ZOOM_STEPS:
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if first == last:
            first, last = max(0, first - 1), min(last + 1, 100 // step)
        if last - first <= 5:
            break
    return Axis(
        first * step / 100, last * step / 100, [(i * step / 100, f"{i * step}") for i in range(first, last + 1)]
    )


def logarithmic(values: Iterable[float], few: int = _FEW) -> Axis:
    """A logarithmic axis over positive values, with at most `few` labels and more on wide screens.

    The labels are 1, 2 and 5 times powers of ten.

    Raises:
        ValueError: there are no values, or one of them is not positive.
    """
    known = list(values)
    low, high = min(known), max(known)
    if low == high:
        low, high = low / 2, high * 2
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [f * 10.0**p for p in powers for f in (1, 2, 5)]
    ticks = [v for v in ticks if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]
    tens = [10.0**p for p in powers if 10.0**p in ticks]
    if len(ticks) < 2:
        ticks = major = [low, high]
    elif len(ticks) <= few:
        major = ticks
    else:
        major = tens[:: math.ceil(len(tens) / few)] if len(tens) > 1 else ticks[::2]
    minor = [v for v in ticks if v not in major] if len(ticks) <= _MANY else []
    return Axis(low, high, [(v, number(v)) for v in major], True, tuple((v, number(v)) for v in minor))


def linear(low: float, high: float, count: int = 4) -> Axis:
    """A linear axis from `low` to `high` with about `count` round numbers."""
    if low == high:
        low, high = low - 1, high + 1
    power = 10.0 ** math.floor(math.log10((high - low) / count))
    step = next(f * power for f in (1, 2, 5, 10) if f * power * count >= (high - low) * 0.999)
    ticks = [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    return Axis(low, high, [(v, number(v)) for v in ticks])


def round_ticks(high: float, count: int = 4) -> list[float]:
    """About `count` evenly spaced round numbers, from 0 to the first one that is at least `high`."""
    high = high if high > 0 else 1.0
    power = 10.0 ** math.floor(math.log10(high / count))
    step = next(f * power for f in (1, 2, 5, 10) if f * power * count >= high * 0.999)
    return [i * step for i in range(math.ceil(high / step - 1e-9) + 1)]


def frame(x_axis: Axis, y_axis: Axis, x_name: str, y_name: str) -> Markup:
    """The grid lines, tick labels and names of two axes."""
    body = grid(
        [(x_axis.at(v), label) for v, label in x_axis.ticks],
        [(1 - y_axis.at(v), label) for v, label in y_axis.ticks],
        x_name,
        y_name,
    )
    return body + Markup().join(
        Markup(
            '<text class="wide" x="{}%" y="100%" dy="1.5em" text-anchor="middle" fill="var(--muted)">{}</text>'
        ).format(position(x_axis.at(v)), label)
        for v, label in x_axis.minor
    )


def grid(columns: Iterable[tuple[float, str]], rows: Iterable[tuple[float, str]], x_name: str, y_name: str) -> Markup:
    """Horizontal grid lines, tick labels and axis names.

    Args:
        columns: fractions of the width from the left, and their labels.
        rows: fractions of the height from the top, and their labels.
        x_name: what the horizontal axis shows.
        y_name: what the vertical axis shows.
    """
    body = Markup(
        '<text x="-2.4em" y="0" dy="-1.1em" fill="var(--muted)">{}</text>'
        '<text x="100%" y="100%" dy="2.9em" text-anchor="end" fill="var(--muted)">{}</text>'
    ).format(y_name, x_name)
    for y, label in rows:
        body += Markup(
            '<line x1="0" x2="100%" y1="{0}%" y2="{0}%" stroke="var(--rule)"/>'
            '<text x="-8" y="{0}%" dy=".35em" text-anchor="end" fill="var(--muted)">{1}</text>'
        ).format(position(y), label)
    for x, label in columns:
        body += Markup('<text x="{}%" y="100%" dy="1.5em" text-anchor="middle" fill="var(--muted)">{}</text>').format(
            position(x), label
        )
    return body
