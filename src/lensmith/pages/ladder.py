"""The page that compares methods by accuracy, time and cost, and recommends one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from lensmith.pages.charts import axes, drawing
from lensmith.pages.charts.drawing import Point, position
from lensmith.pages.charts.names import Name, draw_names
from lensmith.pages.numbers import duration, finite, percentage
from lensmith.pages.page import fill_template
from lensmith.records import Rate
from lensmith.runs.files import write

_NO_TRAINING = 0.22  # fraction of the chart's width for methods that need no training
_TIME_START = 0.3  # where the time axis starts, if there are such methods
_TIMES = (0.01, 0.1, 1, 10, 60, 600, 3600, 36_000, 345_600, 3_456_000, 34_560_000)  # tick values in seconds
_FINE_TIMES = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 18_000, 36_000, 86_400)
_MAX_TICKS = 5  # labels that fit below the time axis


@dataclass(frozen=True)
class MethodRow:
    """One method: its accuracy, and what it takes."""

    name: str
    about: str
    """What the method is, in one plain phrase."""
    validation: Rate | None
    """None if there are no validation images; there is `test` then."""
    test: Rate | None
    labels: int
    """Number of labelled images that the method used."""
    seconds: float
    """Time to make the classifier; 0 if the method needs no training."""
    per_thousand: float
    """Seconds to classify 1,000 images."""
    dollars: float | None
    """Cost of making the classifier, labels included; None if no prices were given."""

    @property
    def accuracy(self) -> Rate:
        """Accuracy on the test images, or on the validation images if the test images were not scored."""
        rate = self.validation if self.test is None else self.test
        assert rate is not None
        return rate


@dataclass(frozen=True)
class LadderData:
    """What the page shows. Empty sections are omitted."""

    title: str
    verdict: str
    """The recommendation, in one sentence."""
    sentences: list[str]
    """The reasons, and what the test images show."""
    methods: list[MethodRow]
    """The cheapest first."""
    chosen: str
    """Name of the recommended method."""
    facts: list[tuple[str, str]]
    notes: list[str]


def render_ladder(data: LadderData) -> str:
    """The page as HTML."""
    return fill_template(
        "ladder.html.j2",
        data.notes,
        data=data,
        chart=_chart(data.methods, data.chosen),
        tested=any(m.test is not None for m in data.methods),
        untested=any(m.test is None for m in data.methods),
        priced=any(m.dollars is not None for m in data.methods),
    )


def write_ladder(path: Path, data: LadderData) -> None:
    """Write the page.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    write(path, render_ladder(data))


def _chart(methods: Iterable[MethodRow], chosen: str) -> Markup:
    """Accuracy (percent) by training time (logarithmic), with 95 % intervals; empty if no method can be drawn."""
    known = [m for m in methods if finite(m.seconds, m.accuracy.accuracy, m.accuracy.low, m.accuracy.high)]
    if not known:
        return Markup()
    y_axis = axes.zoomed(v for m in known for v in (m.accuracy.low, m.accuracy.accuracy, m.accuracy.high))
    untrained = [m for m in known if m.seconds <= 0]
    x_axis = _time_axis([m.seconds for m in known if m.seconds > 0], _TIME_START if untrained else 0)
    body = axes.frame(x_axis, y_axis, "training time", "accuracy, %")
    if untrained:
        body += Markup(
            '<line x1="{0}%" x2="{0}%" y1="0" y2="100%" stroke="var(--muted)" stroke-dasharray="2 4"/>'
            '<text x="0" y="100%" dx="-6" dy="1.5em" fill="var(--muted)">no training</text>'
        ).format(position(_NO_TRAINING))
    names, intervals, columns = [], [], iter(range(len(untrained)))
    for method in known:
        # Methods without training stand side by side, so that their intervals don't overlap.
        x = x_axis.at(method.seconds) if method.seconds > 0 else _NO_TRAINING * (next(columns) + 0.5) / len(untrained)
        accuracy = method.accuracy
        top, y, bottom = (1 - y_axis.at(v) for v in (accuracy.high, accuracy.accuracy, accuracy.low))
        is_chosen = method.name == chosen
        body += _marks(method, (x, y), (top, bottom), is_chosen)
        names.append(Name(x, y, method.name, "accent" if is_chosen else "ink", is_chosen, 9 if is_chosen else 4))
        intervals.append((x, top, bottom))
    body += draw_names(names, [(n.x, n.y) for n in names], intervals)
    return drawing.svg("curve tall", f"Accuracy and training time: {'; '.join(map(_summary, known))}", body)


def _marks(method: MethodRow, point: Point, interval: tuple[float, float], is_chosen: bool) -> Markup:
    """A dot, or a ring if the test images were not scored, and the 95 % interval; a circle around the chosen one.

    Args:
        method: the method to draw.
        point: its position.
        interval: top and bottom of its interval, as fractions of the height.
        is_chosen: whether it is the recommended method.
    """
    x, y = point
    colour, radius = ("accent", 5.5) if is_chosen else ("muted", 4)
    body = drawing.vertical_interval(x, *interval, colour)
    if method.test is None:
        body += drawing.ring(x, y, colour, radius)
    else:
        body += drawing.dot(x, y, radius, colour)
    if is_chosen:
        body += drawing.ring(x, y, colour, 9, "none")
    return Markup("<g><title>{}</title>{}</g>").format(_summary(method), body)


def _summary(method: MethodRow) -> str:
    time = duration(method.seconds) if method.seconds > 0 else "no training"
    return f"{method.name} {percentage(method.accuracy.accuracy)}, {time}"


def _time_axis(seconds: list[float], start: float) -> axes.Axis:
    """A logarithmic axis between the round times around those given, with fine ticks if they fit."""
    low, high = min(seconds, default=1.0), max(seconds, default=10.0)
    for times in (_FINE_TIMES, _TIMES):
        first = max((t for t in times if t <= low), default=low)
        last = min((t for t in times if t >= high and t > first), default=high)
        inside = [t for t in times if first <= t <= last]
        if 2 <= len(inside) <= _MAX_TICKS:
            break
    labelled = inside if len(inside) <= _MAX_TICKS else inside[::2]
    if first == last:
        last *= 10
    ticks, minor = ([(t, duration(t)) for t in inside if (t in labelled) == major] for major in (True, False))
    return axes.Axis(first, last, ticks, True, tuple(minor), start)
