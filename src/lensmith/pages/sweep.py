"""The page on a search for settings: what was tried, what mattered, and which settings to train with."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lensmith.measure.metrics import wilson
from lensmith.pages.charts import axes, cells, curves
from lensmith.pages.page import fill
from lensmith.records import Rate
from lensmith.runs.files import write

_LETTERS = 32  # characters that fit beneath a small chart
_SMALL = 3  # numbers that do
_FEWEST = 5  # trials from which on the axis may leave out those that went wrong
_REACH = 4  # the axis goes down to so many times the distance between the best trial and the middle one


@dataclass(frozen=True)
class Trial:
    """One setting that was tried."""

    number: int
    state: str
    """`finished`, `pruned` or `failed`."""
    values: dict[str, Any]
    """The value of each option."""
    accuracy: float | None
    """Its best on the validation images, 0..1."""
    share: float
    """The part of a full training that was run, 0..1."""


@dataclass(frozen=True)
class Finalist:
    """A trial that was trained again with other seeds."""

    number: int
    values: dict[str, Any]
    accuracies: list[float]
    """On the validation images, 0..1, one for each seed."""

    @property
    def known(self) -> list[float]:
        """Those of the accuracies that are numbers."""
        return [a for a in self.accuracies if math.isfinite(a)]

    @property
    def mean(self) -> float:
        """NaN if no training gave a figure."""
        return statistics.fmean(self.known) if self.known else math.nan


@dataclass(frozen=True)
class SweepData:
    """What the page shows. An empty part is left out."""

    title: str
    verdict: str
    sentences: list[str]
    trials: list[Trial]
    importance: list[tuple[str, float]]
    """Options and the share (0..1) of what mattered that is theirs, the largest first; may be empty."""
    ranges: dict[str, Any]
    """What each option was searched in: a list of choices, or `low`, `high` and `log`."""
    finalists: list[Finalist]
    chosen: int | None
    """Number of the trial whose settings are advised."""
    validation: int
    """Images each trial was scored on."""
    recipe: str
    """The recipe to train with, as YAML."""
    facts: list[tuple[str, str]]
    notes: list[str]


@dataclass(frozen=True)
class _Option:
    """An option as the page shows it; `chart` may be empty, `importance` NaN."""

    name: str
    searched: str
    chosen: str
    importance: float
    chart: Markup
    key: list[str]
    """What the numbers beneath the chart stand for, if the names don't fit."""


def render_sweep(data: SweepData) -> str:
    """The search as HTML."""
    scored = [t for t in data.trials if _known(t.accuracy)]
    up = axes.zoomed(v for v in _zoomed_on([t.accuracy or 0.0 for t in scored]))
    names = dict.fromkeys([*(n for n, _ in data.importance), *data.ranges, *(n for t in data.trials for n in t.values)])
    ends = axes.zoomed(a for f in data.finalists for a in f.known)
    best = max((t.accuracy or 0.0 for t in scored), default=math.nan)
    return fill(
        "sweep.html.j2",
        [],
        data.notes,
        data=data,
        options=[_option(name, data, scored, up) for name in names],
        order=_in_order(scored, up, data.chosen) if scored else "",
        below=sum((t.accuracy or 0.0) < up.low - 1e-9 for t in scored),
        lowest=f"{100 * up.low:.0f}",
        silent=len(data.trials) - len(scored),
        finalists=[(f, _spread(f.known, ends)) for f in sorted(data.finalists, key=lambda f: _worst_last(f.mean))],
        ends=_spread_axis(ends),
        trials=sorted(data.trials, key=lambda t: (_worst_last(t.accuracy), t.number)),
        best=_rate(best, data.validation),
        bar=axes.bar,
        shown=_shown,
    )


def write_sweep(path: Path, data: SweepData) -> None:
    """Write the page on the search.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    write(path, render_sweep(data))


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _worst_last(accuracy: float | None) -> float:
    return -accuracy if accuracy is not None and math.isfinite(accuracy) else 1.0


def _rate(accuracy: float, n: int) -> Rate | None:
    return wilson(round(accuracy * n), n) if n and math.isfinite(accuracy) else None


def _zoomed_on(accuracies: Sequence[float]) -> list[float]:
    """All but those so low that the axis would show nothing else than that."""
    if len(accuracies) < _FEWEST:
        return list(accuracies)
    best = max(accuracies)
    return [a for a in accuracies if a >= best - _REACH * max(best - statistics.median(accuracies), 0.01)]


def _shown(value: Any) -> str:
    """A value as a recipe writes it, numbers without needless digits."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else cells.MISSING
    return str(value)


def _numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)


