"""Parts of the large charts that several pages need: axes that zoom or are logarithmic, marks, names beside dots.

Places are shares of the width from the left and of the height from the top, as in `curves.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup

from lensmith.pages.charts import curves
from lensmith.pages.charts.cells import MISSING, place, svg

COLOURS = ("accent", "second", "third", "fourth")  # CSS variables of the page
_LONGEST = 24  # characters of a name inside a chart
_FEW, _MANY = 5, 12  # labels along the bottom that a phone and a wide screen have room for
_STEPS = (1, 2, 5, 10, 20)  # percentage points between the lines of an axis that zooms
# Squares, triangles up, diamonds, and triangles down for what lies below the axis; the first mark is a dot.
_SHAPES = ("M-3.5-3.5h7v7h-7z", "M0-4.5L4.5 3.5h-9z", "M0-5L5 0L0 5L-5 0z", "M-4.5-4h9L0 4z")
BELOW = 4

# For `names`, in pixels: the height of a `tall` chart, how wide a chart may be, a letter's width, and where a name may
# stand beside its place (the anchor, to the right or to the left, and how far down its base line is).
_TALL, _WIDTHS, _LETTER = 320, (290, 800), 6.6
_SIDES = (
    ("start", 1, 4),
    ("end", -1, 4),
    ("start", 1, -8),
    ("end", -1, -8),
    ("start", 1, 16),
    ("end", -1, 16),
    ("middle", 0, -10),
    ("middle", 0, 18),
    ("start", 1, -22),
    ("end", -1, -22),
    ("start", 1, 30),
    ("end", -1, 30),
)
Side = tuple[str, int, int]
Box = tuple[float, float, float, float]  # left, top, right, bottom
Whisker = tuple[float, float, float]  # an upright line: where, its top, its bottom


@dataclass(frozen=True)
class Axis:
    """An axis from the value `low` to `high`; with `log`, equal ratios are equal distances."""

    low: float
    high: float
    ticks: list[tuple[float, str]]
    """Values with a label."""
    log: bool = False
    minor: tuple[tuple[float, str], ...] = ()
    """Values whose labels only a wide screen has room for."""
    start: float = 0.0
    """Where `low` stands, as a share of the whole length."""

    def at(self, value: float) -> float:
        """Where a value stands, as a share of the length from the low end; those outside lie outside 0..1."""
        low, high, x = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (1 - self.start) * (x - low) / (high - low)


@dataclass(frozen=True)
class Name:
    """A text that belongs to a place in a chart."""

    x: float
    y: float
    text: str
    colour: str = "ink"
    bold: bool = False
    radius: float = 4
    """Of what marks the place, in pixels."""

    @property
    def aside(self) -> float:
        """How far beside its place the text begins, in pixels."""
        return self.radius + 5


def zoomed(values: Iterable[float]) -> Axis:
    """An axis in percent for shares in 0..1, between the round numbers around them."""
    inside = [100 * min(max(v, 0.0), 1.0) for v in values if math.isfinite(v)]
    low, high = min(inside, default=0.0), max(inside, default=100.0)
    for step in _STEPS:
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if first == last:
            first, last = max(0, first - 1), min(last + 1, 100 // step)
        if last - first <= 5:
            break
    return Axis(
        first * step / 100, last * step / 100, [(i * step / 100, f"{i * step}") for i in range(first, last + 1)]
    )


def logarithmic(values: Iterable[float], few: int = _FEW) -> Axis:
    """A logarithmic axis over positive values; its labels are 1, 2 and 5 times powers of ten.

    Raises:
        ValueError: there is no value, or one is not positive.
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
        ticks = shown = [low, high]
    elif len(ticks) <= few:
        shown = ticks
    else:
        shown = tens[:: math.ceil(len(tens) / few)] if len(tens) > 1 else ticks[::2]
    minor = [v for v in ticks if v not in shown] if len(ticks) <= _MANY else []
    return Axis(low, high, [(v, number(v)) for v in shown], True, tuple((v, number(v)) for v in minor))


