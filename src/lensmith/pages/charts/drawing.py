"""The elements that all charts are drawn with: dots, rings, lines and bars, as SVG.

Positions are fractions of the chart's width from the left and of its height from the top. They become percentages in
the SVG, so a chart stretches with the page while text and dots keep their size and shape. Colours are names of the
page's CSS variables (`accent`, `wrong`, `rule`, `muted`, `paper`), so one chart serves light mode, dark mode and print.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup

Point = tuple[float, float]
"""Fractions of the width from the left and of the height from the top."""

COLOURS = ("accent", "second", "third", "fourth")
"""The colours of the first, second, third and fourth curve."""
BELOW = 4
"""The shape of a mark for a value below the axis, see `mark`."""
_SHAPES = ("M-3.5-3.5h7v7h-7z", "M0-4.5L4.5 3.5h-9z", "M0-5L5 0L0 5L-5 0z", "M-4.5-4h9L0 4z")
_MAX_POINTS = 800  # of a line; more than a screen can show would only make the file large


def svg(css_class: str, title: str, body: Markup) -> Markup:
    """A chart with a title for screen readers."""
    return Markup('<svg class="{}" role="img" aria-label="{}"><title>{}</title>{}</svg>').format(
        css_class, title, title, body
    )


def position(fraction: float) -> float:
    """A fraction of the width or height as a percentage, clipped to the chart."""
    return round(100 * min(max(fraction, 0.0), 1.0), 2)


def dot(x: float, y: float = 0.5, radius: float = 3.5, colour: str = "accent") -> Markup:
    """A filled dot; the radius is in pixels."""
    return Markup('<circle cx="{}%" cy="{}%" r="{}" fill="var(--{})"/>').format(
        position(x), position(y), radius, colour
    )


def ring(x: float, y: float, colour: str = "muted", radius: float = 3.5, inside: str = "paper") -> Markup:
    """A ring filled with the colour `inside`, or transparent if that is `none`; the radius is in pixels."""
    fill = "none" if inside == "none" else f"var(--{inside})"
    return Markup('<circle cx="{}%" cy="{}%" r="{}" fill="{}" stroke="var(--{})" stroke-width="1.5"/>').format(
        position(x), position(y), radius, fill, colour
    )


def mark(x: float, y: float, shape: int = 0, colour: str = "accent", opacity: float = 1) -> Markup:
    """A dot (0), a square (1), a triangle (2), a diamond (3), or a triangle pointing down (4, `BELOW`)."""
    if shape == 0:
        return Markup('<circle cx="{}%" cy="{}%" r="3.5" fill="var(--{})" fill-opacity="{}"/>').format(
            position(x), position(y), colour, opacity
        )
    return Markup(
        '<svg x="{}%" y="{}%" overflow="visible"><path d="{}" fill="var(--{})" fill-opacity="{}"/></svg>'
    ).format(position(x), position(y), _SHAPES[shape - 1], colour, opacity)


def legend_key(shape: int, colour: str) -> Markup:
    """The mark and the line of a curve, to show beside its name in a text."""
    body = Markup('<line x1="0" x2="100%" y1="50%" y2="50%" stroke="var(--{})" stroke-width="2"/>').format(colour)
    return Markup('<svg class="legend-key" aria-hidden="true">{}</svg>').format(body + mark(0.5, 0.5, shape, colour))


def vertical_interval(x: float, top: float, bottom: float, colour: str = "accent") -> Markup:
    """A faint vertical bar over an interval."""
    return Markup(
        '<line x1="{0}%" x2="{0}%" y1="{1}%" y2="{2}%" stroke="var(--{3})" stroke-opacity=".4" stroke-width="4"/>'
    ).format(position(x), position(top), position(bottom), colour)


def vertical_rules(xs: Iterable[float]) -> Markup:
    """Grid lines over the full height."""
    return Markup().join(
        Markup('<line x1="{0}%" x2="{0}%" y1="0" y2="100%" stroke="var(--rule)"/>').format(position(x)) for x in xs
    )


def stretched(body: Markup) -> Markup:
    """Lines and areas scaled to the chart. SVG takes no percentages for their points, so they use a 100 by 100 box."""
    return Markup('<svg width="100%" height="100%" viewBox="0 0 100 100" preserveAspectRatio="none">{}</svg>').format(
        body
    )


def line(
    points: Sequence[Point], opacity: float = 1, width: float = 2, colour: str = "accent", dash: str = ""
) -> Markup:
    """A line for `stretched`. `width` is in pixels, and so is `dash`, which is written as in SVG."""
    stride = max(1, len(points) // _MAX_POINTS)
    dashed = Markup(' stroke-dasharray="{}"').format(dash) if dash else Markup()
    return Markup(
        '<polyline points="{}" fill="none" stroke="var(--{})" stroke-opacity="{}" stroke-width="{}"{}'
        ' stroke-linejoin="round" vector-effect="non-scaling-stroke"/>'
    ).format(_path([*points[::stride], points[-1]]), colour, opacity, width, dashed)


def band(top: Sequence[Point], bottom: Sequence[Point], colour: str = "accent", opacity: float = 0.16) -> Markup:
    """The area between two lines, for `stretched`; both lines go from left to right."""
    return Markup('<polygon points="{}" fill="var(--{})" fill-opacity="{}"/>').format(
        _path([*top, *reversed(bottom)]), colour, opacity
    )


def _path(points: Sequence[Point]) -> str:
    return " ".join(f"{position(x):g},{position(y):g}" for x, y in points)