def _option(name: str, data: SweepData, scored: Sequence[Trial], up: axes.Axis) -> _Option:
    trials = [t for t in scored if name in t.values]
    values = [t.values[name] for t in trials]
    searched = data.ranges.get(name)
    chosen = next((t.values[name] for t in data.trials if t.number == data.chosen and name in t.values), "")
    chart, key, text = Markup(), [], ""
    if isinstance(searched, dict) and _numbers([*values, searched["low"], searched["high"]]):
        ends = [searched["low"], searched["high"]]
        log = bool(searched.get("log")) and min([*values, *ends]) > 0
        low, high = min([*values, *ends]), max([*values, *ends])
        axis = axes.logarithmic([low, high], _SMALL) if log else axes.linear(low, high, _SMALL)
        text = f"{_shown(ends[0])} to {_shown(ends[1])}" + (", by ratio" if log else "")
        places = {t.number: axis.at(t.values[name]) for t in trials}
        columns = [(axis.at(v), label) for v, label in axis.ticks]
    else:
        choices = list(dict.fromkeys(map(_shown, [*(searched if isinstance(searched, list) else []), *values])))
        text = ", ".join(choices)
        fits = all(len(c) <= _LETTERS // len(choices) for c in choices)
        key = [] if fits else choices
        columns = [((i + 0.5) / len(choices), c if fits else f"{i + 1}") for i, c in enumerate(choices)]
        # Trials of a choice stand a little apart, else they would hide each other.
        places = {
            t.number: (choices.index(_shown(t.values[name])) + 0.5 + (t.number % 5 - 2) * 0.1) / len(choices)
            for t in trials
        }
    if trials:
        rows = [(1 - up.at(v), label) for v, label in up.ticks]
        body = curves.frame(columns, rows, "", "accuracy, %")
        body += Markup().join(_trial(t, places[t.number], up, t.number == data.chosen) for t in _last(trials, data))
        chart = cells.svg("curve small", f"Accuracy by {name}", body)
    return _Option(name, text, _shown(chosen), dict(data.importance).get(name, math.nan), chart, key)


def _last(trials: Sequence[Trial], data: SweepData) -> list[Trial]:
    """The chosen one last, so that no other hides it."""
    return sorted(trials, key=lambda t: t.number == data.chosen)


def _trial(trial: Trial, x: float, up: axes.Axis, chosen: bool) -> Markup:
    """A dot, or a ring if pruned; below the axis a triangle at its foot."""
    accuracy = trial.accuracy or 0.0
    y = 1 - up.at(accuracy)
    if y > 1 + 1e-9:
        body = axes.mark(x, 1, axes.BELOW, "muted")
    elif trial.state == "finished":
        body = axes.mark(x, y, opacity=1 if chosen else 0.6)
    else:
        body = axes.ring(x, y)
    if chosen:
        body += axes.ring(x, min(y, 1), "ink", 7, "none")
    return Markup("<g><title>trial {}: {}, {}</title>{}</g>").format(
        trial.number, cells.percent(accuracy), trial.state, body
    )


def _in_order(scored: Sequence[Trial], up: axes.Axis, chosen: int | None) -> Markup:
    """Accuracy (percent) of the trials in order, and a line for the best that had finished so far."""
    trials = sorted(scored, key=lambda t: t.number)
    first, last = trials[0].number, trials[-1].number
    axis = axes.linear(first, last)
    axis = replace(axis, ticks=[(v, t) for v, t in axis.ticks if v == round(v) and first <= v <= last])
    steps: list[tuple[float, float]] = []
    for trial in trials:
        if trial.state == "finished" and (not steps or (trial.accuracy or 0.0) > steps[-1][1]):
            steps += [(trial.number, steps[-1][1])] if steps else []
            steps.append((trial.number, trial.accuracy or 0.0))
    if steps:
        steps.append((last, steps[-1][1]))
    line = curves.line([(axis.at(n), 1 - up.at(y)) for n, y in steps], 0.5) if steps else Markup()
    body = axes.frame(axis, up, "trial", "accuracy, %") + curves.stretched(line)
    body += Markup().join(
        _trial(t, axis.at(t.number), up, t.number == chosen) for t in sorted(trials, key=lambda t: t.number == chosen)
    )
    best = f", the best finished {cells.percent(steps[-1][1])}" if steps else ""
    return cells.svg("curve", f"Accuracy of {len(trials)} trials in order{best}", body)


def _spread(values: Sequence[float], axis: axes.Axis) -> Markup:
    """Several shares on a zoomed axis: a dot for each and an upright stroke at their mean. Fills its cell."""
    body = Markup().join(
        Markup('<line x1="{0}%" x2="{0}%" y1="0" y2="100%" stroke="var(--rule)"/>').format(cells.place(axis.at(v)))
        for v, _ in axis.ticks
    )
    body += Markup().join(axes.mark(axis.at(v), 0.5, opacity=0.5) for v in values)
    if values:
        body += Markup(
            '<line x1="{0}%" x2="{0}%" y1="22%" y2="78%" stroke="var(--accent)" stroke-width="2.5"/>'
        ).format(cells.place(axis.at(statistics.fmean(values))))
    return cells.svg("spread", "; ".join(map(cells.percent, values)) or cells.MISSING, body)


def _spread_axis(axis: axes.Axis) -> Markup:
    """The labels, in percent, of the ends of the axis that `_spread` draws on."""
    ends = (axis.ticks[0], axis.ticks[-1])
    body = Markup().join(
        Markup('<text x="{}%" y="1em" text-anchor="middle" fill="var(--muted)">{}</text>').format(
            cells.place(axis.at(v)), t
        )
        for v, t in ends
    )
    return cells.svg("axis", f"Axis from {ends[0][1]} to {ends[1][1]} %", body)
