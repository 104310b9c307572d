"""The page that weighs ways to make a classifier: what each brings, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from lensmith.pages.charts import axes, cells
from lensmith.pages.charts.cells import place
from lensmith.pages.page import fill
from lensmith.records import Rate
from lensmith.runs.files import write

_FREE = 0.22  # the part of the chart's width for what needs no training
_GAP = 0.3  # where the time axis then begins
_TIMES = (0.01, 0.1, 1, 10, 60, 600, 3600, 36_000, 345_600, 3_456_000, 34_560_000)  # seconds
_FINE = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 18_000, 36_000, 86_400)
_ROOM = 5  # labels on the time axis


@dataclass(frozen=True)
class Rung:
    """One way to make a classifier."""

    name: str
    about: str
    """One plain phrase on what it is."""
    validation: Rate
    test: Rate | None
    labels: int
    """Labelled images it learnt from."""
    seconds: float
    """To make it; 0 for none."""
    per_thousand: float
    """Seconds to score 1,000 images."""
    dollars: float | None
    """To make it, labels included; None if no prices were given."""

    @property
    def shown(self) -> Rate:
        """On the test images, or on the validation images where those were not scored."""
        return self.validation if self.test is None else self.test


@dataclass(frozen=True)
class LadderData:
    """What the page shows. An empty part is left out."""

    title: str
    verdict: str
    """The advice, one sentence."""
    sentences: list[str]
    """More of it: why, and how the test confirmed it."""
    rungs: list[Rung]
    """The cheapest first."""
    chosen: str
    """Name of the advised rung."""
    facts: list[tuple[str, str]]
    notes: list[str]


def render_ladder(data: LadderData) -> str:
    """The ladder as HTML."""
    return fill(
        "ladder.html.j2",
        [],
        data.notes,
        data=data,
        chart=_chart(data.rungs, data.chosen),
        tested=any(r.test is not None for r in data.rungs),
        untested=any(r.test is None for r in data.rungs),
        priced=any(r.dollars is not None for r in data.rungs),
        duration=axes.duration,
        dollars=_dollars,
    )


def write_ladder(path: Path, data: LadderData) -> None:
    """Write the ladder.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    write(path, render_ladder(data))


def _chart(rungs: Iterable[Rung], chosen: str) -> Markup:
    """Accuracy (percent) against the time to make each rung (logarithmic), with 95 % intervals; nothing for no rung."""
    known = [r for r in rungs if _finite(r)]
    if not known:
        return Markup()
    up = axes.zoomed(v for r in known for v in (r.shown.low, r.shown.accuracy, r.shown.high))
    free = [r for r in known if r.seconds <= 0]
    across = _time_axis([r.seconds for r in known if r.seconds > 0], _GAP if free else 0)
    body = axes.frame(across, up, "time to make it", "accuracy, %")
    if free:
        body += Markup(
            '<line x1="{0}%" x2="{0}%" y1="0" y2="100%" stroke="var(--muted)" stroke-dasharray="2 4"/>'
            '<text x="0" y="100%" dx="-6" dy="1.5em" fill="var(--muted)">no training</text>'
        ).format(place(_FREE))
    names, whiskers, waiting = [], [], iter(range(len(free)))
    for rung in known:
        # Those that need no training stand side by side, else their intervals would hide each other.
        x = across.at(rung.seconds) if rung.seconds > 0 else _FREE * (next(waiting) + 0.5) / len(free)
        top, y, bottom = (1 - up.at(v) for v in (rung.shown.high, rung.shown.accuracy, rung.shown.low))
        best = rung.name == chosen
        body += _rung(rung, (x, y), (top, bottom), best)
        names.append(axes.Name(x, y, rung.name, "accent" if best else "ink", best, 9 if best else 4))
        whiskers.append((x, top, bottom))
    body += axes.names(names, [(n.x, n.y) for n in names], whiskers)
    return cells.svg("curve tall", f"Accuracy and time to make it: {'; '.join(map(_told, known))}", body)


def _rung(rung: Rung, spot: tuple[float, float], ends: tuple[float, float], best: bool) -> Markup:
    x, y = spot
    colour = "accent" if best else "muted"
    body = Markup(
        '<line x1="{0}%" x2="{0}%" y1="{1}%" y2="{2}%" stroke="var(--{3})" stroke-opacity=".4" stroke-width="4"/>'
    ).format(place(x), place(ends[0]), place(ends[1]), colour)
    if rung.test is None:
        body += axes.ring(x, y, colour, 5.5 if best else 4)
    else:
        body += cells.dot(x, y, 5.5 if best else 4, colour)
    if best:
        body += axes.ring(x, y, colour, 9, "none")
    return Markup("<g><title>{}</title>{}</g>").format(_told(rung), body)


def _told(rung: Rung) -> str:
    time = axes.duration(rung.seconds) if rung.seconds > 0 else "no training"
    return f"{rung.name} {cells.percent(rung.shown.accuracy)}, {time}"


def _time_axis(seconds: list[float], start: float) -> axes.Axis:
    """A logarithmic axis between the round times around those given; close ones where they have room."""
    low, high = min(seconds, default=1.0), max(seconds, default=10.0)
    for times in (_FINE, _TIMES):
        first = max((t for t in times if t <= low), default=low)
        last = min((t for t in times if t >= high and t > first), default=high)
        inside = [t for t in times if first <= t <= last]
        if 2 <= len(inside) <= _ROOM:
            break
    shown = inside if len(inside) <= _ROOM else inside[::2]
    if first == last:
        last *= 10
    ticks, minor = ([(t, axes.duration(t)) for t in inside if (t in shown) == major] for major in (True, False))
    return axes.Axis(first, last, ticks, True, tuple(minor), start)


def _finite(rung: Rung) -> bool:
    rate = rung.shown
    return all(map(math.isfinite, (rung.seconds, rate.accuracy, rate.low, rate.high)))


def _dollars(value: float | None) -> str:
    """`$1,234.50`; a dash for what is not known."""
    if value is None or not math.isfinite(value):
        return cells.MISSING
    return "under $0.01" if 0 < value < 0.005 else f"${value:,.2f}"