def linear(low: float, high: float, count: int = 4) -> Axis:
    """A linear axis from `low` to `high` with about `count` round numbers."""
    if low == high:
        low, high = low - 1, high + 1
    power = 10.0 ** math.floor(math.log10((high - low) / count))
    step = next(f * power for f in (1, 2, 5, 10) if f * power * count >= (high - low) * 0.999)
    ticks = [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    return Axis(low, high, [(v, number(v)) for v in ticks])


def frame(across: Axis, up: Axis, across_name: str, up_name: str) -> Markup:
    """Grid lines, labels, and what the axes show."""
    body = curves.frame(
        [(across.at(v), label) for v, label in across.ticks],
        [(1 - up.at(v), label) for v, label in up.ticks],
        across_name,
        up_name,
    )
    return body + Markup().join(
        Markup(
            '<text class="wide" x="{}%" y="100%" dy="1.5em" text-anchor="middle" fill="var(--muted)">{}</text>'
        ).format(place(across.at(v)), label)
        for v, label in across.minor
    )


def mark(x: float, y: float, kind: int = 0, colour: str = "accent", opacity: float = 1) -> Markup:
    """A dot, or another shape of its size (see `_SHAPES`), for the `kind`-th of several lines."""
    if kind == 0:
        return Markup('<circle cx="{}%" cy="{}%" r="3.5" fill="var(--{})" fill-opacity="{}"/>').format(
            place(x), place(y), colour, opacity
        )
    return Markup(
        '<svg x="{}%" y="{}%" overflow="visible"><path d="{}" fill="var(--{})" fill-opacity="{}"/></svg>'
    ).format(place(x), place(y), _SHAPES[kind - 1], colour, opacity)


def ring(x: float, y: float, colour: str = "muted", radius: float = 3.5, inside: str = "paper") -> Markup:
    """A ring; `inside` is its filling, `none` to see through."""
    fill = "none" if inside == "none" else f"var(--{inside})"
    return Markup('<circle cx="{}%" cy="{}%" r="{}" fill="{}" stroke="var(--{})" stroke-width="1.5"/>').format(
        place(x), place(y), radius, fill, colour
    )


def names(texts: Sequence[Name], dots: Iterable[tuple[float, float]], lines: Iterable[Whisker] = ()) -> Markup:
    """Each name near its place, where it covers as little as possible of dots, upright lines and other names.

    The chart must be `tall`. A page may be narrow or wide, so places are judged by both.
    """
    round_dots = [(x, y, 5.0) for x, y in dots] + [(t.x, t.y, t.radius) for t in texts]
    upright = list(lines)
    solid = {w: _solid(round_dots, upright, w) for w in _WIDTHS}
    chosen = [_SIDES[0]] * len(texts)
    for _ in range(3):
        for i, text in enumerate(texts):
            others = [pair for j, pair in enumerate(zip(texts, chosen, strict=True)) if j != i]
            chosen[i] = min(_SIDES, key=partial(_covered, text, others, solid))
    return Markup().join(
        Markup(
            '<text class="tag{}" x="{}%" y="{}%" dx="{:g}" dy="{}" text-anchor="{}" fill="var(--{})">{}</text>'
        ).format(
            " main" if t.bold else "",
            place(t.x),
            place(t.y),
            side[1] * t.aside,
            side[2],
            side[0],
            t.colour,
            shortened(t.text),
        )
        for t, side in zip(texts, chosen, strict=True)
    )


def sample(kind: int, colour: str) -> Markup:
    """The mark and the line of one of several lines, to stand before its name in a text."""
    body = Markup('<line x1="0" x2="100%" y1="50%" y2="50%" stroke="var(--{})" stroke-width="2"/>').format(colour)
    return Markup('<svg class="sample" aria-hidden="true">{}</svg>').format(body + mark(0.5, 0.5, kind, colour))


def bar(share: float, title: str) -> Markup:
    """A bar from the left over a share of its cell's width, with a title for screen readers."""
    body = Markup()
    if math.isfinite(share):
        body = Markup(
            '<line x1="0" x2="{}%" y1="50%" y2="50%" stroke="var(--accent)" stroke-opacity=".55" stroke-width="11"/>'
        ).format(place(share))
    return svg("bar", title, body)


def number(value: float) -> str:
    """A number without needless digits, thousands apart: `20,000`, `0.0005`."""
    if abs(value) >= 1 and abs(value - round(value)) < 1e-9 * abs(value):
        return f"{round(value):,}"
    return f"{value:.3g}" if math.isfinite(value) else MISSING


def shortened(text: str, most: int = _LONGEST) -> str:
    """A text of at most so many characters; what is cut ends in an ellipsis."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def duration(seconds: float) -> str:
    """Seconds as `0.25 s`, `4.2 s`, `12 min`, `3.4 h` or `2.1 days`; a dash for what is not a number."""
    if not math.isfinite(seconds):
        return MISSING
    size, unit = next((s, u) for s, u in ((1, "s"), (60, "min"), (3600, "h"), (86400, "days")) if seconds < _UNTIL[u])
    value = seconds / size
    if seconds < 1:
        return f"{value:.2g} {unit}"
    return f"{value:.0f} {unit}" if value == round(value) or value >= 9.95 else f"{value:.1f} {unit}"


_UNTIL = {"s": 59.5, "min": 3570, "h": 171_000, "days": math.inf}


def _covered(text: Name, others: Iterable[tuple[Name, Side]], solid: Mapping[int, Sequence[Box]], side: Side) -> float:
    """How bad it is to put a name there: what it covers and how far it leaves the chart, in pixels, over all widths."""
    cost = float(_SIDES.index(side))
    for width, boxes in solid.items():
        own = _box(text, side, width)
        cost += sum(_shared(own, box) for box in [*boxes, *(_box(*other, width) for other in others)])
        cost += 20 * (max(0, -own[0]) + max(0, own[2] - width - 8) + max(0, own[3] - _TALL))
    return cost


def _solid(dots: Iterable[tuple[float, float, float]], lines: Iterable[Whisker], width: int) -> list[Box]:
    round_boxes = [(x * width - r, y * _TALL - r, x * width + r, y * _TALL + r) for x, y, r in dots]
    return round_boxes + [(x * width - 2, top * _TALL, x * width + 2, bottom * _TALL) for x, top, bottom in lines]


def _box(name: Name, side: Side, width: int) -> Box:
    anchor, direction, dy = side
    long = len(shortened(name.text)) * _LETTER * (1.1 if name.bold else 1)
    left = name.x * width + direction * name.aside - {"start": 0, "middle": long / 2, "end": long}[anchor]
    return (left, name.y * _TALL + dy - 10, left + long, name.y * _TALL + dy + 3)


def _shared(a: Box, b: Box) -> float:
    """The area in which two boxes overlap."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
