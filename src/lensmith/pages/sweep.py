"""The page that shows a search for settings: the trials, the options that mattered, and the settings to train with."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lensmith.measure.metrics import wilson
from lensmith.pages.charts import axes, cells, drawing
from lensmith.pages.numbers import MISSING, percentage
from lensmith.pages.page import fill_template
from lensmith.records import Rate
from lensmith.runs.files import write

_LETTERS = 32  # characters of labels that fit below a small chart
_SMALL_TICKS = 3  # numbers that fit there
_MIN_TRIALS = 5  # from this many trials on, the accuracy axis may leave out outliers
_AXIS_REACH = 4  # the axis then goes down to this many times the distance between the best and the median trial


@dataclass(frozen=True)
class Trial:
    """One combination of settings that was tried."""

    number: int
    state: str
    """`finished`, `pruned` or `failed`."""
    values: dict[str, Any]
    """The value of each option."""
    accuracy: float | None
    """Its best accuracy on the validation images, in 0..1."""
    fraction: float
    """Fraction of a full training that was run, in 0..1."""


@dataclass(frozen=True)
class Finalist:
    """A trial that was trained again with other seeds."""

    number: int
    values: dict[str, Any]
    accuracies: list[float]
    """On the validation images, in 0..1, one per seed."""

    @property
    def known(self) -> list[float]:
        """The accuracies that are finite."""
        return [a for a in self.accuracies if math.isfinite(a)]

    @property
    def mean(self) -> float:
        """Mean of the known accuracies; NaN if there are none."""
        return statistics.fmean(self.known) if self.known else math.nan


@dataclass(frozen=True)
class SweepData:
    """What the page shows. Empty sections are omitted."""

    title: str
    verdict: str
    sentences: list[str]
    trials: list[Trial]
    importance: list[tuple[str, float]]
    """Options and their importance (fractions that sum to 1), the most important first; may be empty."""
    ranges: dict[str, Any]
    """The search space of each option: a list of choices, or `low`, `high` and `log`."""
    finalists: list[Finalist]
    chosen: int | None
    """Number of the trial whose settings are recommended."""
    validation: int
    """Number of images that each trial was scored on."""
    recipe: str
    """The recipe to train with, as YAML."""
    facts: list[tuple[str, str]]
    notes: list[str]


@dataclass(frozen=True)
class _Option:
    """An option as the page shows it."""

    name: str
    searched: str
    """The search space."""
    chosen: str
    importance: float
    """NaN if unknown."""
    chart: Markup
    """May be empty."""
    key: list[str]
    """The choices that the numbers below the chart stand for, if the choices themselves don't fit there."""


@dataclass(frozen=True)
class _Columns:
    """The horizontal axis of an option's chart; positions are fractions of the width."""

    searched: str
    ticks: list[tuple[float, str]]
    positions: dict[int, float]
    """Of each trial, by its number."""
    key: list[str] = field(default_factory=list)


def render_sweep(data: SweepData) -> str:
    """The page as HTML."""
    scored = [t for t in data.trials if t.accuracy is not None and math.isfinite(t.accuracy)]
    y_axis = axes.zoomed(_without_outliers([_accuracy(t) for t in scored]))
    names = dict.fromkeys([*(n for n, _ in data.importance), *data.ranges, *(n for t in data.trials for n in t.values)])
    finalist_axis = axes.zoomed(a for f in data.finalists for a in f.known)
    best = max(map(_accuracy, scored), default=math.nan)
    return fill_template(
        "sweep.html.j2",
        data.notes,
        data=data,
        options=[_option(name, data, scored, y_axis) for name in names],
        history=_history(scored, y_axis, data.chosen) if scored else "",
        below_axis=sum(_accuracy(t) < y_axis.low - 1e-9 for t in scored),
        axis_start=f"{100 * y_axis.low:.0f}",
        without_accuracy=len(data.trials) - len(scored),
        finalists=[
            (f, cells.spread(f.known, finalist_axis))
            for f in sorted(data.finalists, key=lambda f: _unknown_last(f.mean))
        ],
        spread_axis=cells.spread_axis(finalist_axis),
        trials=sorted(data.trials, key=lambda t: (_unknown_last(t.accuracy), t.number)),
        best=_rate(best, data.validation),
        bar=cells.bar,
        yaml_value=_yaml_value,
    )


def write_sweep(path: Path, data: SweepData) -> None:
    """Write the page.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    write(path, render_sweep(data))


def _accuracy(trial: Trial) -> float:
    return trial.accuracy or 0.0


def _unknown_last(accuracy: float | None) -> float:
    """A sort key: the best first, and those without a finite accuracy last."""
    return -accuracy if accuracy is not None and math.isfinite(accuracy) else 1.0


def _rate(accuracy: float, n: int) -> Rate | None:
    """The accuracy with its 95 % interval; None if it or the number of images is unknown."""
    return wilson(round(accuracy * n), n) if n and math.isfinite(accuracy) else None


def _without_outliers(accuracies: Sequence[float]) -> list[float]:
    """The accuracies without those so low that the axis would show little else."""
    if len(accuracies) < _MIN_TRIALS:
        return list(accuracies)
    best = max(accuracies)
    return [a for a in accuracies if a >= best - _AXIS_REACH * max(best - statistics.median(accuracies), 0.01)]


def _yaml_value(value: Any) -> str:
    """A value as a recipe writes it, with floats rounded to four significant digits."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_yaml_value, value))}]"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else MISSING
    return str(value)


