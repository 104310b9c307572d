"""The page that shows where a run breaks: its accuracy on images changed in stated ways."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lensmith.pages.charts import cells
from lensmith.pages.page import fill_template
from lensmith.records import Comparison, Rate
from lensmith.runs.files import write


@dataclass(frozen=True)
class Row:
    """The answers under one change."""

    change: str
    about: str
    severity: int
    comparison: Comparison
    """With the answers to the images as they are, which come first."""
    changed: int
    """The number of answers that are others."""
    significant: bool
    """Whether the difference is more than chance, adjusted for the number of changes."""


@dataclass(frozen=True)
class StressData:
    """What the page shows."""

    title: str
    verdict: str
    clean: Rate
    rows: list[Row]
    facts: list[tuple[str, str]]
    notes: list[str]


def render_stress(data: StressData) -> str:
    """The page as HTML."""
    groups: dict[str, list[Row]] = {}
    for row in data.rows:
        groups.setdefault(row.change, []).append(row)
    worst_first = sorted(groups.items(), key=lambda item: min(r.comparison.difference.value for r in item[1]))
    return fill_template("stress.html.j2", data.notes, data=data, groups=worst_first, axis=cells.percent_axis())


def write_stress(path: Path, data: StressData) -> None:
    """Write the page.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    write(path, render_stress(data))
