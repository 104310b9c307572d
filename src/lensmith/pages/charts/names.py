"""Names beside the dots of a `tall` chart, each where it covers as little as possible."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup

from lensmith.pages.charts.drawing import Point, position

_MAX_LENGTH = 24  # characters of a name
# In pixels: the height of a `tall` chart, its smallest and largest width, and the width of a letter.
_HEIGHT, _WIDTHS, _LETTER = 320, (290, 800), 6.6
# Where a name may stand beside its dot, the best first: the text anchor, the direction (1 is to the right, -1 to the
# left), and how far the base line is below the dot in pixels.
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
Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""
VerticalLine = tuple[float, float, float]
"""The fractions x, top and bottom."""


@dataclass(frozen=True)
class Name:
    """A name for the dot at a position in a chart."""

    x: float
    y: float
    text: str
    colour: str = "ink"
    bold: bool = False
    radius: float = 4
    """Radius of the dot, in pixels."""

    @property
    def offset(self) -> float:
        """Horizontal distance from the dot's centre to the text, in pixels."""
        return self.radius + 5


def draw_names(names: Sequence[Name], dots: Iterable[Point], lines: Iterable[VerticalLine] = ()) -> Markup:
    """Draw each name where it covers as little as possible of the dots, the vertical lines and the other names.

    The chart must be `tall`. Positions are chosen to suit both the smallest and the largest width of the page.
    """
    circles = [(x, y, 5.0) for x, y in dots] + [(name.x, name.y, name.radius) for name in names]
    vertical = list(lines)
    obstacles = {width: _obstacles(circles, vertical, width) for width in _WIDTHS}
    sides = [_SIDES[0]] * len(names)
    for _ in range(3):
        for i, name in enumerate(names):
            others = [pair for j, pair in enumerate(zip(names, sides, strict=True)) if j != i]
            sides[i] = min(_SIDES, key=partial(_cost, name, others, obstacles))
    return Markup().join(
        Markup(
            '<text class="tag{}" x="{}%" y="{}%" dx="{:g}" dy="{}" text-anchor="{}" fill="var(--{})">{}</text>'
        ).format(
            " main" if name.bold else "",
            position(name.x),
            position(name.y),
            direction * name.offset,
            dy,
            anchor,
            name.colour,
            _shortened(name.text),
        )
        for name, (anchor, direction, dy) in zip(names, sides, strict=True)
    )


def _shortened(text: str) -> str:
    """The text, cut after 24 characters with an ellipsis at its end."""
    return text if len(text) <= _MAX_LENGTH else text[: _MAX_LENGTH - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def _cost(name: Name, others: Iterable[tuple[Name, Side]], obstacles: Mapping[int, Sequence[Box]], side: Side) -> float:
    """How bad it is to draw a name on one side of its dot, summed over all widths.

    The cost grows with the area covered and with the distance that the name extends beyond the chart.
    """
    cost = float(_SIDES.index(side))
    for width, boxes in obstacles.items():
        box = _box(name, side, width)
        cost += sum(_overlap(box, other) for other in [*boxes, *(_box(*other, width) for other in others)])
        cost += 20 * (max(0, -box[0]) + max(0, box[2] - width - 8) + max(0, box[3] - _HEIGHT))
    return cost


def _obstacles(circles: Iterable[tuple[float, float, float]], lines: Iterable[VerticalLine], width: int) -> list[Box]:
    """The boxes around dots (x, y, radius in pixels) and vertical lines."""
    boxes = [(x * width - r, y * _HEIGHT - r, x * width + r, y * _HEIGHT + r) for x, y, r in circles]
    return boxes + [(x * width - 2, top * _HEIGHT, x * width + 2, bottom * _HEIGHT) for x, top, bottom in lines]


def _box(name: Name, side: Side, width: int) -> Box:
    """The box around a name on one side of its dot."""
    anchor, direction, dy = side
    length = len(_shortened(name.text)) * _LETTER * (1.1 if name.bold else 1)
    left = name.x * width + direction * name.offset - {"start": 0, "middle": length / 2, "end": length}[anchor]
    return (left, name.y * _HEIGHT + dy - 10, left + length, name.y * _HEIGHT + dy + 3)


def _overlap(a: Box, b: Box) -> float:
    """The area in which two boxes overlap."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