def _option(name: str, data: SweepData, scored: Sequence[Trial], y_axis: axes.Axis) -> _Option:
    trials = [t for t in scored if name in t.values]
    values = {t.number: t.values[name] for t in trials}
    space = data.ranges.get(name)
    if isinstance(space, dict) and _are_numbers([*values.values(), space["low"], space["high"]]):
        columns = _numeric_columns(values, space)
    else:
        columns = _choice_columns(values, space if isinstance(space, list) else [])
    chart = Markup()
    if trials:
        rows = [(1 - y_axis.at(v), label) for v, label in y_axis.ticks]
        body = axes.grid(columns.ticks, rows, "", "accuracy, %")
        body += _trial_marks(trials, columns.positions, y_axis, data.chosen)
        chart = drawing.svg("curve small", f"Accuracy by {name}", body)
    chosen = next((t.values[name] for t in data.trials if t.number == data.chosen and name in t.values), "")
    importance = dict(data.importance).get(name, math.nan)
    return _Option(name, columns.searched, _yaml_value(chosen), importance, chart, columns.key)


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)


def _numeric_columns(values: Mapping[int, float], space: Mapping[str, Any]) -> _Columns:
    """A linear or logarithmic axis over the range searched and the values tried.

    Args:
        values: the option's value in each trial, by the trial's number.
        space: `low`, `high` and `log` of the range searched.
    """
    ends = [space["low"], space["high"]]
    low, high = min([*values.values(), *ends]), max([*values.values(), *ends])
    log = bool(space.get("log")) and low > 0
    axis = axes.logarithmic([low, high], _SMALL_TICKS) if log else axes.linear(low, high, _SMALL_TICKS)
    return _Columns(
        searched=f"{_yaml_value(ends[0])} to {_yaml_value(ends[1])}" + (", log scale" if log else ""),
        ticks=[(axis.at(v), label) for v, label in axis.ticks],
        positions={number: axis.at(value) for number, value in values.items()},
    )


def _choice_columns(values: Mapping[int, Any], choices: Sequence[Any]) -> _Columns:
    """A column for each choice; the choices are numbered if their names don't fit.

    Args:
        values: the option's value in each trial, by the trial's number.
        choices: what was searched, in order.
    """
    names = list(dict.fromkeys(map(_yaml_value, [*choices, *values.values()])))
    fits = all(len(name) <= _LETTERS // len(names) for name in names)
    return _Columns(
        searched=", ".join(names),
        ticks=[((i + 0.5) / len(names), name if fits else f"{i + 1}") for i, name in enumerate(names)],
        # Trials with the same choice are drawn slightly apart, so that they don't hide each other.
        positions={
            number: (names.index(_yaml_value(value)) + 0.5 + (number % 5 - 2) * 0.1) / len(names)
            for number, value in values.items()
        },
        key=[] if fits else names,
    )


def _trial_marks(
    trials: Sequence[Trial], positions: Mapping[int, float], y_axis: axes.Axis, chosen: int | None
) -> Markup:
    """The marks of trials at horizontal positions; the chosen trial is drawn last, so that no other hides it."""
    ordered = sorted(trials, key=lambda t: t.number == chosen)
    return Markup().join(_trial_mark(t, positions[t.number], y_axis, t.number == chosen) for t in ordered)


def _trial_mark(trial: Trial, x: float, y_axis: axes.Axis, is_chosen: bool) -> Markup:
    """A dot, or a ring if the trial was pruned; a triangle at the bottom if its accuracy is below the axis."""
    accuracy = _accuracy(trial)
    y = 1 - y_axis.at(accuracy)
    if y > 1 + 1e-9:
        body = drawing.mark(x, 1, drawing.BELOW, "muted")
    elif trial.state == "finished":
        body = drawing.mark(x, y, opacity=1 if is_chosen else 0.6)
    else:
        body = drawing.ring(x, y)
    if is_chosen:
        body += drawing.ring(x, min(y, 1), "ink", 7, "none")
    return Markup("<g><title>trial {}: {}, {}</title>{}</g>").format(
        trial.number, percentage(accuracy), trial.state, body
    )


def _history(scored: Sequence[Trial], y_axis: axes.Axis, chosen: int | None) -> Markup:
    """Accuracy (percent) by trial number, and a line at the best finished trial so far."""
    trials = sorted(scored, key=lambda t: t.number)
    first, last = trials[0].number, trials[-1].number
    x_axis = axes.linear(first, last)
    x_axis = replace(x_axis, ticks=[(v, t) for v, t in x_axis.ticks if v == round(v) and first <= v <= last])
    best: list[tuple[float, float]] = []  # the corners of the line: trial number and accuracy
    for trial in trials:
        if trial.state == "finished" and (not best or _accuracy(trial) > best[-1][1]):
            best += [(trial.number, best[-1][1])] if best else []
            best.append((trial.number, _accuracy(trial)))
    if best:
        best.append((last, best[-1][1]))
    line = drawing.line([(x_axis.at(n), 1 - y_axis.at(y)) for n, y in best], 0.5) if best else Markup()
    body = axes.frame(x_axis, y_axis, "trial", "accuracy, %") + drawing.stretched(line)
    body += _trial_marks(trials, {t.number: x_axis.at(t.number) for t in trials}, y_axis, chosen)
    best_text = f", the best finished trial {percentage(best[-1][1])}" if best else ""
    return drawing.svg("curve", f"Accuracy of {len(trials)} trials in order{best_text}", body)
