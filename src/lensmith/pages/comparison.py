"""The page that compares runs on the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from lensmith.pages.charts import cells
from lensmith.pages.page import data_uri, fill_template, is_small
from lensmith.records import Comparison, Evaluation
from lensmith.runs.files import write

_HEADLINE = 90  # characters; a longer sentence is shown below a shorter headline
_PICTURES = 40  # of gained images, and of lost ones


@dataclass(frozen=True)
class Change:
    """An image that only one of two runs classified correctly, with both answers; None for one that was unreadable."""

    image: Image.Image
    label: str
    first: str | None
    second: str | None


@dataclass(frozen=True)
class ComparisonData:
    """What the page shows. Empty sections are omitted."""

    title: str
    evaluations: list[Evaluation]
    """One per run; the first is what the others are compared with."""
    comparisons: list[Comparison]
    """Each other run against the first, the most important one first."""
    lost: list[Change]
    """Images of the first comparison that only its first run classified correctly; at most 40 are shown."""
    gained: list[Change]
    """Images of the first comparison that only its second run classified correctly; at most 40 are shown."""
    settings: list[tuple[str, list[str]]]
    """Options in which the recipes differ: the key, and its value in each run."""
    classes: list[tuple[str, float, float, int]]
    """Of the first comparison: class, recall of its first and of its second run (0..1), number of images."""
    facts: list[tuple[str, str]]
    """Where the results come from: data, runs, commits, time."""
    notes: list[str]
    costs: dict[str, Any] = field(default_factory=dict)
    """If an outside model is among the runs: the `head` and `rows` of a table, `sentences`, and `notes` on how its
    figures were measured."""
    picture_note: str = ""
    """Why pictures are missing, if they are."""


def render_comparison(data: ComparisonData) -> str:
    """The page as HTML."""
    limit = cells.difference_limit(c.difference for c in data.comparisons)
    return fill_template(
        "comparison.html.j2",
        data.notes,
        data.evaluations,
        data=data,
        headline=_headline(data),
        limit=limit,
        difference_axis=cells.difference_axis(limit),
        gained=_pictures(data.gained),
        lost=_pictures(data.lost),
        classes=sorted(data.classes, key=_largest_change_first),
    )


def write_comparison(path: Path, data: ComparisonData) -> None:
    """Write the page.

    Raises:
        UserError: the disk is full or the folder can't be written.
    """
    write(path, render_comparison(data))


def _headline(data: ComparisonData) -> str:
    """The first comparison in one line, or an empty string if there is none.

    If there are several comparisons, or the sentence of the only one is long, the sentences are shown below it.
    """
    if not data.comparisons:
        return ""
    first = data.comparisons[0]
    if len(data.comparisons) == 1 and len(first.sentence) <= _HEADLINE:
        return first.sentence
    if first.verdict in ("better", "worse"):
        return f"{first.second} is {first.verdict} than {first.first}"
    return f"{first.second} and {first.first} can't be distinguished on {first.n:,} images"


def _pictures(changes: list[Change]) -> list[tuple[Change, str, bool]]:
    return [(c, data_uri(c.image), is_small(c.image)) for c in changes[:_PICTURES]]


def _largest_change_first(row: tuple[str, float, float, int]) -> float:
    """A sort key; classes without a known change are last."""
    change = row[2] - row[1]
    return -abs(change) if math.isfinite(change) else 1.0
